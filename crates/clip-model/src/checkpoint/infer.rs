//! Configurations told by the shapes of weights: of a whole model, and of a model whose layers were pruned.

use std::collections::HashMap;

use tch::Tensor;

use crate::config::{Layers, NormKwargs, PrunedBlock, TextConfig, TextPool, TowerKind, VisionConfig};
use crate::{ClipConfig, Error, Result};

/// Channels of one head where nothing says otherwise, as in all of OpenAI's models.
const HEAD_WIDTH: i64 = 64;
/// Name of the configuration in messages.
const NAME: &str = "told by the shapes of the weights";

/// Shapes of weights by name.
struct Shapes<'a>(&'a HashMap<String, Tensor>);

impl Shapes<'_> {
    fn get<const N: usize>(&self, name: &str) -> Option<[i64; N]> {
        self.0.get(name)?.size().try_into().ok()
    }

    fn need<const N: usize>(&self, name: &str) -> Result<[i64; N]> {
        self.get(name).ok_or_else(|| {
            let found = match self.0.get(name) {
                Some(tensor) => format!("is of shape {:?}", tensor.size()),
                None => "is missing".into(),
            };
            Error::config(
                NAME,
                format!("`{name}` {found}; name the model's preset or write its open_clip_config.json"),
            )
        })
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Blocks below a prefix: one more than the highest number.
    fn depth(&self, prefix: &str) -> i64 {
        self.0
            .keys()
            .filter_map(|name| name.strip_prefix(prefix)?.split('.').next()?.parse::<u16>().ok())
            .max()
            .map_or(0, |last| i64::from(last) + 1)
    }

    /// Heads and MLP width of blocks in open_clip's naming; 0 where there is none.
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

/// Prefix of the text tower's names.
fn text_prefix(shapes: &Shapes<'_>) -> &'static str {
    if shapes.has("text.token_embedding.weight") { "text." } else { "" }
}

/// The configuration of weights under open_clip's names: open_clip's ViT, CLIP's ResNet or SigLIP's ViT,
/// with CLIP's text tower.
///
/// Shapes do not tell heads (64 channels each are assumed) nor QuickGELU (assumed not; OpenAI's models
/// have it).
///
/// # Errors
/// [`Error::Config`] naming what is missing or cannot be told.
pub fn infer_config(weights: &HashMap<String, Tensor>) -> Result<ClipConfig> {
    let shapes = Shapes(weights);
    let prefix = text_prefix(&shapes);
    let (text_cfg, embed_dim) = text(&shapes, prefix)?;
    let siglip = shapes.has("visual.trunk.attn_pool.latent");
    let vision_cfg = if shapes.has("visual.conv1.weight") && shapes.has("visual.class_embedding") {
        vit(&shapes)?
    } else if shapes.has("visual.layer1.0.conv1.weight") {
        resnet(&shapes)?
    } else if siglip {
        siglip_vit(&shapes)?
    } else {
        return Err(Error::config(
            NAME,
            "its image tower is none that shapes tell; name the model's preset or write its open_clip_config.json",
        ));
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
    if siglip {
        // SigLIP's text tower has no shape of its own that says so.
        config.text_cfg.no_causal_mask = true;
        config.text_cfg.pool_type = TextPool::Last;
        config.text_cfg.norm_kwargs = Some(NormKwargs { eps: Some(1e-6) });
    }
    config.validate(NAME)?;
    Ok(config)
}

/// The text tower and the width of the embedding.
fn text(shapes: &Shapes<'_>, prefix: &str) -> Result<(TextConfig, i64)> {
    let [vocab_size, width] = shapes.need(&format!("{prefix}token_embedding.weight"))?;
    let [context_length, _] = shapes.need(&format!("{prefix}positional_embedding"))?;
    let linear = format!("{prefix}text_projection.weight");
    let embed_dim = match shapes.get(&linear) {
        Some([embed_dim, _]) => embed_dim,
        None => shapes.need::<2>(&format!("{prefix}text_projection"))?[1],
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
        ls_init_value: shapes.has(&format!("{path}0.ls_1.gamma")).then_some(1e-5),
        ..TextConfig::default()
    };
    match even(shapes, &path, layers, width) {
        Some(ratio) => config.mlp_ratio = ratio,
        None => {
            config.head_width = Some(HEAD_WIDTH);
            config.blocks = Some(shapes.blocks(&path, layers, HEAD_WIDTH));
        }
    }
    Ok((config, embed_dim))
}

/// The MLP ratio where all blocks are the same and their attention is as wide as the residual stream.
fn even(shapes: &Shapes<'_>, path: &str, layers: i64, width: i64) -> Option<f64> {
    let blocks = shapes.blocks(path, layers, 1);
    let first = blocks.first()?;
    let whole = first.heads == width && first.mlp_width > 0 && width % heads(width) == 0;
    (whole && blocks.iter().all(|block| block == first)).then(|| ratio(first.mlp_width, width))
}

fn heads(width: i64) -> i64 {
    (width / HEAD_WIDTH).max(1)
}

/// The ratio that gives this inner width back, for which the product is rounded down.
pub(crate) fn ratio(inner: i64, width: i64) -> f64 {
    let ratio = inner as f64 / width as f64;
    if (width as f64 * ratio) as i64 == inner { ratio } else { (inner as f64 + 0.5) / width as f64 }
}

/// The side of a square of so many.
fn side(name: &str, count: i64) -> Result<i64> {
    let side = count.max(0).isqrt();
    if side > 0 && side * side == count {
        return Ok(side);
    }
    Err(Error::config(NAME, format!("the {count} positions of `{name}` are no square")))
}

fn vit(shapes: &Shapes<'_>) -> Result<VisionConfig> {
    let [width, _, patch, _] = shapes.need("visual.conv1.weight")?;
    let positions = "visual.positional_embedding";
    let grid = side(positions, shapes.need::<2>(positions)?[0] - 1)?;
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
    match even(shapes, path, layers, width) {
        Some(ratio) => config.mlp_ratio = ratio,
        None => config.blocks = Some(shapes.blocks(path, layers, config.head_width)),
    }
    Ok(config)
}

fn resnet(shapes: &Shapes<'_>) -> Result<VisionConfig> {
    let [width, ..] = shapes.need::<4>("visual.layer1.0.conv1.weight")?;
    let positions = "visual.attnpool.positional_embedding";
    let grid = side(positions, shapes.need::<2>(positions)?[0] - 1)?;
    Ok(VisionConfig {
        image_size: grid * 32,
        layers: Layers::Stages([1, 2, 3, 4].map(|stage| shapes.depth(&format!("visual.layer{stage}.")))),
        width,
        patch_size: None,
        ..VisionConfig::default()
    })
}

/// SigLIP's image tower, by the name that timm gives to its dimensions.
fn siglip_vit(shapes: &Shapes<'_>) -> Result<VisionConfig> {
    let [width, _, patch, _] = shapes.need("visual.trunk.patch_embed.proj.weight")?;
    let positions = "visual.trunk.pos_embed";
    let grid = side(positions, shapes.need::<3>(positions)?[1])?;
    let depth = shapes.depth("visual.trunk.blocks.");
    siglip_config(width, depth, patch, grid.saturating_mul(patch))
        .ok_or_else(|| Error::config(NAME, format!("no SigLIP tower has {depth} blocks of width {width}")))
}

/// The configuration of SigLIP's image tower of these dimensions.
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

/// The pruned configuration of weights that were cut out of a model of `config` (TinyCLIP): widths, heads
/// and MLP widths by their shapes, left-out branches by their missing names.
///
/// # Errors
/// [`Error::Config`] where a dimension is larger than in `config`, so that the weights are none of its.
pub fn adapt_config(config: &ClipConfig, weights: &HashMap<String, Tensor>) -> Result<ClipConfig> {
    let shapes = Shapes(weights);
    let mut adapted = config.clone();
    let prefix = text_prefix(&shapes);
    adapted.custom_text = config.custom_text;
    {
        let text = &mut adapted.text_cfg;
        let head_width = config.text_cfg.head_width();
        let [_, width] = shapes.need(&format!("{prefix}token_embedding.weight"))?;
        text.width = smaller("text width", width, text.width)?;
        let path = format!("{prefix}transformer.resblocks.");
        smaller("text layers", shapes.depth(&path), text.layers)?;
        let blocks = shapes.blocks(&path, text.layers, head_width);
        for block in &blocks {
            smaller("text heads", block.heads, config.text_cfg.heads)?;
            smaller("text mlp_width", block.mlp_width, config.text_cfg.mlp_width())?;
        }
        if same(&blocks, width / head_width, text.mlp_width()) && width % head_width == 0 {
            text.heads = width / head_width;
            text.blocks = None;
        } else {
            text.head_width = Some(head_width);
            text.blocks = Some(blocks);
        }
    }
    if config.vision_cfg.tower() == TowerKind::Vit
        && let Layers::Depth(layers) = config.vision_cfg.layers
    {
        let vision = &mut adapted.vision_cfg;
        let [width, ..] = shapes.need::<4>("visual.conv1.weight")?;
        let (full_mlp, full_heads) = (vision.mlp_width(), vision.heads());
        let head_width =
            if vision.blocks.is_some() { vision.head_width } else { vision.width / full_heads.max(1) };
        vision.width = smaller("vision width", width, vision.width)?;
        let path = "visual.transformer.resblocks.";
        smaller("vision layers", shapes.depth(path), layers)?;
        let blocks = shapes.blocks(path, layers, head_width);
        for block in &blocks {
            smaller("vision heads", block.heads, full_heads)?;
            smaller("vision mlp_width", block.mlp_width, full_mlp)?;
        }
        vision.head_width = head_width;
        let whole = same(&blocks, width / head_width, vision.mlp_width()) && width % head_width == 0;
        vision.blocks = (!whole).then_some(blocks);
    }
    let projection = format!("{prefix}text_projection");
    if let Some([_, embed_dim]) = shapes.get(&projection) {
        adapted.embed_dim = smaller("embed_dim", embed_dim, config.embed_dim)?;
    }
    adapted.validate("pruned")?;
    Ok(adapted)
}

fn same(blocks: &[PrunedBlock], heads: i64, mlp_width: i64) -> bool {
    blocks.iter().all(|block| *block == PrunedBlock { heads, mlp_width })
}

fn smaller(what: &str, found: i64, whole: i64) -> Result<i64> {
    if (0..=whole).contains(&found) {
        return Ok(found);
    }
    Err(Error::config(
        "pruned",
        format!("{what} of the weights is {found}, more than the {whole} of the configuration: name another"),
    ))
}

/// Whether some block of the weights lacks a branch or differs from the others, as only pruning leaves it.
pub(crate) fn is_uneven(weights: &HashMap<String, Tensor>) -> bool {
    let shapes = Shapes(weights);
    [format!("{}transformer.resblocks.", text_prefix(&shapes)), "visual.transformer.resblocks.".into()]
        .iter()
        .map(|path| shapes.blocks(path, shapes.depth(path), 1))
        .any(|blocks| {
            blocks.iter().any(|block| block != &blocks[0] || block.heads == 0 || block.mlp_width == 0)
        })
}
