//! Cross-attention of one modality to the tokens of the other, followed by an MLP.

use tch::Tensor;

use super::{CrossModalConfig, EPS};
use crate::Result;
use crate::activation::Activation;
use crate::layers::{CLIP_MLP, LayerNorm, Linear, Mlp};
use crate::params::{Init, ParamBuilder};

/// Cross-attention and MLP of one modality in a layer of the head.
#[derive(Debug)]
pub(super) struct CrossAttention {
    query_norm: LayerNorm,
    key_norm: LayerNorm,
    query: Linear,
    key_value: Linear,
    output: Linear,
    mlp_norm: LayerNorm,
    mlp: Mlp,
    heads: i64,
}

impl CrossAttention {
    pub(super) fn new(path: &ParamBuilder<'_>, config: &CrossModalConfig, width: i64) -> Result<Self> {
        let (zero, init) = (Init::Constant(0.0), Init::xavier(width, width));
        let inner = ((width as f64 * config.mlp_ratio) as i64).max(1);
        let inits = [Init::fan_in(width), Init::fan_in(inner)];
        let norm = |name: &str| LayerNorm::new(&path.child(name), width, EPS);
        Ok(CrossAttention {
            query_norm: norm("ln_query")?,
            key_norm: norm("ln_key")?,
            query: Linear::new(&path.child("query"), width, width, init, zero)?,
            key_value: Linear::new(&path.child("key_value"), width, 2 * width, init, zero)?,
            output: Linear::new(&path.child("output"), width, width, init, zero)?,
            mlp_norm: norm("ln_mlp")?,
            mlp: Mlp::new(&path.child("mlp"), CLIP_MLP, width, inner, Activation::Gelu, inits)?,
            heads: config.heads,
        })
    }

    /// Lets `xs` `[batch, seq, width]` attend to `others` `[batch, other seq, width]`, with an optional attention
    /// bias `[batch, 1, 1, other seq]`.
    pub(super) fn forward(&self, xs: &Tensor, others: &Tensor, bias: Option<&Tensor>) -> Tensor {
        let [batch, seq, width] = [0, 1, 2].map(|axis| xs.size()[axis]);
        let (length, head) = (others.size()[1], width / self.heads);
        let query = self.query.forward(&self.query_norm.forward(xs));
        let query = query.view([batch, seq, self.heads, head]).transpose(1, 2); // [batch, heads, seq, head width]
        let pairs = self.key_value.forward(&self.key_norm.forward(others));
        let pairs = pairs.view([batch, length, 2, self.heads, head]).permute([2, 0, 3, 1, 4]);
        let (key, value) = (pairs.select(0, 0), pairs.select(0, 1)); // [batch, heads, other seq, head width]
        let bias = bias.map(|bias| bias.expand([batch, self.heads, seq, length], false));
        let mixed = Tensor::scaled_dot_product_attention(&query, &key, &value, bias, 0.0, false, None, false);
        let xs = xs + self.output.forward(&mixed.transpose(1, 2).reshape([batch, seq, width]));
        &xs + self.mlp.forward(&self.mlp_norm.forward(&xs))
    }
}
