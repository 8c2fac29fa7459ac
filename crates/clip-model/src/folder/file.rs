//! Weight files: which configuration one is read with, and files that hold their own.

use std::path::Path;

use tch::Device;

use super::{
    Adjust, CONFIG_FILE, FolderConfig, Opened, WEIGHT_FILES, classifier, default_preprocess, folder_config,
    hugging_face, with_weights,
};
use crate::activation::Activation;
use crate::checkpoint::{self, CONFIG_ENTRY, Checkpoint, Layout};
use crate::{Clip, ClipConfig, Error, PreprocessConfig, Result, weights};

/// How a weight file is read, and what says so.
pub(super) struct Described {
    pub(super) config: ClipConfig,
    pub(super) preprocess: PreprocessConfig,
    pub(super) notes: Vec<String>,
}

/// The folder whose configuration a weight file is read with, where there is one: `open_clip_config.json` beside
/// it, or Hugging Face's `config.json` beside a file of the name that such folders have. A file of another name that
/// holds a configuration itself ([`CONFIG_ENTRY`]) is read with that one.
pub fn home(file: &Path) -> Option<&Path> {
    let folder = file.parent()?;
    let usual = file.file_name().is_some_and(|name| WEIGHT_FILES.iter().any(|known| name == *known));
    if folder.join(CONFIG_FILE).is_file() {
        return (usual || checkpoint::own_config(file).is_none()).then_some(folder);
    }
    let faces =
        usual && !file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("open_clip"));
    (faces && folder.join(hugging_face::CONFIG_FILE).is_file()).then_some(folder)
}

/// Finds out how a weight file is read: by what lies beside it, by what it says itself, or by its shapes.
pub(super) fn describe(path: &Path, read: &Checkpoint) -> Result<Described> {
    if let Some(folder) = home(path) {
        let mut found = folder_config(folder)?;
        found.notes.insert(0, format!("read with the configuration in `{}`", folder.join("").display()));
        return Ok(found);
    }
    if let Some(json) = &read.config {
        let name = format!("{} in the metadata of {}", CONFIG_ENTRY, path.display());
        let FolderConfig { model_cfg, preprocess_cfg } = FolderConfig::parse(&name, json)?;
        return Ok(Described { config: model_cfg, preprocess: preprocess_cfg, notes: Vec::new() });
    }
    let mut config = read.infer_config()?;
    // The default of that class, and what OpenAI's models have there.
    config.quick_gelu |= read.layout == Layout::HuggingFaceClip;
    let preprocess = default_preprocess(&config);
    let note = format!(
        "the file does not say how it is used. Its shapes tell the configuration; assumed are heads of 64 channels, \
         {} and {}. If that is wrong, put its {CONFIG_FILE} beside it, or name its preset as `arch`",
        match config.text_activation() {
            Activation::QuickGelu => "QuickGELU (OpenAI's models have it)",
            _ => "GELU (not the QuickGELU of OpenAI's models)",
        },
        images(&preprocess),
    );
    Ok(Described { config, preprocess, notes: vec![note] })
}

/// What images become, in words.
fn images(preprocess: &PreprocessConfig) -> String {
    let PreprocessConfig { mean, std, interpolation, resize_mode, .. } = preprocess;
    format!(
        "images that are resized by {interpolation} interpolation (mode `{resize_mode}`), with mean {mean:?} and std {std:?}"
    )
}

/// Opens a weight file by itself.
pub(super) fn open(path: &Path, device: Device, adjust: &Adjust) -> Result<Opened> {
    let read = checkpoint::read(path)?;
    let Described { config, mut preprocess, mut notes } = describe(path, &read)?;
    let (model, found) = with_weights(&config, read, path, device, adjust).map_err(|error| match error {
        Error::Mismatch { origin, report } => {
            let how = notes.first().map_or(String::new(), |note| format!(" ({note})"));
            Error::Mismatch { origin: format!("{origin}{how}"), report }
        }
        other => other,
    })?;
    notes.extend(found);
    if adjust.image_size.is_some() {
        // The size that is named is that of the weights.
        preprocess.size = None;
    }
    Ok(Opened { model, preprocess, has_weights: true, notes })
}

/// [`super::open_adjusted`] of a weight file whose model configuration is given; what the file or its folder says is
/// not used, and images are prepared as [`default_preprocess`] has it. Both are among the notes.
///
/// # Errors
/// As [`super::load_weights`] and [`Adjust::apply`].
pub fn open_file(config: &ClipConfig, file: &Path, device: Device, adjust: &Adjust) -> Result<Opened> {
    let read = checkpoint::read(file)?;
    let mut notes = Vec::new();
    let preprocess = default_preprocess(config);
    let own = match home(file) {
        Some(folder) => Some(format!("the configuration in `{}`", folder.join("").display())),
        None => read.config.is_some().then(|| "the configuration in the file".to_string()),
    };
    if let Some(own) = own {
        notes.push(format!("{own} is not used, as another one is named"));
    }
    notes.push(format!("assumed are {}", images(&preprocess)));
    let (model, found) = with_weights(config, read, file, device, adjust)?;
    notes.extend(found);
    Ok(Opened { preprocess, model, has_weights: true, notes })
}

/// Writes one safetensors file that [`super::open`] reads by itself: weights under open_clip's names, with the
/// configuration and what the model wants of its images in the metadata ([`CONFIG_ENTRY`]). `tokenizer` names the
/// one that texts need, where it is not CLIP's.
///
/// # Errors
/// [`Error::Io`] where it cannot be written.
pub fn save_file(
    path: &Path,
    model: &Clip,
    preprocess: &PreprocessConfig,
    tokenizer: Option<&str>,
) -> Result<()> {
    let (config, state) = described(model, preprocess, tokenizer)?;
    let json = serde_json::to_string(&config)
        .map_err(|e| Error::config(path.display().to_string(), e.to_string()))?;
    let state = state.iter().map(|(name, tensor)| (name.as_str(), tensor));
    weights::write_safetensors_with(path, state, &[(CONFIG_ENTRY, &json)])
}

/// What is written of a model: its configuration and its state dict, in the form that Python's open_clip builds.
pub(super) fn described(
    model: &Clip,
    preprocess: &PreprocessConfig,
    tokenizer: Option<&str>,
) -> Result<(FolderConfig, Vec<(String, tch::Tensor)>)> {
    let (mut model_cfg, state) = classifier::for_open_clip(model)?;
    if let (Some(name), None) = (tokenizer, &model_cfg.text_cfg.hf_tokenizer_name) {
        model_cfg.text_cfg.hf_tokenizer_name = Some(name.into());
    }
    let size = Some(serde_json::json!(model_cfg.vision_cfg.image_size));
    Ok((FolderConfig { model_cfg, preprocess_cfg: PreprocessConfig { size, ..preprocess.clone() } }, state))
}
