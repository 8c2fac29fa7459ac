//! The layouts of weights, told by their names: what to take off, what to drop, what to rename.

use std::collections::HashMap;
use std::fmt;

use tch::Tensor;

use super::keymap::{self, Target};
use crate::{ClipConfig, Error, Result};

/// Whose names the weights of a file had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// open_clip's, which CLIP-KD's released files have too.
    OpenClip,
    /// open_clip's names in OpenAI's TorchScript archives, whose models have QuickGELU.
    OpenAi,
    /// Hugging Face's `CLIPModel`.
    HuggingFaceClip,
    /// Hugging Face's `SiglipModel`.
    HuggingFaceSiglip,
    /// TinyCLIP's, with a prefix for each tower.
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

/// Prefixes of wrappers: data parallel, compiled, averaged.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];
/// Prefixes of the teacher in files that keep it beside the student.
const TEACHERS: [&str; 4] = ["t_model.", "teacher.", "teacher_model.", "model_t."];
/// Prefixes of the student in such files.
const STUDENTS: [&str; 4] = ["student.", "student_model.", "s_model.", "model_s."];
/// Learned parts of distillation losses: CLIP-KD's projections and scales, TinyCLIP's mask module.
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
/// Integers and buffers that are no parameters.
const BUFFERS: [&str; 6] =
    ["input_resolution", "context_length", "vocab_size", "attn_mask", "text.attn_mask", "eos_token_id"];

/// What is to become of a file's tensors.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) layout: Layout,
    /// Place in the list of names, and target.
    pub(crate) kept: Vec<(usize, Target)>,
    pub(crate) dropped: Vec<String>,
    pub(crate) notes: Vec<String>,
}

/// Tells the layout of these names, and what each becomes; `script` is whether they are of TorchScript.
pub(crate) fn plan<'a>(names: impl Iterator<Item = &'a str>, script: bool) -> Plan {
    let mut notes = Vec::new();
    let mut dropped = Vec::new();
    let mut bare = Vec::new();
    let mut taken_off = std::collections::BTreeSet::new();
    for (index, name) in names.enumerate() {
        let stripped = strip(name, &WRAPPERS, &mut taken_off);
        if TEACHERS.iter().any(|teacher| stripped.starts_with(teacher)) {
            dropped.push(name.to_string());
        } else {
            let stripped = strip(stripped, &STUDENTS, &mut taken_off);
            bare.push((index, name, strip(stripped, &WRAPPERS, &mut taken_off)));
        }
    }
    if !taken_off.is_empty() {
        let prefixes = taken_off.into_iter().map(|p| format!("`{p}`")).collect::<Vec<_>>().join(", ");
        notes.push(format!("prefixes were taken off: {prefixes}"));
    }
    let layout = tell(bare.iter().map(|(_, _, name)| *name), script);
    let mut kept = Vec::new();
    for (index, name, bare) in bare {
        match target(layout, bare) {
            Some(target) => kept.push((index, target)),
            None => dropped.push(name.to_string()),
        }
    }
    dropped.sort();
    Plan { layout, kept, dropped, notes }
}

/// Takes prefixes off, however often they come.
fn strip<'a>(
    mut name: &'a str,
    prefixes: &[&'static str],
    taken_off: &mut std::collections::BTreeSet<&'static str>,
) -> &'a str {
    while let Some((prefix, rest)) = prefixes.iter().find_map(|p| Some((*p, name.strip_prefix(p)?))) {
        taken_off.insert(prefix);
        name = rest;
    }
    name
}

fn tell<'a>(names: impl Iterator<Item = &'a str>, script: bool) -> Layout {
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

/// What becomes of a tensor; `None` drops it. A name that is not known stays as it is, so that the strict
/// comparison with the model names it.
fn target(layout: Layout, name: &str) -> Option<Target> {
    if LOSS_PARTS.iter().any(|part| name.starts_with(part)) || BUFFERS.contains(&name) {
        return None;
    }
    match layout {
        Layout::OpenClip | Layout::OpenAi if ["logit_scale", "logit_bias"].contains(&name) => {
            Some(Target::Scalar(name.into()))
        }
        Layout::OpenClip | Layout::OpenAi => Some(Target::As(name.into())),
        Layout::HuggingFaceClip | Layout::HuggingFaceSiglip => {
            if name.ends_with(".position_ids") {
                return None;
            }
            let target = match layout {
                Layout::HuggingFaceClip => keymap::clip::target(name),
                _ => keymap::siglip::target(name),
            };
            Some(target.unwrap_or_else(|| Target::As(name.into())))
        }
        Layout::TinyClip => {
            let part = ["_image_encoder.", "_text_encoder.", "_logit_scale."]
                .iter()
                .find_map(|prefix| name.strip_prefix(prefix))
                .unwrap_or(name);
            let part = strip(part, &WRAPPERS, &mut Default::default());
            // The masks of automatic pruning are folded into the weights of released files.
            if BUFFERS.contains(&part) || LOSS_PARTS.iter().any(|loss| part.starts_with(loss)) {
                return None;
            }
            Some(if part == "logit_scale" { Target::Scalar(part.into()) } else { Target::As(part.into()) })
        }
    }
}

/// The names of the text tower as a configuration has them: below `text.`, or at the root.
///
/// Weights that have them so already come back as they are.
pub fn with_text_prefix(weights: HashMap<String, Tensor>, custom_text: bool) -> HashMap<String, Tensor> {
    const ROOT: [&str; 5] =
        ["transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection"];
    weights
        .into_iter()
        .map(|(name, tensor)| {
            let own = name.strip_prefix("text.");
            let name = match (own, custom_text) {
                (Some(own), false) if ROOT.iter().any(|root| own.starts_with(root)) => own.to_string(),
                (None, true) if ROOT.iter().any(|root| name.starts_with(root)) => format!("text.{name}"),
                _ => name,
            };
            (name, tensor)
        })
        .collect()
}

/// The weights of a ViT CLIP under the names of Hugging Face's `CLIPModel`.
///
/// # Errors
/// [`Error::Config`] where that class cannot hold the model: another image tower, pruned blocks, layer
/// scale, or a projection with a bias.
pub fn to_hugging_face(
    weights: &HashMap<String, Tensor>,
    config: &ClipConfig,
) -> Result<HashMap<String, Tensor>> {
    let refuse = |what: &str| {
        Err(Error::config(
            "Hugging Face CLIPModel",
            format!("it cannot hold {what}; keep the open_clip folder"),
        ))
    };
    if config.vision_cfg.blocks.is_some() || config.text_cfg.blocks.is_some() {
        return refuse("pruned blocks");
    }
    let mut renamed = HashMap::new();
    for (name, tensor) in weights {
        let plain = name.strip_prefix("text.").unwrap_or(name);
        match keymap::clip::origin(plain) {
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
            Some(Target::As(theirs)) => {
                renamed.insert(theirs, tensor.shallow_clone());
            }
            _ => return refuse(&format!("`{name}`")),
        }
    }
    Ok(renamed)
}
