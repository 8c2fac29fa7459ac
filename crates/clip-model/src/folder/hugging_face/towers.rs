//! Model configuration in `config.json`.

use serde_json::{Map, Value};

use super::LEGACY_EOS_ID;
use super::keys::Keys;
use crate::ClipConfig;
use crate::config::{
    ActKwargs, Check, Layers, NormKwargs, Problem, TextConfig, TextPool, VisionConfig, invalid, unsupported,
};
use crate::vision::timm::SiglipVit;
use crate::weight_files::infer;

/// Dimensions that both towers share.
struct TowerDims {
    width: i64,
    layers: i64,
    heads: i64,
    mlp_width: i64,
    eps: f64,
    activation: String,
}

impl TowerDims {
    fn parse(keys: &mut Keys<'_>, defaults: [i64; 4], siglip: bool, notes: &mut Vec<String>) -> Check<Self> {
        let [width, layers, heads, mlp_width] = defaults;
        keys.dropout("attention_dropout", notes)?;
        keys.dropout("dropout", notes)?;
        let (act, eps) = if siglip { ("gelu_pytorch_tanh", 1e-6) } else { ("quick_gelu", 1e-5) };
        let tower = TowerDims {
            width: keys.integer("hidden_size", width)?,
            layers: keys.integer("num_hidden_layers", layers)?,
            heads: keys.integer("num_attention_heads", heads)?,
            mlp_width: keys.integer("intermediate_size", mlp_width)?,
            eps: keys.number("layer_norm_eps", eps)?,
            activation: keys.string("hidden_act", act)?.to_string(),
        };
        if tower.width < 1 || tower.heads < 1 || tower.width % tower.heads != 0 {
            return invalid(format!(
                "{}.hidden_size {} cannot be split into {} heads",
                keys.name, tower.width, tower.heads
            ));
        }
        if !["gelu", "quick_gelu", "gelu_pytorch_tanh"].contains(&tower.activation.as_str()) {
            return unsupported(format!(
                "{}.hidden_act `{}` is not known; use `gelu`, `quick_gelu` or `gelu_pytorch_tanh`",
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

/// Converts `config.json` to a model configuration.
pub(super) fn config(json: &Map<String, Value>, siglip: bool, notes: &mut Vec<String>) -> Check<ClipConfig> {
    let mut keys = Keys::new("config", json);
    let embed_dim = keys.integer("projection_dim", 512)?;
    let text = merged_section(&mut keys, "text_config", "text_config_dict")?;
    let vision = merged_section(&mut keys, "vision_config", "vision_config_dict")?;
    keys.finish()?;
    let text = text_tower(&text, siglip, embed_dim, notes)?;
    let vision = vision_tower(&vision, siglip, text.embed_dim, notes)?;
    let quick_gelu = |activation: &str| activation == "quick_gelu";
    if !siglip && quick_gelu(&vision.activation) != quick_gelu(&text.activation) {
        return unsupported(format!(
            "hidden_act `{}` of the image tower and `{}` of the text tower cannot be mixed",
            vision.activation, text.activation
        ));
    }
    Ok(ClipConfig {
        embed_dim: text.embed_dim,
        quick_gelu: !siglip && quick_gelu(&vision.activation),
        init_logit_scale: None,
        init_logit_bias: siglip.then_some(-10.0),
        custom_text: siglip,
        vision_cfg: vision.config,
        text_cfg: text.config,
    })
}

/// Returns a section of the configuration. Early files have a second copy, which fills in missing keys.
fn merged_section(keys: &mut Keys<'_>, key: &'static str, copy: &'static str) -> Check<Map<String, Value>> {
    let mut section = |key| match keys.get(key) {
        Some(Value::Object(section)) => Ok(section.clone()),
        None => Ok(Map::new()),
        Some(other) => invalid(format!("{key} = {other} is not an object")),
    };
    let mut merged = section(key)?;
    for (key, value) in section(copy)? {
        merged.entry(key).or_insert(value);
    }
    Ok(merged)
}

/// Configuration of the text tower, with the width of the embedding space.
struct TextTower {
    config: TextConfig,
    embed_dim: i64,
    activation: String,
}

fn text_tower(
    json: &Map<String, Value>,
    siglip: bool,
    embed_dim: i64,
    notes: &mut Vec<String>,
) -> Check<TextTower> {
    let mut keys = Keys::new("text_config", json);
    let defaults = if siglip { [768, 12, 12, 3072] } else { [512, 12, 8, 2048] };
    let tower = TowerDims::parse(&mut keys, defaults, siglip, notes)?;
    let vocab_size = keys.integer("vocab_size", if siglip { 32000 } else { 49408 })?;
    let eos_id = keys.integer("eos_token_id", if siglip { 1 } else { 49407 })?;
    let embed_dim = if siglip { keys.integer("projection_size", tower.width)? } else { embed_dim };
    let mut config = TextConfig {
        context_length: keys.integer("max_position_embeddings", if siglip { 64 } else { 77 })?,
        vocab_size,
        width: tower.width,
        heads: tower.heads,
        layers: tower.layers,
        mlp_ratio: infer::mlp_ratio(tower.mlp_width, tower.width),
        act_kwargs: tower.act_kwargs(),
        norm_kwargs: tower.norm_kwargs(),
        ..TextConfig::default()
    };
    keys.finish()?;
    if siglip {
        (config.no_causal_mask, config.proj_bias, config.pool_type) = (true, true, TextPool::Last);
    } else if eos_id != LEGACY_EOS_ID && eos_id != vocab_size - 1 {
        (config.pool_type, config.eos_id) = (TextPool::Eos, Some(eos_id));
    }
    Ok(TextTower { config, embed_dim, activation: tower.activation })
}

/// Configuration of the image tower, with its activation.
struct VisionTower {
    config: VisionConfig,
    activation: String,
}

fn vision_tower(
    json: &Map<String, Value>,
    siglip: bool,
    embed_dim: i64,
    notes: &mut Vec<String>,
) -> Check<VisionTower> {
    let mut keys = Keys::new("vision_config", json);
    let tower = TowerDims::parse(&mut keys, [768, 12, 12, 3072], siglip, notes)?;
    let image_size = keys.integer("image_size", 224)?;
    let patch = keys.integer("patch_size", if siglip { 16 } else { 32 })?;
    if keys.integer("num_channels", 3)? != 3 {
        return unsupported("vision_config.num_channels is not 3");
    }
    if siglip && let Some(Value::Bool(false)) = keys.get("vision_use_head") {
        return unsupported("vision_config.vision_use_head = false removes the pooling");
    }
    keys.finish()?;
    let config = if siglip {
        siglip_tower(&tower, patch, image_size, embed_dim)?
    } else {
        VisionConfig {
            image_size,
            layers: Layers::Depth(tower.layers),
            width: tower.width,
            patch_size: Some(patch),
            head_width: tower.width / tower.heads,
            mlp_ratio: infer::mlp_ratio(tower.mlp_width, tower.width),
            act_kwargs: tower.act_kwargs(),
            norm_kwargs: tower.norm_kwargs(),
            ..VisionConfig::default()
        }
    };
    Ok(VisionTower { config, activation: tower.activation })
}

/// Returns the configuration of SigLIP's image tower, for the published sizes.
fn siglip_tower(tower: &TowerDims, patch: i64, image_size: i64, embed_dim: i64) -> Check<VisionConfig> {
    let unknown = || {
        Problem::Unsupported(format!(
            "no SigLIP image tower has {} layers of width {}, {} heads and an MLP of {} for an embedding of {embed_dim}",
            tower.layers, tower.width, tower.heads, tower.mlp_width
        ))
    };
    let mut config =
        infer::siglip_config(tower.width, tower.layers, patch, image_size).ok_or_else(unknown)?;
    let vit = SiglipVit::parse(config.timm_model_name.as_deref().unwrap_or_default()).ok_or_else(unknown)?;
    let dims = (tower.heads, tower.mlp_width, embed_dim);
    if (vit.heads, vit.mlp_width, vit.width) != dims || tower.eps != 1e-6 {
        return Err(unknown());
    }
    config.act_kwargs = match tower.activation.as_str() {
        "quick_gelu" => return unsupported("SigLIP towers do not use hidden_act `quick_gelu`"),
        "gelu" => Some(ActKwargs { approximate: Some("none".into()) }),
        _ => tower.act_kwargs(),
    };
    Ok(config)
}
