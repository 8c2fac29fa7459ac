//! Checkpoints: folders with the complete state of a run. A stop at any moment leaves at least one complete checkpoint.
//!
//! `step-NNNNNNNN/` contains `model.safetensors` and, if the run has such tensors, `optimizer.safetensors`,
//! `learned.safetensors`, `ema.safetensors` and `masks.safetensors`. It also contains `recipe.toml`, and `state.json`,
//! which is written last and holds the checksums of the other files.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use clip_model::ClipConfig;
use clip_model::weights::{self, read_safetensors, write_safetensors};
use data_pipeline::loader::Position;
use data_pipeline::policy::SkipCounts;
use file_ext::{sha256_file, sha256_hex, write_atomic};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::recipe::Recipe;
use crate::step::TrainState;
use crate::{Error, Result};

const STATE: &str = "state.json";
const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const LEARNED: &str = "learned.safetensors";
const EMA: &str = "ema.safetensors";
const MASKS: &str = "masks.safetensors";
const RECIPE: &str = "recipe.toml";
/// Suffix of folders that are never read, because they are being written or replaced.
const PARTIAL: &str = ".partial";
/// Format version; increases when older checkpoints can no longer be read.
const VERSION: u32 = 2;

/// The state of a run except its tensors, stored in `state.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Format version.
    pub version: u32,
    /// Finished steps.
    pub step: u64,
    /// Samples seen.
    pub samples: u64,
    /// Number of optimiser updates.
    pub updates: i64,
    /// Position of the next batch.
    pub position: Position,
    /// Seconds of training so far, over all sessions.
    pub seconds: f64,
    /// Best evaluation so far: step and score.
    pub best: Option<(u64, f64)>,
    /// Training samples read so far, and those skipped.
    #[serde(default)]
    pub damaged: SkipCounts,
    /// The student's configuration after pruning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruned: Option<ClipConfig>,
    /// Fingerprints of the training sources.
    pub data: Vec<String>,
    /// SHA-256 of the other files.
    pub files: BTreeMap<String, String>,
    /// SHA-256 of this state with this field empty.
    #[serde(default)]
    pub own: String,
}

/// Writes a checkpoint into `folder`, which holds all checkpoints, and returns the checkpoint's own folder.
///
/// # Errors
/// [`Error::Io`] and [`Error::Model`] if it cannot be written. Earlier checkpoints stay intact.
pub fn save(folder: &Path, train: &TrainState, state: &State, recipe: &str) -> Result<PathBuf> {
    let target = folder.join(format!("step-{:08}", state.step));
    let partial = folder.join(format!(".step-{:08}{PARTIAL}", state.step));
    clear(folder)?;
    fs::create_dir_all(&partial).map_err(|e| Error::io(&partial, e))?;
    // An incomplete checkpoint would only waste disk space.
    write(&partial, train, state, recipe).inspect_err(|_| drop(remove(&partial)))?;
    // An existing checkpoint of the same step is renamed first, so that a complete one exists at every moment.
    let old = folder.join(format!(".step-{:08}.old{PARTIAL}", state.step));
    match fs::rename(&target, &old) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&target, e)),
        _ => {}
    }
    fs::rename(&partial, &target).map_err(|e| Error::io(&target, e))?;
    sync_folder(folder)?;
    remove(&old)?;
    Ok(target)
}

/// Removes leftovers of interrupted saves. Restores a replaced checkpoint if its successor is incomplete.
fn clear(folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(folder, e)),
    };
    for entry in entries {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !(name.starts_with(".step-") && name.ends_with(PARTIAL)) {
            continue;
        }
        let replaced = name.strip_suffix(&format!(".old{PARTIAL}")).map(|step| folder.join(&step[1..]));
        match replaced {
            Some(target) if !target.exists() => {
                fs::rename(&path, &target).map_err(|e| Error::io(&path, e))?
            }
            _ => remove(&path)?,
        }
    }
    Ok(())
}

fn write(partial: &Path, train: &TrainState, state: &State, recipe: &str) -> Result<()> {
    let named = train.student.params().state().map(|p| (p.name.clone(), p.tensor.shallow_clone()));
    let mut groups = vec![(MODEL, named.collect::<Vec<_>>()), (OPTIMIZER, train.optimizer.state())];
    groups.push((LEARNED, train.learned().collect()));
    groups.push((MASKS, train.pruner.as_ref().map_or_else(Vec::new, |pruner| pruner.state())));
    groups.push((EMA, train.ema.as_ref().map_or_else(Vec::new, |ema| ema.state())));
    for (file, tensors) in groups.iter().filter(|(_, tensors)| !tensors.is_empty()) {
        write_safetensors(partial.join(file), tensors.iter().map(|(name, t)| (name.as_str(), t)))?;
    }
    write_atomic(partial.join(RECIPE), recipe.as_bytes())?;
    let mut state = State { version: VERSION, own: String::new(), ..state.clone() };
    state.files = checksums(partial)?;
    state.own = sha256_hex(state_json(&state, partial)?);
    write_atomic(partial.join(STATE), state_json(&state, partial)?.as_bytes())?;
    sync_folder(partial)
}

fn state_json(state: &State, path: &Path) -> Result<String> {
    serde_json::to_string_pretty(state)
        .map_err(|e| Error::checkpoint(path, format!("cannot serialize {STATE}: {e}")))
}

