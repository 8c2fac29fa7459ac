//! The text transformer of CLIP; the state of one token is the text's embedding.

use tch::{Device, Kind, Tensor};

use crate::activation::Activation;
use crate::block::{BlockConfig, BlockInit, Transformer};
use crate::config::{TextConfig, TextPool};
use crate::gates::TowerGates;
use crate::layers::{LayerNorm, Linear};
use crate::params::{Builder, Init};
use crate::states::{BlockTaps, TextStates};
use crate::tape::Tape;
use crate::text_groups::TextGroups;
use crate::{Error, Result};

/// Token ids to raw embedding.
#[derive(Debug)]
pub struct TextTransformer {
    token_embedding: Tensor,      // [vocab, width]
    positional_embedding: Tensor, // [context, width]
    transformer: Transformer,
    ln_final: LayerNorm,
    projection: Projection,
    config: TextConfig,
    pub(crate) gates: Option<TowerGates>,
}

/// What follows the last norm.
#[derive(Debug)]
enum Projection {
    /// A matrix `[width, embed]`.
    Matrix(Tensor),
    /// A layer with a bias.
    Affine(Linear),
    /// Nothing.
    None,
}

impl TextTransformer {
    /// A new tower under `path` (the root of the state dict, where open_clip keeps it, or `text`);
    /// starts as open_clip's does.
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
        let start = Init::Normal(channel_std);
        Ok(TextTransformer {
            positional_embedding: path.parameter(
                "positional_embedding",
                &[context_length, width],
                Init::Normal(0.01),
            )?,
            projection: match (config.has_projection(), config.proj_bias) {
                (false, _) => Projection::None,
                (true, false) => {
                    Projection::Matrix(path.weight("text_projection", &[width, embed_dim], start)?)
                }
                (true, true) => {
                    let path = path.child("text_projection");
                    Projection::Affine(Linear::new(&path, width, embed_dim, start, Init::Constant(0.0))?)
                }
            },
            transformer: Transformer::new(
                &path.child("transformer").at(context_length),
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

    /// Token ids `[batch, length]` (i64) to raw embeddings `[batch, embed]`.
    ///
    /// `length` may be shorter than the context where [`TextConfig::may_be_cut`]: since attention is
    /// causal, cutting the padding behind the end token changes nothing but the cost.
    ///
    /// # Errors
    /// [`Error::Shape`] where the tokens have another shape or kind, or a length that the tower cannot take.
    pub fn forward<'a>(&'a self, tokens: &Tensor, tape: &mut Tape<'a>) -> Result<Tensor> {
        if let Some(groups) = self.groups(tokens) {
            return groups.encode(tokens, |tokens| self.plain(tokens, tape));
        }
        self.plain(tokens, tape)
    }

    /// The whole batch at the length that it has.
    pub(crate) fn plain<'a>(&'a self, tokens: &Tensor, tape: &mut Tape<'a>) -> Result<Tensor> {
        let states = self.stream(tokens, tape, |_, _| {})?;
        Ok(self.embed(&states, tokens))
    }

    /// How a batch is taken apart; not on a GPU, where reading ids back costs more than the padding.
    pub(crate) fn groups(&self, tokens: &Tensor) -> Option<TextGroups> {
        let fits = tokens.dim() == 2 && tokens.kind() == Kind::Int64 && tokens.device() == Device::Cpu;
        if !fits || !self.config.may_be_cut() || tokens.size()[1] > self.config.context_length {
            return None;
        }
        let ends = Vec::<i64>::try_from(self.end(tokens)?).ok()?;
        let ids = Vec::<i64>::try_from(tokens.flatten(0, 1)).ok()?;
        TextGroups::new(&ids, tokens.size()[1] as usize, &ends)
    }

    /// Embeddings, token states, and what `blocks` (numbers from 0) give.
    ///
    /// # Errors
    /// As [`TextTransformer::forward`]; [`Error::Config`] where there is no such block.
    pub fn states<'a>(
        &'a self,
        tokens: &Tensor,
        blocks: &[usize],
        tape: &mut Tape<'a>,
    ) -> Result<TextStates> {
        let mut taps = BlockTaps::new(blocks, self.depth(), "text")?;
        let states = self.stream(tokens, tape, |place, xs| taps.see(place, xs))?;
        let counts = match self.end(tokens) {
            Some(end) => {
                let places = Tensor::arange(tokens.size()[1], (Kind::Int64, tokens.device()));
                places.unsqueeze(0).le_tensor(&end.unsqueeze(1))
            }
            None => tokens.ones_like().to_kind(Kind::Bool),
        };
        Ok(TextStates {
            embedding: self.embed(&states, tokens),
            tokens: self.norm(&states),
            counts,
            blocks: taps.into_states(),
        })
    }

