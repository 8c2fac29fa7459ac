//! Model folders in the format of Python's open_clip: `open_clip_config.json` and `open_clip_model.safetensors`. Also
//! opens Hugging Face folders and single weight files.

mod classifier;
mod contents;
mod export;
mod file;
mod hugging_face;

use std::path::{Path, PathBuf};

pub use export::{SpecialTokens, save_hugging_face, save_hugging_face_with};
pub use file::{config_folder, open_file, save_file};

use serde::{Deserialize, Serialize};
use tch::Device;

use crate::config::TowerKind;
use crate::weight_files::{self, Layout, WeightFile};
use crate::{Clip, ClipConfig, Error, PreprocessConfig, Result, Tower, presets, resize, weights};

/// Name of the configuration file in a model folder.
pub const CONFIG_FILE: &str = "open_clip_config.json";
/// Name of the weight file in a model folder.
pub const WEIGHTS_FILE: &str = "open_clip_model.safetensors";
/// Usual names of weight files in published folders, by priority.
const WEIGHT_FILES: [&str; 7] = [
    WEIGHTS_FILE,
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_pytorch_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// Content of `open_clip_config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderConfig {
    /// Model configuration.
    pub model_cfg: ClipConfig,
    /// Image preprocessing.
    #[serde(default)]
    pub preprocess_cfg: PreprocessConfig,
}

impl FolderConfig {
    /// Loads the configuration of a model folder.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, and the errors of [`ClipConfig::from_json`].
    pub fn load(folder: impl AsRef<Path>) -> Result<Self> {
        let path = folder.as_ref().join(CONFIG_FILE);
        let json = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        Self::parse(&path.display().to_string(), &json)
    }

    fn parse(name: &str, json: &str) -> Result<Self> {
        let mut config: Self = serde_json::from_str(json).map_err(|e| Error::json(name, e))?;
        config.model_cfg.validate(name)?;
        config.model_cfg.vision_cfg.normalize_projection();
        Ok(config)
    }
}

/// A model opened by [`open`], with its image preprocessing.
#[derive(Debug)]
#[non_exhaustive]
pub struct OpenedModel {
    /// The model.
    pub model: Clip,
    /// Image preprocessing of the model.
    pub preprocess: PreprocessConfig,
    /// Whether weights were loaded; a preset alone has none.
    pub has_weights: bool,
    /// Notes on decisions while opening: detected layout, dropped tensors, assumptions.
    pub notes: Vec<String>,
}

/// Settings that override a model's own configuration.
///
/// ```no_run
/// use clip_model::folder::{self, ConfigOverrides};
///
/// let overrides = ConfigOverrides::default().with_image_size(336);
/// let opened = folder::open_with("models/vit-b-16", tch::Device::Cpu, 0, &overrides)?;
/// # Ok::<(), clip_model::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ConfigOverrides {
    /// Image size in pixels. Position-dependent weights are interpolated ([`crate::resize::fit_image_size`]).
    pub image_size: Option<i64>,
    /// Patch dropout: fraction of the patches that a ViT leaves out in training.
    pub patch_dropout: Option<f64>,
    /// Largest drop path rate of a timm tower.
    pub drop_path: Option<f64>,
}

impl ConfigOverrides {
    /// Overrides the image size.
    pub fn with_image_size(mut self, image_size: impl Into<Option<i64>>) -> Self {
        self.image_size = image_size.into();
        self
    }

    /// Overrides the patch dropout of a ViT.
    pub fn with_patch_dropout(mut self, patch_dropout: impl Into<Option<f64>>) -> Self {
        self.patch_dropout = patch_dropout.into();
        self
    }

    /// Overrides the largest drop path rate of a timm tower.
    pub fn with_drop_path(mut self, drop_path: impl Into<Option<f64>>) -> Self {
        self.drop_path = drop_path.into();
        self
    }

    /// Applies the overrides to a configuration.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the image tower has no such setting, [`Error::Config`] if the model cannot be built.
    pub fn apply(&self, config: &ClipConfig) -> Result<ClipConfig> {
        let mut config = config.clone();
        let kind = config.vision_cfg.tower();
        let vision = &mut config.vision_cfg;
        if let Some(size) = self.image_size {
            vision.image_size = size;
        }
        if let Some(fraction) = self.patch_dropout {
            if kind != TowerKind::Vit {
                return Err(Error::unsupported("patch_dropout of an image tower other than a ViT"));
            }
            vision.patch_dropout = fraction;
        }
        if let Some(rate) = self.drop_path {
            if kind != TowerKind::Timm {
                return Err(Error::unsupported("drop_path of an image tower that is not one of timm's"));
            }
            vision.timm_drop_path = Some(rate);
        }
        config.validate("model with overrides")?;
        Ok(config)
    }
}

