//! Layouts of weights: detection by the tensor names, and the plan to strip prefixes, drop tensors and rename the
//! rest.

use std::collections::{BTreeMap, HashMap};
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

/// Parts of parameter names that wrappers insert anywhere: data-parallel, compiled, sharded and checkpointed modules,
/// and Lightning.
const WRAPPERS: [&str; 5] =
    ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"];
/// First components of a model's parameter names in all layouts. A prefix before them is an attribute of a training
/// framework's module, such as `model.` or `clip.` in Lightning.
const ROOTS: [&str; 9] = [
    "visual.",
    "vision_model.",
    "text_model.",
    "text.",
    "transformer.resblocks.",
    "token_embedding.",
    "_image_encoder.",
    "_text_encoder.",
    "logit_scale",
];
/// Beginnings of the names of open_clip's image tower, saved without `visual.`.
const IMAGE_TOWER: [&str; 4] = ["class_embedding", "attnpool.positional_embedding", "trunk.", "head.proj."];
/// Prefixes to prefer if a file has several models.
const FRAMEWORKS: [&str; 5] = ["model.", "clip.", "clip_model.", "net.", "ema_model."];
/// Prefixes of the teacher in files that also contain the student.
pub(crate) const TEACHERS: [&str; 4] = ["t_model.", "teacher.", "teacher_model.", "model_t."];
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

/// Whether a name is that of a model's parameter in any layout, with or without a prefix.
pub(crate) fn has_model_name(name: &str) -> bool {
    is_root(name) || name.match_indices('.').any(|(at, _)| is_root(&name[at + 1..]))
}

/// Whether a name begins with the first component of a model's parameter names.
pub(crate) fn is_root(name: &str) -> bool {
    ROOTS.iter().any(|root| name.starts_with(root))
}

/// Whether a name is that of an image tower saved without `visual.`.
pub(crate) fn is_image_tower_name(name: &str) -> bool {
    IMAGE_TOWER.iter().any(|start| name.starts_with(start))
}

fn is_teacher(name: &str) -> bool {
    TEACHERS.iter().any(|teacher| name.starts_with(teacher))
}

/// Detects the layout of tensor names and plans their renaming. `script` states whether they come from TorchScript.
///
/// # Errors
/// The prefixes of several models, if there is no reason to prefer one of them.
pub(crate) fn plan_renames<'a>(
    names: impl Iterator<Item = &'a str>,
    script: bool,
) -> Result<RenamePlan, String> {
    let mut notes = Vec::new();
    let mut dropped = Vec::new();
    let mut bare = Vec::new();
    let mut removed = std::collections::BTreeSet::new();
    for (index, name) in names.enumerate() {
        bare.push((index, name, unwrapped(name, &mut removed)));
    }
    drop_teachers(&mut bare, &mut dropped);
    let prefixes = Prefixes::of(bare.iter().map(|(_, _, name)| name.as_str()));
    if let Some(prefix) = prefixes.choose(&mut notes)? {
        bare.retain_mut(|(_, name, own)| match own.strip_prefix(prefix.as_str()) {
            Some(rest) => {
                *own = rest.to_string();
                true
            }
            None => {
                dropped.push(name.to_string());
                false
            }
        });
        removed.insert(prefix);
    }
    drop_teachers(&mut bare, &mut dropped);
    for (_, _, own) in &mut bare {
        let prefix = |own: &str| STUDENTS.iter().chain(&TEACHERS).find(|p| own.starts_with(*p)).copied();
        while let Some(prefix) = prefix(own) {
            removed.insert(prefix.to_string());
            *own = own[prefix.len()..].to_string();
        }
    }
    if is_image_tower(bare.iter().map(|(_, _, name)| name.as_str())) {
        for (_, _, name) in &mut bare {
            name.insert_str(0, "visual.");
        }
    }
    if !removed.is_empty() {
        let removed = removed.into_iter().map(|part| format!("`{part}`")).collect::<Vec<_>>().join(", ");
        notes.push(format!("removed from the names of tensors: {removed}"));
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
    Ok(RenamePlan { layout, kept, dropped, notes })
}

/// Drops the tensors of a teacher beside a model. A teacher alone is the model. A tensor has its index, its name, and its
/// name without prefixes.
fn drop_teachers(tensors: &mut Vec<(usize, &str, String)>, dropped: &mut Vec<String>) {
    let is_model = |name: &str| {
        has_model_name(name)
            || is_image_tower_name(name)
            || STUDENTS.iter().any(|student| name.starts_with(student))
    };
    if !tensors.iter().any(|(_, _, own)| !is_teacher(own) && is_model(own)) {
        return;
    }
    tensors.retain(|(_, name, own)| {
        if is_teacher(own) {
            dropped.push(name.to_string());
        }
        !is_teacher(own)
    });
}

/// Removes the parts of a name that wrappers insert.
pub(crate) fn unwrapped(name: &str, removed: &mut std::collections::BTreeSet<String>) -> String {
    let is_wrapper = |part: &&str| WRAPPERS.contains(part);
    removed.extend(name.split('.').filter(is_wrapper).map(|part| format!("{part}.")));
    name.split('.').filter(|part| !is_wrapper(part)).collect::<Vec<_>>().join(".")
}

/// Whether names are those of open_clip's image tower alone, saved without `visual.`.
fn is_image_tower<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    let mut own = false;
    // A ViT and the text tower both have parameters with this root.
    let of_both = |root: &str| root == "transformer.resblocks.";
    let has_root = |name: &str| ROOTS.iter().any(|root| !of_both(root) && name.starts_with(root));
    let whole = names.any(|name| {
        own |= is_image_tower_name(name);
        has_root(name)
    });
    own && !whole
}

