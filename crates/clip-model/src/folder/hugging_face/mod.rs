//! Hugging Face folders of `CLIPModel` and `SiglipModel`: `config.json` and `preprocessor_config.json`.
//!
//! Keys that can affect the result are interpreted or refused. [`keys`] lists those that cannot.

mod keys;
mod preprocess;
mod towers;

use std::path::Path;

use serde_json::{Map, Value};

use super::file::ResolvedConfig;
use crate::config::Problem;
use crate::{Error, Result};

/// Name of the configuration file.
pub(super) const CONFIG_FILE: &str = "config.json";
/// Name of the image preprocessing file.
pub(super) const PREPROCESS_FILE: &str = "preprocessor_config.json";
/// Wrong end token id in early configurations. transformers then pools the highest id instead.
pub(super) const LEGACY_EOS_ID: i64 = 2;

/// Loads both files of a folder. If the image preprocessing is missing, the model type determines it.
///
/// # Errors
/// [`Error::Config`] or [`Error::UnsupportedConfig`] with the file and the key.
pub(super) fn load_config(folder: &Path) -> Result<ResolvedConfig> {
    let path = folder.join(CONFIG_FILE);
    let name = path.display().to_string();
    let mut notes = Vec::new();
    let fail = |problem: Problem| problem.of(&name);
    let json = read_json(&path)?;
    let siglip = match json.get("model_type").and_then(Value::as_str) {
        Some("clip") => false,
        Some("siglip") => true,
        Some(
            part @ ("clip_text_model" | "clip_vision_model" | "siglip_text_model" | "siglip_vision_model"),
        ) => {
            let reason = format!(
                "model_type is `{part}`, one tower of a model: name the folder's weight file instead, or save the whole model"
            );
            return Err(fail(Problem::Unsupported(reason)));
        }
        None if json.contains_key("pretrained_cfg") => {
            let reason = "it describes an image classifier of timm; its weights can start a student (student.image_weights)";
            return Err(fail(Problem::Unsupported(reason.into())));
        }
        other => {
            let found = other.map_or("missing".to_string(), |other| format!("`{other}`"));
            let reason = format!("model_type is {found}; use `clip` or `siglip`");
            return Err(fail(Problem::Unsupported(reason)));
        }
    };
    let config = towers::config(&json, siglip, &mut notes).map_err(fail)?;
    config.validate(&name)?;
    let path = folder.join(PREPROCESS_FILE);
    let preprocess = if path.exists() {
        preprocess::preprocess(&read_json(&path)?, config.vision_cfg.image_size, siglip)
            .map_err(|problem| problem.of(&path.display().to_string()))?
    } else {
        notes.push(format!("{PREPROCESS_FILE} is missing; images are prepared as usual for the model type"));
        super::default_preprocess(&config).with_do_convert_rgb(Some(true))
    };
    Ok(ResolvedConfig { config, preprocess, notes })
}

fn read_json(path: &Path) -> Result<Map<String, Value>> {
    let json = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&json).map_err(|e| Error::json(&path.display().to_string(), e))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::TextPool;

    fn load_both(config: &Value, preprocess: Option<&Value>) -> Result<ResolvedConfig> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(CONFIG_FILE), config.to_string()).unwrap();
        if let Some(preprocess) = preprocess {
            std::fs::write(folder.path().join(PREPROCESS_FILE), preprocess.to_string()).unwrap();
        }
        load_config(folder.path())
    }

    fn failure(config: &Value, preprocess: Option<&Value>) -> String {
        match load_both(config, preprocess) {
            Ok(_) => panic!("{config} was accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn missing_keys_have_the_defaults_of_transformers() {
        let found = load_both(&json!({"model_type": "clip"}), None).unwrap().config;
        assert_eq!(found, crate::presets::get("ViT-B-32-quickgelu").unwrap());
        let found = load_both(&json!({"model_type": "siglip"}), None).unwrap();
        let config = found.config;
        assert_eq!(config.vision_cfg.timm_model_name.as_deref(), Some("vit_base_patch16_siglip_224"));
        assert_eq!((config.embed_dim, config.text_cfg.context_length, config.custom_text), (768, 64, true));
        assert_eq!(config.text_cfg.eps(), 1e-6);
        assert_eq!(found.preprocess.resize_mode, "squash");
        assert_eq!(found.preprocess.do_convert_rgb, Some(true));
    }

    #[test]
    fn the_end_token_determines_the_pooling() {
        for (end, pool) in [(2, TextPool::Argmax), (49407, TextPool::Argmax), (7, TextPool::Eos)] {
            let config =
                json!({"model_type": "clip", "text_config": {"eos_token_id": end, "bos_token_id": 0}});
            assert_eq!(load_both(&config, None).unwrap().config.text_cfg.pool_type, pool);
        }
    }

    #[test]
    fn keys_that_affect_the_result_are_interpreted_or_refused() {
        let config = |key: &str, value: Value| json!({"model_type": "clip", "vision_config": {key: value}});
        for (config, word) in [
            (json!({"model_type": "blip"}), "`blip`"),
            (json!({}), "missing"),
            (config("hidden_act", json!("relu")), "`relu`"),
            (config("hidden_act", json!("gelu")), "cannot be mixed"),
            (config("use_rope", json!(true)), "use_rope"),
            (config("num_channels", json!(1)), "num_channels"),
            (config("num_attention_heads", json!(7)), "heads"),
            (config("hidden_size", json!("wide")), "not an integer"),
            (json!({"model_type": "siglip", "vision_config": {"hidden_size": 384}}), "no SigLIP image tower"),
        ] {
            let message = failure(&config, None);
            assert!(message.contains(word), "{message}");
        }
        let found = load_both(&config("attention_dropout", json!(0.1)), None).unwrap();
        assert!(found.notes.iter().any(|note| note.contains("attention_dropout")), "{:?}", found.notes);
        load_both(&config("use_rope", json!(false)), None).unwrap();
    }

    #[test]
    fn preprocessing_is_interpreted_exactly() {
        let clip = json!({"model_type": "clip"});
        let given = json!({"size": 224, "crop_size": {"height": 224, "width": 224}, "resample": 2,
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "do_center_crop": true});
        let found = load_both(&clip, Some(&given)).unwrap().preprocess;
        assert_eq!((found.mean, found.std), ([0.5; 3], [0.25; 3]));
        assert_eq!((found.interpolation.as_str(), found.resize_mode.as_str()), ("bilinear", "shortest"));
        let squash = json!({"size": {"height": 224, "width": 224}, "do_center_crop": false});
        assert_eq!(load_both(&clip, Some(&squash)).unwrap().preprocess.resize_mode, "squash");
        for (value, expected) in [(json!(false), false), (json!(true), true), (Value::Null, true)] {
            let given = json!({"do_convert_rgb": value});
            let found = load_both(&clip, Some(&given)).unwrap().preprocess;
            assert_eq!(found.do_convert_rgb, Some(expected), "{given}");
        }
        for (key, value, word) in [
            ("resample", json!(0), "resample"),
            ("do_normalize", json!(false), "do_normalize"),
            ("rescale_factor", json!(1.0), "1/255"),
            ("size", json!({"shortest_edge": 256}), "cropping"),
            ("image_mean", json!([0.5]), "three numbers"),
            ("do_center_crop", json!(false), "not give a square"),
        ] {
            let mut given = given.clone();
            given[key] = value;
            let message = failure(&clip, Some(&given));
            assert!(message.contains(word), "{message}");
        }
    }
}
