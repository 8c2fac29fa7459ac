//! The residual attention block and the stack of them.

use tch::Tensor;

use crate::Result;
use crate::attention::Attention;
use crate::config::Activation;
use crate::layers::{LayerNorm, Mlp};
use crate::params::{Builder, Init};

/// Dimensions of a stack of blocks.
#[derive(Clone, Copy, Debug)]
pub struct BlockConfig {
    /// Channels of the residual stream.
    pub width: i64,
    /// Attention heads.
    pub heads: i64,
    /// MLP inner channels.
    pub mlp_width: i64,
    /// Whether a token sees only itself and earlier ones.
    pub causal: bool,
    /// The MLPs' nonlinearity.
    pub activation: Activation,
    /// How the weight matrices start.
    pub init: BlockInit,
}

/// How the weight matrices of a block start.
#[derive(Clone, Copy, Debug)]
pub struct BlockInit {
    /// Query, key and value.
    pub in_proj: Init,
    /// Attention output.
    pub out_proj: Init,
    /// First MLP matrix.
    pub fc: Init,
    /// Second MLP matrix.
    pub proj: Init,
}

/// Pre-norm attention and MLP, each with a residual connection.
#[derive(Debug)]
pub struct ResidualAttentionBlock {
    ln_1: LayerNorm,
    attn: Attention,
    ln_2: LayerNorm,
    mlp: Mlp,
}

impl ResidualAttentionBlock {
    /// A new block under `path`.
    pub fn new(path: &Builder<'_>, config: &BlockConfig) -> Result<Self> {
        let BlockConfig { width, heads, mlp_width, causal, activation, init } = *config;
        Ok(ResidualAttentionBlock {
            ln_1: LayerNorm::new(&path.child("ln_1"), width)?,
            attn: Attention::new(&path.child("attn"), width, heads, causal, init.in_proj, init.out_proj)?,
            ln_2: LayerNorm::new(&path.child("ln_2"), width)?,
            mlp: Mlp::new(&path.child("mlp"), width, mlp_width, activation, init.fc, init.proj)?,
        })
    }

    /// `[batch, seq, width]` in and out.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        let xs = xs + self.attn.forward(&self.ln_1.forward(xs));
        let mixed = self.mlp.forward(&self.ln_2.forward(&xs));
        xs + mixed
    }
}

/// A stack of blocks, named `resblocks.0`, `resblocks.1`, ….
#[derive(Debug)]
pub struct Transformer {
    resblocks: Vec<ResidualAttentionBlock>,
}

impl Transformer {
    /// A new stack under `path`.
    pub fn new(path: &Builder<'_>, layers: i64, config: &BlockConfig) -> Result<Self> {
        let blocks = path.child("resblocks");
        let resblocks = (0..layers)
            .map(|layer| ResidualAttentionBlock::new(&blocks.child(layer), config))
            .collect::<Result<_>>()?;
        Ok(Transformer { resblocks })
    }

    /// `[batch, seq, width]` in and out.
    pub fn forward(&self, xs: Tensor) -> Tensor {
        self.resblocks.iter().fold(xs, |xs, block| block.forward(&xs))
    }
}