/// Prefixes that training frameworks put before the parameter names of a model, or of its student and teacher.
#[derive(Default)]
struct Prefixes<'a>(BTreeMap<&'a str, Found>);

/// The parameters of a prefix.
#[derive(Default)]
struct Found {
    count: usize,
    /// Whether they have names of an image tower, and of a text tower.
    image: bool,
    text: bool,
}

impl<'a> Prefixes<'a> {
    /// Finds the prefixes of names. None if any name of a model has no prefix.
    fn of(names: impl Iterator<Item = &'a str>) -> Self {
        let mut prefixes = Prefixes::default();
        // A teacher alone is the model, below its prefix.
        let starts =
            |rest: &str| is_root(rest) || is_teacher(rest) || STUDENTS.iter().any(|p| rest.starts_with(p));
        for name in names {
            if is_root(name) || STUDENTS.iter().any(|p| name.starts_with(p)) {
                return Prefixes::default();
            }
            let mut ends = name.match_indices('.').map(|(at, _)| at + 1);
            let Some(end) = ends.find(|end| starts(&name[*end..])) else { continue };
            let found = prefixes.0.entry(&name[..end]).or_default();
            found.count += 1;
            let is_image =
                ["visual.", "vision_model.", "_image_encoder."].iter().any(|p| name[end..].starts_with(p));
            found.image |= is_image;
            found.text |= !is_image && !name[end..].starts_with("logit_scale");
        }
        prefixes
    }

    /// Chooses the prefix of the model, and notes the others that have both towers.
    ///
    /// # Errors
    /// The prefixes, if there is no reason to prefer one of them.
    fn choose(&self, notes: &mut Vec<String>) -> Result<Option<String>, String> {
        let whole = self.0.iter().filter(|(_, found)| found.image && found.text);
        let whole = whole.map(|(prefix, _)| *prefix).collect::<Vec<_>>();
        let is_usable =
            |prefix: &&&str| whole.contains(*prefix) || (whole.is_empty() && self.0.contains_key(**prefix));
        let preferred = FRAMEWORKS.iter().find(is_usable).copied();
        let largest = || self.0.iter().max_by_key(|(_, found)| found.count).map(|(prefix, _)| *prefix);
        // Plain weights come before averaged ones.
        let of_student = |prefix: &&&str| !prefix.contains("teacher") && !prefix.contains("ema");
        let mut plain = whole.iter().filter(of_student);
        let chosen = match (preferred, whole.as_slice(), plain.next(), plain.next()) {
            (Some(prefix), ..) => Some(prefix),
            (None, [] | [_], ..) => whole.first().copied().or_else(largest),
            (None, _, Some(only), None) => Some(*only),
            (None, ..) => {
                return Err(format!(
                    "it contains the weights of several models, below {}: save the tensors of the one to use in a file of \
                     its own, under their names without the prefix",
                    quoted(&whole)
                ));
            }
        };
        let others = whole.into_iter().filter(|prefix| Some(*prefix) != chosen).collect::<Vec<_>>();
        if let (Some(chosen), false) = (chosen, others.is_empty()) {
            notes.push(format!("used the weights below `{chosen}`, not those below {}", quoted(&others)));
        }
        Ok(chosen.map(String::from))
    }
}

/// Lists prefixes for a message.
fn quoted(prefixes: &[&str]) -> String {
    prefixes.iter().map(|prefix| format!("`{}`", prefix.escape_debug())).collect::<Vec<_>>().join(", ")
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
