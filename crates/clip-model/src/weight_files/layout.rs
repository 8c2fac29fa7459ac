//! Layouts of weights: detection by the tensor names, and the plan to strip prefixes, drop tensors and rename the
//! rest.

use std::collections::HashMap;
use std::fmt;

use tch::Tensor;

use super::keymap::{self, Target};
use crate::{ClipConfig, Error, Result};

/// Layout of a checkpoint: the naming scheme of its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// open_clip's names, also used by CLIP-KD's released files.
    OpenClip,
    /// open_clip's names in OpenAI's TorchScript archives; these models use QuickGELU.
    OpenAi,
    /// Hugging Face's `CLIPModel`.
    HuggingFaceClip,
    /// Hugging Face's `SiglipModel`.
    HuggingFaceSiglip,
    /// TinyCLIP's names, with a prefix for each tower.
    TinyClip,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layout::OpenClip => "open_clip state dict",
            Layout::OpenAi => "OpenAI TorchScript archive",
            Layout::HuggingFaceClip => "Hugging Face CLIPModel",
            Layout::HuggingFaceSiglip => "Hugging Face SiglipModel",
            Layout::TinyClip => "TinyCLIP checkpoint",
        })
    }
}

/// Parts of names that wrappers add at any depth: data parallel and compiled modules, activation checkpointing.
const WRAPPERS: [&str; 5] =
    ["module.", "_orig_mod.", "_forward_module.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."];
/// Prefixes of the attribute with the model in a training class, such as Lightning's modules. They are removed before
/// the name of a tower only.
const ATTRIBUTES: [&str; 6] = ["model.", "clip.", "clip_model.", "_model.", "net.", "network."];
/// Starts of the names in all layouts.
const ROOTS: [&str; 16] = [
    "visual.",
    "text.",
    "transformer.",
    "token_embedding.",
    "positional_embedding",
    "ln_final.",
    "text_projection",
    "logit_scale",
    "logit_bias",
    "vision_model.",
    "text_model.",
    "visual_projection.",
    "_image_encoder.",
    "_text_encoder.",
    "_logit_scale.",
    "attn_mask",
];
/// Prefixes of the teacher in files that also contain the student.
const TEACHERS: [&str; 4] = ["t_model.", "teacher.", "teacher_model.", "model_t."];
/// Prefixes of the student in such files.
const STUDENTS: [&str; 4] = ["student.", "student_model.", "s_model.", "model_s."];
/// Learned parts of distillation losses: CLIP-KD's projections and logit scales, TinyCLIP's mask module.
const LOSS_PARTS: [&str; 12] = [
    "loss.",
    "kd_loss.",
    "criterion.",
    "visual_proj.",
    "text_proj.",
    "visual_fusion_proj.",
    "text_fusion_proj.",
    "fusion_proj.",
    "logit_scale_kd",
    "cross_logit_scale",
    "fusion_logit_scale",
    "l0_module.",
];
/// Integers and buffers that are not parameters.
const BUFFERS: [&str; 6] =
    ["input_resolution", "context_length", "vocab_size", "attn_mask", "text.attn_mask", "eos_token_id"];

/// Plan to rename the tensors of a file.
#[derive(Debug)]
pub(crate) struct RenamePlan {
    pub(crate) layout: Layout,
    /// Index in the list of names, and target.
    pub(crate) kept: Vec<(usize, Target)>,
    pub(crate) dropped: Vec<String>,
    pub(crate) notes: Vec<String>,
}

