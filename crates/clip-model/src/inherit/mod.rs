//! Manual weight inheritance (TinyCLIP, Wu et al. 2023): initialises a student with a part of a larger model.
//!
//! Depth is reduced by a stride: a student with n of N blocks takes blocks 0, k, 2k, … with k = N / n rounded down.
//! Width is reduced to the leading channels of every matrix, MLPs to their leading inner channels, and attention to
//! the leading heads of query, key and value. Nothing is averaged or scaled, so a student of the teacher's shape
//! equals the teacher.

use std::collections::{HashMap, HashSet};

use tch::Tensor;

use crate::config::{Layers, TowerKind, VisionConfig};
use crate::weight_files::layout::with_text_prefix;
use crate::{Clip, ClipConfig, Error, Result, resize, weights};

pub mod tokens;

/// Initialises `student` with the leading part of `teacher`: parameters, running statistics, logit scale and bias.
///
/// Positional embeddings of images are interpolated if the grid differs. A student with a shorter context length
/// takes the leading positions of the text tower. If the teacher has no logit bias, the student keeps its own.
///
/// ```no_run
/// use clip_model::{Clip, inherit, presets};
/// use tch::Device;
///
/// let teacher = clip_model::open("models/vit-b-16", Device::Cpu, 0)?.model;
/// let student = Clip::new(&presets::get("TinyCLIP-ViT-39M-16-Text-19M")?, Device::Cpu, 0)?;
/// inherit::inherit(&student, &teacher)?;
/// # Ok::<(), clip_model::Error>(())
/// ```
///
/// # Errors
/// [`Error::Incompatible`] with the first setting or weight in which the student is larger, or that only one of the
/// two models has (blocks skipped by the stride are allowed). The student is then unchanged.
pub fn inherit(student: &Clip, teacher: &Clip) -> Result<()> {
    check(student.config(), teacher.config())?;
    let theirs = teacher.params().state().map(|p| (p.name.clone(), p.tensor.detach())).collect();
    let theirs = with_text_prefix(theirs, student.config().custom_text);
    let strides = Strides::new(student.config(), teacher.config());
    let mut taken = HashMap::new();
    let mut used = HashSet::new();
    for parameter in student.params().state() {
        let origin = strides.origin(&parameter.name);
        used.insert(origin.clone());
        let value = match theirs.get(&origin) {
            Some(value) => leading(&parameter.name, value, &parameter.tensor.size())?,
            // The teacher has no logit bias.
            None if parameter.name == "logit_bias" => parameter.tensor.detach(),
            None => {
                return Err(refusal(format!("`{}`: the larger model has no `{origin}`", parameter.name)));
            }
        };
        taken.insert(parameter.name.clone(), value);
    }
    // The stride skips whole blocks. Any other weight without a counterpart would be lost silently.
    let blocks = used.iter().filter_map(|name| block_of(name)).collect::<HashSet<_>>();
    let is_skipped = |name: &str| block_of(name).is_some_and(|block| !blocks.contains(block));
    let unused = theirs.keys().filter(|name| !used.contains(*name) && *name != "logit_bias");
    if let Some(name) = unused.filter(|name| !is_skipped(name)).min() {
        return Err(refusal(format!("the larger model has `{name}`, and the student has no place for it")));
    }
    resize::fit_image_size(student.params(), &mut taken)?;
    weights::load(student.params(), &taken, "the larger model")
}

/// Checks that a student can inherit from a teacher, as far as their configurations show.
///
/// # Errors
/// [`Error::Incompatible`] with the first setting in which the student is larger or differs in kind.
pub fn check(student: &ClipConfig, teacher: &ClipConfig) -> Result<()> {
    let kind = check_kinds(&student.vision_cfg, &teacher.vision_cfg)?;
    check_sizes(student, teacher, kind)?;
    check_equal(student, teacher, kind)?;
    // Settings that change the meaning of the weights.
    let semantics = |config: &ClipConfig| {
        let (image, text) = (&config.vision_cfg, &config.text_cfg);
        let towers = (config.vision_activation(), config.text_activation());
        let pools = (image.pool_type, image.final_ln_after_pool, image.timm_pool.clone(), text.pool_type);
        (towers, pools, text.no_causal_mask, text.eos_id, [image.eps(), text.eps()])
    };
    if semantics(student) != semantics(teacher) {
        let reason = "activation (quick_gelu), pooling, causal mask, end token or the norms' eps differ";
        return Err(refusal(reason.into()));
    }
    Ok(())
}

