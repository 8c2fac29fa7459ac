//! Multi-head self-attention with query, key and value in one matrix.

use std::ops::Range;

use tch::{Device, Tensor};
use torch_ext::attention::attention;
use torch_ext::linear::{Front, linear};

use crate::Result;
use crate::layers::Linear;
use crate::mode::Mode;
use crate::params::{Init, ParamBuilder};
use crate::pooled_token::PooledToken;

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
        let qkv = self.queries_keys_values(xs, Front::Nothing);
        self.out_proj.forward(&self.mixed(&qkv, bias))
    }

    /// Applies self-attention to `front(xs)`, with an optional gate per head, `[heads]`. Input and output are
    /// `[batch, seq, width]`.
    pub(crate) fn forward_behind(&self, xs: &Tensor, front: Front<'_>, gates: Option<&Tensor>) -> Tensor {
        let AttentionConfig { heads, causal, .. } = self.config;
        let qkv = self.queries_keys_values(xs, front);
        let mixed = match qkv.device() {
            Device::Cpu if qkv.numel() > 0 => attention(&qkv, heads, causal),
            _ => self.mixed(&qkv, None),
        };
        self.out_proj.forward(&self.gated(mixed, gates))
    }

    /// Returns what [`Attention::forward_behind`] returns for the pooled token, `[batch, 1, width]`.
    pub(crate) fn forward_token(
        &self,
        xs: &Tensor,
        front: Front<'_>,
        token: &PooledToken,
        gates: Option<&Tensor>,
    ) -> Tensor {
        let AttentionConfig { heads, head_width, causal, .. } = self.config;
        let (batch, seq, inner) = (xs.size()[0], xs.size()[1], heads * head_width);
        let project = |xs: &Tensor, parts: Range<i64>| {
            let [start, rows] = [parts.start * inner, (parts.end - parts.start) * inner];
            let [weight, bias] =
                [&self.in_proj_weight, &self.in_proj_bias].map(|all| all.narrow(0, start, rows));
            linear(xs, front, &weight, Some(&bias), self.mode.operand_kind())
        };
        let query = project(&token.select(xs), 0..1).view([batch, 1, heads, head_width]).transpose(1, 2);
        let keys_values = project(xs, 1..3).view([batch, seq, 2, heads, head_width]);
        let parts = keys_values.permute([2, 0, 3, 1, 4]).unbind(0); // [batch, heads, seq, head width]
        let mask = if causal { token.causal_mask(seq, xs.device()) } else { None };
        let mixed =
            Tensor::scaled_dot_product_attention(&query, &parts[0], &parts[1], mask, 0.0, false, None, false) // [batch, heads, 1, head width]
                .transpose(1, 2)
                .reshape([batch, 1, inner]);
        self.out_proj.forward(&self.gated(mixed, gates))
    }

    /// Scales the output of each head, `[batch, seq, heads * head width]`.
    fn gated(&self, mixed: Tensor, gates: Option<&Tensor>) -> Tensor {
        let AttentionConfig { heads, head_width, .. } = self.config;
        match gates {
            Some(gates) => {
                let shape = [mixed.size()[0], mixed.size()[1], heads, head_width];
                (mixed.view(shape) * gates.view([heads, 1])).flatten(2, 3)
            }
            None => mixed,
        }
    }

    /// Returns the packed QKV tensor of `front(xs)`, `[batch, seq, 3 * heads * head width]`.
    fn queries_keys_values(&self, xs: &Tensor, front: Front<'_>) -> Tensor {
        linear(xs, front, &self.in_proj_weight, Some(&self.in_proj_bias), self.mode.operand_kind())
    }

    /// Returns the attention's output before the output projection, `[batch, seq, heads * head width]`.
    fn mixed(&self, qkv: &Tensor, bias: Option<&Tensor>) -> Tensor {
        let (batch, seq) = (qkv.size()[0], qkv.size()[1]);
        let AttentionConfig { heads, head_width, causal, .. } = self.config;
        let parts = qkv.view([batch, seq, 3, heads, head_width]).permute([2, 0, 3, 1, 4]).unbind(0);
        let bias = bias.map(|bias| self.mode.operand(bias));
        Tensor::scaled_dot_product_attention(&parts[0], &parts[1], &parts[2], bias, 0.0, causal, None, false)
            .transpose(1, 2)
            .reshape([batch, seq, heads * head_width])
    }
}
