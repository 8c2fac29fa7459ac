//! Attention pooling of CLIP's ResNet: the mean pixel queries all pixels (Radford et al. 2021).

use tch::{Kind, Tensor};

use crate::Result;
use crate::layers::Linear;
use crate::params::{Init, ParamBuilder};

/// Attention pooling: `[batch, width, side, side]` to `[batch, embed]`.
#[derive(Debug)]
pub(crate) struct AttentionPool2d {
    positional_embedding: Tensor, // [1 + side², width]; the first row belongs to the mean
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    c_proj: Linear,
    heads: i64,
}

impl AttentionPool2d {
    /// Creates a layer under `path`.
    pub(crate) fn new(
        path: &ParamBuilder<'_>,
        side: i64,
        width: i64,
        heads: i64,
        embed_dim: i64,
    ) -> Result<Self> {
        let std = Init::Normal((width as f64).powf(-0.5));
        let tokens = side * side + 1;
        path.count_macs(2 * tokens * width);
        let linear = |name: &str, positions: i64, output: i64| {
            Linear::new(&path.child(name).at_positions(positions), width, output, std, Init::fan_in(width))
        };
        Ok(AttentionPool2d {
            positional_embedding: path.parameter("positional_embedding", &[tokens, width], std)?,
            q_proj: linear("q_proj", 1, width)?,
            k_proj: linear("k_proj", tokens, width)?,
            v_proj: linear("v_proj", tokens, width)?,
            c_proj: linear("c_proj", 1, embed_dim)?,
            heads,
        })
    }

    /// Pools features to embeddings.
    pub(crate) fn forward(&self, xs: &Tensor) -> Tensor {
        let pixels = xs.flatten(2, 3).transpose(1, 2); // [batch, side², width]
        let mean = pixels.mean_dim(1, true, None::<Kind>);
        let tokens = Tensor::cat(&[&mean, &pixels], 1) + &self.positional_embedding; // [batch, 1 + side², width]
        let (batch, seq, width) = tokens.size3().unwrap_or_default();
        let split = |xs: Tensor, seq: i64| {
            xs.view([batch, seq, self.heads, width / self.heads]).transpose(1, 2) // [batch, heads, seq, head width]
        };
        let query = split(self.q_proj.forward(&tokens.narrow(1, 0, 1)), 1);
        let (key, value) =
            (split(self.k_proj.forward(&tokens), seq), split(self.v_proj.forward(&tokens), seq));
        let mixed = Tensor::scaled_dot_product_attention(
            &query,
            &key,
            &value,
            None::<&Tensor>,
            0.0,
            false,
            None,
            false,
        );
        self.c_proj.forward(&mixed.transpose(1, 2).reshape([batch, width]))
    }
}
