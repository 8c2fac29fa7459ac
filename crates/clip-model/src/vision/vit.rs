//! CLIP's ViT image tower (Dosovitskiy et al. 2021), with a norm before the blocks and class token or average
//! pooling.

use tch::{Kind, Tensor};

use crate::activation::Activation;
use crate::block::{BlockConfig, BlockInit, Transformer};
use crate::config::{Layers, VisionConfig, VisionPool};
use crate::gates::TowerGates;
use crate::layers::LayerNorm;
use crate::lock::Tower;
use crate::mode::Mode;
use crate::params::{Init, ParamBuilder};
use crate::pooled_token::PooledToken;
use crate::states::{BlockOutputs, ImageStates};
use crate::tape::Tape;
use crate::{Error, Result};

/// CLIP's ViT: maps images to embeddings.
#[derive(Debug)]
pub(crate) struct VisionTransformer {
    conv1: Tensor,                // [width, 3, patch, patch]
    class_embedding: Tensor,      // [width]
    positional_embedding: Tensor, // [1 + grid * grid, width]
    patch_dropout: PatchDropout,
    ln_pre: Option<LayerNorm>,
    transformer: Transformer,
    ln_post: LayerNorm,
    proj: Tensor, // [width, embed]
    patch: i64,
    pool: VisionPool,
    ln_after_pool: bool,
    mode: Mode,
    pub(crate) gates: Option<TowerGates>,
}

impl VisionTransformer {
    /// Creates a tower under `path` with open_clip's initialisation.
    pub(crate) fn new(
        path: &ParamBuilder<'_>,
        config: &VisionConfig,
        embed_dim: i64,
        activation: Activation,
    ) -> Result<Self> {
        let (Layers::Depth(layers), Some(patch)) = (config.layers, config.patch_size) else {
            return Err(Error::config("vision_cfg", "a ViT needs a number of layers and a patch size"));
        };
        let (width, eps, patches) = (config.width, config.eps(), config.grid() * config.grid());
        let scale = (width as f64).powf(-0.5);
        let init = BlockInit {
            in_proj: Init::xavier(3 * width, width),
            out_proj: Init::fan_in(width),
            fc: Init::fan_in(width),
            proj: Init::fan_in(config.mlp_width()),
        };
        let blocks = BlockConfig {
            width,
            heads: config.heads(),
            head_width: if config.blocks.is_some() { config.head_width } else { width / config.heads() },
            mlp_width: config.mlp_width(),
            causal: false,
            activation,
            eps,
            layer_scale: config.ls_init_value,
            drop_path: 0.0,
            init,
        };
        let tokens = 1 + patches;
        Ok(VisionTransformer {
            class_embedding: path.parameter("class_embedding", &[width], Init::Normal(scale))?,
            positional_embedding: path.parameter(
                "positional_embedding",
                &[tokens, width],
                Init::Normal(scale),
            )?,
            proj: path.weight("proj", &[width, embed_dim], Init::Normal(scale))?,
            conv1: path.child("conv1").at_positions(patches).weight(
                "weight",
                &[width, 3, patch, patch],
                Init::fan_in(3 * patch * patch),
            )?,
            patch_dropout: PatchDropout::new(path, config.patch_dropout),
            ln_pre: (!config.no_ln_pre)
                .then(|| LayerNorm::new(&path.child("ln_pre"), width, eps))
                .transpose()?,
            transformer: Transformer::new(
                &path.child("transformer").at_positions(tokens),
                layers,
                &blocks,
                config.blocks.as_deref(),
            )?,
            ln_post: LayerNorm::new(&path.child("ln_post"), width, eps)?,
            patch,
            pool: config.pool_type,
            ln_after_pool: config.final_ln_after_pool,
            mode: path.mode().0,
            gates: None,
        })
    }

