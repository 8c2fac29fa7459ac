//! Residual attention blocks and the transformer that stacks them.

use tch::Tensor;
use torch_ext::linear::Front;

use crate::Result;
use crate::activation::Activation;
use crate::attention::{Attention, AttentionConfig};
use crate::config::PrunedBlock;
use crate::gates::{Part, TowerGates};
use crate::layers::{CLIP_MLP, DropPath, LayerNorm, LayerScale, Mlp, MlpNames, TIMM_MLP};
use crate::params::{Init, ParamBuilder};
use crate::pooled_token::PooledToken;
use crate::tape::Tape;

/// Dimensions of a residual attention block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockConfig {
    /// Channels of the residual stream.
    pub(crate) width: i64,
    /// Attention heads.
    pub(crate) heads: i64,
    /// Channels of one head.
    pub(crate) head_width: i64,
    /// MLP inner channels.
    pub(crate) mlp_width: i64,
    /// Causal attention: a token attends only to itself and to earlier tokens.
    pub(crate) causal: bool,
    /// Activation of the MLP.
    pub(crate) activation: Activation,
    /// Epsilon of the norms.
    pub(crate) eps: f64,
    /// Initial value of layer scale on the residual branches; `None` for no layer scale.
    pub(crate) layer_scale: Option<f64>,
    /// Stochastic depth: probability that a sample skips a branch in training.
    pub(crate) drop_path: f64,
    /// Initialisation of the weight matrices.
    pub(crate) init: BlockInit,
}

/// Initialisation of a block's weight matrices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockInit {
    /// Query, key and value.
    pub(crate) in_proj: Init,
    /// Attention output.
    pub(crate) out_proj: Init,
    /// First MLP matrix.
    pub(crate) fc: Init,
    /// Second MLP matrix.
    pub(crate) proj: Init,
}

/// Naming scheme of a block's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// OpenAI and open_clip: `ln_1`, `attn.in_proj_weight`, `mlp.c_fc`.
    Clip,
    /// timm: `norm1`, `attn.qkv.weight`, `mlp.fc1`.
    Timm,
}

/// Pre-norm attention and MLP, each with a residual connection. A pruned block may lack either.
#[derive(Debug)]
pub(crate) struct ResidualAttentionBlock {
    attention: Option<Branch<Attention>>,
    mlp: Option<Branch<Mlp>>,
}

/// A residual branch: norm, layer, layer scale and stochastic depth.
#[derive(Debug)]
struct Branch<T> {
    norm: LayerNorm,
    layer: T,
    scale: Option<LayerScale>,
    drop_path: DropPath,
}

impl<T> Branch<T> {
    /// Adds the output of the branch for `xs` to the residual stream `residual`. With gates, the norm uses only the
    /// `kept` channels, and `factors` scale the output per channel.
    fn add(
        &self,
        residual: &Tensor,
        xs: &Tensor,
        kept: Option<&Tensor>,
        factors: Option<Tensor>,
        forward: impl Fn(&T, &Tensor, Front<'_>) -> Tensor,
    ) -> Tensor {
        let mixed = match kept {
            Some(_) => forward(&self.layer, &self.norm.forward_channels(xs, kept), Front::Nothing),
            None => forward(&self.layer, xs, self.norm.front()),
        };
        let mixed = match &self.scale {
            Some(scale) => scale.forward(mixed),
            None => mixed,
        };
        let mixed = match factors {
            Some(factors) => mixed * factors,
            None => mixed,
        };
        residual + self.drop_path.forward(mixed)
    }
}

impl ResidualAttentionBlock {
    /// Creates a block under `path`.
    pub(crate) fn new(path: &ParamBuilder<'_>, naming: Naming, config: &BlockConfig) -> Result<Self> {
        let BlockConfig { width, heads, head_width, mlp_width, causal, activation, eps, init, .. } = *config;
        let [norm1, scale1, norm2, scale2] = match naming {
            Naming::Clip => ["ln_1", "ls_1", "ln_2", "ls_2"],
            Naming::Timm => ["norm1", "ls1", "norm2", "ls2"],
        };
        let attention = AttentionConfig {
            width,
            heads,
            head_width,
            causal,
            in_proj: init.in_proj,
            out_proj: init.out_proj,
        };
        let mlp: MlpNames = if naming == Naming::Clip { CLIP_MLP } else { TIMM_MLP };
        Ok(ResidualAttentionBlock {
            attention: (heads > 0)
                .then(|| -> Result<_> {
                    Ok(Branch {
                        norm: LayerNorm::new(&path.child(norm1), width, eps)?,
                        layer: match naming {
                            Naming::Clip => Attention::clip(&path.child("attn"), attention)?,
                            Naming::Timm => Attention::timm(&path.child("attn"), attention)?,
                        },
                        scale: LayerScale::new(&path.child(scale1), width, config.layer_scale)?,
                        drop_path: DropPath::new(&path.child("attn"), config.drop_path),
                    })
                })
                .transpose()?,
            mlp: (mlp_width > 0)
                .then(|| -> Result<_> {
                    let inits = [init.fc, init.proj];
                    Ok(Branch {
                        norm: LayerNorm::new(&path.child(norm2), width, eps)?,
                        layer: Mlp::new(&path.child("mlp"), mlp, width, mlp_width, activation, inits)?,
                        scale: LayerScale::new(&path.child(scale2), width, config.layer_scale)?,
                        drop_path: DropPath::new(&path.child("mlp"), config.drop_path),
                    })
                })
                .transpose()?,
        })
    }

