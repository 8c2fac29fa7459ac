//! The residual attention block and the stack of them.

use tch::Tensor;

use crate::Result;
use crate::activation::Activation;
use crate::attention::{Attention, AttentionConfig};
use crate::config::PrunedBlock;
use crate::gates::{Part, TowerGates};
use crate::layers::{CLIP_MLP, DropPath, LayerNorm, LayerScale, Mlp, MlpNames, TIMM_MLP};
use crate::params::{Builder, Init};
use crate::tape::Tape;

/// Dimensions of a block.
#[derive(Clone, Copy, Debug)]
pub struct BlockConfig {
    /// Channels of the residual stream.
    pub width: i64,
    /// Attention heads.
    pub heads: i64,
    /// Channels of one head.
    pub head_width: i64,
    /// MLP inner channels.
    pub mlp_width: i64,
    /// Whether a token sees only itself and earlier ones.
    pub causal: bool,
    /// The MLP's nonlinearity.
    pub activation: Activation,
    /// Summand under the root of the norms.
    pub eps: f64,
    /// Start of the learned factor per channel on the branches; `None` leaves it out.
    pub layer_scale: Option<f64>,
    /// Probability that a sample leaves out a branch while training.
    pub drop_path: f64,
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

/// Whose names the parts of a block have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// OpenAI and open_clip: `ln_1`, `attn.in_proj_weight`, `mlp.c_fc`.
    Clip,
    /// timm: `norm1`, `attn.qkv.weight`, `mlp.fc1`.
    Timm,
}

/// Pre-norm attention and MLP, each with a residual connection; a pruned block may lack either.
#[derive(Debug)]
pub struct ResidualAttentionBlock {
    attention: Option<Branch<Attention>>,
    mlp: Option<Branch<Mlp>>,
}

/// What is added to the residual stream.
#[derive(Debug)]
struct Branch<T> {
    norm: LayerNorm,
    layer: T,
    scale: Option<LayerScale>,
    drop_path: DropPath,
}

impl<T> Branch<T> {
    /// Adds the branch to the stream; under gates the norm sees the `kept` channels, and the branch has a factor
    /// per channel.
    fn add(
        &self,
        xs: &Tensor,
        kept: Option<&Tensor>,
        factors: Option<Tensor>,
        forward: impl Fn(&T, &Tensor) -> Tensor,
    ) -> Tensor {
        let mixed = forward(&self.layer, &self.norm.forward_over(xs, kept));
        let mixed = match &self.scale {
            Some(scale) => scale.forward(mixed),
            None => mixed,
        };
        let mixed = match factors {
            Some(factors) => mixed * factors,
            None => mixed,
        };
        xs + self.drop_path.forward(mixed)
    }
}

impl ResidualAttentionBlock {
    /// A new block under `path`.
    pub fn new(path: &Builder<'_>, naming: Naming, config: &BlockConfig) -> Result<Self> {
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

    /// `[batch, seq, width]` in and out.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        self.run(xs, None, None)
    }

    /// The same with a summand on the attention products, as [`Attention::masked`] takes it.
    pub fn masked(&self, xs: &Tensor, bias: Option<&Tensor>) -> Tensor {
        self.run(xs, bias, None)
    }

    /// The same under the gates of its tower, in which it is the block of this number.
    pub fn gated(&self, xs: &Tensor, gates: Option<&TowerGates>, layer: usize) -> Tensor {
        self.run(xs, None, gates.map(|gates| (gates, layer)))
    }

    fn run(&self, xs: &Tensor, bias: Option<&Tensor>, gates: Option<(&TowerGates, usize)>) -> Tensor {
        let kept = gates.and_then(|(gates, _)| gates.kept());
        let of = |part| gates.map(|(gates, layer)| gates.of(part, layer));
        let factors = |part| gates.map(|(gates, layer)| gates.branch(part, layer));
        let xs = match &self.attention {
            Some(branch) => {
                let own = of(Part::Heads);
                branch.add(xs, kept, factors(Part::Attention), |attention, xs| {
                    attention.mix(xs, bias, own.as_ref())
                })
            }
            None => xs.shallow_clone(),
        };
        match &self.mlp {
            Some(branch) => {
                let own = of(Part::Mlp);
                branch.add(&xs, kept, factors(Part::WholeMlp), |mlp, xs| match &own {
                    Some(own) => mlp.gated(xs, own),
                    None => mlp.forward(xs),
                })
            }
            None => xs,
        }
    }
}

/// A stack of blocks, named `resblocks.0`, `resblocks.1`, ….
#[derive(Debug)]
pub struct Transformer {
    resblocks: Vec<ResidualAttentionBlock>,
}

impl Transformer {
    /// A new stack under `path`; `pruned` gives heads and MLP width of each block where they differ.
    pub fn new(
        path: &Builder<'_>,
        layers: i64,
        config: &BlockConfig,
        pruned: Option<&[PrunedBlock]>,
    ) -> Result<Self> {
        let blocks = path.child("resblocks");
        let resblocks = (0..layers)
            .map(|layer| {
                let own = match pruned.and_then(|blocks| blocks.get(layer as usize)) {
                    Some(block) => BlockConfig { heads: block.heads, mlp_width: block.mlp_width, ..*config },
                    None => *config,
                };
                ResidualAttentionBlock::new(&blocks.child(layer), Naming::Clip, &own)
            })
            .collect::<Result<_>>()?;
        Ok(Transformer { resblocks })
    }

    /// `[batch, seq, width]` in and out, under gates where there are some; `visit` sees the number of each block with
    /// what it gives.
    pub fn visited<'a>(
        &'a self,
        xs: Tensor,
        gates: Option<&'a TowerGates>,
        tape: &mut Tape<'a>,
        mut visit: impl FnMut(usize, &Tensor),
    ) -> Tensor {
        self.resblocks.iter().enumerate().fold(xs, |xs, (layer, block)| {
            let xs = tape.run(xs, move |xs| block.gated(xs, gates, layer));
            visit(layer, &xs);
            xs
        })
    }

    /// Number of blocks.
    pub fn depth(&self) -> usize {
        self.resblocks.len()
    }
}
