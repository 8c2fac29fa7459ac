//! The ViT image tower (Dosovitskiy et al. 2021, as CLIP uses it: a norm before the blocks, the class token pooled).

use tch::Tensor;

use crate::block::{BlockConfig, BlockInit, Transformer};
use crate::config::{Activation, VisionConfig};
use crate::layers::LayerNorm;
use crate::params::{Builder, Init};
use crate::{Error, Result};

/// Image to raw embedding.
#[derive(Debug)]
pub struct VisionTransformer {
    conv1: Tensor,                // [width, 3, patch, patch]
    class_embedding: Tensor,      // [width]
    positional_embedding: Tensor, // [1 + grid * grid, width]
    ln_pre: LayerNorm,
    transformer: Transformer,
    ln_post: LayerNorm,
    proj: Tensor, // [width, embed]
    config: VisionConfig,
}

impl VisionTransformer {
    /// A new tower under `path`; starts as open_clip's does.
    pub fn new(
        path: &Builder<'_>,
        config: &VisionConfig,
        embed_dim: i64,
        activation: Activation,
    ) -> Result<Self> {
        let VisionConfig { width, patch_size, layers, .. } = *config;
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
            mlp_width: config.mlp_width(),
            causal: false,
            activation,
            init,
        };
        let tokens = 1 + config.grid() * config.grid();
        Ok(VisionTransformer {
            class_embedding: path.parameter("class_embedding", &[width], Init::Normal(scale))?,
            positional_embedding: path.parameter(
                "positional_embedding",
                &[tokens, width],
                Init::Normal(scale),
            )?,
            proj: path.parameter("proj", &[width, embed_dim], Init::Normal(scale))?,
            conv1: path.child("conv1").parameter(
                "weight",
                &[width, 3, patch_size, patch_size],
                Init::fan_in(3 * patch_size * patch_size),
            )?,
            ln_pre: LayerNorm::new(&path.child("ln_pre"), width)?,
            transformer: Transformer::new(&path.child("transformer"), layers, &blocks)?,
            ln_post: LayerNorm::new(&path.child("ln_post"), width)?,
            config: config.clone(),
        })
    }

    /// Normalised images `[batch, 3, size, size]` to raw embeddings `[batch, embed]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the images have another shape.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let (size, width) = (self.config.image_size, self.config.width);
        let shape = images.size();
        if shape.len() != 4 || shape[1..] != [3, size, size] {
            return Err(Error::Shape {
                what: "the image batch",
                found: shape,
                expected: format!("[batch, 3, {size}, {size}]"),
            });
        }
        let patch = self.config.patch_size;
        let patches = images
            .conv2d(&self.conv1, None::<&Tensor>, [patch, patch], [0, 0], [1, 1], 1)
            .flatten(2, 3)
            .transpose(1, 2); // [batch, grid², width]
        let class = self.class_embedding.view([1, 1, width]).expand([shape[0], 1, width], false);
        let tokens = Tensor::cat(&[class, patches], 1) + &self.positional_embedding; // [batch, 1 + grid², width]
        let tokens = self.transformer.forward(self.ln_pre.forward(&tokens));
        // Only the class token is used from here on, so only it is normalised.
        let pooled = self.ln_post.forward(&tokens.select(1, 0)); // [batch, width]
        Ok(pooled.matmul(&self.proj))
    }
}