/// Checks that both image towers have the same architecture.
fn check_kinds(student: &VisionConfig, teacher: &VisionConfig) -> Result<TowerKind> {
    let kind = student.tower();
    if kind != teacher.tower() {
        return Err(refusal(format!(
            "the image towers have different architectures: {} and {}",
            architecture(student),
            architecture(teacher)
        )));
    }
    if kind == TowerKind::Timm && student.timm_model_name != teacher.timm_model_name {
        return Err(refusal("a timm tower can only inherit from the same timm tower".into()));
    }
    Ok(kind)
}

/// Checks the dimensions in which a student may be smaller.
fn check_sizes(student: &ClipConfig, teacher: &ClipConfig, kind: TowerKind) -> Result<()> {
    let (image, text) = (&student.vision_cfg, &student.text_cfg);
    let (teacher_image, teacher_text) = (&teacher.vision_cfg, &teacher.text_cfg);
    for (dimension, size, limit) in [
        ("embed_dim", student.embed_dim, teacher.embed_dim),
        ("image width", image.width, teacher_image.width),
        ("text width", text.width, teacher_text.width),
        ("text layers", text.layers, teacher_text.layers),
        ("text context_length", text.context_length, teacher_text.context_length),
    ] {
        check_not_larger(dimension, size, limit)?;
    }
    for (stage, (depth, limit)) in depths(image).into_iter().zip(depths(teacher_image)).enumerate() {
        let dimension = if kind == TowerKind::ResNet {
            format!("image layers of stage {}", stage + 1)
        } else {
            "image layers".into()
        };
        check_not_larger(&dimension, depth, limit)?;
    }
    Ok(())
}

/// Checks the dimensions that have to be equal.
fn check_equal(student: &ClipConfig, teacher: &ClipConfig, kind: TowerKind) -> Result<()> {
    let (image, text) = (&student.vision_cfg, &student.text_cfg);
    let (teacher_image, teacher_text) = (&teacher.vision_cfg, &teacher.text_cfg);
    let mut equal = vec![
        ("text head width", text.head_width(), teacher_text.head_width()),
        ("vocab_size", text.vocab_size, teacher_text.vocab_size),
    ];
    if kind != TowerKind::Timm {
        equal.push(("image head width", head_width(image), head_width(teacher_image)));
    }
    if kind == TowerKind::Vit {
        equal.push(("patch_size", image.patch_size.unwrap_or(0), teacher_image.patch_size.unwrap_or(0)));
    }
    for (dimension, size, expected) in equal {
        if size != expected {
            let why = if dimension.ends_with("head width") { "; whole heads are inherited" } else { "" };
            return Err(refusal(format!(
                "{dimension} has to be equal, but is {size} in the student and {expected} in the larger model{why}"
            )));
        }
    }
    Ok(())
}

fn check_not_larger(dimension: &str, size: i64, limit: i64) -> Result<()> {
    if size <= limit {
        return Ok(());
    }
    Err(refusal(format!("{dimension} is {size} in the student, but only {limit} in the larger model")))
}

fn refusal(reason: String) -> Error {
    Error::Incompatible { reason: format!("weight inheritance: {reason}") }
}

fn architecture(config: &VisionConfig) -> &'static str {
    match config.tower() {
        TowerKind::Vit => "a ViT",
        TowerKind::ResNet => "a ResNet",
        TowerKind::Timm => "a timm tower",
    }
}