/// Opens a model: a preset or a configuration file in open_clip's format (`*.json`), both with random weights from
/// `seed`; a model folder of open_clip or Hugging Face; or any checkpoint that [`WeightFile::open`] reads.
///
/// ```no_run
/// let opened = clip_model::open("models/vit-b-32", tch::Device::Cpu, 0)?;
/// println!("embed dim {}", opened.model.config().embed_dim);
/// # Ok::<(), clip_model::Error>(())
/// ```
///
/// # Errors
/// [`Error::UnknownModel`] for any other name; the errors of reading the files of a folder or checkpoint.
pub fn open(model: impl AsRef<Path>, device: Device, seed: u64) -> Result<OpenedModel> {
    open_with(model, device, seed, &ConfigOverrides::default())
}

/// Opens a model like [`open`], with overrides of its configuration.
///
/// # Errors
/// The errors of [`open`] and [`ConfigOverrides::apply`].
pub fn open_with(
    model: impl AsRef<Path>,
    device: Device,
    seed: u64,
    overrides: &ConfigOverrides,
) -> Result<OpenedModel> {
    let path = model.as_ref();
    if path.is_dir() {
        return open_folder(path, device, overrides);
    }
    if !is_config_file(path) && path.is_file() {
        return file::open(path, device, overrides);
    }
    let (config, preprocess) = if is_config_file(path) {
        let FolderConfig { model_cfg, preprocess_cfg } = load_config_file(path)?;
        (overrides.apply(&model_cfg)?, preprocess_cfg)
    } else {
        let config = overrides.apply(&presets::get(&path.to_string_lossy())?)?;
        let preprocess = default_preprocess(&config);
        (config, preprocess)
    };
    let model = Clip::new(&config, device, seed)?;
    Ok(OpenedModel { model, preprocess, has_weights: false, notes: Vec::new() })
}

/// Checks that a folder has a readable configuration and a complete weight file. Reads the list of the tensors, not the
/// weights.
///
/// # Errors
/// [`Error::Io`] if a file is missing; [`Error::Json`], [`Error::Config`] or [`Error::Damaged`] if one is damaged.
pub fn check(folder: impl AsRef<Path>) -> Result<()> {
    let folder = folder.as_ref();
    folder_config(folder)?;
    WeightFile::check(&weight_file(folder))
}

/// Returns the weight file of a folder. If there is no file, returns the path of the usual one, which errors then name.
fn weight_file(folder: &Path) -> PathBuf {
    let file = WEIGHT_FILES.iter().map(|file| folder.join(file)).find(|path| path.is_file());
    file.unwrap_or_else(|| folder.join(WEIGHTS_FILE))
}

fn open_folder(folder: &Path, device: Device, overrides: &ConfigOverrides) -> Result<OpenedModel> {
    let file::ResolvedConfig { config, mut preprocess, mut notes } = folder_config(folder)?;
    let file = weight_file(folder);
    let (model, more) = with_weights(&config, WeightFile::open(&file)?, &file, device, overrides)?;
    notes.extend(more);
    if overrides.image_size.is_some() {
        // The stored size is that of the weights before resizing.
        preprocess.size = None;
    }
    Ok(OpenedModel { model, preprocess, has_weights: true, notes })
}

/// Loads the configuration of a folder of open_clip or Hugging Face.
fn folder_config(folder: &Path) -> Result<file::ResolvedConfig> {
    if folder.join(CONFIG_FILE).exists() {
        let FolderConfig { model_cfg, preprocess_cfg } = FolderConfig::load(folder)?;
        return Ok(file::ResolvedConfig { config: model_cfg, preprocess: preprocess_cfg, notes: Vec::new() });
    }
    if folder.join(hugging_face::CONFIG_FILE).exists() {
        return hugging_face::load_config(folder);
    }
    Err(contents::not_a_model_folder(folder))
}

/// Returns the configuration of a model without loading its weights, as [`open`] would resolve it. For a folder with
/// a pruned model (TinyCLIP), this is the configuration before pruning.
///
/// # Errors
/// The errors of [`open`].
pub fn config(model: impl AsRef<Path>) -> Result<ClipConfig> {
    let path = model.as_ref();
    if path.is_dir() {
        return Ok(folder_config(path)?.config);
    }
    if is_config_file(path) {
        return Ok(load_config_file(path)?.model_cfg);
    }
    if path.is_file() {
        return Ok(file::resolve_config(path, &WeightFile::open(path)?)?.config);
    }
    presets::get(&path.to_string_lossy())
}

