//! Writer of model folders for Python's transformers: `config.json`, `preprocessor_config.json`, `model.safetensors`.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};

use super::hugging_face::{CONFIG_FILE, LEGACY_EOS_ID, PREPROCESS_FILE};
use crate::config::{ActKwargs, Layers, TextPool, TowerKind, VisionPool};
use crate::weight_files::layout;
use crate::{Clip, ClipConfig, Error, PreprocessConfig, Result, weights};

/// Name of the weight file.
const WEIGHTS_FILE: &str = "model.safetensors";

/// Ids of a tokenizer's special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialTokens {
    /// The start token.
    pub start: i64,
    /// The end token.
    pub end: i64,
    /// The padding token.
    pub pad: i64,
}

/// Writes a model folder that [`super::open`] and transformers' `CLIPModel.from_pretrained` load. The caller writes
/// the tokenizer files.
///
/// # Errors
/// [`Error::NotRepresentable`] for a model that this class cannot represent (an image tower other than a plain ViT,
/// pruned blocks, a text tower without causal mask, …), [`Error::Io`] if a file cannot be written.
pub fn save_hugging_face(
    folder: impl AsRef<Path>,
    model: &Clip,
    preprocess: &PreprocessConfig,
) -> Result<()> {
    save_hugging_face_with(folder, model, preprocess, None)
}

/// Writes the folder of [`save_hugging_face`] with the ids of the tokenizer. A text tower that pools the highest id
/// then pools `end`, so `end` must be the highest id.
///
/// # Errors
/// The errors of [`save_hugging_face`].
pub fn save_hugging_face_with(
    folder: impl AsRef<Path>,
    model: &Clip,
    preprocess: &PreprocessConfig,
    tokens: Option<SpecialTokens>,
) -> Result<()> {
    let folder = folder.as_ref();
    super::file::require_both_towers(model)?;
    let config = config_json(model.config(), tokens).map_err(refuse)?;
    let preprocess = preprocess_json(preprocess, model.config().vision_cfg.image_size).map_err(refuse)?;
    let dict = model.params().state().map(|p| (p.name.clone(), p.tensor.shallow_clone()));
    let renamed = layout::to_hugging_face(&dict.collect::<HashMap<_, _>>(), model.config())?;
    let mut sorted = renamed.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect::<Vec<_>>();
    sorted.sort_by_key(|(name, _)| *name);

    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    for (file, value) in [(CONFIG_FILE, config), (PREPROCESS_FILE, preprocess)] {
        file_ext::write_atomic(folder.join(file), format!("{value:#}\n").as_bytes())?;
    }
    weights::write_safetensors(folder.join(WEIGHTS_FILE), sorted)
}

fn refuse(what: String) -> Error {
    Error::NotRepresentable { format: "Hugging Face's CLIPModel", what }
}

/// Returns the first setting of a ViT CLIP that transformers' `CLIPModel` cannot represent.
fn unrepresentable_setting(config: &ClipConfig) -> Option<&'static str> {
    let (vision, text) = (&config.vision_cfg, &config.text_cfg);
    let settings = [
        (vision.no_ln_pre, "a ViT without a norm before its blocks"),
        (vision.pool_type != VisionPool::Tok, "a ViT with average pooling"),
        (text.no_causal_mask, "a text tower without causal mask"),
        (
            matches!(text.pool_type, TextPool::First | TextPool::Last),
            "a text tower that pools a fixed position",
        ),
        (!text.has_projection() || text.proj_bias, "a text projection other than a plain matrix"),
        (text.pool_type == TextPool::Eos && text.eos_id == Some(LEGACY_EOS_ID), "an end token with id 2"),
        (config.init_logit_bias.is_some(), "a logit bias"),
        (vision.ls_init_value.is_some() || text.ls_init_value.is_some(), "layer scale"),
    ];
    settings.into_iter().find_map(|(present, what)| present.then_some(what))
}

