//! The dual encoder: both towers and the learned logit scale.

use std::cell::RefCell;

use tch::{Device, Tensor};

use crate::params::{Builder, Init, Params};
use crate::text::TextTransformer;
use crate::vision::VisionTransformer;
use crate::{ClipConfig, Result};

/// ln(1/0.07), the initial logit scale of CLIP.
pub const INITIAL_LOGIT_SCALE: f64 = 2.659_260_036_932_778;
/// ln(100), the largest logit scale that CLIP allows.
pub const MAX_LOGIT_SCALE: f64 = 4.605_170_185_988_092;

/// A CLIP model with its parameters.
#[derive(Debug)]
pub struct Clip {
    /// Image tower.
    pub visual: VisionTransformer,
    /// Text tower.
    pub text: TextTransformer,
    /// Natural logarithm of the factor on the cosines; no dimension.
    pub logit_scale: Tensor,
    config: ClipConfig,
    params: Params,
    device: Device,
}

impl Clip {
    /// A model with fresh weights; the same `seed` gives the same weights.
    ///
    /// # Errors
    /// [`crate::Error::Config`] where the configuration cannot be built.
    pub fn new(config: &ClipConfig, device: Device, seed: u64) -> Result<Self> {
        config.validate("model")?;
        let store = RefCell::new(Params::default());
        let root = Builder::root(&store, device, seed);
        let activation = config.activation();
        let text = TextTransformer::new(&root, &config.text_cfg, config.embed_dim, activation)?;
        let logit_scale = root.parameter("logit_scale", &[], Init::Constant(INITIAL_LOGIT_SCALE))?;
        let visual =
            VisionTransformer::new(&root.child("visual"), &config.vision_cfg, config.embed_dim, activation)?;
        Ok(Clip { visual, text, logit_scale, config: config.clone(), params: store.into_inner(), device })
    }

    /// Normalised images `[batch, 3, size, size]` to raw embeddings `[batch, embed_dim]`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] where the images have another shape.
    pub fn encode_image(&self, images: &Tensor) -> Result<Tensor> {
        self.visual.forward(images)
    }

    /// Token ids `[batch, length <= context]` (i64) to raw embeddings `[batch, embed_dim]`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] where the tokens have another shape.
    pub fn encode_text(&self, tokens: &Tensor) -> Result<Tensor> {
        self.text.forward(tokens)
    }

    /// Makes the logit scale at least 0 and at most ln(100), as CLIP does after every step.
    pub fn clamp_logit_scale(&self) {
        tch::no_grad(|| {
            let _ = self.logit_scale.shallow_clone().clamp_(0.0, MAX_LOGIT_SCALE);
        });
    }

    /// The configuration that it was built from.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// All parameters under their state-dict names.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Where the parameters live.
    pub fn device(&self) -> Device {
        self.device
    }
}
