//! SigLIP's ViT (Zhai et al. 2023): without class token or norm before the blocks, with attention pooling.

use tch::Tensor;

use super::drop_path_rates;
use crate::Result;
use crate::activation::Activation;
use crate::block::{BlockConfig, BlockInit, Naming, ResidualAttentionBlock};
use crate::layers::{LayerNorm, Linear, Mlp, TIMM_MLP};
use crate::mode::Mode;
use crate::params::{Init, ParamBuilder};
use crate::tape::Tape;

const EPS: f64 = 1e-6;

/// Dimensions of a SigLIP image tower.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SiglipVit {
    /// Channels of the residual stream.
    pub(crate) width: i64,
    /// Number of transformer blocks.
    pub(crate) depth: i64,
    /// Number of attention heads.
    pub(crate) heads: i64,
    /// MLP inner channels.
    pub(crate) mlp_width: i64,
    /// Patch size: side of a square patch in pixels.
    pub(crate) patch: i64,
    /// Activation of the MLPs.
    pub(crate) activation: Activation,
}

impl SiglipVit {
    /// Parses a timm name such as `vit_base_patch16_siglip_224`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (size, rest) = name.strip_prefix("vit_")?.split_once("_patch")?;
        let (patch, resolution) = rest.split_once("_siglip_")?;
        let (patch, resolution) = (patch.parse::<i64>().ok()?, resolution.parse::<i64>().ok()?);
        if ![14, 16, 32].contains(&patch) || !(patch..=4096).contains(&resolution) {
            return None;
        }
        let (width, depth, heads, ratio) = match size {
            "base" => (768, 12, 12, 4.0),
            "large" => (1024, 24, 16, 4.0),
            "so400m" => (1152, 27, 16, 3.7362),
            "giantopt" => (1536, 40, 16, 4.0),
            _ => return None,
        };
        // The second generation of checkpoints was trained with the tanh approximation.
        let approximate = matches!((size, patch), ("base", 32) | ("so400m", 16) | ("giantopt", _));
        let activation = if approximate { Activation::GeluTanh } else { Activation::Gelu };
        let mlp_width = (width as f64 * ratio) as i64;
        Some(SiglipVit { width, depth, heads, mlp_width, patch, activation })
    }
}

/// SigLIP's ViT: maps images to features.
#[derive(Debug)]
pub(super) struct SiglipTower {
    patch_embed: Tensor, // [width, 3, patch, patch]
    patch_bias: Tensor,  // [width]
    pos_embed: Tensor,   // [1, grid², width]
    blocks: Vec<ResidualAttentionBlock>,
    norm: LayerNorm,
    attn_pool: AttentionPoolLatent,
    patch: i64,
    mode: Mode,
}

impl SiglipTower {
    pub(super) fn new(path: &ParamBuilder<'_>, vit: SiglipVit, side: i64, drop_path: f64) -> Result<Self> {
        let SiglipVit { width, depth, heads, mlp_width, patch, activation } = vit;
        let grid = side / patch;
        let (tokens, init) = (grid * grid, Init::Normal(0.02));
        let config = BlockConfig {
            width,
            heads,
            head_width: width / heads,
            mlp_width,
            causal: false,
            activation,
            eps: EPS,
            layer_scale: None,
            drop_path: 0.0,
            init: BlockInit { in_proj: init, out_proj: init, fc: init, proj: init },
        };
        let proj = path.child("patch_embed").child("proj");
        let patch_init = Init::fan_in(3 * patch * patch);
        Ok(SiglipTower {
            pos_embed: path.parameter("pos_embed", &[1, tokens, width], init)?,
            patch_embed: proj.at_positions(tokens).weight("weight", &[width, 3, patch, patch], patch_init)?,
            patch_bias: proj.parameter("bias", &[width], patch_init)?,
            blocks: (0..depth)
                .zip(drop_path_rates(drop_path, depth as usize))
                .map(|(index, drop_path)| {
                    let path = path.child("blocks").child(index).at_positions(tokens);
                    ResidualAttentionBlock::new(&path, Naming::Timm, &BlockConfig { drop_path, ..config })
                })
                .collect::<Result<_>>()?,
            norm: LayerNorm::new(&path.child("norm"), width, EPS)?,
            attn_pool: AttentionPoolLatent::new(&path.child("attn_pool"), vit, tokens)?,
            patch,
            mode: path.mode().0,
        })
    }

