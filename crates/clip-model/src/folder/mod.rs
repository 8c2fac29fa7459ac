//! Model folders: `open_clip_config.json` beside `open_clip_model.safetensors`, as Python's open_clip reads and writes
//! them. Also reads Hugging Face folders and single weight files.

mod classifier;
mod export;
mod file;
mod hugging_face;

use std::path::Path;

pub use export::{SpecialTokens, save_hugging_face, save_hugging_face_with};
pub use file::{home, open_file, save_file};

use serde::{Deserialize, Serialize};
use tch::Device;

use crate::checkpoint::{self, Checkpoint, Layout};
use crate::config::TowerKind;
use crate::{Clip, ClipConfig, Error, PreprocessConfig, Result, presets, resize, weights};

/// Name of the configuration file in a model folder.
pub const CONFIG_FILE: &str = "open_clip_config.json";
/// Name of the weight file in a model folder.
pub const WEIGHTS_FILE: &str = "open_clip_model.safetensors";
/// Names that weights have in published folders, in the order in which they are looked for.
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
        Self::parse(&path.display().to_string(), &json)
    }

    fn parse(name: &str, json: &str) -> Result<Self> {
        let mut config: Self = serde_json::from_str(json).map_err(|e| Error::config(name, e.to_string()))?;
        config.model_cfg.validate(name)?;
        config.model_cfg.vision_cfg.classifier_as_projection();
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
    /// What was decided on the way: the layout, what was dropped, what was assumed.
    pub notes: Vec<String>,
}

/// What a caller wants different from a model's own configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Adjust {
    /// Side of the images in pixels; weights that are learned per position are interpolated
    /// ([`crate::resize::fit_image_size`]).
    pub image_size: Option<i64>,
    /// Share of the patches that a ViT leaves out while training.
    pub patch_dropout: Option<f64>,
    /// Largest drop path rate of a timm tower.
    pub drop_path: Option<f64>,
}

impl Adjust {
    /// The configuration with these changes.
    ///
    /// # Errors
    /// [`Error::Config`] where the tower has no such setting, or the result cannot be built.
    pub fn apply(&self, config: &ClipConfig) -> Result<ClipConfig> {
        let mut config = config.clone();
        let kind = config.vision_cfg.tower();
        let vision = &mut config.vision_cfg;
        if let Some(size) = self.image_size {
            vision.image_size = size;
        }
        if let Some(share) = self.patch_dropout {
            if kind != TowerKind::Vit {
                return Err(Error::config(
                    "patch_dropout",
                    "only a ViT image tower has patches to leave out",
                ));
            }
            vision.patch_dropout = share;
        }
        if let Some(rate) = self.drop_path {
            if kind != TowerKind::Timm {
                return Err(Error::config("drop_path", "only the towers of timm drop paths"));
            }
            vision.timm_drop_path = Some(rate);
        }
        config.validate("adjusted model")?;
        Ok(config)
    }
}

/// Opens what a user names: a preset or a configuration file in open_clip's format (`*.json`; fresh weights from
/// `seed`), a model folder of open_clip or of Hugging Face, or a checkpoint of any kind that [`checkpoint::read`] reads.
///
/// # Errors
/// [`Error::UnknownModel`] where it is none of them; the errors of the files otherwise.
pub fn open(name: &str, device: Device, seed: u64) -> Result<Opened> {
    open_adjusted(name, device, seed, &Adjust::default())
}

/// [`open`] with changes to the configuration.
///
/// # Errors
/// As [`open`] and [`Adjust::apply`].
pub fn open_adjusted(name: &str, device: Device, seed: u64, adjust: &Adjust) -> Result<Opened> {
    let path = Path::new(name);
    if path.is_dir() {
        return open_folder(path, device, adjust);
    }
    if is_config(path) {
        let FolderConfig { model_cfg, preprocess_cfg } = read_config(path)?;
        let model = Clip::new(&adjust.apply(&model_cfg)?, device, seed)?;
        return Ok(Opened { model, preprocess: preprocess_cfg, has_weights: false, notes: Vec::new() });
    }
    if path.is_file() {
        return file::open(path, device, adjust);
    }
    let config = adjust.apply(&presets::get(name)?)?;
    let model = Clip::new(&config, device, seed)?;
    Ok(Opened { model, preprocess: default_preprocess(&config), has_weights: false, notes: Vec::new() })
}

