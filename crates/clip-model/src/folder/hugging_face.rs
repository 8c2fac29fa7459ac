//! Hugging Face folders of `CLIPModel` and `SiglipModel`: `config.json` and `preprocessor_config.json`.
//!
//! A key that could change what the model computes is read or refused; keys that cannot are listed.

use std::path::Path;

use serde_json::{Map, Value};

use super::file::Described;
use crate::checkpoint::infer;
use crate::config::{ActKwargs, Layers, NormKwargs, TextConfig, TextPool, VisionConfig};
use crate::{ClipConfig, Error, PreprocessConfig, Result};

/// Name of the configuration.
pub(super) const CONFIG_FILE: &str = "config.json";
/// Name of what the model wants of its images.
pub(super) const PREPROCESS_FILE: &str = "preprocessor_config.json";
/// The end token that early configurations name wrongly; the library pools the highest id for them.
pub(super) const WRONG_END: i64 = 2;

/// Keys that describe files, training or text generation, and not what the towers compute.
const HARMLESS: &[&str] = &[
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "add_cross_attention",
    "architectures",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "logit_scale_init_value",
    "max_length",
    "min_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "projection_dim",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
];

/// Reads both files of a folder; one without the second has the defaults of its model type.
///
/// # Errors
/// [`Error::Config`] naming the file and the key that is not understood.
pub(super) fn read(folder: &Path) -> Result<Described> {
    let path = folder.join(CONFIG_FILE);
    let name = path.display().to_string();
    let mut notes = Vec::new();
    let fail = |reason: String| Error::config(&name, reason);
    let json = read_json(&path)?;
    let siglip = match json.get("model_type").and_then(Value::as_str) {
        Some("clip") => false,
        Some("siglip") => true,
        other => {
            let found = other.map_or("missing".to_string(), |other| format!("`{other}`"));
            return Err(fail(format!("model_type is {found}; known are `clip` and `siglip`")));
        }
    };
    let config = config(&json, siglip, &mut notes).map_err(fail)?;
    config.validate(&name)?;
    let path = folder.join(PREPROCESS_FILE);
    let preprocess = if path.exists() {
        preprocess(&read_json(&path)?, config.vision_cfg.image_size, siglip)
            .map_err(|reason| Error::config(path.display().to_string(), reason))?
    } else {
        notes.push(format!("there is no {PREPROCESS_FILE}, so images are prepared as is usual for the type"));
        super::default_preprocess(&config)
    };
    Ok(Described { config, preprocess, notes })
}

fn read_json(path: &Path) -> Result<Map<String, Value>> {
    let json = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&json).map_err(|e| Error::config(path.display().to_string(), e.to_string()))
}

type Read<T> = std::result::Result<T, String>;

/// The keys of one object that remain to be read.
struct Keys<'a> {
    name: &'static str,
    values: &'a Map<String, Value>,
    read: Vec<&'static str>,
}

impl<'a> Keys<'a> {
    fn new(name: &'static str, values: &'a Map<String, Value>) -> Self {
        Keys { name, values, read: Vec::new() }
    }

    fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.read.push(key);
        self.values.get(key).filter(|value| !value.is_null())
    }

    fn integer(&mut self, key: &'static str, default: i64) -> Read<i64> {
        match self.value(key) {
            None => Ok(default),
            Some(value) => {
                value.as_i64().ok_or_else(|| format!("{}.{key} = {value} is no integer", self.name))
            }
        }
    }

    fn number(&mut self, key: &'static str, default: f64) -> Read<f64> {
        match self.value(key) {
            None => Ok(default),
            Some(value) => {
                value.as_f64().ok_or_else(|| format!("{}.{key} = {value} is no number", self.name))
            }
        }
    }

    fn text(&mut self, key: &'static str, default: &'a str) -> Read<&'a str> {
        match self.value(key) {
            None => Ok(default),
            Some(value) => value.as_str().ok_or_else(|| format!("{}.{key} = {value} is no text", self.name)),
        }
    }

    fn dropout(&mut self, key: &'static str, notes: &mut Vec<String>) -> Read<()> {
        let share = self.number(key, 0.0)?;
        if share != 0.0 {
            notes.push(format!("{}.{key} = {share} is left out; it acts only in training", self.name));
        }
        Ok(())
    }

    /// Refuses what was not read, is not harmless, and is not off.
    fn finish(self) -> Read<()> {
        let off = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(items) => items.is_empty(),
            _ => false,
        };
        match self.values.iter().find(|(key, value)| {
            !self.read.contains(&key.as_str()) && !HARMLESS.contains(&key.as_str()) && !off(value)
        }) {
            Some((key, value)) => Err(format!(
                "{}.{key} = {value} is not known and could change what the model computes",
                self.name
            )),
            None => Ok(()),
        }
    }
}

