//! Multi-head self-attention with torch's parameter layout (q, k and v in one matrix).

use tch::Tensor;

use crate::Result;
use crate::layers::Linear;
use crate::params::{Builder, Init};

/// Self-attention; the parameters are those of `nn.MultiheadAttention`.
#[derive(Debug)]
pub struct Attention {
    in_proj_weight: Tensor, // [3 * width, width]
    in_proj_bias: Tensor,   // [3 * width]
    out_proj: Linear,
    heads: i64,
    causal: bool,
}

impl Attention {
    /// A new layer under `path`. `causal` hides later tokens from earlier ones.
    pub fn new(
        path: &Builder<'_>,
        width: i64,
        heads: i64,
        causal: bool,
        in_proj: Init,
        out_proj: Init,
    ) -> Result<Self> {
        Ok(Attention {
            in_proj_weight: path.parameter("in_proj_weight", &[3 * width, width], in_proj)?,
            in_proj_bias: path.parameter("in_proj_bias", &[3 * width], Init::Constant(0.0))?,
            out_proj: Linear::new(&path.child("out_proj"), width, width, out_proj, Init::Constant(0.0))?,
            heads,
            causal,
        })
    }

    /// `[batch, seq, width]` in and out.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        let (batch, seq, width) = (xs.size()[0], xs.size()[1], xs.size()[2]);
        let qkv = xs
            .linear(&self.in_proj_weight, Some(&self.in_proj_bias))
            .view([batch, seq, 3, self.heads, width / self.heads])
            .permute([2, 0, 3, 1, 4]); // [3, batch, heads, seq, head width]
        let (query, key, value) = (qkv.select(0, 0), qkv.select(0, 1), qkv.select(0, 2));
        let mixed = Tensor::scaled_dot_product_attention(
            &query,
            &key,
            &value,
            None::<&Tensor>,
            0.0,
            self.causal,
            None,
            false,
        );
        self.out_proj.forward(&mixed.transpose(1, 2).reshape([batch, seq, width]))
    }
}