/// Whether a path is a configuration file.
fn is_config_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) && path.is_file()
}

/// Loads a configuration file: one of open_clip's `model_configs`, or that of a model folder.
fn load_config_file(path: &Path) -> Result<FolderConfig> {
    let json = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let name = path.display().to_string();
    let whole: serde_json::Value = serde_json::from_str(&json).map_err(|e| Error::json(&name, e))?;
    if whole.get("model_cfg").is_some() {
        return FolderConfig::parse(&name, &json);
    }
    let model_cfg = ClipConfig::from_json(&name, &json)?;
    Ok(FolderConfig { preprocess_cfg: default_preprocess(&model_cfg), model_cfg })
}

/// Returns the image preprocessing of a preset or a bare weight file: OpenAI's settings, or SigLIP's for its towers.
pub fn default_preprocess(config: &ClipConfig) -> PreprocessConfig {
    if config.init_logit_bias.is_none() {
        return PreprocessConfig::default();
    }
    PreprocessConfig::default().with_normalization([0.5; 3], [0.5; 3]).with_resize_mode("squash")
}

/// Creates a model with the given configuration and loads the weights of a checkpoint in any container and layout. If
/// the file contains a pruned model with that configuration (TinyCLIP), the model has the pruned shape.
///
/// # Errors
/// [`Error::Mismatch`] if the weights do not fit, [`Error::Incompatible`] if they need QuickGELU and the
/// configuration does not set it; otherwise the errors of [`WeightFile::open`].
pub fn load_weights(config: &ClipConfig, file: impl AsRef<Path>, device: Device) -> Result<Clip> {
    let file = file.as_ref();
    Ok(with_weights(config, WeightFile::open(file)?, file, device, &ConfigOverrides::default())?.0)
}

fn with_weights(
    config: &ClipConfig,
    checkpoint: WeightFile,
    file: &Path,
    device: Device,
    overrides: &ConfigOverrides,
) -> Result<(Clip, Vec<String>)> {
    let origin = file.display().to_string();
    checkpoint.check_model(file)?;
    // With the wrong activation, the embeddings look plausible but spoil every result.
    if checkpoint.layout == Layout::OpenAi && !config.quick_gelu {
        let reason = format!(
            "`{origin}` contains weights of OpenAI, which were trained with QuickGELU: use the preset whose name \
                 ends in `-quickgelu`, or set `quick_gelu` to true"
        );
        return Err(Error::Incompatible { reason });
    }
    let mut notes = Vec::new();
    // This crate writes the open_clip layout, so it needs no note.
    if checkpoint.layout != Layout::OpenClip {
        notes.push(format!("layout: {}", checkpoint.layout));
    }
    notes.extend(checkpoint.notes);
    if !checkpoint.dropped.is_empty() {
        let shown =
            checkpoint.dropped.iter().take(8).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        notes.push(format!("{} tensors are not part of the model: {shown}", checkpoint.dropped.len()));
    }
    let complete = config.vision_cfg.blocks.is_none() && config.text_cfg.blocks.is_none();
    let pruned = complete
        && (checkpoint.layout == Layout::TinyClip || weight_files::infer::is_pruned(&checkpoint.weights));
    let mut config = match pruned {
        true => weight_files::infer_pruned_config(config, &checkpoint.weights)?,
        false => config.clone(),
    };
    let named = classifier::from_open_clip(&mut config, checkpoint.weights)?;
    let config = overrides.apply(&config)?;
    let mut named = weight_files::layout::with_text_prefix(named, config.custom_text);
    let only_tower = weight_files::infer::only_tower(&named);
    let mut model = match only_tower {
        Some(_) => Clip::new(&config, device, 0)?,
        None => Clip::unset(&config, device)?,
    };
    if let Some(tower) = only_tower {
        notes.push(format!("the file contains only the {tower} tower"));
        fill_other_tower(&model, &mut named, tower)?;
        model.set_only_tower(Some(tower));
    }
    if overrides.image_size.is_some() {
        let moved = resize::fit_image_size(model.params(), &mut named)?;
        if !moved.is_empty() {
            notes.push(format!("interpolated to {} px: {}", config.vision_cfg.image_size, moved.join(", ")));
        }
    }
    weights::replace(model.params(), named, &origin)?;
    Ok((model, notes))
}

