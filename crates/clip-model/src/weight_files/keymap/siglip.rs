//! Names of Hugging Face's `SiglipModel`: timm's names for the image tower, open_clip's for the text tower.

use super::clip::{self, PARTS};
use super::{Target, numbered};

/// Full names whose tensors keep their shape.
const PLAIN: [(&str, &str); 5] = [
    ("vision_model.embeddings.patch_embedding.weight", "visual.trunk.patch_embed.proj.weight"),
    ("vision_model.embeddings.patch_embedding.bias", "visual.trunk.patch_embed.proj.bias"),
    ("vision_model.head.probe", "visual.trunk.attn_pool.latent"),
    ("text_model.embeddings.token_embedding.weight", "text.token_embedding.weight"),
    ("text_model.embeddings.position_embedding.weight", "text.positional_embedding"),
];

/// Names before `.weight` and `.bias` outside the blocks.
const LAYERS: [(&str, &str); 7] = [
    ("vision_model.post_layernorm", "visual.trunk.norm"),
    ("vision_model.head.layernorm", "visual.trunk.attn_pool.norm"),
    ("vision_model.head.mlp.fc1", "visual.trunk.attn_pool.mlp.fc1"),
    ("vision_model.head.mlp.fc2", "visual.trunk.attn_pool.mlp.fc2"),
    ("vision_model.head.attention.out_proj", "visual.trunk.attn_pool.proj"),
    ("text_model.final_layer_norm", "text.ln_final"),
    ("text_model.head", "text.text_projection"),
];

/// Names before `.weight` and `.bias` within a block of the image tower.
const BLOCK: [(&str, &str); 5] = [
    ("layer_norm1", "norm1"),
    ("layer_norm2", "norm2"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
    ("self_attn.out_proj", "attn.proj"),
];

/// Returns the target of one of their tensors; `None` if the name is not one of theirs.
pub(crate) fn target(name: &str) -> Option<Target> {
    match name {
        // Vectors of one element in transformers.
        "logit_scale" | "logit_bias" => return Some(Target::Scalar(name.into())),
        "vision_model.embeddings.position_embedding.weight" => {
            return Some(Target::Batched("visual.trunk.pos_embed".into()));
        }
        _ => {}
    }
    if let Some(kind) = name.strip_prefix("vision_model.head.attention.in_proj_") {
        let pool = "visual.trunk.attn_pool";
        return Some(Target::Split(format!("{pool}.q.{kind}"), format!("{pool}.kv.{kind}")));
    }
    if let Some((_, ours)) = PLAIN.iter().find(|(theirs, _)| *theirs == name) {
        return Some(Target::Rename((*ours).into()));
    }
    let (layer, kind) = name.rsplit_once('.')?;
    if !["weight", "bias"].contains(&kind) {
        return None;
    }
    if let Some((_, ours)) = LAYERS.iter().find(|(theirs, _)| *theirs == layer) {
        return Some(Target::Rename(format!("{ours}.{kind}")));
    }
    if let Some(layer) = layer.strip_prefix("text_model.encoder.layers.") {
        return clip::block(layer, kind, "text.transformer.resblocks.");
    }
    let (number, layer) = numbered(layer.strip_prefix("vision_model.encoder.layers.")?)?;
    let prefix = format!("visual.trunk.blocks.{number}");
    if let Some(part) = PARTS.iter().position(|part| *part == layer) {
        return Some(Target::Part(format!("{prefix}.attn.qkv.{kind}"), part));
    }
    let (_, ours) = BLOCK.iter().find(|(theirs, _)| *theirs == layer)?;
    Some(Target::Rename(format!("{prefix}.{ours}.{kind}")))
}