fn config_json(config: &ClipConfig, tokens: Option<SpecialTokens>) -> std::result::Result<Value, String> {
    let (vision, text) = (&config.vision_cfg, &config.text_cfg);
    let (Layers::Depth(layers), Some(patch_size), TowerKind::Vit) =
        (vision.layers, vision.patch_size, vision.tower())
    else {
        return Err("an image tower other than a ViT".into());
    };
    if let Some(what) = unrepresentable_setting(config) {
        return Err(what.into());
    }
    let act = |kwargs: &Option<ActKwargs>| {
        let tanh = kwargs.as_ref().is_some_and(|kwargs| kwargs.approximate.as_deref() == Some("tanh"));
        match (config.quick_gelu, tanh) {
            (true, _) => "quick_gelu",
            (false, true) => "gelu_pytorch_tanh",
            (false, false) => "gelu",
        }
    };
    // transformers pools the first token with this id. For a tower that pools the highest id, it is CLIP's end token;
    // for another tokenizer it is unknown.
    let end = match (text.pool_type, tokens) {
        (TextPool::Eos, _) => text.eos_id.unwrap_or(LEGACY_EOS_ID),
        (_, Some(tokens)) => tokens.end,
        (_, None) => LEGACY_EOS_ID,
    };
    let (start, pad) = tokens.map_or((None, text.pad_id), |tokens| (Some(tokens.start), tokens.pad));
    Ok(json!({
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "torch_dtype": "float32",
        "projection_dim": config.embed_dim,
        "logit_scale_init_value": config.init_logit_scale.unwrap_or(crate::clip::INITIAL_LOGIT_SCALE),
        "text_config": {
            "model_type": "clip_text_model",
            "hidden_act": act(&text.act_kwargs),
            "hidden_size": text.width,
            "intermediate_size": text.mlp_width(),
            "num_attention_heads": text.heads,
            "num_hidden_layers": text.layers,
            "max_position_embeddings": text.context_length,
            "vocab_size": text.vocab_size,
            "layer_norm_eps": text.eps(),
            "projection_dim": config.embed_dim,
            "bos_token_id": start,
            "eos_token_id": end,
            "pad_token_id": pad,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_act": act(&vision.act_kwargs),
            "hidden_size": vision.width,
            "intermediate_size": vision.mlp_width(),
            "num_attention_heads": vision.heads(),
            "num_hidden_layers": layers,
            "image_size": vision.image_size,
            "patch_size": patch_size,
            "num_channels": 3,
            "layer_norm_eps": vision.eps(),
            "projection_dim": config.embed_dim,
        },
    }))
}

fn preprocess_json(config: &PreprocessConfig, size: i64) -> std::result::Result<Value, String> {
    let resample = match config.interpolation.as_str() {
        "bicubic" => 3,
        "bilinear" => 2,
        other => return Err(format!("interpolation `{other}`")),
    };
    let square = json!({ "height": size, "width": size });
    let (target, crop) = match config.resize_mode.as_str() {
        "shortest" => (json!({ "shortest_edge": size }), true),
        "squash" => (square.clone(), false),
        other => return Err(format!("resize_mode `{other}`")),
    };
    Ok(json!({
        "image_processor_type": "CLIPImageProcessor",
        // Without the conversion, transformers refuses grey images and images with alpha.
        "do_convert_rgb": config.do_convert_rgb.unwrap_or(true),
        "do_resize": true,
        "size": target,
        "resample": resample,
        "do_center_crop": crop,
        "crop_size": square,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": config.mean.map(f64::from),
        "image_std": config.std.map(f64::from),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{folder, presets};
    use tch::{Device, Kind, Tensor};

    #[test]
    fn a_written_folder_reopens_as_the_same_model() {
        let mut config = presets::get("ViT-nano-32px").unwrap();
        let clips = SpecialTokens { start: 49406, end: 49407, pad: 49407 };
        for (quick_gelu, tokens) in [(false, None), (true, Some(clips))] {
            config.quick_gelu = quick_gelu;
            let model = Clip::new(&config, Device::Cpu, 3).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let preprocess = PreprocessConfig::default().with_interpolation("bilinear");
            save_hugging_face_with(dir.path(), &model, &preprocess, tokens).unwrap();
            let name = dir.path();
            let opened = folder::open(name, Device::Cpu, 0).unwrap();
            assert_eq!(opened.model.config().quick_gelu, quick_gelu);
            assert_eq!(opened.preprocess.interpolation, "bilinear");
            assert_eq!((opened.preprocess.mean, opened.preprocess.std), (preprocess.mean, preprocess.std));
            let images = crate::seeded(5, || Tensor::randn([2, 3, 32, 32], (Kind::Float, Device::Cpu)));
            let tokens = Tensor::from_slice(&[49406i64, 320, 2368, 49407]).view([1, 4]);
            let same = |a: Tensor, b: Tensor| (a - b).abs().max().double_value(&[]) < 1e-6;
            assert!(same(model.encode_image(&images).unwrap(), opened.model.encode_image(&images).unwrap()));
            assert!(same(model.encode_text(&tokens).unwrap(), opened.model.encode_text(&tokens).unwrap()));
        }
    }

    #[test]
    fn unrepresentable_models_are_refused() {
        let refused = |json: &str| {
            let config = ClipConfig::from_json("test", json).unwrap();
            config_json(&config, None).unwrap_err()
        };
        let text = r#""text_cfg": {"layers": 1, "width": 16, "heads": 2, "vocab_size": 32}"#;
        let of = |vision: &str| refused(&format!(r#"{{"embed_dim": 16, "vision_cfg": {vision}, {text}}}"#));
        assert!(of(r#"{"timm_model_name": "resnet18"}"#).contains("other than a ViT"));
        assert!(
            of(r#"{"layers": [1, 1, 1, 1], "width": 8, "patch_size": null}"#).contains("other than a ViT")
        );
        assert!(of(r#"{"layers": 1, "width": 64, "pool_type": "avg"}"#).contains("average pooling"));
        let padded = PreprocessConfig::default().with_resize_mode("longest");
        assert!(preprocess_json(&padded, 32).is_err());
    }
}