    /// Maps images `[batch, 3, size, size]` to features `[batch, width]`.
    pub(super) fn forward<'a>(&'a self, images: &Tensor, tape: &mut Tape<'a>) -> Tensor {
        let [images, weight, bias] =
            [images, &self.patch_embed, &self.patch_bias].map(|tensor| self.mode.operand(tensor));
        let patches = images
            .conv2d(&weight, Some(&bias), [self.patch, self.patch], [0, 0], [1, 1], 1)
            .flatten(2, 3)
            .transpose(1, 2); // [batch, grid², width]
        let tokens = self
            .blocks
            .iter()
            .fold(patches + &self.pos_embed, |xs, block| tape.run(xs, |xs| block.forward(xs)));
        self.attn_pool.forward(&self.norm.forward(&tokens))
    }
}

/// Attention pooling with one learned query, followed by an MLP.
#[derive(Debug)]
struct AttentionPoolLatent {
    latent: Tensor, // [1, 1, width]
    q: Linear,
    kv: Linear,
    proj: Linear,
    norm: LayerNorm,
    mlp: Mlp,
    heads: i64,
}

impl AttentionPoolLatent {
    fn new(path: &ParamBuilder<'_>, vit: SiglipVit, tokens: i64) -> Result<Self> {
        let SiglipVit { width, heads, mlp_width, activation, .. } = vit;
        path.count_macs(2 * tokens * width);
        let (init, zero) = (Init::Normal(0.02), Init::Constant(0.0));
        let linear = |name: &str, positions: i64, output: i64| {
            Linear::new(&path.child(name).at_positions(positions), width, output, init, zero)
        };
        Ok(AttentionPoolLatent {
            latent: path.parameter("latent", &[1, 1, width], Init::Normal((width as f64).powf(-0.5)))?,
            q: linear("q", 1, width)?,
            kv: linear("kv", tokens, 2 * width)?,
            proj: linear("proj", 1, width)?,
            norm: LayerNorm::new(&path.child("norm"), width, EPS)?,
            mlp: Mlp::new(&path.child("mlp"), TIMM_MLP, width, mlp_width, activation, [init, init])?,
            heads,
        })
    }

    /// Pools `[batch, tokens, width]` to `[batch, width]`.
    fn forward(&self, xs: &Tensor) -> Tensor {
        let (batch, tokens, width) = xs.size3().unwrap_or_default();
        let head_width = width / self.heads;
        // All samples share the query.
        let query = self
            .q
            .forward(&self.latent)
            .view([1, 1, self.heads, head_width])
            .transpose(1, 2)
            .expand([batch, self.heads, 1, head_width], false);
        let kv =
            self.kv.forward(xs).view([batch, tokens, 2, self.heads, head_width]).permute([2, 0, 3, 1, 4]);
        let mixed = Tensor::scaled_dot_product_attention(
            &query,
            &kv.select(0, 0),
            &kv.select(0, 1),
            None::<&Tensor>,
            0.0,
            false,
            None,
            false,
        );
        let pooled = self.proj.forward(&mixed.transpose(1, 2).reshape([batch, width]));
        let mixed = self.mlp.forward(&self.norm.forward(&pooled));
        pooled + mixed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timm_names_are_parsed() {
        let base = SiglipVit::parse("vit_base_patch16_siglip_224").unwrap();
        assert_eq!((base.width, base.mlp_width, base.activation), (768, 3072, Activation::Gelu));
        let so400m = SiglipVit::parse("vit_so400m_patch14_siglip_384").unwrap();
        assert_eq!((so400m.width, so400m.mlp_width, so400m.depth), (1152, 4304, 27));
        for other in
            ["vit_base_patch16_224", "vit_base_patchx_siglip_224", "vit_tiny_patch16_siglip_224", "resnet50"]
        {
            assert!(SiglipVit::parse(other).is_none(), "{other}");
        }
    }
}