/// Dimensions that both towers have.
struct Tower {
    width: i64,
    layers: i64,
    heads: i64,
    mlp_width: i64,
    eps: f64,
    activation: String,
}

impl Tower {
    fn read(keys: &mut Keys<'_>, defaults: [i64; 4], siglip: bool, notes: &mut Vec<String>) -> Read<Self> {
        let [width, layers, heads, mlp_width] = defaults;
        keys.dropout("attention_dropout", notes)?;
        keys.dropout("dropout", notes)?;
        let (act, eps) = if siglip { ("gelu_pytorch_tanh", 1e-6) } else { ("quick_gelu", 1e-5) };
        let tower = Tower {
            width: keys.integer("hidden_size", width)?,
            layers: keys.integer("num_hidden_layers", layers)?,
            heads: keys.integer("num_attention_heads", heads)?,
            mlp_width: keys.integer("intermediate_size", mlp_width)?,
            eps: keys.number("layer_norm_eps", eps)?,
            activation: keys.text("hidden_act", act)?.to_string(),
        };
        if tower.width < 1 || tower.heads < 1 || tower.width % tower.heads != 0 {
            return Err(format!(
                "{}.hidden_size {} does not split into {} heads",
                keys.name, tower.width, tower.heads
            ));
        }
        if !["gelu", "quick_gelu", "gelu_pytorch_tanh"].contains(&tower.activation.as_str()) {
            return Err(format!(
                "{}.hidden_act `{}` is not known; known are `gelu`, `quick_gelu` and `gelu_pytorch_tanh`",
                keys.name, tower.activation
            ));
        }
        Ok(tower)
    }

    fn act_kwargs(&self) -> Option<ActKwargs> {
        (self.activation == "gelu_pytorch_tanh").then(|| ActKwargs { approximate: Some("tanh".into()) })
    }

    fn norm_kwargs(&self) -> Option<NormKwargs> {
        (self.eps != 1e-5).then_some(NormKwargs { eps: Some(self.eps) })
    }
}

fn config(json: &Map<String, Value>, siglip: bool, notes: &mut Vec<String>) -> Read<ClipConfig> {
    let empty = Map::new();
    let mut keys = Keys::new("config", json);
    let embed_dim = keys.integer("projection_dim", 512)?;
    let part = |keys: &mut Keys<'_>, key| match keys.value(key) {
        Some(Value::Object(part)) => Ok(Some(part.clone())),
        None => Ok(None),
        Some(other) => Err(format!("{key} = {other} is no object")),
    };
    // Early files have a second copy, which is what was given by hand and wins where the first lacks a key.
    let merged = |keys: &mut Keys<'_>, key, copy| -> Read<Map<String, Value>> {
        let mut whole = part(keys, key)?.unwrap_or_else(|| empty.clone());
        for (key, value) in part(keys, copy)?.unwrap_or_default() {
            whole.entry(key).or_insert(value);
        }
        Ok(whole)
    };
    let text = merged(&mut keys, "text_config", "text_config_dict")?;
    let vision = merged(&mut keys, "vision_config", "vision_config_dict")?;
    keys.finish()?;
    let defaults = if siglip { [[768, 12, 12, 3072]; 2] } else { [[512, 12, 8, 2048], [768, 12, 12, 3072]] };

    let mut keys = Keys::new("text_config", &text);
    let tower = Tower::read(&mut keys, defaults[0], siglip, notes)?;
    let text_activation = tower.activation.clone();
    let vocab_size = keys.integer("vocab_size", if siglip { 32000 } else { 49408 })?;
    let end = keys.integer("eos_token_id", if siglip { 1 } else { 49407 })?;
    let projected = if siglip { keys.integer("projection_size", tower.width)? } else { embed_dim };
    let mut text_cfg = TextConfig {
        context_length: keys.integer("max_position_embeddings", if siglip { 64 } else { 77 })?,
        vocab_size,
        width: tower.width,
        heads: tower.heads,
        layers: tower.layers,
        mlp_ratio: infer::ratio(tower.mlp_width, tower.width),
        act_kwargs: tower.act_kwargs(),
        norm_kwargs: tower.norm_kwargs(),
        ..TextConfig::default()
    };
    keys.finish()?;
    if siglip {
        (text_cfg.no_causal_mask, text_cfg.proj_bias, text_cfg.pool_type) = (true, true, TextPool::Last);
    } else if end != WRONG_END && end != vocab_size - 1 {
        (text_cfg.pool_type, text_cfg.eos_id) = (TextPool::Eos, Some(end));
    }

    let mut keys = Keys::new("vision_config", &vision);
    let tower = Tower::read(&mut keys, defaults[1], siglip, notes)?;
    let image_size = keys.integer("image_size", 224)?;
    let patch = keys.integer("patch_size", if siglip { 16 } else { 32 })?;
    if keys.integer("num_channels", 3)? != 3 {
        return Err("vision_config.num_channels is not 3".into());
    }
    if siglip && let Some(Value::Bool(false)) = keys.value("vision_use_head") {
        return Err("vision_config.vision_use_head = false leaves out the pooling".into());
    }
    keys.finish()?;
    if !siglip && (tower.activation == "quick_gelu") != (text_activation == "quick_gelu") {
        return Err(format!(
            "hidden_act `{}` of the image tower and `{text_activation}` of the text tower cannot be mixed",
            tower.activation
        ));
    }
    let quick_gelu = !siglip && tower.activation == "quick_gelu";
    let vision_cfg = if siglip {
        siglip_tower(&tower, patch, image_size, projected)?
    } else {
        VisionConfig {
            image_size,
            layers: Layers::Depth(tower.layers),
            width: tower.width,
            patch_size: Some(patch),
            head_width: tower.width / tower.heads,
            mlp_ratio: infer::ratio(tower.mlp_width, tower.width),
            act_kwargs: tower.act_kwargs(),
            norm_kwargs: tower.norm_kwargs(),
            ..VisionConfig::default()
        }
    };
    Ok(ClipConfig {
        embed_dim: projected,
        quick_gelu,
        init_logit_scale: None,
        init_logit_bias: siglip.then_some(-10.0),
        custom_text: siglip,
        vision_cfg,
        text_cfg,
    })
}