fn open_folder(folder: &Path, device: Device, adjust: &Adjust) -> Result<Opened> {
    let file::Described { config, mut preprocess, mut notes } = folder_config(folder)?;
    let file = WEIGHT_FILES.iter().map(|file| folder.join(file)).find(|path| path.is_file());
    // Where there is none, the error names the usual one.
    let file = file.unwrap_or_else(|| folder.join(WEIGHTS_FILE));
    let (model, found) = with_weights(&config, checkpoint::read(&file)?, &file, device, adjust)?;
    notes.extend(found);
    if adjust.image_size.is_some() {
        // The size that the folder names is that of its own weights.
        preprocess.size = None;
    }
    Ok(Opened { model, preprocess, has_weights: true, notes })
}

/// A folder's statement about its weights.
fn folder_config(folder: &Path) -> Result<file::Described> {
    if folder.join(CONFIG_FILE).exists() {
        let FolderConfig { model_cfg, preprocess_cfg } = FolderConfig::read(folder)?;
        return Ok(file::Described { config: model_cfg, preprocess: preprocess_cfg, notes: Vec::new() });
    }
    if folder.join(hugging_face::CONFIG_FILE).exists() {
        return hugging_face::read(folder);
    }
    // The path may be a run folder, which contains the model folder.
    let inner = folder.join("model");
    let hint = if inner.join(CONFIG_FILE).exists() {
        format!("; `{}` is a model folder", inner.display())
    } else {
        String::new()
    };
    let reason = format!("it has neither {CONFIG_FILE} nor {}{hint}", hugging_face::CONFIG_FILE);
    Err(Error::config(folder.display().to_string(), reason))
}

/// The configuration of what a user names, as [`open`] would have it; of a folder no weights are read, so
/// one that is a pruned model of its configuration counts as the unpruned one.
///
/// # Errors
/// As [`open`].
pub fn config(name: &str) -> Result<ClipConfig> {
    let path = Path::new(name);
    if path.is_dir() {
        if path.join(hugging_face::CONFIG_FILE).exists() && !path.join(CONFIG_FILE).exists() {
            return Ok(hugging_face::read(path)?.config);
        }
        return Ok(FolderConfig::read(path)?.model_cfg);
    }
    if is_config(path) {
        return Ok(read_config(path)?.model_cfg);
    }
    if path.is_file() {
        return Ok(file::describe(path, &checkpoint::read(path)?)?.config);
    }
    presets::get(name)
}

/// Whether a path is that of a configuration, of which no weights are known.
fn is_config(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) && path.is_file()
}

/// A model configuration as open_clip keeps them, or the one of a model folder.
fn read_config(path: &Path) -> Result<FolderConfig> {
    let json = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let name = path.display().to_string();
    let whole: serde_json::Value =
        serde_json::from_str(&json).map_err(|e| Error::config(&name, e.to_string()))?;
    if whole.get("model_cfg").is_some() {
        return FolderConfig::parse(&name, &json);
    }
    let model_cfg = ClipConfig::from_json(&name, &json)?;
    Ok(FolderConfig { preprocess_cfg: default_preprocess(&model_cfg), model_cfg })
}

/// What a preset or bare file does not say: OpenAI's values, or SigLIP's for its towers.
pub fn default_preprocess(config: &ClipConfig) -> PreprocessConfig {
    if config.init_logit_bias.is_none() {
        return PreprocessConfig::default();
    }
    PreprocessConfig {
        mean: [0.5; 3],
        std: [0.5; 3],
        resize_mode: "squash".into(),
        ..PreprocessConfig::default()
    }
}

/// A model of the given configuration with the weights of a checkpoint of any container and layout; where
/// the file is a pruned model of that configuration (TinyCLIP), the model has the pruned one.
///
/// # Errors
/// [`Error::Mismatch`] where they do not fit, [`Error::Config`] where they want QuickGELU and the
/// configuration does not; the errors of the file otherwise.
pub fn load_weights(config: &ClipConfig, file: &Path, device: Device) -> Result<Clip> {
    Ok(with_weights(config, checkpoint::read(file)?, file, device, &Adjust::default())?.0)
}