/// Returns the number of blocks in each stage; a ViT has one stage.
fn depths(config: &VisionConfig) -> Vec<i64> {
    match (config.tower(), config.layers) {
        // The names are equal, and so are the depths.
        (TowerKind::Timm, _) => Vec::new(),
        (_, Layers::Depth(layers)) => vec![layers],
        (_, Layers::Stages(stages)) => stages.to_vec(),
    }
}

fn head_width(config: &VisionConfig) -> i64 {
    match config.layers {
        Layers::Depth(_) if config.blocks.is_some() => config.head_width,
        Layers::Depth(_) => config.width / config.heads().max(1),
        Layers::Stages(_) => config.width * 32 / config.heads().max(1),
    }
}

/// Strides that map the student's blocks to those of the larger model.
struct Strides {
    image: Vec<i64>,
    text: i64,
}

impl Strides {
    fn new(student: &ClipConfig, teacher: &ClipConfig) -> Self {
        let stride = |(depth, limit): (i64, i64)| (limit / depth.max(1)).max(1);
        let (depth, limit) = (depths(&student.vision_cfg), depths(&teacher.vision_cfg));
        Strides {
            image: depth.into_iter().zip(limit).map(stride).collect(),
            text: stride((student.text_cfg.layers, teacher.text_cfg.layers)),
        }
    }

    /// Returns the name of a student's weight in the larger model.
    fn origin(&self, name: &str) -> String {
        let moved = |before: &str, stride: i64| {
            let rest = name.strip_prefix(before)?;
            let (layer, rest) = rest.split_once('.')?;
            Some(format!("{before}{}.{rest}", layer.parse::<i64>().ok()? * stride))
        };
        let image = self.image.iter().enumerate().find_map(|(stage, stride)| {
            moved("visual.transformer.resblocks.", *stride)
                .or_else(|| moved(&format!("visual.layer{}.", stage + 1), *stride))
        });
        let text = || {
            moved("transformer.resblocks.", self.text)
                .or_else(|| moved("text.transformer.resblocks.", self.text))
        };
        image.or_else(text).unwrap_or_else(|| name.to_string())
    }
}

/// Returns the prefix of a weight's name that identifies its transformer or ResNet block.
fn block_of(name: &str) -> Option<&str> {
    let number = match name.split_once("resblocks.") {
        Some((tower, _)) => tower.len() + "resblocks.".len(),
        None => name.strip_prefix("visual.layer").map(|_| "visual.layer1.".len())?,
    };
    let length = name.get(number..)?.find('.')?;
    Some(&name[..number + length])
}

/// Returns the leading part of a weight in the student's shape. The axis of image positions is kept whole, since it
/// is interpolated later.
fn leading(name: &str, value: &Tensor, wanted: &[i64]) -> Result<Tensor> {
    let found = value.size();
    let too_large = || {
        let reason = format!("`{name}` is {wanted:?} in the student, but only {found:?} in the larger model");
        Err(refusal(reason))
    };
    if found.len() != wanted.len() {
        return too_large();
    }
    // Query, key and value are stacked, so the leading rows of each are taken.
    let parts = if name.contains(".in_proj_") { 3 } else { 1 };
    let positions = resize::Grid::of(name).map(resize::Grid::axis);
    let mut taken = value.shallow_clone();
    for (axis, (&size, &available)) in wanted.iter().zip(&found).enumerate() {
        if positions == Some(axis) || size == available {
            continue;
        }
        // The spatial axes of a kernel cannot be cut.
        if size > available || axis >= 2 {
            return too_large();
        }
        taken = match (axis, parts) {
            (0, 3) => {
                let each = taken.f_chunk(3, 0)?.into_iter().map(|part| part.f_narrow(0, 0, size / 3));
                Tensor::f_cat(&each.collect::<Result<Vec<_>, _>>()?, 0)?
            }
            _ => taken.f_narrow(axis as i64, 0, size)?,
        };
    }
    Ok(taken.f_contiguous()?)
}

#[cfg(test)]
mod tests;
