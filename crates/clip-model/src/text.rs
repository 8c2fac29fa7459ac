//! CLIP's text transformer: token ids to embeddings.

use tch::{Device, Kind, Tensor};
use torch_ext::embedding::f_embedding;

use crate::activation::Activation;
use crate::block::{BlockConfig, BlockInit, Transformer};
use crate::config::{TextConfig, TextPool};
use crate::gates::TowerGates;
use crate::layers::{LayerNorm, Linear};
use crate::lock::Tower;
use crate::params::{Init, ParamBuilder};
use crate::pooled_token::PooledToken;
use crate::states::{BlockOutputs, TextStates};
use crate::tape::Tape;
use crate::text_groups::TextGroups;
use crate::{Error, Result};

/// CLIP's text tower: maps token ids to embeddings.
#[derive(Debug)]
pub(crate) struct TextTransformer {
    token_embedding: Tensor,      // [vocab, width]
    positional_embedding: Tensor, // [context, width]
    transformer: Transformer,
    ln_final: LayerNorm,
    projection: Projection,
    config: TextConfig,
    pub(crate) gates: Option<TowerGates>,
}

/// Projection after the last norm.
#[derive(Debug)]
enum Projection {
    /// A matrix `[width, embed]`.
    Matrix(Tensor),
    /// A linear layer with a bias.
    Affine(Linear),
    /// No projection.
    None,
}

impl TextTransformer {
    /// Creates a tower under `path` with open_clip's initialisation. In open_clip's checkpoints, `path` is the root
    /// of the state dict or `text`.
    pub(crate) fn new(
        path: &ParamBuilder<'_>,
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
        let blocks = BlockConfig {
            width,
            heads,
            head_width: config.head_width(),
            mlp_width: config.mlp_width(),
            causal: !config.no_causal_mask,
            activation,
            eps: config.eps(),
            layer_scale: config.ls_init_value,
            drop_path: 0.0,
            init,
        };
        let init = Init::Normal(channel_std);
        Ok(TextTransformer {
            positional_embedding: path.parameter(
                "positional_embedding",
                &[context_length, width],
                Init::Normal(0.01),
            )?,
            projection: match (config.has_projection(), config.proj_bias) {
                (false, _) => Projection::None,
                (true, false) => {
                    Projection::Matrix(path.weight("text_projection", &[width, embed_dim], init)?)
                }
                (true, true) => {
                    let path = path.child("text_projection");
                    Projection::Affine(Linear::new(&path, width, embed_dim, init, Init::Constant(0.0))?)
                }
            },
            transformer: Transformer::new(
                &path.child("transformer").at_positions(context_length),
                layers,
                &blocks,
                config.blocks.as_deref(),
            )?,
            token_embedding: path.child("token_embedding").parameter(
                "weight",
                &[vocab_size, width],
                Init::Normal(0.02),
            )?,
            ln_final: LayerNorm::new(&path.child("ln_final"), width, config.eps())?,
            config: config.clone(),
            gates: None,
        })
    }