    /// Number of blocks.
    pub fn depth(&self) -> usize {
        self.transformer.depth()
    }

    /// The residual stream `[batch, length, width]` behind the last block.
    fn stream<'a>(
        &'a self,
        tokens: &Tensor,
        tape: &mut Tape<'a>,
        visit: impl FnMut(usize, &Tensor),
    ) -> Result<Tensor> {
        let (context, shape) = (self.config.context_length, tokens.size());
        let shortest = if self.config.may_be_cut() { 1 } else { context };
        if shape.len() != 2 || tokens.kind() != Kind::Int64 || !(shortest..=context).contains(&shape[1]) {
            return Err(Error::Shape {
                what: "the token batch",
                found: shape,
                expected: format!("i64 [batch, {shortest}..={context}]"),
            });
        }
        let positions = self.positional_embedding.narrow(0, 0, shape[1]);
        // The fallible form: ids outside the vocabulary come from data.
        let embedded = Tensor::f_embedding(&self.token_embedding, tokens, -1, false, false)? + positions; // [batch, length, width]
        let gates = self.gates.as_ref();
        let embedded = match gates {
            Some(gates) => gates.start(embedded),
            None => embedded,
        };
        Ok(self.transformer.visited(embedded, gates, tape, visit))
    }

    /// The last norm, over the channels that gates leave where there are some.
    fn norm(&self, states: &Tensor) -> Tensor {
        self.ln_final.forward_over(states, self.gates.as_ref().and_then(TowerGates::kept))
    }

    /// `[batch, length, width]` to raw embeddings `[batch, embed]`.
    fn embed(&self, states: &Tensor, tokens: &Tensor) -> Tensor {
        // Pooling before the norm normalises one token per text instead of all; the values are the same.
        let pooled = self.norm(&self.pool(states, tokens)); // [batch, width]
        match &self.projection {
            Projection::Matrix(matrix) => pooled.matmul(matrix),
            Projection::Affine(layer) => layer.forward(&pooled).to_kind(Kind::Float),
            Projection::None => pooled,
        }
    }

    /// One state per text: `[batch, length, width]` to `[batch, width]`.
    fn pool(&self, states: &Tensor, tokens: &Tensor) -> Tensor {
        let Some(end) = self.end(tokens) else {
            return states.select(1, if self.config.pool_type == TextPool::First { 0 } else { -1 });
        };
        let place = end.view([-1, 1, 1]).expand([-1, 1, self.config.width], false);
        states.gather(1, &place, false).squeeze_dim(1)
    }

    /// The place `[batch]` of each text's end token, where that is the one that is pooled.
    fn end(&self, tokens: &Tensor) -> Option<Tensor> {
        match self.config.pool_type {
            TextPool::First | TextPool::Last => None,
            TextPool::Argmax => Some(tokens.argmax(1, false)),
            TextPool::Eos => {
                Some(tokens.eq(self.config.eos_id.unwrap_or(0)).to_kind(Kind::Int).argmax(1, false))
            }
        }
    }
}
