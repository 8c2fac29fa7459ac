//! Weight files: selects their configuration, and reads and writes files that contain their own.

use std::path::Path;

use tch::Device;

use super::{
    CONFIG_FILE, ConfigOverrides, FolderConfig, OpenedModel, WEIGHT_FILES, classifier, default_preprocess,
    folder_config, hugging_face, with_weights,
};
use crate::activation::Activation;
use crate::weight_files::{self, CONFIG_ENTRY, Layout, WeightFile};
use crate::{Clip, ClipConfig, Error, PreprocessConfig, Result, weights};

/// Configuration of a weight file or folder, and notes on how it was chosen.
pub(super) struct ResolvedConfig {
    pub(super) config: ClipConfig,
    pub(super) preprocess: PreprocessConfig,
    pub(super) notes: Vec<String>,
}

/// Returns the folder whose configuration applies to a weight file, if any. Such a folder has an
/// `open_clip_config.json`, or Hugging Face's `config.json` and a weight file with a usual name. A file with another
/// name that contains a configuration ([`CONFIG_ENTRY`]) uses its own.
pub fn config_folder(file: &Path) -> Option<&Path> {
    let folder = file.parent()?;
    let usual = file.file_name().is_some_and(|name| WEIGHT_FILES.iter().any(|known| name == *known));
    if folder.join(CONFIG_FILE).is_file() {
        return (usual || weight_files::embedded_config(file).is_none()).then_some(folder);
    }
    let transformers =
        usual && !file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("open_clip"));
    (transformers && folder.join(hugging_face::CONFIG_FILE).is_file()).then_some(folder)
}

/// Determines the configuration of a weight file: from the files beside it, from its metadata, or from its tensor
/// shapes.
pub(super) fn resolve_config(path: &Path, checkpoint: &WeightFile) -> Result<ResolvedConfig> {
    if let Some(folder) = config_folder(path) {
        let mut found = folder_config(folder)?;
        found.notes.insert(0, format!("read with the configuration in `{}`", folder.join("").display()));
        return Ok(found);
    }
    if let Some(json) = &checkpoint.config {
        let name = format!("{} in the metadata of {}", CONFIG_ENTRY, path.display());
        let FolderConfig { model_cfg, preprocess_cfg } = FolderConfig::parse(&name, json)?;
        return Ok(ResolvedConfig { config: model_cfg, preprocess: preprocess_cfg, notes: Vec::new() });
    }
    checkpoint.check_model(path)?;
    let mut config = checkpoint.infer_config().map_err(|error| match error {
        Error::Config { name, reason } => {
            Error::Config { name: format!("of {}, {name}", path.display()), reason }
        }
        other => other,
    })?;
    // QuickGELU is the default of that class, and OpenAI's models use it.
    config.quick_gelu |= checkpoint.layout == Layout::HuggingFaceClip;
    let is_transformers = matches!(checkpoint.layout, Layout::HuggingFaceClip | Layout::HuggingFaceSiglip);
    let preprocess = default_preprocess(&config).with_do_convert_rgb(is_transformers.then_some(true));
    let note = format!(
        "the file does not state its configuration. It is inferred from the tensor shapes, assuming heads of 64 channels, \
         {} and {}. If that is wrong, put its {CONFIG_FILE} beside it, or name its preset as `arch`",
        match config.text_activation() {
            Activation::QuickGelu => "QuickGELU (OpenAI's models use it)",
            _ => "GELU (not the QuickGELU of OpenAI's models)",
        },
        describe_preprocess(&preprocess),
    );
    Ok(ResolvedConfig { config, preprocess, notes: vec![note] })
}

/// Describes the image preprocessing for a message.
fn describe_preprocess(preprocess: &PreprocessConfig) -> String {
    let PreprocessConfig { mean, std, interpolation, resize_mode, .. } = preprocess;
    let first = if preprocess.do_convert_rgb == Some(true) { "converted to RGB, then " } else { "" };
    format!(
        "images {first}resized by {interpolation} interpolation (mode `{resize_mode}`), with mean {mean:?} and std {std:?}"
    )
}