/// Adds the model's initial values for the tower that the weights lack.
fn fill_other_tower(
    model: &Clip,
    named: &mut std::collections::HashMap<String, tch::Tensor>,
    tower: Tower,
) -> Result<()> {
    for entry in model.params().state() {
        let own = match tower {
            Tower::Image => entry.name.starts_with("visual."),
            Tower::Text => !entry.name.starts_with("visual.") && !entry.name.starts_with("logit_"),
        };
        if !own && !named.contains_key(&entry.name) {
            named.insert(entry.name.clone(), entry.tensor.f_detach_copy()?);
        }
    }
    Ok(())
}

/// Writes a model folder that [`open`] and Python's open_clip (`local-dir:`) load.
///
/// ```no_run
/// use clip_model::{Clip, PreprocessConfig, folder, presets};
///
/// let model = Clip::new(&presets::get("ViT-B-32")?, tch::Device::Cpu, 0)?;
/// folder::save("models/mine", &model, &PreprocessConfig::default())?;
/// # Ok::<(), clip_model::Error>(())
/// ```
///
/// # Errors
/// [`Error::Io`] if a file cannot be written.
pub fn save(folder: impl AsRef<Path>, model: &Clip, preprocess: &PreprocessConfig) -> Result<()> {
    save_with(folder, model, preprocess, None)
}

/// Writes the folder of [`save`] with the name of a tokenizer other than CLIP's. The caller writes its
/// `tokenizer.json`; the name in the configuration lets open_clip load it from the folder.
///
/// # Errors
/// The errors of [`save`].
pub fn save_with(
    folder: impl AsRef<Path>,
    model: &Clip,
    preprocess: &PreprocessConfig,
    tokenizer: Option<&str>,
) -> Result<()> {
    let folder = folder.as_ref();
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let (config, state) = file::export_parts(model, preprocess, tokenizer)?;
    let path = folder.join(CONFIG_FILE);
    let json =
        serde_json::to_string_pretty(&config).map_err(|e| Error::json(&path.display().to_string(), e))?;
    file_ext::write_atomic(&path, json.as_bytes())?;
    let state = state.iter().map(|(name, tensor)| (name.as_str(), tensor));
    weights::write_safetensors(folder.join(WEIGHTS_FILE), state)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 64, "layers": 1},
        "text_cfg": {"context_length": 6, "vocab_size": 30, "width": 8, "heads": 2, "layers": 1}}"#;

    #[test]
    fn a_configuration_file_gives_random_weights() {
        let folder = tempfile::tempdir().unwrap();
        let (plain, whole) = (folder.path().join("mine.json"), folder.path().join("whole.JSON"));
        std::fs::write(&plain, CONFIG).unwrap();
        let preprocess = r#""preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}"#;
        std::fs::write(&whole, format!(r#"{{"model_cfg": {CONFIG}, {preprocess}}}"#)).unwrap();
        let [plain, whole] = [plain, whole].map(|path| path.display().to_string());

        let first = open(&plain, Device::Cpu, 3).unwrap();
        assert!(!first.has_weights);
        assert_eq!(first.preprocess, PreprocessConfig::default());
        assert_eq!(config(&plain).unwrap(), *first.model.config());
        let weights = |seed: u64| {
            let opened = open(&plain, Device::Cpu, seed).unwrap();
            opened.model.params().get("text_projection").unwrap().shallow_clone()
        };
        assert_eq!(weights(3), *first.model.params().get("text_projection").unwrap());
        assert_ne!(weights(4), weights(3));

        let overrides = ConfigOverrides::default().with_image_size(24);
        let second = open_with(&whole, Device::Cpu, 3, &overrides).unwrap();
        assert_eq!(second.preprocess.mean, [0.1, 0.2, 0.3]);
        assert_eq!(second.model.config().vision_cfg.image_size, 24);
    }

    #[test]
    fn errors_of_configuration_files_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.json");
        let broken = CONFIG.replace("\"embed_dim\": 8", "\"embed_dim\": 0");
        for text in ["", "{", "[]", "{\"model_cfg\": 3}", &broken, &CONFIG.replace("width", "breadth")] {
            std::fs::write(&path, text).unwrap();
            let error = open(&path, Device::Cpu, 0).unwrap_err().to_string();
            assert!(error.contains("mine.json"), "{text}: {error}");
            assert!(config(&path).is_err(), "{text}");
        }
    }
}
