//! Inference of configurations from the shapes of weights, for complete and for pruned models.

use std::collections::HashMap;

use tch::Tensor;

use crate::config::{Layers, NormKwargs, PrunedBlock, TextConfig, TextPool, TowerKind, VisionConfig};
use crate::{ClipConfig, Error, Result, Tower};

/// Assumed number of channels of a head, as in all of OpenAI's models.
const HEAD_WIDTH: i64 = 64;
/// Name of the configuration in error messages.
const NAME: &str = "inferred from the weights' shapes";

/// Advice in error messages.
const HINT: &str = "name the model's preset or write its open_clip_config.json";

/// Shapes of weights by name.
struct Shapes<'a>(&'a HashMap<String, Tensor>);

impl Shapes<'_> {
    fn get<const N: usize>(&self, name: &str) -> Option<[i64; N]> {
        self.0.get(name)?.size().try_into().ok()
    }

    fn require<const N: usize>(&self, name: &str) -> Result<[i64; N]> {
        self.get(name).ok_or_else(|| {
            let found = match self.0.get(name) {
                Some(tensor) => format!("has shape {:?}", tensor.size()),
                None => "is missing".into(),
            };
            Error::config(NAME, format!("`{name}` {found}; {HINT}"))
        })
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Returns the number of blocks below a prefix: one more than the highest index.
    fn depth(&self, prefix: &str) -> i64 {
        self.0
            .keys()
            .filter_map(|name| name.strip_prefix(prefix)?.split('.').next()?.parse::<u16>().ok())
            .max()
            .map_or(0, |last| i64::from(last) + 1)
    }

    /// Heads and MLP widths of blocks in open_clip's naming; 0 for a missing branch.
    fn blocks(&self, prefix: &str, depth: i64, head_width: i64) -> Vec<PrunedBlock> {
        (0..depth)
            .map(|block| {
                let rows =
                    self.get(&format!("{prefix}{block}.attn.in_proj_weight")).map_or(0, |[rows, _]| rows);
                let mlp = self.get(&format!("{prefix}{block}.mlp.c_fc.weight")).map_or(0, |[rows, _]| rows);
                PrunedBlock { heads: rows / (3 * head_width.max(1)), mlp_width: mlp }
            })
            .collect()
    }
}

