//! Names of Hugging Face's `CLIPModel`, in both directions.

use super::{Target, numbered};

/// Names before `.weight` and `.bias` outside the blocks: theirs, open_clip's.
const NORMS: [(&str, &str); 3] = [
    // Spelled this way in transformers.
    ("vision_model.pre_layrnorm", "visual.ln_pre"),
    ("vision_model.post_layernorm", "visual.ln_post"),
    ("text_model.final_layer_norm", "ln_final"),
];

/// Full names outside the blocks whose tensors keep their shape.
const PLAIN: [(&str, &str); 5] = [
    ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
];

/// Linear layers in transformers that open_clip stores transposed.
const TRANSPOSED: [(&str, &str); 2] =
    [("visual_projection.weight", "visual.proj"), ("text_projection.weight", "text_projection")];

/// Prefixes of the towers' blocks.
const BLOCKS: [(&str, &str); 2] = [
    ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
    ("text_model.encoder.layers.", "transformer.resblocks."),
];

/// Names before `.weight` and `.bias` within a block.
pub(super) const LAYERS: [(&str, &str); 5] = [
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("self_attn.out_proj", "attn.out_proj"),
];

/// Query, key and value, in open_clip's order.
pub(super) const PARTS: [&str; 3] = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];

/// Returns the target of one of their tensors; `None` if the name is not one of theirs.
pub(crate) fn target(name: &str) -> Option<Target> {
    if name == "logit_scale" {
        return Some(Target::Scalar(name.into()));
    }
    if let Some((_, ours)) = PLAIN.iter().find(|(theirs, _)| *theirs == name) {
        return Some(Target::Rename((*ours).into()));
    }
    if let Some((_, ours)) = TRANSPOSED.iter().find(|(theirs, _)| *theirs == name) {
        return Some(Target::Transposed((*ours).into()));
    }
    let (layer, kind) = name.rsplit_once('.')?;
    if !["weight", "bias"].contains(&kind) {
        return None;
    }
    if let Some((_, ours)) = NORMS.iter().find(|(theirs, _)| *theirs == layer) {
        return Some(Target::Rename(format!("{ours}.{kind}")));
    }
    BLOCKS.iter().find_map(|(theirs, ours)| block(layer.strip_prefix(theirs)?, kind, ours))
}

/// Returns the target of a block's tensor in open_clip's naming, with `prefix` before the index of the block.
pub(super) fn block(layer: &str, kind: &str, prefix: &str) -> Option<Target> {
    let (number, layer) = numbered(layer)?;
    if let Some(part) = PARTS.iter().position(|part| *part == layer) {
        return Some(Target::Part(format!("{prefix}{number}.attn.in_proj_{kind}"), part));
    }
    let (_, ours) = LAYERS.iter().find(|(theirs, _)| *theirs == layer)?;
    Some(Target::Rename(format!("{prefix}{number}.{ours}.{kind}")))
}

/// Returns the name in transformers of one of open_clip's tensors, with its conversion. A [`Target::Part`] has `{}`
/// in its name, to be replaced by `q`, `k` or `v`.
pub(crate) fn inverse(name: &str) -> Option<Target> {
    if name == "logit_scale" {
        return Some(Target::Rename(name.into()));
    }
    if let Some((theirs, _)) = PLAIN.iter().find(|(_, ours)| *ours == name) {
        return Some(Target::Rename((*theirs).into()));
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
        return Some(Target::Rename(format!("{theirs}{number}.{layer}.{kind}")));
    }
    let (layer, kind) = name.rsplit_once('.')?;
    let (theirs, _) = NORMS.iter().find(|(_, ours)| *ours == layer)?;
    Some(Target::Rename(format!("{theirs}.{kind}")))
}
