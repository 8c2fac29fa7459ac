//! Multi-head self-attention with query, key and value in one matrix.

use tch::Tensor;

use crate::Result;
use crate::layers::Linear;
use crate::mode::Mode;
use crate::params::{Init, ParamBuilder};

/// Dimensions and initialisation of a self-attention layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionConfig {
    /// Input and output channels.
    pub(crate) width: i64,
    /// Attention heads.
    pub(crate) heads: i64,
    /// Channels of one head. In a pruned tower, heads * head_width is below the width.
    pub(crate) head_width: i64,
    /// Causal attention: a token attends only to itself and to earlier tokens.
    pub(crate) causal: bool,
    /// Initialisation of the query, key and value matrix.
    pub(crate) in_proj: Init,
    /// Initialisation of the output matrix.
    pub(crate) out_proj: Init,
}

/// Multi-head self-attention over `[batch, seq, width]`.
#[derive(Debug)]
pub(crate) struct Attention {
    in_proj_weight: Tensor, // [3 * heads * head_width, width]
    in_proj_bias: Tensor,   // [3 * heads * head_width]
    out_proj: Linear,
    config: AttentionConfig,
    mode: Mode,
}

impl Attention {
    /// Creates a layer under `path` with the parameter names of torch's `nn.MultiheadAttention`.
    pub(crate) fn clip(path: &ParamBuilder<'_>, config: AttentionConfig) -> Result<Self> {
        Self::named(path, config, ["in_proj_weight", "in_proj_bias", "out_proj"])
    }

    /// Creates a layer under `path` with timm's parameter names.
    pub(crate) fn timm(path: &ParamBuilder<'_>, config: AttentionConfig) -> Result<Self> {
        Self::named(path, config, ["qkv.weight", "qkv.bias", "proj"])
    }

    fn named(
        path: &ParamBuilder<'_>,
        config: AttentionConfig,
        [weight, bias, out]: [&str; 3],
    ) -> Result<Self> {
        let AttentionConfig { width, in_proj, out_proj, .. } = config;
        let (inner, zero) = (config.heads * config.head_width, Init::Constant(0.0));
        Self::count_attention_macs(path, inner);
        Ok(Attention {
            in_proj_weight: path.weight(weight, &[3 * inner, width], in_proj)?,
            in_proj_bias: path.parameter(bias, &[3 * inner], zero)?,
            out_proj: Linear::new(&path.child(out), inner, width, out_proj, zero)?,
            config,
            mode: path.mode().0,
        })
    }

    /// Counts the products of queries with keys, and of attention weights with values.
    fn count_attention_macs(path: &ParamBuilder<'_>, inner: i64) {
        path.count_macs(path.positions().saturating_mul(path.positions()).saturating_mul(2 * inner));
    }

    /// Applies self-attention with an optional attention bias `[batch or 1, heads, seq, seq]`. Input and output are
    /// `[batch, seq, width]`.
    pub(crate) fn forward_with_bias(&self, xs: &Tensor, bias: Option<&Tensor>) -> Tensor {
        self.forward_gated(xs, bias, None)
    }

    /// Applies self-attention with an optional attention bias and an optional gate per head, `[heads]`.
    pub(crate) fn forward_gated(&self, xs: &Tensor, bias: Option<&Tensor>, gates: Option<&Tensor>) -> Tensor {
        let (batch, seq) = (xs.size()[0], xs.size()[1]);
        let AttentionConfig { heads, head_width, causal, .. } = self.config;
        let operand = |tensor: &Tensor| self.mode.operand(tensor);
        let qkv = self
            .mode
            .linear(xs, &self.in_proj_weight, Some(&self.in_proj_bias))
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