/// Returns the prefix of the text tower's parameter names.
fn text_prefix(shapes: &Shapes<'_>) -> &'static str {
    if shapes.has("text.token_embedding.weight") { "text." } else { "" }
}

/// Returns the tower of weights under open_clip's names that hold one tower only; `None` if they hold both or neither.
pub(crate) fn only_tower(weights: &HashMap<String, Tensor>) -> Option<Tower> {
    let shapes = Shapes(weights);
    let image = weights.keys().any(|name| name.starts_with("visual."));
    let text = shapes.has(&format!("{}token_embedding.weight", text_prefix(&shapes)));
    match (image, text) {
        (true, false) => Some(Tower::Image),
        (false, true) => Some(Tower::Text),
        _ => None,
    }
}

/// Placeholder configuration of the image tower for weights of the text tower only; it is never run.
fn absent_image_tower() -> VisionConfig {
    VisionConfig {
        image_size: 32,
        layers: Layers::Depth(1),
        width: HEAD_WIDTH,
        patch_size: Some(32),
        ..VisionConfig::default()
    }
}

/// Placeholder configuration of the text tower for weights of the image tower only; it is never run.
fn absent_text_tower() -> TextConfig {
    TextConfig { width: 8, heads: 1, layers: 1, ..TextConfig::default() }
}

/// Returns the embed dim of the image tower's projection.
fn image_embed_dim(shapes: &Shapes<'_>, siglip: bool) -> Result<i64> {
    if siglip {
        return Ok(shapes.require::<1>("visual.trunk.norm.weight")?[0]);
    }
    match shapes.get("visual.attnpool.c_proj.weight") {
        Some([embed_dim, _]) => Ok(embed_dim),
        None => Ok(shapes.require::<2>("visual.proj")?[1]),
    }
}

/// Infers the configuration of weights under open_clip's names: open_clip's ViT, CLIP's ResNet or SigLIP's ViT, with
/// CLIP's text tower. If the weights hold one tower only, the configuration of the other is a small substitute.
///
/// The shapes do not determine the number of heads (64 channels per head are assumed) or QuickGELU (assumed to be
/// off, although OpenAI's models use it).
///
/// # Errors
/// [`Error::Config`] with the tensor that is missing or ambiguous.
pub fn infer_config(weights: &HashMap<String, Tensor>) -> Result<ClipConfig> {
    let shapes = Shapes(weights);
    let (prefix, only) = (text_prefix(&shapes), only_tower(weights));
    let siglip = shapes.has("visual.trunk.attn_pool.latent");
    let (text_cfg, embed_dim) = match only {
        Some(Tower::Image) => (absent_text_tower(), image_embed_dim(&shapes, siglip)?),
        _ => text(&shapes, prefix)?,
    };
    let vision_cfg = if only == Some(Tower::Text) {
        absent_image_tower()
    } else if shapes.has("visual.conv1.weight") && shapes.has("visual.class_embedding") {
        vit(&shapes)?
    } else if shapes.has("visual.layer1.0.conv1.weight") {
        resnet(&shapes)?
    } else if siglip {
        siglip_vit(&shapes)?
    } else {
        return Err(Error::config(NAME, format!("the shapes do not determine the image tower; {HINT}")));
    };
    let mut config = ClipConfig {
        embed_dim,
        quick_gelu: false,
        init_logit_scale: None,
        init_logit_bias: shapes.has("logit_bias").then_some(-10.0),
        custom_text: prefix == "text.",
        vision_cfg,
        text_cfg,
    };
    if siglip && only.is_none() {
        // The shapes of SigLIP's text tower do not determine these settings.
        config.text_cfg.no_causal_mask = true;
        config.text_cfg.pool_type = TextPool::Last;
        config.text_cfg.norm_kwargs = Some(NormKwargs { eps: Some(1e-6) });
    }
    config.validate(NAME)?;
    Ok(config)
}

/// Infers the text tower, and returns it with the embed dim.
fn text(shapes: &Shapes<'_>, prefix: &str) -> Result<(TextConfig, i64)> {
    let [vocab_size, width] = shapes.require(&format!("{prefix}token_embedding.weight"))?;
    let [context_length, _] = shapes.require(&format!("{prefix}positional_embedding"))?;
    let linear = format!("{prefix}text_projection.weight");
    let matrix = format!("{prefix}text_projection");
    // A text tower alone can lack its projection (transformers' CLIPTextModel).
    let projected = shapes.has(&linear) || shapes.has(&matrix) || shapes.has("logit_scale");
    let embed_dim = match shapes.get(&linear) {
        Some([embed_dim, _]) => embed_dim,
        None if projected => shapes.require::<2>(&matrix)?[1],
        None => width,
    };
    let path = format!("{prefix}transformer.resblocks.");
    let layers = shapes.depth(&path);
    let mut config = TextConfig {
        context_length,
        vocab_size,
        width,
        heads: heads(width),
        layers,
        proj_bias: shapes.has(&format!("{prefix}text_projection.bias")),
        proj_type: (!projected).then(|| "none".into()),
        ls_init_value: shapes.has(&format!("{path}0.ls_1.gamma")).then_some(1e-5),
        ..TextConfig::default()
    };
    match uniform_mlp_ratio(shapes, &path, layers, width) {
        Some(ratio) => config.mlp_ratio = ratio,
        None => {
            config.head_width = Some(HEAD_WIDTH);
            config.blocks = Some(shapes.blocks(&path, layers, HEAD_WIDTH));
        }
    }
    Ok((config, embed_dim))
}

/// Returns the MLP ratio if all blocks are equal and their attention is as wide as the residual stream.
fn uniform_mlp_ratio(shapes: &Shapes<'_>, path: &str, layers: i64, width: i64) -> Option<f64> {
    let blocks = shapes.blocks(path, layers, 1);
    let first = blocks.first()?;
    let complete = first.heads == width && first.mlp_width > 0 && width % heads(width) == 0;
    (complete && blocks.iter().all(|block| block == first)).then(|| mlp_ratio(first.mlp_width, width))
}

fn heads(width: i64) -> i64 {
    (width / HEAD_WIDTH).max(1)
}

/// Returns the MLP ratio that gives this inner width, given that the product is rounded down.
pub(crate) fn mlp_ratio(inner: i64, width: i64) -> f64 {
    let ratio = inner as f64 / width as f64;
    if (width as f64 * ratio) as i64 == inner { ratio } else { (inner as f64 + 0.5) / width as f64 }
}

/// Returns the side of a square grid with `count` positions.
fn side(name: &str, count: i64) -> Result<i64> {
    let side = count.max(0).isqrt();
    if side > 0 && side * side == count {
        return Ok(side);
    }
    Err(Error::config(NAME, format!("the {count} positions of `{name}` do not form a square")))
}

fn vit(shapes: &Shapes<'_>) -> Result<VisionConfig> {
    let [width, _, patch, _] = shapes.require("visual.conv1.weight")?;
    let positions = "visual.positional_embedding";
    let grid = side(positions, shapes.require::<2>(positions)?[0] - 1)?;
    let path = "visual.transformer.resblocks.";
    let layers = shapes.depth(path);
    let mut config = VisionConfig {
        image_size: grid.saturating_mul(patch),
        layers: Layers::Depth(layers),
        width,
        patch_size: Some(patch),
        head_width: HEAD_WIDTH.min(width),
        no_ln_pre: !shapes.has("visual.ln_pre.weight"),
        ls_init_value: shapes.has(&format!("{path}0.ls_1.gamma")).then_some(1e-5),
        ..VisionConfig::default()
    };
    match uniform_mlp_ratio(shapes, path, layers, width) {
        Some(ratio) => config.mlp_ratio = ratio,
        None => config.blocks = Some(shapes.blocks(path, layers, config.head_width)),
    }
    Ok(config)
}

fn resnet(shapes: &Shapes<'_>) -> Result<VisionConfig> {
    let [width, ..] = shapes.require::<4>("visual.layer1.0.conv1.weight")?;
    let positions = "visual.attnpool.positional_embedding";
    let grid = side(positions, shapes.require::<2>(positions)?[0] - 1)?;
    Ok(VisionConfig {
        image_size: grid * 32,
        layers: Layers::Stages([1, 2, 3, 4].map(|stage| shapes.depth(&format!("visual.layer{stage}.")))),
        width,
        patch_size: None,
        ..VisionConfig::default()
    })
}

/// Infers SigLIP's image tower, by timm's name for its dimensions.
fn siglip_vit(shapes: &Shapes<'_>) -> Result<VisionConfig> {
    let [width, _, patch, _] = shapes.require("visual.trunk.patch_embed.proj.weight")?;
    let positions = "visual.trunk.pos_embed";
    let grid = side(positions, shapes.require::<3>(positions)?[1])?;
    let depth = shapes.depth("visual.trunk.blocks.");
    siglip_config(width, depth, patch, grid.saturating_mul(patch))
        .ok_or_else(|| Error::config(NAME, format!("no SigLIP tower has {depth} blocks of width {width}")))
}

/// Returns the configuration of SigLIP's image tower with these dimensions.
pub(crate) fn siglip_config(width: i64, depth: i64, patch: i64, image_size: i64) -> Option<VisionConfig> {
    let size = match (width, depth) {
        (768, 12) => "base",
        (1024, 24) => "large",
        (1152, 27) => "so400m",
        (1536, 40) => "giantopt",
        _ => return None,
    };
    Some(VisionConfig {
        image_size,
        timm_model_name: Some(format!("vit_{size}_patch{patch}_siglip_{image_size}")),
        timm_model_pretrained: Some(false),
        timm_pool: Some("map".into()),
        timm_proj: Some("none".into()),
        ..VisionConfig::default()
    })
}

/// Infers the configuration of weights that were pruned from a model with `config` (TinyCLIP). Widths, heads and MLP
/// widths follow from shapes, and removed branches from missing names.
///
/// # Errors
/// [`Error::Incompatible`] if a dimension is larger than in `config`, so the weights do not come from such a model.
pub fn infer_pruned_config(config: &ClipConfig, weights: &HashMap<String, Tensor>) -> Result<ClipConfig> {
    let shapes = Shapes(weights);
    let prefix = text_prefix(&shapes);
    let mut pruned = config.clone();
    prune_text(&mut pruned.text_cfg, &shapes, prefix)?;
    prune_vit(&mut pruned.vision_cfg, &shapes)?;
    if let Some([_, embed_dim]) = shapes.get(&format!("{prefix}text_projection")) {
        pruned.embed_dim = check_size("embed_dim", embed_dim, config.embed_dim)?;
    }
    pruned.validate("pruned")?;
    Ok(pruned)
}

fn prune_text(text: &mut TextConfig, shapes: &Shapes<'_>, prefix: &str) -> Result<()> {
    let (heads, mlp_width, head_width) = (text.heads, text.mlp_width(), text.head_width());
    let [_, width] = shapes.require(&format!("{prefix}token_embedding.weight"))?;
    text.width = check_size("text width", width, text.width)?;
    let path = format!("{prefix}transformer.resblocks.");
    check_size("text layers", shapes.depth(&path), text.layers)?;
    let blocks = shapes.blocks(&path, text.layers, head_width);
    for block in &blocks {
        check_size("text heads", block.heads, heads)?;
        check_size("text mlp_width", block.mlp_width, mlp_width)?;
    }
    if are_uniform(&blocks, width / head_width, text.mlp_width()) && width % head_width == 0 {
        text.heads = width / head_width;
        text.blocks = None;
    } else {
        text.head_width = Some(head_width);
        text.blocks = Some(blocks);
    }
    Ok(())
}

fn prune_vit(vision: &mut VisionConfig, shapes: &Shapes<'_>) -> Result<()> {
    let (TowerKind::Vit, Layers::Depth(layers)) = (vision.tower(), vision.layers) else { return Ok(()) };
    let [width, ..] = shapes.require::<4>("visual.conv1.weight")?;
    let (mlp_width, heads) = (vision.mlp_width(), vision.heads());
    let head_width = if vision.blocks.is_some() { vision.head_width } else { vision.width / heads.max(1) };
    vision.width = check_size("vision width", width, vision.width)?;
    let path = "visual.transformer.resblocks.";
    check_size("vision layers", shapes.depth(path), layers)?;
    let blocks = shapes.blocks(path, layers, head_width);
    for block in &blocks {
        check_size("vision heads", block.heads, heads)?;
        check_size("vision mlp_width", block.mlp_width, mlp_width)?;
    }
    vision.head_width = head_width;
    let uniform = are_uniform(&blocks, width / head_width, vision.mlp_width()) && width % head_width == 0;
    vision.blocks = (!uniform).then_some(blocks);
    Ok(())
}

fn are_uniform(blocks: &[PrunedBlock], heads: i64, mlp_width: i64) -> bool {
    blocks.iter().all(|block| *block == PrunedBlock { heads, mlp_width })
}

fn check_size(dimension: &str, found: i64, limit: i64) -> Result<i64> {
    if (0..=limit).contains(&found) {
        return Ok(found);
    }
    Err(Error::Incompatible {
        reason: format!(
            "{dimension} of the pruned weights is {found}, more than the {limit} of the configuration: name another"
        ),
    })
}

/// Whether a block lacks a branch or differs from the others, which only pruning causes.
pub(crate) fn is_pruned(weights: &HashMap<String, Tensor>) -> bool {
    let shapes = Shapes(weights);
    [format!("{}transformer.resblocks.", text_prefix(&shapes)), "visual.transformer.resblocks.".into()]
        .iter()
        .map(|path| shapes.blocks(path, shapes.depth(path), 1))
        .any(|blocks| {
            blocks.iter().any(|block| block != &blocks[0] || block.heads == 0 || block.mlp_width == 0)
        })
}
