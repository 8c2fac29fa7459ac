//! timm towers that use their own classifier as the projection, which is how Python's open_clip builds MobileNets.
//!
//! timm (since 1.0.16) reports the number of features of a MobileNetV3, MobileNetV4 or EfficientViT before the last
//! layers of its head, and open_clip sizes its projection by that number. As a result, open_clip can neither run a
//! newly built model nor load weights named `visual.head.proj`. If `timm_proj` is empty, timm's classifier after those
//! layers is the projection, and both work. The two forms compute the same result. In memory, a model always uses the
//! projection.

use std::collections::HashMap;

use tch::Tensor;

use crate::config::TowerKind;
use crate::{Clip, ClipConfig, Result};

/// Path of the projection after a timm model.
const PROJECTION: &str = "visual.head.proj.";

/// Returns the configuration and state dict from which Python's open_clip builds the model.
pub(super) fn for_open_clip(model: &Clip) -> Result<(ClipConfig, Vec<(String, Tensor)>)> {
    let mut config = model.config().clone();
    let mut state =
        model.params().state().map(|p| (p.name.clone(), p.tensor.shallow_clone())).collect::<Vec<_>>();
    if config.vision_cfg.trunk().is_ok_and(|trunk| !trunk.has_drop_path()) {
        // timm's constructors of these models do not accept this setting.
        config.vision_cfg.timm_drop_path = None;
    }
    let needed = config.vision_cfg.trunk().is_ok_and(|trunk| trunk.needs_classifier());
    let (Some(bias), Some(classifier)) = (projection(&config)?.filter(|_| needed), path(&config)?) else {
        return Ok((config, state));
    };
    for (name, _) in &mut state {
        if let Some(rest) = name.strip_prefix(PROJECTION) {
            *name = format!("{classifier}{rest}");
        }
    }
    if !bias {
        // timm's classifier has a bias. The reader removes a bias of zeros again.
        let zeros = Tensor::f_zeros([config.embed_dim], (tch::Kind::Float, model.device()))?;
        state.push((format!("{classifier}bias"), zeros));
    }
    let vision = &mut config.vision_cfg;
    (vision.timm_pool, vision.timm_proj) = (Some("avg".into()), Some(String::new()));
    vision.timm_proj_bias = Some(bias);
    Ok((config, state))
}

/// Renames the weights of a classifier to those of the projection. If the configuration has no bias, a bias of zeros is
/// removed; any other bias is added to the configuration.
pub(super) fn from_open_clip(
    config: &mut ClipConfig,
    mut weights: HashMap<String, Tensor>,
) -> Result<HashMap<String, Tensor>> {
    let Some(bias) = projection(config)? else { return Ok(weights) };
    let Some(classifier) = path(config)? else { return Ok(weights) };
    let Some(matrix) = weights.remove(&format!("{classifier}weight")) else { return Ok(weights) };
    weights.insert(format!("{PROJECTION}weight"), matrix);
    if let Some(values) = weights.remove(&format!("{classifier}bias")) {
        let floating = values.is_floating_point();
        let zeros = floating && values.f_count_nonzero(None::<i64>)?.f_int64_value(&[])? == 0;
        if bias || !zeros {
            config.vision_cfg.timm_proj_bias = Some(true);
            weights.insert(format!("{PROJECTION}bias"), values);
        }
    }
    Ok(weights)
}

/// Whether the projection after a timm model has a bias; `None` for other towers and for models without a projection.
fn projection(config: &ClipConfig) -> Result<Option<bool>> {
    if config.vision_cfg.tower() != TowerKind::Timm {
        return Ok(None);
    }
    config.vision_cfg.timm_projection().map_err(|problem| problem.of("vision_cfg"))
}