/// Detects the layout of tensor names and plans their renaming. `script` states whether they come from TorchScript.
pub(crate) fn plan_renames<'a>(names: impl Iterator<Item = &'a str>, script: bool) -> RenamePlan {
    let mut notes = Vec::new();
    let mut dropped = Vec::new();
    let mut bare = Vec::new();
    let mut prefixes = std::collections::BTreeSet::new();
    for (index, name) in names.enumerate() {
        let unwrapped = without_wrappers(name, &mut prefixes);
        let stripped = strip_attributes(&unwrapped, &mut prefixes);
        if TEACHERS.iter().any(|teacher| stripped.starts_with(teacher)) {
            dropped.push(name.to_string());
        } else {
            let stripped = strip(stripped, &STUDENTS, &mut prefixes);
            let stripped = strip_attributes(stripped, &mut prefixes).to_string();
            bare.push((index, name, stripped));
        }
    }
    if is_image_tower(bare.iter().map(|(_, _, name)| name.as_str())) {
        for (_, _, name) in &mut bare {
            name.insert_str(0, "visual.");
        }
    }
    if !prefixes.is_empty() {
        let prefixes = prefixes.into_iter().map(|p| format!("`{p}`")).collect::<Vec<_>>().join(", ");
        notes.push(format!("removed from the names of tensors: {prefixes}"));
    }
    let layout = detect(bare.iter().map(|(_, _, name)| name.as_str()), script);
    let mut kept = Vec::new();
    for (index, name, bare) in bare {
        match target(layout, &bare) {
            Some(target) => kept.push((index, target)),
            None => dropped.push(name.to_string()),
        }
    }
    dropped.sort();
    RenamePlan { layout, kept, dropped, notes }
}

/// Removes the parts that wrappers add, at any depth: `visual._orig_mod.conv1.weight` becomes `visual.conv1.weight`.
pub(crate) fn without_wrappers(name: &str, removed: &mut std::collections::BTreeSet<&'static str>) -> String {
    let is_own = |part: &&str| match WRAPPERS.iter().find(|wrapper| wrapper.strip_suffix('.') == Some(*part))
    {
        Some(wrapper) => {
            removed.insert(*wrapper);
            false
        }
        None => true,
    };
    name.split('.').filter(is_own).collect::<Vec<_>>().join(".")
}

/// Removes the names of attributes with the model, if a tower's name follows.
fn strip_attributes<'a>(name: &'a str, removed: &mut std::collections::BTreeSet<&'static str>) -> &'a str {
    let mut attributes = Vec::new();
    let mut rest = name;
    while let Some((attribute, after)) = ATTRIBUTES.iter().find_map(|a| Some((*a, rest.strip_prefix(a)?))) {
        attributes.push(attribute);
        rest = after;
    }
    if ROOTS.iter().chain(&TEACHERS).chain(&STUDENTS).any(|root| rest.starts_with(root)) {
        removed.extend(attributes);
        return rest;
    }
    name
}

/// Removes prefixes repeatedly.
fn strip<'a>(
    mut name: &'a str,
    prefixes: &[&'static str],
    removed: &mut std::collections::BTreeSet<&'static str>,
) -> &'a str {
    while let Some((prefix, rest)) = prefixes.iter().find_map(|p| Some((*p, name.strip_prefix(p)?))) {
        removed.insert(prefix);
        name = rest;
    }
    name
}

/// Whether names are those of open_clip's image tower alone, saved without `visual.`.
fn is_image_tower<'a>(names: impl Iterator<Item = &'a str>) -> bool {
    const STARTS: [&str; 4] = ["class_embedding", "attnpool.positional_embedding", "trunk.", "head.proj."];
    let mut own = false;
    for name in names {
        if ROOTS
            .iter()
            .any(|root| name.starts_with(root) && !["transformer.", "positional_embedding"].contains(root))
        {
            return false;
        }
        own |= STARTS.iter().any(|start| name.starts_with(start));
    }
    own
}

fn detect<'a>(names: impl Iterator<Item = &'a str>, script: bool) -> Layout {
    let mut layout = if script { Layout::OpenAi } else { Layout::OpenClip };
    for name in names {
        if name.starts_with("_image_encoder.") || name.starts_with("_text_encoder.") {
            return Layout::TinyClip;
        }
        if name.starts_with("vision_model.head.") || name.starts_with("text_model.head.") {
            return Layout::HuggingFaceSiglip;
        }
        if name.starts_with("vision_model.") || name.starts_with("text_model.") {
            layout = Layout::HuggingFaceClip;
        }
    }
    layout
}

