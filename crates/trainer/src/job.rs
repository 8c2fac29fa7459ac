//! All runs of a recipe file, one after the other, and their comparison.

use std::path::{Path, PathBuf};

use clip_model::weights::write_atomic;

use crate::recipe::{Job, Recipe};
use crate::reinforce::{self, Made, Making};
use crate::run::{MODEL_FOLDER, Options, Outcome, Results, run};
use crate::{Error, Result, report, run_folder};

/// How a job ended.
#[derive(Clone, Debug, PartialEq)]
pub enum JobOutcome {
    /// All runs are finished.
    Finished(Vec<(String, Results)>),
    /// A run was stopped.
    Stopped {
        /// Its name.
        run: String,
        /// Its finished steps.
        step: u64,
    },
}

/// The folder of a run: the job's own where there is only one.
pub fn folder(job: &Job, out: &Path, run: &str) -> PathBuf {
    if job.is_single() { out.to_path_buf() } else { out.join(run) }
}

/// Makes the store of one run's teachers under its recipe; `out` is where the job's runs are.
///
/// # Errors
/// As [`reinforce::reinforce`].
pub fn reinforce_run(job: &Job, out: &Path, recipe: &Recipe, making: &Making<'_>) -> Result<Made> {
    reinforce::reinforce(recipe, &|name: &str| folder(job, out, name).join(MODEL_FOLDER), making)
}

/// Makes all runs under `out`, then writes `report.md`, `report.html` and `report.svg` (the main figures) there.
///
/// # Errors
/// [`Error`] of the run that failed.
pub fn run_job(job: &Job, out: &Path, options: &Options<'_>) -> Result<JobOutcome> {
    let mut finished = Vec::new();
    for recipe in &job.runs {
        let models = |name: &str| folder(job, out, name).join(MODEL_FOLDER);
        match run(recipe, &folder(job, out, &recipe.name), &models, options)? {
            Outcome::Finished(results) => finished.push((recipe.name.clone(), results)),
            Outcome::Stopped { step } => return Ok(JobOutcome::Stopped { run: recipe.name.clone(), step }),
        }
    }
    write_atomic(&out.join("report.md"), markdown(job, &finished).as_bytes())?;
    let curves = job.runs.iter().map(|recipe| {
        let steps = crate::metrics::read_steps(&folder(job, out, &recipe.name))?;
        Ok((recipe.name.clone(), steps))
    });
    let html =
        report::html(&job.name, &table(job, &finished), &finished, &curves.collect::<Result<Vec<_>>>()?);
    write_atomic(&out.join("report.html"), html.as_bytes())?;
    write_atomic(&out.join("report.svg"), report::picture(&finished).as_bytes())?;
    Ok(JobOutcome::Finished(finished))
}

/// The results of all runs, and of the teacher where it is none of them, as a Markdown table.
pub fn table(job: &Job, finished: &[(String, Results)]) -> String {
    let mut reports = finished.iter().map(|(_, results)| results.student.clone()).collect::<Vec<_>>();
    let own = job.runs.iter().find_map(|recipe| recipe.teachers.first()?.run.as_ref());
    let mut teacher = own.and_then(|name| job.runs.iter().position(|recipe| recipe.name == *name));
    if teacher.is_none()
        && let Some(external) = finished.iter().find_map(|(_, results)| results.teacher.clone())
    {
        reports.insert(0, external);
        teacher = Some(0);
    }
    zeroshot_eval::report::compare(&reports, teacher)
}

fn markdown(job: &Job, finished: &[(String, Results)]) -> String {
    let mut text = format!("# {}\n\nResults in percent.\n\n{}\n", job.name, table(job, finished));
    text.push_str("| run | image tower | text tower | training time |\n|---|---:|---:|---:|\n");
    for (name, results) in finished {
        let (image, text_tower) = results.parameters;
        text.push_str(&format!(
            "| {name} | {:.2} M | {:.2} M | {:.0} s |\n",
            image as f64 / 1e6,
            text_tower as f64 / 1e6,
            results.seconds
        ));
    }
    text
}

/// Removes the run folders of a job that is to start again, and nothing else.
///
/// # Errors
/// [`Error::Recipe`] where another process works in one of them, which leaves all as they are; [`Error::Io`] where one
/// cannot be removed.
pub fn restart(job: &Job, out: &Path) -> Result<()> {
    let folders = job.runs.iter().map(|recipe| folder(job, out, &recipe.name));
    let folders = folders.filter(|folder| folder.exists()).collect::<Vec<_>>();
    let _locks = folders.iter().map(|folder| run_folder::lock(folder)).collect::<Result<Vec<_>>>()?;
    for folder in folders {
        for part in ["checkpoints", MODEL_FOLDER, crate::run::BEST_FOLDER, "tensorboard"] {
            remove(&folder.join(part), |path| std::fs::remove_dir_all(path))?;
        }
        for part in [crate::run::RECIPE_FILE, crate::run::REPORT_FILE, "metrics.jsonl", run_folder::RUN_FILE]
        {
            remove(&folder.join(part), |path| std::fs::remove_file(path))?;
        }
    }
    Ok(())
}

fn remove(path: &Path, how: impl Fn(&Path) -> std::io::Result<()>) -> Result<()> {
    match how(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, e)),
        _ => Ok(()),
    }
}