/// Returns the path of the classifier, with a trailing dot; `None` if it cannot be the projection.
fn path(config: &ClipConfig) -> Result<Option<String>> {
    if config.vision_cfg.tower() != TowerKind::Timm {
        return Ok(None);
    }
    let trunk = config.vision_cfg.trunk().map_err(|problem| problem.of("vision_cfg"))?;
    Ok(trunk.classifier().map(|classifier| format!("visual.trunk.{classifier}.")))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::folder::{self, CONFIG_FILE, FolderConfig, WEIGHTS_FILE};
    use crate::{PreprocessConfig, presets, weights};

    /// Creates a MobileNetV3 with a text tower of a few thousand weights.
    fn tiny(more: &str) -> Clip {
        let json = format!(
            r#"{{"embed_dim": 24, "vision_cfg": {{"timm_model_name": "mobilenetv3_small_100", "timm_pool": "",
            "timm_proj": "linear", "image_size": 64{more}}},
            "text_cfg": {{"context_length": 6, "vocab_size": 30, "width": 8, "heads": 2, "layers": 1}}}}"#
        );
        Clip::new(&ClipConfig::from_json("tiny", &json).unwrap(), Device::Cpu, 5).unwrap()
    }

    fn embeddings(model: &Clip) -> Tensor {
        let images = Tensor::arange(2 * 3 * 64 * 64, (Kind::Float, Device::Cpu)).sin().view([2, 3, 64, 64]);
        tch::no_grad(|| model.encode_image(&images).unwrap())
    }

    #[test]
    fn a_mobilenet_round_trips_through_the_form_that_open_clip_builds() {
        for (more, bias) in [("", false), (r#", "timm_proj_bias": true"#, true)] {
            let model = tiny(more);
            let dir = tempfile::tempdir().unwrap();
            folder::save(dir.path(), &model, &PreprocessConfig::default()).unwrap();

            let json = std::fs::read_to_string(dir.path().join(CONFIG_FILE)).unwrap();
            let json: serde_json::Value = serde_json::from_str(&json).unwrap();
            let vision = &json["model_cfg"]["vision_cfg"];
            assert_eq!((vision["timm_pool"].as_str(), vision["timm_proj"].as_str()), (Some("avg"), Some("")));
            let file = weights::read_safetensors(dir.path().join(WEIGHTS_FILE)).unwrap();
            assert_eq!(file["visual.trunk.classifier.weight"].size(), [24, 1024]);
            let written = file["visual.trunk.classifier.bias"].abs().max().double_value(&[]);
            assert_eq!(written > 0.0, bias);
            assert!(!file.contains_key("visual.head.proj.weight"));

            let name = dir.path();
            let opened = folder::open(name, Device::Cpu, 0).unwrap().model;
            assert_eq!(opened.config(), model.config());
            assert_eq!(folder::config(name).unwrap(), *model.config());
            assert!(embeddings(&opened).equal(&embeddings(&model)));
        }
    }

    #[test]
    fn the_form_of_older_folders_and_of_clip_kd_still_opens() {
        let model = tiny("");
        let dir = tempfile::tempdir().unwrap();
        let old =
            FolderConfig { model_cfg: model.config().clone(), preprocess_cfg: PreprocessConfig::default() };
        std::fs::write(dir.path().join(CONFIG_FILE), serde_json::to_string(&old).unwrap()).unwrap();
        let state = model.params().state().map(|p| (p.name.as_str(), &p.tensor));
        weights::write_safetensors(dir.path().join(WEIGHTS_FILE), state).unwrap();
        let opened = folder::open(dir.path(), Device::Cpu, 0).unwrap().model;
        assert_eq!(opened.config(), model.config());
        assert!(embeddings(&opened).equal(&embeddings(&model)));
    }

    #[test]
    fn a_bias_trained_in_python_is_kept() {
        let model = tiny("");
        let dir = tempfile::tempdir().unwrap();
        folder::save(dir.path(), &model, &PreprocessConfig::default()).unwrap();
        let path = dir.path().join(WEIGHTS_FILE);
        let mut file = weights::read_safetensors(&path).unwrap();
        let bias = Tensor::arange(24, (Kind::Float, Device::Cpu));
        file.insert("visual.trunk.classifier.bias".into(), bias.shallow_clone());
        weights::write_safetensors(&path, file.iter().map(|(name, t)| (name.as_str(), t))).unwrap();
        let opened = folder::open(dir.path(), Device::Cpu, 0).unwrap().model;
        let difference = embeddings(&opened) - embeddings(&model) - bias;
        assert!(difference.abs().max().double_value(&[]) < 1e-5);
    }

    #[test]
    fn the_classifier_of_any_timm_tower_can_be_the_projection() {
        for (name, classifier) in [("resnet18", "fc"), ("mobilevit_xxs", "head.fc")] {
            let json = format!(
                r#"{{"embed_dim": 24, "vision_cfg": {{"timm_model_name": "{name}", "timm_pool": "avg", "timm_proj": "",
                "image_size": 64}}, "text_cfg": {{"context_length": 6, "vocab_size": 30, "width": 8, "heads": 2, "layers": 1}}}}"#
            );
            let config = ClipConfig::from_json(name, &json).unwrap();
            let null = json.replace(r#""timm_proj": """#, r#""timm_proj": null"#);
            assert_eq!(ClipConfig::from_json(name, &null).unwrap(), config);
            // A classifier has a bias by default.
            assert_eq!(config.vision_cfg.timm_projection(), Ok(Some(true)));
            let model = Clip::new(&config, Device::Cpu, 5).unwrap();
            let state = model.params().state();
            let state =
                state.map(|p| (p.name.replace("head.proj", &format!("trunk.{classifier}")), &p.tensor));
            let state = state.collect::<Vec<_>>();
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("weights.safetensors");
            weights::write_safetensors(&file, state.iter().map(|(name, t)| (name.as_str(), *t))).unwrap();
            let opened = folder::load_weights(&config, &file, Device::Cpu).unwrap();
            assert!(embeddings(&opened).equal(&embeddings(&model)), "{name}");
            let unpooled = json.replace(r#""timm_pool": "avg""#, r#""timm_pool": """#);
            let error = ClipConfig::from_json(name, &unpooled).unwrap_err().to_string();
            assert!(error.contains("timm_pool"), "{error}");
        }
    }

    #[test]
    fn presets_use_a_separate_projection() {
        for name in presets::names() {
            assert_ne!(presets::get(name).unwrap().vision_cfg.timm_proj.as_deref(), Some(""), "{name}");
        }
    }
}