/// Returns the target of a tensor; `None` to drop it. An unknown name stays, so that the strict comparison with the
/// model reports it.
fn target(layout: Layout, name: &str) -> Option<Target> {
    if LOSS_PARTS.iter().any(|part| name.starts_with(part)) || BUFFERS.contains(&name) {
        return None;
    }
    match layout {
        Layout::OpenClip | Layout::OpenAi if ["logit_scale", "logit_bias"].contains(&name) => {
            Some(Target::Scalar(name.into()))
        }
        Layout::OpenClip | Layout::OpenAi => Some(Target::Rename(name.into())),
        Layout::HuggingFaceClip | Layout::HuggingFaceSiglip => {
            if name.ends_with(".position_ids") {
                return None;
            }
            let target = match layout {
                Layout::HuggingFaceClip => keymap::clip::target(name),
                _ => keymap::siglip::target(name),
            };
            Some(target.unwrap_or_else(|| Target::Rename(name.into())))
        }
        Layout::TinyClip => {
            let part = ["_image_encoder.", "_text_encoder.", "_logit_scale."]
                .iter()
                .find_map(|prefix| name.strip_prefix(prefix))
                .unwrap_or(name);
            // Released files have the masks of automatic pruning folded into the weights.
            if BUFFERS.contains(&part) || LOSS_PARTS.iter().any(|loss| part.starts_with(loss)) {
                return None;
            }
            Some(if part == "logit_scale" {
                Target::Scalar(part.into())
            } else {
                Target::Rename(part.into())
            })
        }
    }
}

/// Renames the text tower's tensors to the form that a configuration needs: below `text.` if `custom_text` is set, at
/// the root otherwise.
pub(crate) fn with_text_prefix(
    weights: HashMap<String, Tensor>,
    custom_text: bool,
) -> HashMap<String, Tensor> {
    const ROOT: [&str; 5] =
        ["transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection"];
    weights
        .into_iter()
        .map(|(name, tensor)| {
            let stripped = name.strip_prefix("text.");
            let name = match (stripped, custom_text) {
                (Some(rest), false) if ROOT.iter().any(|root| rest.starts_with(root)) => rest.to_string(),
                (None, true) if ROOT.iter().any(|root| name.starts_with(root)) => format!("text.{name}"),
                _ => name,
            };
            (name, tensor)
        })
        .collect()
}

/// Renames the weights of a ViT CLIP to the names of Hugging Face's `CLIPModel`.
///
/// # Errors
/// [`Error::NotRepresentable`] for a model that this class cannot represent: another image tower, pruned blocks,
/// layer scale, or a projection with a bias.
pub(crate) fn to_hugging_face(
    weights: &HashMap<String, Tensor>,
    config: &ClipConfig,
) -> Result<HashMap<String, Tensor>> {
    let refuse =
        |what: &str| Err(Error::NotRepresentable { format: "Hugging Face's CLIPModel", what: what.into() });
    if config.vision_cfg.blocks.is_some() || config.text_cfg.blocks.is_some() {
        return refuse("pruned blocks");
    }
    let mut renamed = HashMap::new();
    for (name, tensor) in weights {
        let plain = name.strip_prefix("text.").unwrap_or(name);
        match keymap::clip::inverse(plain) {
            Some(Target::Transposed(theirs)) if tensor.dim() == 2 => {
                renamed.insert(theirs, tensor.f_transpose(0, 1)?.f_contiguous()?);
            }
            Some(Target::Part(theirs, _)) if tensor.dim() > 0 && tensor.size()[0] % 3 == 0 => {
                let third = tensor.size()[0] / 3;
                for (index, letter) in ["q", "k", "v"].into_iter().enumerate() {
                    let part = tensor.f_narrow(0, index as i64 * third, third)?.f_contiguous()?;
                    renamed.insert(theirs.replace("{}", letter), part);
                }
            }
            Some(Target::Rename(theirs)) => {
                renamed.insert(theirs, tensor.shallow_clone());
            }
            _ => return refuse(&format!("`{name}`")),
        }
    }
    Ok(renamed)
}