/// SigLIP's image tower, which is one of a few sizes here.
fn siglip_tower(tower: &Tower, patch: i64, image_size: i64, projected: i64) -> Read<VisionConfig> {
    let unknown = || {
        format!(
            "no SigLIP image tower has {} layers of width {}, {} heads and an MLP of {} for an embedding of {projected}",
            tower.layers, tower.width, tower.heads, tower.mlp_width
        )
    };
    let mut config =
        infer::siglip_config(tower.width, tower.layers, patch, image_size).ok_or_else(unknown)?;
    let vit = crate::vision::timm::SiglipVit::named(config.timm_model_name.as_deref().unwrap_or_default())
        .ok_or_else(unknown)?;
    if (vit.heads, vit.mlp_width, vit.width) != (tower.heads, tower.mlp_width, projected) || tower.eps != 1e-6
    {
        return Err(unknown());
    }
    config.act_kwargs = match tower.activation.as_str() {
        "quick_gelu" => return Err("hidden_act `quick_gelu` is none of SigLIP's".into()),
        "gelu" => Some(ActKwargs { approximate: Some("none".into()) }),
        _ => tower.act_kwargs(),
    };
    Ok(config)
}

fn preprocess(json: &Map<String, Value>, image_size: i64, siglip: bool) -> Read<PreprocessConfig> {
    let three = |key: &str, default: [f32; 3]| -> Read<[f32; 3]> {
        match json.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => serde_json::from_value(value.clone())
                .map_err(|_| format!("{key} = {value} is not three numbers")),
        }
    };
    let flag = |key: &str, default| json.get(key).and_then(Value::as_bool).unwrap_or(default);
    for key in ["do_resize", "do_rescale", "do_normalize"] {
        if !flag(key, true) {
            return Err(format!("{key} = false is not supported"));
        }
    }
    let factor = json.get("rescale_factor").and_then(Value::as_f64).unwrap_or(1.0 / 255.0);
    if (factor * 255.0 - 1.0).abs() > 1e-6 {
        return Err(format!("rescale_factor = {factor} is not 1/255"));
    }
    let interpolation = match json.get("resample").and_then(Value::as_i64) {
        Some(2) => "bilinear",
        Some(3) | None => "bicubic",
        Some(other) => return Err(format!("resample = {other}; known are 2 (bilinear) and 3 (bicubic)")),
    };
    let (size, squash) = match json.get("size") {
        None | Some(Value::Null) => (image_size, siglip),
        Some(size) => {
            match (size.as_i64(), side(size, "shortest_edge"), side(size, "height"), side(size, "width")) {
                (Some(side), ..) | (None, Some(side), ..) => (side, false),
                (.., Some(height), Some(width)) if height == width => (height, true),
                _ => return Err(format!("size = {size} is no square")),
            }
        }
    };
    let crops = flag("do_center_crop", !siglip);
    let crop = match json.get("crop_size") {
        None | Some(Value::Null) => size,
        Some(crop) => match (crop.as_i64(), side(crop, "height"), side(crop, "width")) {
            (Some(side), ..) => side,
            (_, Some(height), Some(width)) if height == width => height,
            _ => return Err(format!("crop_size = {crop} is no square")),
        },
    };
    if crops && crop != size {
        return Err(format!(
            "resizing to {size} and cropping {crop} is not supported; they have to be equal"
        ));
    }
    if size != image_size {
        return Err(format!("size {size} is not the {image_size} of the model"));
    }
    if !squash && !crops {
        return Err("resizing the shorter side without a crop gives no square".into());
    }
    let (mean, std) = if siglip {
        ([0.5; 3], [0.5; 3])
    } else {
        let default = PreprocessConfig::default();
        (default.mean, default.std)
    };
    Ok(PreprocessConfig {
        mean: three("image_mean", mean)?,
        std: three("image_std", std)?,
        interpolation: interpolation.into(),
        resize_mode: if squash { "squash" } else { "shortest" }.into(),
        size: Some(Value::from(size)),
        ..PreprocessConfig::default()
    })
}