    /// Encodes token ids `[batch, length]` (i64) to embeddings `[batch, embed]`.
    ///
    /// `length` may be shorter than the context length if [`TextConfig::can_trim`] holds: attention is causal, so
    /// removing the padding after the end token reduces only the cost.
    ///
    /// # Errors
    /// [`Error::Shape`] if the tokens have another shape or type, or an unsupported length.
    pub(crate) fn forward<'a>(&'a self, tokens: &Tensor, tape: &mut Tape<'a>) -> Result<Tensor> {
        if let Some(groups) = self.group(tokens) {
            return groups.encode(tokens, |tokens| self.forward_ungrouped(tokens, tape));
        }
        self.forward_ungrouped(tokens, tape)
    }

    /// Encodes the whole batch at its full length.
    pub(crate) fn forward_ungrouped<'a>(&'a self, tokens: &Tensor, tape: &mut Tape<'a>) -> Result<Tensor> {
        let embedded = self.embedded(tokens)?;
        let pooled =
            self.transformer.forward_token(embedded, self.pooled_token(tokens), self.gates.as_ref(), tape);
        Ok(self.project(&pooled))
    }

    /// Groups a batch by length. Returns `None` on a GPU, where reading the ids back costs more than the padding.
    pub(crate) fn group(&self, tokens: &Tensor) -> Option<TextGroups> {
        let fits = tokens.dim() == 2 && tokens.kind() == Kind::Int64 && tokens.device() == Device::Cpu;
        if !fits || !self.config.can_trim() || tokens.size()[1] > self.config.context_length {
            return None;
        }
        let ends = Vec::<i64>::try_from(self.end_positions(tokens)?).ok()?;
        let ids = Vec::<i64>::try_from(tokens.flatten(0, 1)).ok()?;
        TextGroups::new(&ids, tokens.size()[1] as usize, &ends)
    }

    /// Returns embeddings, token states and the outputs of `blocks` (indices from 0).
    ///
    /// # Errors
    /// The errors of [`TextTransformer::forward`]; [`Error::UnknownBlock`] for an index beyond the last block.
    pub(crate) fn states<'a>(
        &'a self,
        tokens: &Tensor,
        blocks: &[usize],
        tape: &mut Tape<'a>,
    ) -> Result<TextStates> {
        let mut outputs = BlockOutputs::new(blocks, self.depth(), Tower::Text)?;
        let embedded = self.embedded(tokens)?;
        let record = |block: usize, xs: &Tensor| outputs.record(block, xs);
        let states = self.transformer.forward(embedded, self.gates.as_ref(), tape, record); // [batch, length, width]
        let mask = match self.end_positions(tokens) {
            Some(end) => {
                let positions = Tensor::arange(tokens.size()[1], (Kind::Int64, tokens.device()));
                positions.unsqueeze(0).le_tensor(&end.unsqueeze(1))
            }
            None => tokens.ones_like().to_kind(Kind::Bool),
        };
        Ok(TextStates {
            embedding: self.project(&self.pooled_token(tokens).select(&states).squeeze_dim(1)),
            tokens: self.final_norm(&states),
            mask,
            blocks: outputs.into_vec(),
        })
    }

    /// Returns the number of blocks.
    pub(crate) fn depth(&self) -> usize {
        self.transformer.depth()
    }

    /// Returns the input of the first block, `[batch, length, width]`.
    fn embedded(&self, tokens: &Tensor) -> Result<Tensor> {
        let (context, shape) = (self.config.context_length, tokens.size());
        let shortest = if self.config.can_trim() { 1 } else { context };
        if shape.len() != 2 || tokens.kind() != Kind::Int64 || !(shortest..=context).contains(&shape[1]) {
            return Err(Error::Shape {
                input: "the token batch",
                found: shape,
                expected: format!("i64 [batch, {shortest}..={context}]"),
            });
        }
        let positions = self.positional_embedding.narrow(0, 0, shape[1]);
        // The fallible form, since the data may contain ids outside the vocabulary.
        let embedded = f_embedding(&self.token_embedding, tokens)? + positions; // [batch, length, width]
        Ok(match &self.gates {
            Some(gates) => gates.apply_hidden(embedded),
            None => embedded,
        })
    }

    /// Applies the last norm, over the channels that the gates keep.
    fn final_norm(&self, states: &Tensor) -> Tensor {
        self.ln_final.forward_channels(states, self.gates.as_ref().and_then(TowerGates::kept_channels))
    }

    /// Maps the pooled states `[batch, width]` to embeddings `[batch, embed]`.
    fn project(&self, pooled: &Tensor) -> Tensor {
        let pooled = self.final_norm(pooled);
        match &self.projection {
            Projection::Matrix(matrix) => pooled.matmul(matrix),
            Projection::Affine(layer) => layer.forward(&pooled).to_kind(Kind::Float),
            Projection::None => pooled,
        }
    }

    /// Returns the token whose state becomes the embedding.
    fn pooled_token(&self, tokens: &Tensor) -> PooledToken {
        match (self.end_positions(tokens), self.config.pool_type) {
            (Some(ends), _) => PooledToken::At(ends),
            (None, TextPool::First) => PooledToken::First,
            (None, _) => PooledToken::Last,
        }
    }

    /// Returns the position `[batch]` of each text's end token; `None` if the tower pools a fixed position.
    fn end_positions(&self, tokens: &Tensor) -> Option<Tensor> {
        match self.config.pool_type {
            TextPool::First | TextPool::Last => None,
            TextPool::Argmax => Some(tokens.argmax(1, false)),
            TextPool::Eos => {
                Some(tokens.eq(self.config.eos_id.unwrap_or(0)).to_kind(Kind::Int).argmax(1, false))
            }
        }
    }
}
