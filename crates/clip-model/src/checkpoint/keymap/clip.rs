//! Hugging Face's `CLIPModel`, both ways.

use super::{Target, numbered};

/// Names in front of `.weight` and `.bias` outside the blocks: theirs, open_clip's.
const NORMS: [(&str, &str); 3] = [
    // Their spelling.
    ("vision_model.pre_layrnorm", "visual.ln_pre"),
    ("vision_model.post_layernorm", "visual.ln_post"),
    ("text_model.final_layer_norm", "ln_final"),
];

/// Whole names outside the blocks that keep their shape.
const PLAIN: [(&str, &str); 5] = [
    ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
];

/// Linear layers there, matrices that are multiplied from the right here.
const TRANSPOSED: [(&str, &str); 2] =
    [("visual_projection.weight", "visual.proj"), ("text_projection.weight", "text_projection")];

/// The towers' blocks.
const BLOCKS: [(&str, &str); 2] = [
    ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
    ("text_model.encoder.layers.", "transformer.resblocks."),
];

/// Names in front of `.weight` and `.bias` within a block.
pub(super) const LAYERS: [(&str, &str); 5] = [
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("self_attn.out_proj", "attn.out_proj"),
];

/// Query, key and value, in the order in which open_clip keeps them.
pub(super) const PARTS: [&str; 3] = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];

/// What becomes of one of their tensors; `None` where the name is not theirs.
pub(crate) fn target(name: &str) -> Option<Target> {
    if name == "logit_scale" {
        return Some(Target::Scalar(name.into()));
    }
    if let Some((_, ours)) = PLAIN.iter().find(|(theirs, _)| *theirs == name) {
        return Some(Target::As((*ours).into()));
    }
    if let Some((_, ours)) = TRANSPOSED.iter().find(|(theirs, _)| *theirs == name) {
        return Some(Target::Transposed((*ours).into()));
    }
    let (layer, kind) = name.rsplit_once('.')?;
    if !["weight", "bias"].contains(&kind) {
        return None;
    }
    if let Some((_, ours)) = NORMS.iter().find(|(theirs, _)| *theirs == layer) {
        return Some(Target::As(format!("{ours}.{kind}")));
    }
    BLOCKS.iter().find_map(|(theirs, ours)| block(layer.strip_prefix(theirs)?, kind, ours))
}

/// What becomes of a block's tensor in open_clip's naming, with `prefix` before the block's number.
pub(super) fn block(layer: &str, kind: &str, prefix: &str) -> Option<Target> {
    let (number, layer) = numbered(layer)?;
    if let Some(part) = PARTS.iter().position(|part| *part == layer) {
        return Some(Target::Part(format!("{prefix}{number}.attn.in_proj_{kind}"), part));
    }
    let (_, ours) = LAYERS.iter().find(|(theirs, _)| *theirs == layer)?;
    Some(Target::As(format!("{prefix}{number}.{ours}.{kind}")))
}

/// Their name of one of open_clip's tensors, and how it has to be turned; a [`Target::Part`] stands for
/// the name with `{}` in place of `q`, `k` or `v`.
pub(crate) fn origin(name: &str) -> Option<Target> {
    if name == "logit_scale" {
        return Some(Target::As(name.into()));
    }
    if let Some((theirs, _)) = PLAIN.iter().find(|(_, ours)| *ours == name) {
        return Some(Target::As((*theirs).into()));
    }
    if let Some((theirs, _)) = TRANSPOSED.iter().find(|(_, ours)| *ours == name) {
        return Some(Target::Transposed((*theirs).into()));
    }
    for (theirs, ours) in BLOCKS {
        let Some((number, layer)) = name.strip_prefix(ours).and_then(numbered) else { continue };
        if let Some(kind) = layer.strip_prefix("attn.in_proj_") {
            return Some(Target::Part(format!("{theirs}{number}.self_attn.{{}}_proj.{kind}"), 0));
        }
        let (layer, kind) = layer.rsplit_once('.')?;
        let (layer, _) = LAYERS.iter().find(|(_, ours)| *ours == layer)?;
        return Some(Target::As(format!("{theirs}{number}.{layer}.{kind}")));
    }
    let (layer, kind) = name.rsplit_once('.')?;
    let (theirs, _) = NORMS.iter().find(|(_, ours)| *ours == layer)?;
    Some(Target::As(format!("{theirs}.{kind}")))
}
