//! Jobs: all runs of a recipe file, performed one after the other.

use std::path::{Path, PathBuf};

use crate::model::locate::RunModels;
use crate::recipe::{Job, Recipe};
use crate::run::layout::{MODEL_FOLDER, Options, Results};
use crate::run::prepare::PreparedJob;
use crate::run::status;
use crate::teacher::store::{self, StoreOptions, StoreSummary};
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

/// Returns the folder of a run: the job's own folder if it has only one run.
pub fn folder(job: &Job, out: &Path, run: &str) -> PathBuf {
    if job.is_single() { out.to_path_buf() } else { out.join(run) }
}

/// Returns the model folders of a job's runs, in which later runs find the models of earlier ones.
pub fn models(job: &Job, out: &Path) -> RunModels {
    let mut models = RunModels::default();
    for recipe in &job.runs {
        models.insert(&recipe.name, folder(job, out, &recipe.name).join(MODEL_FOLDER));
    }
    models
}

/// Creates the store of a run's teacher embeddings under its recipe. `out` is the job's folder.
///
/// # Errors
/// The errors of [`store::reinforce`].
pub fn reinforce_run(
    job: &Job,
    out: &Path,
    recipe: &Recipe,
    options: &StoreOptions<'_>,
) -> Result<StoreSummary> {
    store::reinforce(recipe, &models(job, out), options)
}

/// Checks and performs all runs of a job under `out`.
///
/// # Errors
/// The errors of [`PreparedJob::new`], [`PreparedJob::check`] and [`PreparedJob::run`].
pub fn run_job(job: &Job, out: &Path, options: &Options<'_>) -> Result<JobOutcome> {
    PreparedJob::new(job)?.check()?.run(out, options)
}

/// File names of a job's reports: Markdown, HTML, and an SVG chart of the main metrics.
pub const REPORTS: [&str; 3] = ["report.md", "report.html", "report.svg"];

/// Checks, before any run starts, that a job can start or resume in `out`.
///
/// # Errors
/// [`Error::OtherRun`] if the folder of a run contains a run of another recipe, [`Error::UnrelatedFile`],
/// [`Error::DamagedFile`].
pub fn check_folders(job: &Job, out: &Path) -> Result<()> {
    let folders = job.runs.iter().map(|recipe| (recipe, folder(job, out, &recipe.name))).collect::<Vec<_>>();
    for (recipe, folder) in &folders {
        status::status(recipe, folder, true)?;
    }
    check_reports(out, folders.iter().map(|(_, folder)| folder.as_path()))
}

/// Fails if `out` contains files with the names of a job's reports although no run has begun in `folders`.
fn check_reports<'a>(out: &Path, mut folders: impl Iterator<Item = &'a Path>) -> Result<()> {
    match REPORTS.into_iter().find(|name| out.join(name).exists()) {
        Some(name) if !folders.any(status::has_begun) => Err(status::foreign(out, name)),
        _ => Ok(()),
    }
}

/// Removes the files that the runs of a job wrote, and the job's reports, so that the job can start again.
///
/// # Errors
/// [`Error::Locked`] if another process uses a folder, [`Error::UnrelatedFile`]; nothing is removed then. [`Error::Io`] if
/// a file cannot be removed.
pub fn restart(job: &Job, out: &Path) -> Result<()> {
    let folders = job.runs.iter().map(|recipe| folder(job, out, &recipe.name));
    let folders = folders.filter(|folder| folder.exists()).collect::<Vec<_>>();
    folders.iter().try_for_each(|folder| status::check_own(folder))?;
    check_reports(out, folders.iter().map(PathBuf::as_path))?;
    let _locks = folders.iter().map(|folder| status::lock(folder)).collect::<Result<Vec<_>>>()?;
    for part in REPORTS {
        remove(&out.join(part), |path| std::fs::remove_file(path))?;
    }
    for folder in folders {
        for part in status::OWN_FOLDERS {
            remove(&folder.join(part), |path| std::fs::remove_dir_all(path))?;
        }
        for part in status::OWN_FILES {
            remove(&folder.join(part), |path| std::fs::remove_file(path))?;
        }
    }
    Ok(())
}

/// Removes a file or folder with `remove`, if it exists.
fn remove(path: &Path, remove: impl Fn(&Path) -> std::io::Result<()>) -> Result<()> {
    match remove(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, e)),
        _ => Ok(()),
    }
}
