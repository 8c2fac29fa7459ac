//! Manual weight inheritance (TinyCLIP, Wu et al. 2023): a student starts as a part of a larger model.
//!
//! Depth by stride: of N blocks a student of n takes 0, k, 2k, … with k = N / n rounded down. Width by the leading
//! channels of every matrix, MLPs by their leading inner channels, attention by whole leading heads of query, key
//! and value each. Nothing is averaged or scaled, so a student of the teacher's shape is the teacher.

use std::collections::{HashMap, HashSet};

use tch::Tensor;

use crate::checkpoint::layout::with_text_prefix;
use crate::config::{Layers, TowerKind, VisionConfig};
use crate::{Clip, ClipConfig, Error, Result, resize, weights};

pub mod tokens;

/// Makes `student` the leading part of `teacher`: parameters, running statistics, logit scale and bias.
///
/// Positional tables of images are interpolated where the grid differs; of texts a student with a shorter
/// context takes the leading rows. A logit bias that the teacher lacks keeps its start.
///
/// # Errors
/// As [`check`]; [`Error::Config`] naming the first weight in which the student is larger, or that only one of the
/// two has, but for blocks that are strided over. The student is unchanged then.
pub fn inherit(student: &Clip, teacher: &Clip) -> Result<()> {
    check(student.config(), teacher.config())?;
    let theirs = teacher.params().state().map(|p| (p.name.clone(), p.tensor.detach())).collect();
    let theirs = with_text_prefix(theirs, student.config().custom_text);
    let strides = Strides::new(student.config(), teacher.config());
    let mut taken = HashMap::new();
    let mut used = HashSet::new();
    for own in student.params().state() {
        let origin = strides.origin(&own.name);
        used.insert(origin.clone());
        let value = match theirs.get(&origin) {
            Some(value) => leading(&own.name, value, &own.tensor.size())?,
            // An unlearned summand has its own start.
            None if own.name == "logit_bias" => own.tensor.detach(),
            None => return Err(refusal(format!("`{}`: the larger model has no `{origin}`", own.name))),
        };
        taken.insert(own.name.clone(), value);
    }
    // Whole blocks are strided over; anything else that has no place would be lost in silence.
    let blocks = used.iter().filter_map(|name| block_of(name)).collect::<HashSet<_>>();
    let is_skipped = |name: &str| block_of(name).is_some_and(|block| !blocks.contains(block));
    let left = theirs.keys().filter(|name| !used.contains(*name) && *name != "logit_bias");
    if let Some(name) = left.filter(|name| !is_skipped(name)).min() {
        return Err(refusal(format!("the larger model has `{name}`, and the student has no place for it")));
    }
    resize::fit_image_size(student.params(), &mut taken)?;
    weights::load(student.params(), &taken, "the model that is inherited from")
}

/// Whether a student of this configuration can inherit from a model of the other, as far as configurations tell.
///
/// # Errors
/// [`Error::Config`] naming what is larger in the student, or of another kind.
pub fn check(student: &ClipConfig, teacher: &ClipConfig) -> Result<()> {
    let (own, theirs) = (&student.vision_cfg, &teacher.vision_cfg);
    let kinds = [own.tower(), theirs.tower()];
    if kinds[0] != kinds[1] {
        return Err(refusal(format!(
            "the image towers are of two kinds: {} and {}",
            kind(own),
            kind(theirs)
        )));
    }
    if kinds[0] == TowerKind::Timm && own.timm_model_name != theirs.timm_model_name {
        return Err(refusal("of timm's towers only the same one can be inherited".into()));
    }
    let (text, their_text) = (&student.text_cfg, &teacher.text_cfg);
    for (what, own, theirs) in [
        ("embed_dim", student.embed_dim, teacher.embed_dim),
        ("image width", own.width, theirs.width),
        ("text width", text.width, their_text.width),
        ("text layers", text.layers, their_text.layers),
        ("text context_length", text.context_length, their_text.context_length),
    ] {
        no_larger(what, own, theirs)?;
    }
    for (stage, (own, theirs)) in depths(own).into_iter().zip(depths(theirs)).enumerate() {
        let what = if kinds[0] == TowerKind::ResNet {
            format!("image layers of stage {}", stage + 1)
        } else {
            "image layers".into()
        };
        no_larger(&what, own, theirs)?;
    }
    let mut same = vec![
        ("text head width", text.head_width(), their_text.head_width()),
        ("vocab_size", text.vocab_size, their_text.vocab_size),
    ];
    if kinds[0] != TowerKind::Timm {
        same.push(("image head width", head_width(own), head_width(theirs)));
    }
    if kinds[0] == TowerKind::Vit {
        same.push(("patch_size", own.patch_size.unwrap_or(0), theirs.patch_size.unwrap_or(0)));
    }
    for (what, own, theirs) in same {
        if own != theirs {
            let why = if what.ends_with("head width") { "; whole heads are inherited" } else { "" };
            return Err(refusal(format!(
                "{what} has to be equal, but is {own} in the student and {theirs} in the larger model{why}"
            )));
        }
    }
    // What the same weights would mean something else under.
    let meaning = |config: &ClipConfig| {
        let (image, text) = (&config.vision_cfg, &config.text_cfg);
        let towers = (config.vision_activation(), config.text_activation());
        let pools = (image.pool_type, image.final_ln_after_pool, image.timm_pool.clone(), text.pool_type);
        (towers, pools, text.no_causal_mask, text.eos_id, [image.eps(), text.eps()])
    };
    if meaning(student) != meaning(teacher) {
        let reason = "activation (quick_gelu), pooling, causal mask, end token or the norms' eps differ";
        return Err(refusal(reason.into()));
    }
    Ok(())
}

