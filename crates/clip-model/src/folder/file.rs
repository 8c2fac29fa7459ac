//! Weight files: the choice of their configuration, and files that contain their own.

use std::path::Path;

use tch::Device;

use super::{
    Adjust, CONFIG_FILE, FolderConfig, Opened, WEIGHT_FILES, classifier, default_preprocess, folder_config,
    hugging_face, with_weights,
};
use crate::activation::Activation;
use crate::checkpoint::{self, CONFIG_ENTRY, Checkpoint, Layout};
use crate::{Clip, ClipConfig, Error, PreprocessConfig, Result, weights};

/// How a weight file is read, and the reason.
pub(super) struct Described {
    pub(super) config: ClipConfig,
    pub(super) preprocess: PreprocessConfig,
    pub(super) notes: Vec<String>,
}

/// Returns the folder whose configuration applies to a weight file, if any. The folder has an `open_clip_config.json`,
/// or Hugging Face's `config.json` and a weight file with the usual name of such folders. A file with another name that
/// contains a configuration ([`CONFIG_ENTRY`]) uses its own.
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

/// Determines how a weight file is read: from the files beside it, from its own metadata, or from its tensor shapes.
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
    // The default of that class, and the activation of OpenAI's models there.
    config.quick_gelu |= read.layout == Layout::HuggingFaceClip;
    let preprocess = default_preprocess(&config);
    let note = format!(
        "the file does not state its configuration. It is inferred from the tensor shapes, assuming heads of 64 channels, \
         {} and {}. If that is wrong, put its {CONFIG_FILE} beside it, or name its preset as `arch`",
        match config.text_activation() {
            Activation::QuickGelu => "QuickGELU (OpenAI's models use it)",
            _ => "GELU (not the QuickGELU of OpenAI's models)",
        },
        images(&preprocess),
    );
    Ok(Described { config, preprocess, notes: vec![note] })
}

/// Describes the image preprocessing for a message.
fn images(preprocess: &PreprocessConfig) -> String {
    let PreprocessConfig { mean, std, interpolation, resize_mode, .. } = preprocess;
    format!(
        "images that are resized by {interpolation} interpolation (mode `{resize_mode}`), with mean {mean:?} and std {std:?}"
    )
}

/// Opens a single weight file.
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
        // The named size is that of the weights.
        preprocess.size = None;
    }
    Ok(Opened { model, preprocess, has_weights: true, notes })
}

/// Opens a weight file like [`super::open_adjusted`], with the given model configuration. The configuration of the file
/// or its folder is ignored, and images are preprocessed by [`default_preprocess`]. The notes mention both.
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
    notes.push(format!("assuming {}", images(&preprocess)));
    let (model, found) = with_weights(config, read, file, device, adjust)?;
    notes.extend(found);
    Ok(Opened { preprocess, model, has_weights: true, notes })
}

/// Writes a single safetensors file that [`super::open`] reads: weights with open_clip's names, and the configuration
/// and image preprocessing in the metadata ([`CONFIG_ENTRY`]). `tokenizer` names the model's tokenizer if it is not
/// CLIP's.
///
/// # Errors
/// [`Error::Io`] if the file cannot be written.
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

/// The configuration and state dict to write for a model, in the form that Python's open_clip builds.
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
