//! The ViT image tower (Dosovitskiy et al. 2021, as CLIP uses it: a norm before the blocks, the class token pooled).

use tch::{Kind, Tensor};

use crate::activation::Activation;
use crate::block::{BlockConfig, BlockInit, Transformer};
use crate::config::{Layers, VisionConfig, VisionPool};
use crate::gates::TowerGates;
use crate::layers::LayerNorm;
use crate::mode::Mode;
use crate::params::{Builder, Init};
use crate::states::{BlockTaps, ImageStates};
use crate::tape::Tape;
use crate::{Error, Result};

/// Image to raw embedding.
#[derive(Debug)]
pub struct VisionTransformer {
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
    /// A new tower under `path`; starts as open_clip's does.
    pub fn new(
        path: &Builder<'_>,
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
            conv1: path.child("conv1").at(patches).weight(
                "weight",
                &[width, 3, patch, patch],
                Init::fan_in(3 * patch * patch),
            )?,
            patch_dropout: PatchDropout::new(path, config.patch_dropout),
            ln_pre: (!config.no_ln_pre)
                .then(|| LayerNorm::new(&path.child("ln_pre"), width, eps))
                .transpose()?,
            transformer: Transformer::new(
                &path.child("transformer").at(tokens),
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

    /// Normalised images `[batch, 3, size, size]` to raw embeddings `[batch, embed]`.
    pub fn forward<'a>(&'a self, images: &Tensor, tape: &mut Tape<'a>) -> Tensor {
        self.pool(&self.stream(images, |tokens| self.patch_dropout.forward(tokens), tape, |_, _| {}))
    }

    /// The same with this share of the patches left out, in training and in evaluation.
    pub fn forward_masked<'a>(&'a self, images: &Tensor, share: f64, tape: &mut Tape<'a>) -> Tensor {
        self.pool(&self.stream(images, |tokens| self.patch_dropout.mask(tokens, share), tape, |_, _| {}))
    }

    /// Embeddings, patch tokens, and what `blocks` (numbers from 0) give.
    ///
    /// # Errors
    /// [`Error::Config`] where patches are left out in this pass, so that a place is another patch in each image, or
    /// where there is no such block.
    pub fn states<'a>(
        &'a self,
        images: &Tensor,
        blocks: &[usize],
        tape: &mut Tape<'a>,
    ) -> Result<ImageStates> {
        if self.patch_dropout.is_on() {
            let reason = "patch tokens are those of all patches: set patch_dropout to 0";
            return Err(Error::config("vision_cfg", reason));
        }
        let mut taps = BlockTaps::new(blocks, self.depth(), "image")?;
        let stream = self.stream(images, |tokens| tokens, tape, |place, xs| taps.see(place, xs));
        let patches = stream.narrow(1, 1, stream.size()[1] - 1);
        Ok(ImageStates {
            embedding: self.pool(&stream),
            patches: self.norm(&patches),
            blocks: taps.into_states(),
        })
    }

    /// Number of blocks.
    pub fn depth(&self) -> usize {
        self.transformer.depth()
    }

    /// The residual stream `[batch, 1 + patches, width]` behind the last block.
    fn stream<'a>(
        &'a self,
        images: &Tensor,
        drop_patches: impl FnOnce(Tensor) -> Tensor,
        tape: &mut Tape<'a>,
        visit: impl FnMut(usize, &Tensor),
    ) -> Tensor {
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
        let kept = gates.and_then(TowerGates::kept);
        let tokens = match &self.ln_pre {
            Some(norm) => norm.forward_over(&tokens, kept),
            None => tokens,
        };
        let tokens = match gates {
            Some(gates) => gates.start(tokens),
            None => tokens,
        };
        self.transformer.visited(tokens, gates, tape, visit)
    }

    /// The last norm, over the channels that gates leave where there are some.
    fn norm(&self, tokens: &Tensor) -> Tensor {
        self.ln_post.forward_over(tokens, self.gates.as_ref().and_then(TowerGates::kept))
    }

    /// The residual stream `[batch, 1 + patches, width]` to raw embeddings `[batch, embed]`.
    fn pool(&self, tokens: &Tensor) -> Tensor {
        let post = |xs: &Tensor| self.norm(xs);
        let pooled = match self.pool {
            // Only the class token is used from here on, so only it is normalised.
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

/// Leaves out a share of the patches of each sample while training; the class token stays.
#[derive(Debug)]
struct PatchDropout {
    share: f64,
    mode: Mode,
    layer: u64,
}

impl PatchDropout {
    fn new(path: &Builder<'_>, share: f64) -> Self {
        let (mode, layer) = path.child("patch_dropout").mode();
        PatchDropout { share, mode, layer }
    }

    /// `[batch, 1 + patches, width]` to `[batch, 1 + kept, width]`.
    fn forward(&self, tokens: Tensor) -> Tensor {
        if self.is_on() { self.keep(tokens, self.share, self.layer) } else { tokens }
    }

    fn is_on(&self) -> bool {
        self.share > 0.0 && self.mode.is_training()
    }

    /// Another draw than the plain pass has in the same step.
    fn mask(&self, tokens: Tensor, share: f64) -> Tensor {
        self.keep(tokens, share, !self.layer)
    }

    fn keep(&self, tokens: Tensor, share: f64, layer: u64) -> Tensor {
        let (batch, patches) = (tokens.size()[0] as usize, (tokens.size()[1] - 1) as usize);
        let kept = ((patches as f64 * (1.0 - share)) as usize).max(1);
        let draws = self.mode.uniform(layer, batch * patches);
        let mut places = Vec::with_capacity(batch * (kept + 1));
        for sample in draws.chunks(patches.max(1)) {
            let mut order = (0..patches).collect::<Vec<_>>();
            order.sort_by(|a, b| sample[*a].total_cmp(&sample[*b]));
            places.push(0); // the class token
            places.extend(order[..kept.min(patches)].iter().map(|place| *place as i64 + 1));
        }
        let index = Tensor::from_slice(&places).to_device(tokens.device()).view([batch as i64, -1, 1]);
        tokens.gather(1, &index.expand([-1, -1, tokens.size()[2]], false), false)
    }
}