fn no_larger(what: &str, own: i64, theirs: i64) -> Result<()> {
    if own <= theirs {
        return Ok(());
    }
    Err(refusal(format!("{what} is {own} in the student, but only {theirs} in the larger model")))
}

fn refusal(reason: String) -> Error {
    Error::config("weight inheritance", reason)
}

fn kind(config: &VisionConfig) -> &'static str {
    match config.tower() {
        TowerKind::Vit => "a ViT",
        TowerKind::ResNet => "a ResNet",
        TowerKind::Timm => "a tower of timm",
    }
}

/// Blocks of each stage; a ViT has one stage.
fn depths(config: &VisionConfig) -> Vec<i64> {
    match (config.tower(), config.layers) {
        // Equal by name.
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

/// Which block of the larger model each block of the student comes from.
struct Strides {
    image: Vec<i64>,
    text: i64,
}

impl Strides {
    fn new(student: &ClipConfig, teacher: &ClipConfig) -> Self {
        let stride = |(own, theirs): (i64, i64)| (theirs / own.max(1)).max(1);
        let (own, theirs) = (depths(&student.vision_cfg), depths(&teacher.vision_cfg));
        Strides {
            image: own.into_iter().zip(theirs).map(stride).collect(),
            text: stride((student.text_cfg.layers, teacher.text_cfg.layers)),
        }
    }

    /// The name in the larger model of a weight of the student.
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

/// The block of a transformer or ResNet stage that a weight belongs to, as the beginning of its name.
fn block_of(name: &str) -> Option<&str> {
    let number = match name.split_once("resblocks.") {
        Some((tower, _)) => tower.len() + "resblocks.".len(),
        None => name.strip_prefix("visual.layer").map(|_| "visual.layer1.".len())?,
    };
    let length = name.get(number..)?.find('.')?;
    Some(&name[..number + length])
}

/// The leading part of a weight in the student's shape; the rows of a table over image positions are all kept,
/// since they are interpolated and not cut.
fn leading(name: &str, value: &Tensor, wanted: &[i64]) -> Result<Tensor> {
    let found = value.size();
    let too_large = || {
        let reason = format!("`{name}` is {wanted:?} in the student, but only {found:?} in the larger model");
        Err(refusal(reason))
    };
    if found.len() != wanted.len() {
        return too_large();
    }
    // Query, key and value lie one below the other, so each has its own leading rows.
    let parts = if name.contains(".in_proj_") { 3 } else { 1 };
    let positions = resize::Grid::of(name).map(resize::Grid::axis);
    let mut taken = value.shallow_clone();
    for (axis, (&own, &theirs)) in wanted.iter().zip(&found).enumerate() {
        if positions == Some(axis) || own == theirs {
            continue;
        }
        // A kernel's pixels are no channels.
        if own > theirs || axis >= 2 {
            return too_large();
        }
        taken = match (axis, parts) {
            (0, 3) => {
                let each = taken.f_chunk(3, 0)?.into_iter().map(|part| part.f_narrow(0, 0, own / 3));
                Tensor::f_cat(&each.collect::<Result<Vec<_>, _>>()?, 0)?
            }
            _ => taken.f_narrow(axis as i64, 0, own)?,
        };
    }
    Ok(taken.f_contiguous()?)
}

#[cfg(test)]
mod tests;