fn side(size: &Value, key: &str) -> Option<i64> {
    size.get(key)?.as_i64()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_both(config: &Value, preprocess: Option<&Value>) -> Result<Described> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(CONFIG_FILE), config.to_string()).unwrap();
        if let Some(preprocess) = preprocess {
            std::fs::write(folder.path().join(PREPROCESS_FILE), preprocess.to_string()).unwrap();
        }
        read(folder.path())
    }

    fn failure(config: &Value, preprocess: Option<&Value>) -> String {
        match read_both(config, preprocess) {
            Ok(_) => panic!("{config} was read"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_left_out_has_the_librarys_defaults() {
        let found = read_both(&json!({"model_type": "clip"}), None).unwrap().config;
        assert_eq!(found, crate::presets::get("ViT-B-32-quickgelu").unwrap());
        let found = read_both(&json!({"model_type": "siglip"}), None).unwrap();
        let config = found.config;
        assert_eq!(config.vision_cfg.timm_model_name.as_deref(), Some("vit_base_patch16_siglip_224"));
        assert_eq!((config.embed_dim, config.text_cfg.context_length, config.custom_text), (768, 64, true));
        assert_eq!(config.text_cfg.eps(), 1e-6);
        assert_eq!(found.preprocess.resize_mode, "squash");
    }

    #[test]
    fn the_end_token_decides_the_pooling() {
        for (end, pool) in [(2, TextPool::Argmax), (49407, TextPool::Argmax), (7, TextPool::Eos)] {
            let config =
                json!({"model_type": "clip", "text_config": {"eos_token_id": end, "bos_token_id": 0}});
            assert_eq!(read_both(&config, None).unwrap().config.text_cfg.pool_type, pool);
        }
    }

    #[test]
    fn what_changes_the_computation_is_read_or_refused() {
        let config = |key: &str, value: Value| json!({"model_type": "clip", "vision_config": {key: value}});
        for (config, word) in [
            (json!({"model_type": "blip"}), "`blip`"),
            (json!({}), "missing"),
            (config("hidden_act", json!("relu")), "`relu`"),
            (config("hidden_act", json!("gelu")), "cannot be mixed"),
            (config("use_rope", json!(true)), "use_rope"),
            (config("num_channels", json!(1)), "num_channels"),
            (config("num_attention_heads", json!(7)), "heads"),
            (config("hidden_size", json!("wide")), "no integer"),
            (json!({"model_type": "siglip", "vision_config": {"hidden_size": 384}}), "no SigLIP image tower"),
        ] {
            let message = failure(&config, None);
            assert!(message.contains(word), "{message}");
        }
        let found = read_both(&config("attention_dropout", json!(0.1)), None).unwrap();
        assert!(found.notes.iter().any(|note| note.contains("attention_dropout")), "{:?}", found.notes);
        read_both(&config("use_rope", json!(false)), None).unwrap();
    }

    #[test]
    fn preprocessing_is_taken_as_it_is() {
        let clip = json!({"model_type": "clip"});
        let given = json!({"size": 224, "crop_size": {"height": 224, "width": 224}, "resample": 2,
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "do_center_crop": true});
        let found = read_both(&clip, Some(&given)).unwrap().preprocess;
        assert_eq!((found.mean, found.std), ([0.5; 3], [0.25; 3]));
        assert_eq!((found.interpolation.as_str(), found.resize_mode.as_str()), ("bilinear", "shortest"));
        let squash = json!({"size": {"height": 224, "width": 224}, "do_center_crop": false});
        assert_eq!(read_both(&clip, Some(&squash)).unwrap().preprocess.resize_mode, "squash");
        for (key, value, word) in [
            ("resample", json!(0), "resample"),
            ("do_normalize", json!(false), "do_normalize"),
            ("rescale_factor", json!(1.0), "1/255"),
            ("size", json!({"shortest_edge": 256}), "cropping"),
            ("image_mean", json!([0.5]), "three numbers"),
            ("do_center_crop", json!(false), "no square"),
        ] {
            let mut given = given.clone();
            given[key] = value;
            let message = failure(&clip, Some(&given));
            assert!(message.contains(word), "{message}");
        }
    }
}