fn with_weights(
    config: &ClipConfig,
    read: Checkpoint,
    file: &Path,
    device: Device,
    adjust: &Adjust,
) -> Result<(Clip, Vec<String>)> {
    let origin = file.display().to_string();
    // The outputs would be close enough to look right and bad enough to spoil every result.
    if read.layout == Layout::OpenAi && !config.quick_gelu {
        let reason = format!(
            "`{origin}` holds weights of OpenAI, which were trained with QuickGELU: use the preset whose name \
             ends in `-quickgelu`, or set `quick_gelu` to true"
        );
        return Err(Error::config("weights", reason));
    }
    let mut notes = Vec::new();
    // The project's own files have this one, so it tells nothing.
    if read.layout != Layout::OpenClip {
        notes.push(format!("layout: {}", read.layout));
    }
    notes.extend(read.notes);
    if !read.dropped.is_empty() {
        let shown =
            read.dropped.iter().take(8).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        notes.push(format!("{} names are no part of the model: {shown}", read.dropped.len()));
    }
    let whole = config.vision_cfg.blocks.is_none() && config.text_cfg.blocks.is_none();
    let pruned = whole && (read.layout == Layout::TinyClip || checkpoint::infer::is_uneven(&read.weights));
    let mut config = match pruned {
        true => checkpoint::adapt_config(config, &read.weights)?,
        false => config.clone(),
    };
    let named = classifier::from_open_clip(&mut config, read.weights)?;
    let config = adjust.apply(&config)?;
    let model = Clip::new(&config, device, 0)?;
    let mut named = checkpoint::layout::with_text_prefix(named, config.custom_text);
    if adjust.image_size.is_some() {
        let moved = resize::fit_image_size(model.params(), &mut named)?;
        if !moved.is_empty() {
            notes.push(format!("interpolated to {} px: {}", config.vision_cfg.image_size, moved.join(", ")));
        }
    }
    weights::load(model.params(), &named, &origin)?;
    Ok((model, notes))
}

/// Writes a model folder that [`open`] and Python's open_clip (`local-dir:`) read.
///
/// # Errors
/// [`Error::Io`] where it cannot be written.
pub fn save(folder: &Path, model: &Clip, preprocess: &PreprocessConfig) -> Result<()> {
    save_with(folder, model, preprocess, None)
}

/// Writes the folder of [`save`] with the name of a tokenizer other than CLIP's. The caller writes its
/// `tokenizer.json`. The name in the configuration makes open_clip read the folder's tokenizer.
///
/// # Errors
/// As [`save`].
pub fn save_with(
    folder: &Path,
    model: &Clip,
    preprocess: &PreprocessConfig,
    tokenizer: Option<&str>,
) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let (config, state) = file::described(model, preprocess, tokenizer)?;
    let path = folder.join(CONFIG_FILE);
    let json = serde_json::to_string_pretty(&config)
        .map_err(|e| Error::config(path.display().to_string(), e.to_string()))?;
    file_ext::write_atomic(&path, json.as_bytes())?;
    let state = state.iter().map(|(name, tensor)| (name.as_str(), tensor));
    weights::write_safetensors(&folder.join(WEIGHTS_FILE), state)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 64, "layers": 1},
        "text_cfg": {"context_length": 6, "vocab_size": 30, "width": 8, "heads": 2, "layers": 1}}"#;

    #[test]
    fn a_configuration_of_ones_own_starts_from_scratch() {
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

        let adjust = Adjust { image_size: Some(24), ..Adjust::default() };
        let second = open_adjusted(&whole, Device::Cpu, 3, &adjust).unwrap();
        assert_eq!(second.preprocess.mean, [0.1, 0.2, 0.3]);
        assert_eq!(second.model.config().vision_cfg.image_size, 24);
    }

    #[test]
    fn what_is_no_configuration_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.json");
        let broken = CONFIG.replace("\"embed_dim\": 8", "\"embed_dim\": 0");
        for text in ["", "{", "[]", "{\"model_cfg\": 3}", &broken, &CONFIG.replace("width", "breadth")] {
            std::fs::write(&path, text).unwrap();
            let error = open(&path.display().to_string(), Device::Cpu, 0).unwrap_err().to_string();
            assert!(error.contains("mine.json"), "{text}: {error}");
            assert!(config(&path.display().to_string()).is_err(), "{text}");
        }
    }
}
