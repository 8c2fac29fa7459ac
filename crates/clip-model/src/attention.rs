//! Multi-head self-attention (q, k and v in one matrix).

use tch::Tensor;

use crate::Result;
use crate::layers::Linear;
use crate::mode::Mode;
use crate::params::{Builder, Init};

/// Dimensions and start of a self-attention layer.
#[derive(Clone, Copy, Debug)]
pub struct AttentionConfig {
    /// Channels in and out.
    pub width: i64,
    /// Attention heads.
    pub heads: i64,
    /// Channels of one head; in a pruned tower heads * head_width is below the width.
    pub head_width: i64,
    /// Whether a token sees only itself and earlier ones.
    pub causal: bool,
    /// Start of query, key and value.
    pub in_proj: Init,
    /// Start of the output matrix.
    pub out_proj: Init,
}

/// Self-attention over `[batch, seq, width]`.
#[derive(Debug)]
pub struct Attention {
    in_proj_weight: Tensor, // [3 * heads * head_width, width]
    in_proj_bias: Tensor,   // [3 * heads * head_width]
    out_proj: Linear,
    config: AttentionConfig,
    mode: Mode,
}

impl Attention {
    /// A new layer under `path` with the names of torch's `nn.MultiheadAttention`.
    pub fn clip(path: &Builder<'_>, config: AttentionConfig) -> Result<Self> {
        Self::named(path, config, ["in_proj_weight", "in_proj_bias", "out_proj"])
    }

    /// A new layer under `path` with the names of timm.
    pub fn timm(path: &Builder<'_>, config: AttentionConfig) -> Result<Self> {
        Self::named(path, config, ["qkv.weight", "qkv.bias", "proj"])
    }

    fn named(path: &Builder<'_>, config: AttentionConfig, [weight, bias, out]: [&str; 3]) -> Result<Self> {
        let AttentionConfig { width, in_proj, out_proj, .. } = config;
        let (inner, zero) = (config.heads * config.head_width, Init::Constant(0.0));
        Self::count_products(path, inner);
        Ok(Attention {
            in_proj_weight: path.weight(weight, &[3 * inner, width], in_proj)?,
            in_proj_bias: path.parameter(bias, &[3 * inner], zero)?,
            out_proj: Linear::new(&path.child(out), inner, width, out_proj, zero)?,
            config,
            mode: path.mode().0,
        })
    }

    /// Queries times keys, and weights times values.
    fn count_products(path: &Builder<'_>, inner: i64) {
        path.spend(path.positions().saturating_mul(path.positions()).saturating_mul(2 * inner));
    }

    /// `[batch, seq, width]` in and out.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        self.masked(xs, None)
    }

    /// The same with a summand `[batch or 1, heads, seq, seq]` on the scaled products.
    pub fn masked(&self, xs: &Tensor, bias: Option<&Tensor>) -> Tensor {
        self.mix(xs, bias, None)
    }

    /// The same with a factor `[heads]` on what each head gives.
    pub(crate) fn mix(&self, xs: &Tensor, bias: Option<&Tensor>, gates: Option<&Tensor>) -> Tensor {
        let (batch, seq) = (xs.size()[0], xs.size()[1]);
        let AttentionConfig { heads, head_width, causal, .. } = self.config;
        let operand = |tensor: &Tensor| self.mode.operand(tensor);
        let qkv = operand(xs)
            .linear(&operand(&self.in_proj_weight), Some(operand(&self.in_proj_bias)))
            .view([batch, seq, 3, heads, head_width])
            .permute([2, 0, 3, 1, 4]); // [3, batch, heads, seq, head width]
        let (query, key, value) = (qkv.select(0, 0), qkv.select(0, 1), qkv.select(0, 2));
        let bias = bias.map(operand);
        let mixed =
            Tensor::scaled_dot_product_attention(&query, &key, &value, bias, 0.0, causal, None, false);
        let mixed = match gates {
            Some(gates) => mixed * gates.view([1, heads, 1, 1]),
            None => mixed,
        };
        self.out_proj.forward(&mixed.transpose(1, 2).reshape([batch, seq, heads * head_width]))
    }
}
