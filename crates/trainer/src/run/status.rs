//! The status of a run folder: its recipe, whether the run is finished, and the lock of the process that uses it.

use std::fs::File;
use std::path::Path;

use crate::model::device;
use crate::recipe::{Eval, EvalSet, Recipe};
use crate::run::checkpoint::State;
use crate::run::layout::{BEST_FOLDER, CHECKPOINTS, MODEL_FOLDER, RECIPE_FILE, REPORT_FILE, Results};
use crate::step::TrainState;
use crate::{Error, Result};
use serde_json::json;

/// Lock of the process that uses the folder. The system releases it when the process ends.
const LOCK_FILE: &str = ".lock";

/// File name of the program and machine that trained a run.
pub const RUN_FILE: &str = "run.json";

/// The status of a recipe's run in its folder.
#[derive(Debug)]
pub enum RunStatus {
    /// Not started, or unfinished.
    Open,
    /// Finished.
    Finished(Results),
    /// Finished, but the sets or the teacher of its evaluation differ from the current recipe.
    EvaluatedOtherwise(Results),
}

/// Creates the folder and locks it against other processes until the result is dropped.
///
/// # Errors
/// [`Error::Locked`] if another process uses the folder, [`Error::Io`] if it cannot be created.
pub(crate) fn lock(folder: &Path) -> Result<File> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let path = folder.join(LOCK_FILE);
    // Not truncated: a file of this name may be the user's.
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| Error::io(&path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Locked { folder: folder.into() }),
        Err(std::fs::TryLockError::Error(e)) => Err(Error::io(&path, e)),
    }
}

/// Determines the status of a run folder. With `resume`, a run of the same recipe may resume.
///
/// # Errors
/// [`Error::OtherRun`], [`Error::RunExists`] if the run may not resume, [`Error::UnrelatedFile`], and
/// [`Error::DamagedFile`].
pub(crate) fn status(recipe: &Recipe, folder: &Path, resume: bool) -> Result<RunStatus> {
    check_own(folder)?;
    // A finished run without its model is useless. Its last checkpoint restores the model.
    let model = clip_model::folder::check(folder.join(MODEL_FOLDER));
    let status = found(recipe, folder, resume, model.is_ok())?;
    if let (Err(error), RunStatus::Open, Ok(Some(_))) = (&model, &status, results_of(folder)) {
        data_pipeline::log_warn!(
            "the model of the finished run is written again from its checkpoint: {error}"
        );
    }
    Ok(status)
}

/// Determines the status of a run from its results alone; its model may be missing.
///
/// # Errors
/// [`Error::OtherRun`] and [`Error::DamagedFile`].
pub fn results(recipe: &Recipe, folder: &Path) -> Result<RunStatus> {
    found(recipe, folder, true, true)
}

fn found(recipe: &Recipe, folder: &Path, resume: bool, complete: bool) -> Result<RunStatus> {
    let Some(old) = recipe_of(folder)? else { return Ok(RunStatus::Open) };
    if !resume {
        return Err(Error::RunExists { folder: folder.into() });
    }
    let changes = recipe.experiment().changes_since(&old.experiment())?;
    if !changes.is_empty() {
        return Err(Error::OtherRun { folder: folder.into(), changes });
    }
    let Some(results) = results_of(folder)?.filter(|_| complete) else { return Ok(RunStatus::Open) };
    let evaluation = |recipe: &Recipe| {
        let Eval { sets, fidelity, teacher, .. } = &recipe.eval;
        // A limit does not change the final evaluation.
        let sets = sets.iter().map(|set| EvalSet { limit: None, ..set.clone() }).collect::<Vec<_>>();
        (sets, *fidelity, teacher.clone())
    };
    // A recipe without evaluation sets has no evaluation that could replace the results.
    Ok(match evaluation(&old) == evaluation(recipe) || recipe.eval.sets.is_empty() {
        true => RunStatus::Finished(results),
        false => RunStatus::EvaluatedOtherwise(results),
    })
}

/// Returns the recipe of the run in a folder, or `None` if the folder has no run.
///
/// # Errors
/// [`Error::Io`] and [`Error::DamagedFile`].
pub(crate) fn recipe_of(folder: &Path) -> Result<Option<Recipe>> {
    let file = folder.join(RECIPE_FILE);
    let Some(text) = read_if_present(&file)? else { return Ok(None) };
    toml::from_str(&text).map(Some).map_err(|e| damaged(&file, e.message()))
}

/// Returns the results of the run in a folder, or `None` if it is not finished.
///
/// # Errors
/// [`Error::Io`] and [`Error::DamagedFile`].
pub(crate) fn results_of(folder: &Path) -> Result<Option<Results>> {
    let file = folder.join(REPORT_FILE);
    let Some(text) = read_if_present(&file)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| damaged(&file, &e.to_string()))
}

fn read_if_present(file: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(file, e)),
    }
}