/// Restores a run from a verified checkpoint.
///
/// # Errors
/// [`Error::Checkpoint`] if tensors are missing or have other shapes; [`Error::Model`] if files are broken.
pub fn restore(path: &Path, train: &mut TrainState, state: &State) -> Result<()> {
    let explain = |error: Error| Error::checkpoint(path, error.to_string());
    weights::load(train.student.params(), &read_safetensors(path.join(MODEL))?, &path.display().to_string())?;
    train.optimizer.restore(&read_safetensors(path.join(OPTIMIZER))?, state.updates).map_err(explain)?;
    let read = |file: &str| -> Result<HashMap<String, Tensor>> {
        if path.join(file).exists() { Ok(read_safetensors(path.join(file))?) } else { Ok(HashMap::new()) }
    };
    if let Some(pruner) = &mut train.pruner {
        pruner.restore(&read(MASKS)?).map_err(explain)?;
    }
    let learned = read(LEARNED)?;
    for (name, tensor) in train.learned() {
        let saved = learned.get(&name).filter(|saved| saved.size() == tensor.size()).ok_or_else(|| {
            Error::checkpoint(
                path,
                format!(
                    "the learned part `{name}` is missing or has another shape: start again with --restart"
                ),
            )
        })?;
        let mut tensor = tensor;
        tch::no_grad(|| tensor.f_copy_(saved))?;
    }
    if let Some(ema) = &mut train.ema {
        ema.restore(&read(EMA)?).map_err(explain)?;
    }
    (train.step, train.samples) = (state.step, state.samples);
    Ok(())
}

/// Returns the newest intact checkpoint with its state. Warns about damaged ones.
///
/// # Errors
/// [`Error::Checkpoint`] if checkpoints exist but none is intact.
pub fn newest(folder: &Path) -> Result<Option<(PathBuf, State)>> {
    clear(folder)?;
    let mut first_error = None;
    for path in list(folder)?.into_iter().rev() {
        match verify(&path) {
            Ok(state) => return Ok(Some((path, state))),
            Err(error) => {
                data_pipeline::log_warn!("{error}; trying the previous checkpoint");
                first_error.get_or_insert(error);
            }
        }
    }
    match first_error {
        None => Ok(None),
        Some(Error::Checkpoint { path, reason }) => {
            let reason = format!("{reason}; no other checkpoint is intact: start again with --restart");
            Err(Error::Checkpoint { path, reason })
        }
        Some(error) => Err(error),
    }
}

/// Reads the state of a checkpoint and compares all checksums.
///
/// # Errors
/// [`Error::Checkpoint`] naming the file that differs.
pub fn verify(path: &Path) -> Result<State> {
    let file = path.join(STATE);
    let text = fs::read_to_string(&file)
        .map_err(|e| Error::checkpoint(path, format!("{STATE} cannot be read: {e}")))?;
    let state: State = serde_json::from_str(&text)
        .map_err(|e| Error::checkpoint(path, format!("{STATE} is damaged: {e}")))?;
    if state.version != VERSION {
        let reason =
            format!("it has format version {}, but this program reads version {VERSION}", state.version);
        return Err(Error::checkpoint(path, reason));
    }
    // Hash the text, because parsing may not restore a number to the last bit.
    let bare = text.replacen(&format!("\"own\": \"{}\"", state.own), "\"own\": \"\"", 1);
    if state.own != sha256_hex(bare) {
        return Err(Error::checkpoint(path, format!("{STATE} was changed after it was written")));
    }
    let found = checksums(path)?;
    if let Some((name, _)) = state.files.iter().find(|(name, sum)| found.get(*name) != Some(sum)) {
        return Err(Error::checkpoint(path, format!("`{name}` is damaged or missing")));
    }
    Ok(state)
}

/// Reads the recipe of a checkpoint.
pub(crate) fn recipe(path: &Path) -> Result<Recipe> {
    let file = path.join(RECIPE);
    let text = fs::read_to_string(&file).map_err(|e| Error::io(&file, e))?;
    toml::from_str(&text).map_err(|e| Error::checkpoint(path, format!("{RECIPE}: {}", e.message())))
}

/// Removes all checkpoints except the newest `keep` and the one of step `best`.
///
/// # Errors
/// [`Error::Io`] if a checkpoint cannot be removed.
pub fn retain(folder: &Path, keep: usize, best: Option<u64>) -> Result<()> {
    let best = best.map(|step| format!("step-{step:08}"));
    let all = list(folder)?;
    let old = all.len().saturating_sub(keep);
    for path in &all[..old] {
        if path.file_name().and_then(|name| name.to_str()) != best.as_deref() {
            remove(path)?;
        }
    }
    Ok(())
}

/// Lists the folders of checkpoints, oldest first.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(folder, e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.strip_prefix("step-").is_some_and(|step| step.parse::<u64>().is_ok()) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn checksums(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut sums = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name == STATE {
            continue;
        }
        sums.insert(name, sha256_file(&path)?);
    }
    Ok(sums)
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(folder, e)),
        _ => Ok(()),
    }
}

/// Makes renames in a folder durable across a power failure.
fn sync_folder(folder: &Path) -> Result<()> {
    fs::File::open(folder).and_then(|file| file.sync_all()).map_err(|e| Error::io(folder, e))
}
