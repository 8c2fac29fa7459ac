//! The folder of a run: whose it is, whether it is finished, and who works in it.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::checkpoint::State;
use crate::recipe::{Eval, Recipe};
use crate::run::{MODEL_FOLDER, RECIPE_FILE, REPORT_FILE, Results};
use crate::step::Trainee;
use crate::{Error, Result};

/// Held by the process that works in the folder; the system frees it when the process ends.
const LOCK_FILE: &str = ".lock";

/// By what and where a run was trained.
pub(crate) const RUN_FILE: &str = "run.json";

/// What a run folder holds of a recipe's run.
#[derive(Debug)]
pub(crate) enum Standing {
    /// Nothing, or a part of the run.
    Open,
    /// The finished run.
    Finished(Results),
    /// The finished run, measured on other sets, or compared with another teacher, than the recipe names now.
    MeasuredElsewhere(Results),
}

/// Makes the folder and keeps other processes out of it for as long as the result lives.
///
/// # Errors
/// [`Error::Recipe`] where another process works in it, [`Error::Io`] where it cannot be made.
pub(crate) fn lock(folder: &Path) -> Result<File> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let path = folder.join(LOCK_FILE);
    let file = File::create(&path).map_err(|e| Error::io(&path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            let reason =
                "another process trains in this folder: wait for it, or name another folder by --out";
            Err(Error::recipe(folder.display().to_string(), reason))
        }
        Err(std::fs::TryLockError::Error(e)) => Err(Error::io(&path, e)),
    }
}

/// Finds out what a folder holds; with `resume`, a run of the same recipe is gone on with.
///
/// # Errors
/// [`Error::Recipe`] where it holds another run, or one that is not to be gone on with.
pub(crate) fn standing(recipe: &Recipe, folder: &Path, resume: bool) -> Result<Standing> {
    // Without its model a run has nothing to show; its last checkpoint makes it again.
    found(recipe, folder, resume, has_model(folder))
}

/// [`standing`] of a run whose results are enough: its model may be gone.
///
/// # Errors
/// As [`standing`].
pub(crate) fn results(recipe: &Recipe, folder: &Path) -> Result<Standing> {
    found(recipe, folder, true, true)
}

fn found(recipe: &Recipe, folder: &Path, resume: bool, complete: bool) -> Result<Standing> {
    let file = folder.join(RECIPE_FILE);
    if !file.exists() {
        return Ok(Standing::Open);
    }
    if !resume {
        let reason = format!(
            "`{}` holds a run already: go on with it by --resume, start it again by --restart, or name another folder by --out",
            folder.display()
        );
        return Err(Error::recipe(&recipe.name, reason));
    }
    let text = std::fs::read_to_string(&file).map_err(|e| Error::io(&file, e))?;
    let old: Recipe = toml::from_str(&text).map_err(|e| damaged(&file, e.message()))?;
    if let Some(key) = first_difference(&old, recipe)? {
        let reason = format!(
            "`{}` holds a run of another recipe, which differs in `{key}`: name another folder by --out, or start again by --restart",
            folder.display()
        );
        return Err(Error::recipe(&recipe.name, reason));
    }
    let report = folder.join(REPORT_FILE);
    if !report.exists() || !complete {
        return Ok(Standing::Open);
    }
    let text = std::fs::read_to_string(&report).map_err(|e| Error::io(&report, e))?;
    let results = serde_json::from_str(&text).map_err(|e| damaged(&report, &e.to_string()))?;
    let asked = |recipe: &Recipe| {
        let Eval { sets, fidelity, teacher, .. } = &recipe.eval;
        (sets.clone(), *fidelity, teacher.clone())
    };
    Ok(match asked(&old) == asked(recipe) {
        true => Standing::Finished(results),
        false => Standing::MeasuredElsewhere(results),
    })
}

fn damaged(file: &Path, reason: &str) -> Error {
    let reason =
        format!("it is damaged ({}): remove it and --resume, or start again by --restart", reason.trim());
    Error::recipe(file.display().to_string(), reason)
}

/// Whether a run folder holds the finished model.
pub(crate) fn has_model(folder: &Path) -> bool {
    use clip_model::folder::{CONFIG_FILE, WEIGHTS_FILE};
    [CONFIG_FILE, WEIGHTS_FILE].iter().all(|file| folder.join(MODEL_FOLDER).join(file).is_file())
}

/// The settings of a recipe that shape its result: not where it runs, how often it saves and what is measured.
pub(crate) fn shaping(recipe: &Recipe) -> Result<toml::Table> {
    let mut own = recipe.clone();
    (own.data.workers, own.data.prefetch, own.data.root) = (0, 0, PathBuf::new());
    own.train.threads = 0;
    own.train.device = "cpu".into();
    own.checkpoint = Default::default();
    own.metrics = Default::default();
    own.eval = Default::default();
    toml::Table::try_from(own).map_err(|e| Error::recipe(&recipe.name, e.to_string()))
}

/// The first setting of those that shape the result in which two recipes differ.
fn first_difference(old: &Recipe, new: &Recipe) -> Result<Option<String>> {
    fn differing(old: &toml::Table, new: &toml::Table) -> Option<String> {
        let keys = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key)));
        keys.into_iter().find_map(|key| match (old.get(key), new.get(key)) {
            (a, b) if a == b => None,
            (Some(toml::Value::Table(a)), Some(toml::Value::Table(b))) => {
                Some(format!("{key}.{}", differing(a, b)?))
            }
            _ => Some(key.clone()),
        })
    }
    Ok(differing(&shaping(old)?, &shaping(new)?))
}

/// `recipe.toml`, resolved.
pub(crate) fn write_recipe(folder: &Path, recipe: &Recipe) -> Result<()> {
    Ok(clip_model::weights::write_atomic(&folder.join(RECIPE_FILE), recipe.to_toml()?.as_bytes())?)
}

/// `report.json`; its presence says that the run is finished.
pub(crate) fn write_report(folder: &Path, results: &Results) -> Result<()> {
    let json =
        serde_json::to_string_pretty(results).map_err(|e| Error::recipe(REPORT_FILE, e.to_string()))?;
    Ok(clip_model::weights::write_atomic(&folder.join(REPORT_FILE), json.as_bytes())?)
}

/// `run.json`: what is needed to know where a result came from.
pub(crate) fn write_info(
    folder: &Path,
    recipe: &Recipe,
    state: &State,
    version: &str,
    trainee: &Trainee,
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
            "device": recipe.train.device,
            "precision": format!("{:?}", trainee.precision),
        },
        "parameters": trainee.student.params().count(),
        "data": state.data,
    });
    let path = folder.join(RUN_FILE);
    Ok(clip_model::weights::write_atomic(&path, format!("{info:#}\n").as_bytes())?)
}