    /// Applies the block; input and output are `[batch, seq, width]`.
    pub(crate) fn forward(&self, xs: &Tensor) -> Tensor {
        self.forward_gated(xs, None, 0)
    }

    /// Applies the block with the gates of its tower; `layer` is its index in the tower.
    pub(crate) fn forward_gated(&self, xs: &Tensor, gates: Option<&TowerGates>, layer: usize) -> Tensor {
        self.forward_for(xs, None, gates, layer)
    }

    /// Computes the block's output for the pooled token only: `[batch, seq, width]` to `[batch, 1, width]`.
    fn forward_token(
        &self,
        xs: &Tensor,
        token: &PooledToken,
        gates: Option<&TowerGates>,
        layer: usize,
    ) -> Tensor {
        self.forward_for(xs, Some(token), gates, layer)
    }

    fn forward_for(
        &self,
        xs: &Tensor,
        token: Option<&PooledToken>,
        gates: Option<&TowerGates>,
        layer: usize,
    ) -> Tensor {
        let kept = gates.and_then(TowerGates::kept_channels);
        let block_gates = |part| gates.map(|gates| gates.block(part, layer));
        let factors = |part| gates.map(|gates| gates.branch(part, layer));
        let residual = match token {
            Some(token) => token.select(xs),
            None => xs.shallow_clone(),
        };
        let xs =
            match &self.attention {
                Some(branch) => {
                    let head_gates = block_gates(Part::Heads);
                    branch.add(&residual, xs, kept, factors(Part::Attention), |attention, xs, front| {
                        match token {
                            Some(token) => attention.forward_token(xs, front, token, head_gates.as_ref()),
                            None => attention.forward_behind(xs, front, head_gates.as_ref()),
                        }
                    })
                }
                None => residual,
            };
        match &self.mlp {
            Some(branch) => {
                let channel_gates = block_gates(Part::Mlp);
                branch.add(&xs, &xs, kept, factors(Part::WholeMlp), |mlp, xs, front| {
                    mlp.forward_behind(xs, front, channel_gates.as_ref())
                })
            }
            None => xs,
        }
    }
}

/// A stack of residual attention blocks, named `resblocks.0`, `resblocks.1`, ….
#[derive(Debug)]
pub(crate) struct Transformer {
    resblocks: Vec<ResidualAttentionBlock>,
}

impl Transformer {
    /// Creates a stack under `path`. `pruned` lists the heads and MLP width of each block of a pruned tower.
    pub(crate) fn new(
        path: &ParamBuilder<'_>,
        layers: i64,
        config: &BlockConfig,
        pruned: Option<&[PrunedBlock]>,
    ) -> Result<Self> {
        let blocks = path.child("resblocks");
        let resblocks = (0..layers)
            .map(|layer| {
                let config = match pruned.and_then(|blocks| blocks.get(layer as usize)) {
                    Some(block) => BlockConfig { heads: block.heads, mlp_width: block.mlp_width, ..*config },
                    None => *config,
                };
                ResidualAttentionBlock::new(&blocks.child(layer), Naming::Clip, &config)
            })
            .collect::<Result<_>>()?;
        Ok(Transformer { resblocks })
    }

    /// Applies all blocks, with optional pruning gates. Input and output are `[batch, seq, width]`. `visit` receives
    /// the index and output of each block.
    pub(crate) fn forward<'a>(
        &'a self,
        xs: Tensor,
        gates: Option<&'a TowerGates>,
        tape: &mut Tape<'a>,
        mut visit: impl FnMut(usize, &Tensor),
    ) -> Tensor {
        self.resblocks.iter().enumerate().fold(xs, |xs, (layer, block)| {
            let xs = tape.run(xs, move |xs| block.forward_gated(xs, gates, layer));
            visit(layer, &xs);
            xs
        })
    }

    /// Applies all blocks and returns the state of the pooled token, `[batch, seq, width]` to `[batch, width]`. The last
    /// block computes this token only.
    pub(crate) fn forward_token<'a>(
        &'a self,
        xs: Tensor,
        token: PooledToken,
        gates: Option<&'a TowerGates>,
        tape: &mut Tape<'a>,
    ) -> Tensor {
        let Some((last, blocks)) = self.resblocks.split_last() else {
            return token.select(&xs).squeeze_dim(1);
        };
        let xs = blocks
            .iter()
            .enumerate()
            .fold(xs, |xs, (layer, block)| tape.run(xs, move |xs| block.forward_gated(xs, gates, layer)));
        tape.run(xs, move |xs| last.forward_token(xs, &token, gates, blocks.len())).squeeze_dim(1)
    }

    /// Returns the number of blocks.
    pub(crate) fn depth(&self) -> usize {
        self.resblocks.len()
    }
}
