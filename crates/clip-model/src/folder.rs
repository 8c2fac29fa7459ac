//! Model folders: `open_clip_config.json` beside `open_clip_model.safetensors`, as Python's open_clip reads
//! and writes them; folders of Hugging Face and bare checkpoints are read too.

mod hugging_face;

use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::Device;

use crate::checkpoint::{self, Checkpoint, Layout};
use crate::{Clip, ClipConfig, Error, PreprocessConfig, Result, presets, weights};

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
    /// What was decided on the way: the layout, what was dropped, what was assumed.
    pub notes: Vec<String>,
}

/// Opens what a user names: a preset (fresh weights from `seed`), a model folder of open_clip or of
/// Hugging Face, or a checkpoint of any kind that [`checkpoint::read`] reads.
///
/// # Errors
/// [`Error::UnknownModel`] where it is none of them; the errors of the files otherwise.
pub fn open(name: &str, device: Device, seed: u64) -> Result<Opened> {
    let path = Path::new(name);
    if path.is_dir() {
        return open_folder(path, device);
    }
    if path.is_file() {
        let read = checkpoint::read(path)?;
        let config = read.infer_config()?;
        let assumed = "the configuration was told by the shapes, with heads of 64 channels";
        let (model, mut notes) = with_weights(&config, read, path, device)?;
        notes.push(assumed.into());
        let preprocess = default_preprocess(&config);
        return Ok(Opened { model, preprocess, has_weights: true, notes });
    }
    let model = Clip::new(&presets::get(name)?, device, seed)?;
    Ok(Opened { model, preprocess: PreprocessConfig::default(), has_weights: false, notes: Vec::new() })
}

fn open_folder(folder: &Path, device: Device) -> Result<Opened> {
    let (config, preprocess, mut notes) = if folder.join(CONFIG_FILE).exists() {
        let config = FolderConfig::read(folder)?;
        (config.model_cfg, config.preprocess_cfg, Vec::new())
    } else if folder.join(hugging_face::CONFIG_FILE).exists() {
        let read = hugging_face::read(folder)?;
        (read.config, read.preprocess, read.notes)
    } else {
        let reason = format!("it has neither {CONFIG_FILE} nor {}", hugging_face::CONFIG_FILE);
        return Err(Error::config(folder.display().to_string(), reason));
    };
    let file = WEIGHT_FILES.iter().map(|file| folder.join(file)).find(|path| path.is_file());
    // Where there is none, the error names the usual one.
    let file = file.unwrap_or_else(|| folder.join(WEIGHTS_FILE));
    let (model, found) = with_weights(&config, checkpoint::read(&file)?, &file, device)?;
    notes.extend(found);
    Ok(Opened { model, preprocess, has_weights: true, notes })
}

/// What a bare file does not say: OpenAI's values, or SigLIP's for its towers.
fn default_preprocess(config: &ClipConfig) -> PreprocessConfig {
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
    Ok(with_weights(config, checkpoint::read(file)?, file, device)?.0)
}

fn with_weights(
    config: &ClipConfig,
    read: Checkpoint,
    file: &Path,
    device: Device,
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
    let mut notes = vec![format!("layout: {}", read.layout)];
    notes.extend(read.notes);
    if !read.dropped.is_empty() {
        let shown =
            read.dropped.iter().take(8).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        notes.push(format!("{} names are no part of the model: {shown}", read.dropped.len()));
    }
    let whole = config.vision_cfg.blocks.is_none() && config.text_cfg.blocks.is_none();
    let pruned = whole && (read.layout == Layout::TinyClip || checkpoint::infer::is_uneven(&read.weights));
    let config = match pruned {
        true => checkpoint::adapt_config(config, &read.weights)?,
        false => config.clone(),
    };
    let model = Clip::new(&config, device, 0)?;
    let named = checkpoint::layout::with_text_prefix(read.weights, config.custom_text);
    weights::load(model.params(), &named, &origin)?;
    Ok((model, notes))
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
