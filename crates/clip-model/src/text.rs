//! The causal text transformer of CLIP; the state of the end token is the text's embedding.

use tch::{Kind, Tensor};

use crate::block::{BlockConfig, BlockInit, Transformer};
use crate::config::{Activation, TextConfig};
use crate::layers::LayerNorm;
use crate::params::{Builder, Init};
use crate::{Error, Result};

/// Token ids to raw embedding.
#[derive(Debug)]
pub struct TextTransformer {
    token_embedding: Tensor,      // [vocab, width]
    positional_embedding: Tensor, // [context, width]
    transformer: Transformer,
    ln_final: LayerNorm,
    text_projection: Tensor, // [width, embed]
    config: TextConfig,
}

impl TextTransformer {
    /// A new tower at the root of the state dict (`path`), where open_clip keeps it; starts as open_clip's does.
    pub fn new(
        path: &Builder<'_>,
        config: &TextConfig,
        embed_dim: i64,
        activation: Activation,
    ) -> Result<Self> {
        let TextConfig { context_length, vocab_size, width, heads, layers, .. } = *config;
        let channel_std = (width as f64).powf(-0.5);
        let residual_std = channel_std * (2.0 * layers as f64).powf(-0.5);
        let init = BlockInit {
            in_proj: Init::Normal(channel_std),
            out_proj: Init::Normal(residual_std),
            fc: Init::Normal((2.0 * width as f64).powf(-0.5)),
            proj: Init::Normal(residual_std),
        };
        let blocks =
            BlockConfig { width, heads, mlp_width: config.mlp_width(), causal: true, activation, init };
        Ok(TextTransformer {
            positional_embedding: path.parameter(
                "positional_embedding",
                &[context_length, width],
                Init::Normal(0.01),
            )?,
            text_projection: path.parameter(
                "text_projection",
                &[width, embed_dim],
                Init::Normal(channel_std),
            )?,
            transformer: Transformer::new(&path.child("transformer"), layers, &blocks)?,
            token_embedding: path.child("token_embedding").parameter(
                "weight",
                &[vocab_size, width],
                Init::Normal(0.02),
            )?,
            ln_final: LayerNorm::new(&path.child("ln_final"), width)?,
            config: config.clone(),
        })
    }

    /// Token ids `[batch, length]` (i64) to raw embeddings `[batch, embed]`.
    ///
    /// `length` may be shorter than the context: since attention is causal, cutting the padding
    /// behind the end token changes nothing but the cost. The end token has the highest id.
    ///
    /// # Errors
    /// [`Error::Shape`] where the tokens have another shape or kind, or are longer than the context.
    pub fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        let (context, shape) = (self.config.context_length, tokens.size());
        if shape.len() != 2 || tokens.kind() != Kind::Int64 || !(1..=context).contains(&shape[1]) {
            return Err(Error::Shape {
                what: "the token batch",
                found: shape,
                expected: format!("i64 [batch, 1..={context}]"),
            });
        }
        let positions = self.positional_embedding.narrow(0, 0, shape[1]);
        // The fallible form: ids outside the vocabulary come from data.
        let embedded = Tensor::f_embedding(&self.token_embedding, tokens, -1, false, false)? + positions; // [batch, length, width]
        let states = self.transformer.forward(embedded);
        // Pooling before the norm normalises one token per text instead of all; the values are the same.
        let end = tokens.argmax(1, false).view([-1, 1, 1]).expand([-1, 1, self.config.width], false);
        let pooled = states.gather(1, &end, false).squeeze_dim(1); // [batch, width]
        Ok(self.ln_final.forward(&pooled).matmul(&self.text_projection))
    }
}