/// Opens a single weight file.
pub(super) fn open(path: &Path, device: Device, overrides: &ConfigOverrides) -> Result<OpenedModel> {
    let checkpoint = WeightFile::open(path)?;
    let ResolvedConfig { config, mut preprocess, mut notes } = resolve_config(path, &checkpoint)?;
    let weights = with_weights(&config, checkpoint, path, device, overrides);
    let (model, more) = weights.map_err(|error| match error {
        Error::Mismatch { origin, report } => {
            let how = notes.first().map_or(String::new(), |note| format!(" ({note})"));
            Error::Mismatch { origin: format!("{origin}{how}"), report }
        }
        other => other,
    })?;
    notes.extend(more);
    if overrides.image_size.is_some() {
        // The stored size is that of the weights before resizing.
        preprocess.size = None;
    }
    Ok(OpenedModel { model, preprocess, has_weights: true, notes })
}

/// Opens a weight file with the given configuration. The configuration in the file or its folder is ignored, and
/// images are preprocessed by [`default_preprocess`]; the notes mention both.
///
/// # Errors
/// The errors of [`super::load_weights`] and [`ConfigOverrides::apply`].
pub fn open_file(
    config: &ClipConfig,
    file: impl AsRef<Path>,
    device: Device,
    overrides: &ConfigOverrides,
) -> Result<OpenedModel> {
    let file = file.as_ref();
    let checkpoint = WeightFile::open(file)?;
    let mut notes = Vec::new();
    let preprocess = default_preprocess(config);
    let ignored = match config_folder(file) {
        Some(folder) => Some(format!("the configuration in `{}`", folder.join("").display())),
        None => checkpoint.config.is_some().then(|| "the configuration in the file".to_string()),
    };
    if let Some(ignored) = ignored {
        notes.push(format!("{ignored} is not used, as another one is named"));
    }
    notes.push(format!("assuming {}", describe_preprocess(&preprocess)));
    let (model, more) = with_weights(config, checkpoint, file, device, overrides)?;
    notes.extend(more);
    Ok(OpenedModel { preprocess, model, has_weights: true, notes })
}

/// Writes a single safetensors file that [`super::open`] opens: weights under open_clip's names, with the
/// configuration and the image preprocessing in the metadata ([`CONFIG_ENTRY`]). `tokenizer` names the model's
/// tokenizer if it is not CLIP's.
///
/// # Errors
/// [`Error::Io`] if the file cannot be written.
pub fn save_file(
    path: impl AsRef<Path>,
    model: &Clip,
    preprocess: &PreprocessConfig,
    tokenizer: Option<&str>,
) -> Result<()> {
    let path = path.as_ref();
    let (config, state) = export_parts(model, preprocess, tokenizer)?;
    let json = serde_json::to_string(&config).map_err(|e| Error::json(&path.display().to_string(), e))?;
    let state = state.iter().map(|(name, tensor)| (name.as_str(), tensor));
    weights::write_safetensors_with(path, state, &[(CONFIG_ENTRY, &json)])
}

/// Returns the configuration and the state dict to write for a model, in the form that Python's open_clip builds.
pub(super) fn export_parts(
    model: &Clip,
    preprocess: &PreprocessConfig,
    tokenizer: Option<&str>,
) -> Result<(FolderConfig, Vec<(String, tch::Tensor)>)> {
    require_both_towers(model)?;
    let (mut model_cfg, state) = classifier::for_open_clip(model)?;
    if let (Some(name), None) = (tokenizer, &model_cfg.text_cfg.hf_tokenizer_name) {
        model_cfg.text_cfg.hf_tokenizer_name = Some(name.into());
    }
    let size = Some(serde_json::json!(model_cfg.vision_cfg.image_size));
    Ok((FolderConfig { model_cfg, preprocess_cfg: PreprocessConfig { size, ..preprocess.clone() } }, state))
}

/// Refuses to write a model that was opened from weights of one tower.
pub(super) fn require_both_towers(model: &Clip) -> Result<()> {
    match model.only_tower() {
        Some(tower) => Err(Error::OneTower { origin: None, tower }),
        None => Ok(()),
    }
}
