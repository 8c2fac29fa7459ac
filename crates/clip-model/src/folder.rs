//! Model folders: `open_clip_config.json` beside `open_clip_model.safetensors`, as Python's open_clip reads and writes them.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::Device;

use crate::{Clip, ClipConfig, Error, PreprocessConfig, Result, presets, weights};

/// Name of the configuration file in a model folder.
pub const CONFIG_FILE: &str = "open_clip_config.json";
/// Name of the weight file in a model folder.
pub const WEIGHTS_FILE: &str = "open_clip_model.safetensors";

/// Content of `open_clip_config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// The model.
    pub model_cfg: ClipConfig,
    /// What it wants of its images.
    #[serde(default)]
    pub preprocess_cfg: PreprocessConfig,
}

impl FolderConfig {
    /// Reads the configuration of a model folder.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Config`] naming the file.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG_FILE);
        let json = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        let name = path.display().to_string();
        let config: FolderConfig =
            serde_json::from_str(&json).map_err(|e| Error::config(&name, e.to_string()))?;
        config.model_cfg.validate(&name)?;
        Ok(config)
    }
}

/// A model as it was found by [`open`].
#[derive(Debug)]
pub struct Opened {
    /// The model.
    pub model: Clip,
    /// What it wants of its images.
    pub preprocess: PreprocessConfig,
    /// Whether weights were read (a preset alone has none).
    pub has_weights: bool,
}

/// Opens what a user names: a preset (fresh weights from `seed`) or a model folder.
///
/// # Errors
/// [`Error::UnknownModel`] where it is neither; the errors of the files otherwise.
pub fn open(name: &str, device: Device, seed: u64) -> Result<Opened> {
    let path = Path::new(name);
    if path.is_dir() {
        let config = FolderConfig::read(path)?;
        let model = load_weights(&config.model_cfg, &path.join(WEIGHTS_FILE), device)?;
        return Ok(Opened { model, preprocess: config.preprocess_cfg, has_weights: true });
    }
    let model = Clip::new(&presets::get(name)?, device, seed)?;
    Ok(Opened { model, preprocess: PreprocessConfig::default(), has_weights: false })
}

/// A model of the given configuration with the weights of a safetensors file.
///
/// # Errors
/// [`Error::Mismatch`] where they do not fit; the errors of the file otherwise.
pub fn load_weights(config: &ClipConfig, file: &Path, device: Device) -> Result<Clip> {
    let read = weights::read_safetensors(file)?;
    let model = Clip::new(config, device, 0)?;
    weights::load(model.params(), &read, &file.display().to_string())?;
    Ok(model)
}

/// Writes a model folder that [`open`] and Python's open_clip (`local-dir:`) read.
///
/// # Errors
/// [`Error::Io`] where it cannot be written.
pub fn save(folder: &Path, model: &Clip, preprocess: &PreprocessConfig) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let size = Some(serde_json::json!(model.config().vision_cfg.image_size));
    let config = FolderConfig {
        model_cfg: model.config().clone(),
        preprocess_cfg: PreprocessConfig { size, ..preprocess.clone() },
    };
    let path = folder.join(CONFIG_FILE);
    let json = serde_json::to_string_pretty(&config)
        .map_err(|e| Error::config(path.display().to_string(), e.to_string()))?;
    weights::write_atomic(&path, json.as_bytes())?;
    weights::write_safetensors(
        &folder.join(WEIGHTS_FILE),
        model.params().state().map(|p| (p.name.as_str(), &p.tensor)),
    )
}