/// Checks that a run, or its removal, would not destroy unrelated files in the folder.
///
/// # Errors
/// [`Error::UnrelatedFile`] with the name of the first such file.
pub(crate) fn check_own(folder: &Path) -> Result<()> {
    let exists = |name: &&str| folder.join(name).exists();
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    // A recipe in this program's format.
    let resolved = || {
        let text = read(RECIPE_FILE);
        toml::from_str::<Recipe>(&text).is_ok_and(|r| r.to_toml().is_ok_and(|resolved| resolved == text))
    };
    let found = if exists(&RUN_FILE) {
        // A run replaces its own damaged file.
        let text = read(RUN_FILE);
        let is_damaged = serde_json::from_str::<serde_json::Value>(&text).is_err();
        let is_own = is_info(&text) || is_damaged && resolved();
        (!is_own).then_some(RUN_FILE)
    } else if exists(&RECIPE_FILE) {
        // If a run stops between writing these two files, it leaves only the recipe.
        (!resolved()).then_some(RECIPE_FILE)
    } else {
        OWN_FOLDERS.into_iter().chain(OWN_FILES).find(exists)
    };
    found.map_or(Ok(()), |name| Err(foreign(folder, name)))
}

/// Whether a file is the `run.json` of a run, and not another program's file of that name.
fn is_info(text: &str) -> bool {
    let info = serde_json::from_str::<serde_json::Value>(text).unwrap_or_default();
    ["program", "seed", "machine"].iter().all(|key| info.get(key).is_some())
}

/// Whether a run has begun in a folder that [`check_own`] accepts.
pub(crate) fn has_begun(folder: &Path) -> bool {
    [RECIPE_FILE, RUN_FILE].iter().any(|name| folder.join(name).exists())
}

/// Returns the error for a folder in which an unrelated file has the name of a job's file.
pub(crate) fn foreign(folder: &Path, name: &str) -> Error {
    Error::UnrelatedFile { folder: folder.into(), file: name.into() }
}

/// The folders that a run creates in its own folder.
pub(crate) const OWN_FOLDERS: [&str; 4] = [CHECKPOINTS, MODEL_FOLDER, BEST_FOLDER, "tensorboard"];
/// The files that a run creates in its own folder.
pub(crate) const OWN_FILES: [&str; 4] = [RECIPE_FILE, REPORT_FILE, "metrics.jsonl", RUN_FILE];

fn damaged(file: &Path, reason: &str) -> Error {
    Error::DamagedFile { path: file.into(), reason: reason.trim().into() }
}

/// Whether a run folder contains the finished model with a readable configuration and a complete weight file.
pub fn has_model(folder: &Path) -> bool {
    clip_model::folder::check(folder.join(MODEL_FOLDER)).is_ok()
}

/// Writes `recipe.toml`, the resolved recipe.
pub(crate) fn write_recipe(folder: &Path, recipe: &Recipe) -> Result<()> {
    Ok(file_ext::write_atomic(folder.join(RECIPE_FILE), recipe.to_toml()?.as_bytes())?)
}

/// Writes `report.json`: the recipe's name, losses and seed, the program and machine of `run.json`, and the results. Its
/// presence marks a finished run.
pub(crate) fn write_report(folder: &Path, recipe: &Recipe, results: &Results) -> Result<()> {
    let info = read_if_present(&folder.join(RUN_FILE))?.unwrap_or_default();
    let info = serde_json::from_str::<serde_json::Value>(&info).unwrap_or_default();
    let head = json!({
        "recipe": recipe.name, "losses": recipe.losses_text(), "seed": recipe.seed,
        "program": info["program"], "machine": info["machine"],
    });
    let report = Report { run: head, results };
    let json =
        serde_json::to_string_pretty(&report).map_err(|e| Error::recipe(REPORT_FILE, e.to_string()))?;
    Ok(file_ext::write_atomic(folder.join(REPORT_FILE), json.as_bytes())?)
}

/// The content of `report.json`. Its reader ignores the head.
#[derive(serde::Serialize)]
struct Report<'a> {
    run: serde_json::Value,
    #[serde(flatten)]
    results: &'a Results,
}

/// Writes `run.json`: the program and machine, the provenance of a result.
pub(crate) fn write_info(
    folder: &Path,
    recipe: &Recipe,
    state: &State,
    version: &str,
    train: &TrainState,
) -> Result<()> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let info = json!({
        "program": version,
        "seed": recipe.seed,
        "machine": {
            "os": std::env::consts::OS,
            "architecture": std::env::consts::ARCH,
            "cpu": cpu.map(|(_, name)| name.trim()),
            "cores": std::thread::available_parallelism().map_or(0, |n| n.get()),
            "threads": tch::get_num_threads(),
            "device": device::describe(train.student.device()),
            "precision": train.settings.precision.to_string(),
        },
        "parameters": train.student.params().count(),
        "data": state.data,
    });
    let path = folder.join(RUN_FILE);
    Ok(file_ext::write_atomic(&path, format!("{info:#}\n").as_bytes())?)
}
