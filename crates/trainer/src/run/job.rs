//! All runs of a recipe file, one after the other, and their comparison.

use std::path::{Path, PathBuf};

use clip_model::weights::write_atomic;

use crate::recipe::{Job, Recipe};
use crate::run::layout;
use crate::run::report;
use crate::run::{BEST_FOLDER, Best, MODEL_FOLDER, Options, Outcome, RECIPE_FILE, Results, run};
use crate::teacher::store::{self, Made, Making};
use crate::{Error, Result};

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
/// As [`store::reinforce`].
pub fn reinforce_run(job: &Job, out: &Path, recipe: &Recipe, making: &Making<'_>) -> Result<Made> {
    store::reinforce(recipe, &|name: &str| folder(job, out, name).join(MODEL_FOLDER), making)
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
        let steps = crate::run::metrics::read_steps(&folder(job, out, &recipe.name))?;
        Ok((recipe.name.clone(), steps))
    });
    let (table, best) = (table(job, &finished), best_table(job, &finished));
    let html = report::html(&job.name, &table, &best, &finished, &curves.collect::<Result<Vec<_>>>()?);
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

/// The runs whose evaluations during training chose a best model, as a Markdown table; empty where there is none.
fn best_table(job: &Job, finished: &[(String, Results)]) -> String {
    let head = ["run", "best model", "step", "score"].map(String::from).to_vec();
    let best = finished.iter().filter_map(|(run, results)| {
        let Best { step, score } = results.best?;
        let folder = folder(job, Path::new(""), run).join(BEST_FOLDER);
        Some(vec![
            run.clone(),
            folder.display().to_string(),
            step.to_string(),
            format!("{:.1}", score * 100.0),
        ])
    });
    let rows = std::iter::once(head).chain(best).collect::<Vec<_>>();
    if rows.len() > 1 { zeroshot_eval::report::markdown(&rows) } else { String::new() }
}

fn markdown(job: &Job, finished: &[(String, Results)]) -> String {
    let mut text = format!("# {}\n\nResults in percent.\n\n{}\n", job.name, table(job, finished));
    let best = best_table(job, finished);
    if !best.is_empty() {
        text.push_str(&format!("{}\n\n{best}\n", report::BEST));
    }
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

/// The reports of a job, beside or in its run folders.
const REPORTS: [&str; 3] = ["report.md", "report.html", "report.svg"];

/// Checks that a job can start in `out`, or continue there, before any of its runs does.
///
/// # Errors
/// [`Error::Recipe`] where the folder of a run holds a run of another recipe, or files that are not a run's.
pub fn check_folders(job: &Job, out: &Path) -> Result<()> {
    let mut begun = false;
    for recipe in &job.runs {
        let folder = folder(job, out, &recipe.name);
        layout::standing(recipe, &folder, true)?;
        begun |= folder.join(RECIPE_FILE).exists();
    }
    match REPORTS.into_iter().find(|name| out.join(name).exists()) {
        Some(name) if !begun => Err(layout::foreign(out, name)),
        _ => Ok(()),
    }
}

/// Removes what the runs of a job that is to start again left in their folders, and their reports.
///
/// # Errors
/// [`Error::Recipe`] where another process works in one of them, or one holds files that are not a run's, which leaves
/// all as they are; [`Error::Io`] where one cannot be removed.
pub fn restart(job: &Job, out: &Path) -> Result<()> {
    let folders = job.runs.iter().map(|recipe| folder(job, out, &recipe.name));
    let folders = folders.filter(|folder| folder.exists()).collect::<Vec<_>>();
    folders.iter().try_for_each(|folder| layout::check_own(folder))?;
    let _locks = folders.iter().map(|folder| layout::lock(folder)).collect::<Result<Vec<_>>>()?;
    // They belong to the runs; of others', `check_folders` is to tell.
    if folders.iter().any(|folder| folder.join(RECIPE_FILE).exists()) {
        for part in REPORTS {
            remove(&out.join(part), |path| std::fs::remove_file(path))?;
        }
    }
    for folder in folders {
        for part in layout::OWN_FOLDERS {
            remove(&folder.join(part), |path| std::fs::remove_dir_all(path))?;
        }
        for part in layout::OWN_FILES {
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