    /// Encodes normalised images `[batch, 3, size, size]` to embeddings `[batch, embed]`.
    pub(crate) fn forward<'a>(&'a self, images: &Tensor, tape: &mut Tape<'a>) -> Tensor {
        self.encode(images, |tokens| self.patch_dropout.forward(tokens), tape)
    }

    /// Encodes images with a fraction of the patches left out, in training and in evaluation mode.
    pub(crate) fn forward_masked<'a>(
        &'a self,
        images: &Tensor,
        fraction: f64,
        tape: &mut Tape<'a>,
    ) -> Tensor {
        self.encode(images, |tokens| self.patch_dropout.mask(tokens, fraction), tape)
    }

    fn encode<'a>(
        &'a self,
        images: &Tensor,
        drop_patches: impl FnOnce(Tensor) -> Tensor,
        tape: &mut Tape<'a>,
    ) -> Tensor {
        let (embedded, gates) = (self.embedded(images, drop_patches), self.gates.as_ref());
        match self.pool {
            VisionPool::Tok => {
                let class = self.transformer.forward_token(embedded, PooledToken::First, gates, tape);
                self.final_norm(&class).matmul(&self.proj)
            }
            VisionPool::Avg => self.pool(&self.transformer.forward(embedded, gates, tape, |_, _| {})),
        }
    }

    /// Returns embeddings, patch tokens and the outputs of `blocks` (indices from 0).
    ///
    /// # Errors
    /// [`Error::Unsupported`] if this pass leaves out patches, since positions then differ between images;
    /// [`Error::UnknownBlock`] for an index beyond the last block.
    pub(crate) fn states<'a>(
        &'a self,
        images: &Tensor,
        blocks: &[usize],
        tape: &mut Tape<'a>,
    ) -> Result<ImageStates> {
        if self.patch_dropout.is_active() {
            return Err(Error::unsupported("patch tokens with patch dropout: set patch_dropout to 0"));
        }
        let mut outputs = BlockOutputs::new(blocks, self.depth(), Tower::Image)?;
        let record = |block: usize, xs: &Tensor| outputs.record(block, xs);
        let embedded = self.embedded(images, |tokens| tokens);
        let stream = self.transformer.forward(embedded, self.gates.as_ref(), tape, record);
        let patches = stream.narrow(1, 1, stream.size()[1] - 1);
        Ok(ImageStates {
            embedding: self.pool(&stream),
            patches: self.final_norm(&patches),
            blocks: outputs.into_vec(),
        })
    }

    /// Returns the number of blocks.
    pub(crate) fn depth(&self) -> usize {
        self.transformer.depth()
    }

    /// Returns the input of the first block, `[batch, 1 + kept patches, width]`.
    fn embedded(&self, images: &Tensor, drop_patches: impl FnOnce(Tensor) -> Tensor) -> Tensor {
        let (batch, patch, width) = (images.size()[0], self.patch, self.class_embedding.size()[0]);
        let operand = |tensor: &Tensor| self.mode.operand(tensor);
        let patches = operand(images)
            .conv2d(&operand(&self.conv1), None::<&Tensor>, [patch, patch], [0, 0], [1, 1], 1)
            .flatten(2, 3)
            .transpose(1, 2)
            .to_kind(Kind::Float); // [batch, grid², width]
        let class = self.class_embedding.view([1, 1, width]).expand([batch, 1, width], false);
        let tokens = Tensor::cat(&[class, patches], 1) + &self.positional_embedding; // [batch, 1 + grid², width]
        let tokens = drop_patches(tokens);
        let gates = self.gates.as_ref();
        let kept = gates.and_then(TowerGates::kept_channels);
        let tokens = match &self.ln_pre {
            Some(norm) => norm.forward_channels(&tokens, kept),
            None => tokens,
        };
        match gates {
            Some(gates) => gates.apply_hidden(tokens),
            None => tokens,
        }
    }

    /// Applies the last norm, over the channels that the gates keep.
    fn final_norm(&self, tokens: &Tensor) -> Tensor {
        self.ln_post.forward_channels(tokens, self.gates.as_ref().and_then(TowerGates::kept_channels))
    }

    /// Pools and projects the residual stream: `[batch, 1 + patches, width]` to embeddings `[batch, embed]`.
    fn pool(&self, tokens: &Tensor) -> Tensor {
        let post = |xs: &Tensor| self.final_norm(xs);
        let pooled = match self.pool {
            // The rest of the tower uses only the class token, so only that is normalised.
            VisionPool::Tok => post(&tokens.select(1, 0)),
            VisionPool::Avg => {
                let patches = tokens.narrow(1, 1, tokens.size()[1] - 1);
                let mean = |xs: &Tensor| xs.mean_dim(1, false, None::<Kind>);
                if self.ln_after_pool { post(&mean(&patches)) } else { mean(&post(&patches)) }
            }
        }; // [batch, width]
        pooled.matmul(&self.proj)
    }
}

/// Patch dropout: leaves out a fraction of the patches of each sample in training. The class token stays.
#[derive(Debug)]
struct PatchDropout {
    rate: f64,
    mode: Mode,
    layer: u64,
}

impl PatchDropout {
    fn new(path: &ParamBuilder<'_>, rate: f64) -> Self {
        let (mode, layer) = path.child("patch_dropout").mode();
        PatchDropout { rate, mode, layer }
    }

    /// Drops patches in training mode: `[batch, 1 + patches, width]` to `[batch, 1 + kept, width]`.
    fn forward(&self, tokens: Tensor) -> Tensor {
        if self.is_active() { self.drop_patches(tokens, self.rate, self.layer) } else { tokens }
    }

    fn is_active(&self) -> bool {
        self.rate > 0.0 && self.mode.is_training()
    }

    /// Drops patches in any mode. The selection differs from that of the plain pass in the same step.
    fn mask(&self, tokens: Tensor, rate: f64) -> Tensor {
        self.drop_patches(tokens, rate, !self.layer)
    }

    fn drop_patches(&self, tokens: Tensor, rate: f64, layer: u64) -> Tensor {
        let (batch, patches) = (tokens.size()[0] as usize, (tokens.size()[1] - 1) as usize);
        let kept = ((patches as f64 * (1.0 - rate)) as usize).max(1);
        let draws = self.mode.uniform_rows(layer, batch, patches);
        let mut indices = Vec::with_capacity(batch * (kept + 1));
        for sample in draws.chunks(patches.max(1)) {
            let mut order = (0..patches).collect::<Vec<_>>();
            order.sort_by(|a, b| sample[*a].total_cmp(&sample[*b]));
            indices.push(0); // the class token
            indices.extend(order[..kept.min(patches)].iter().map(|patch| *patch as i64 + 1));
        }
        let index = Tensor::from_slice(&indices).to_device(tokens.device()).view([batch as i64, -1, 1]);
        tokens.gather(1, &index.expand([-1, -1, tokens.size()[2]], false), false)
    }
}
