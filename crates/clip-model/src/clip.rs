//! The dual encoder: both towers and the learned logit scale.

use tch::{Device, Tensor};

use crate::gates::Gates;
use crate::mode::Mode;
use crate::params::{Builder, Init, Params, Store};
use crate::tape::Tape;
use crate::text::TextTransformer;
use crate::vision::ImageTower;
use crate::{ClipConfig, Result};

/// ln(1/0.07), the initial logit scale of CLIP.
pub const INITIAL_LOGIT_SCALE: f64 = 2.659_260_036_932_778;
/// ln(100), the largest logit scale that CLIP allows.
pub const MAX_LOGIT_SCALE: f64 = 4.605_170_185_988_092;

/// A CLIP model with its parameters.
#[derive(Debug)]
pub struct Clip {
    /// Image tower.
    pub visual: ImageTower,
    /// Text tower.
    pub text: TextTransformer,
    /// Natural logarithm of the factor on the cosines; no dimension.
    pub logit_scale: Tensor,
    /// Summand on the scaled cosines (SigLIP); no dimension.
    pub logit_bias: Option<Tensor>,
    config: ClipConfig,
    params: Params,
    mode: Mode,
    device: Device,
}

impl Clip {
    /// A model with fresh weights; the same `seed` gives the same weights.
    ///
    /// # Errors
    /// [`crate::Error::Config`] where the configuration cannot be built.
    pub fn new(config: &ClipConfig, device: Device, seed: u64) -> Result<Self> {
        config.validate("model")?;
        let store = Store::new(device, seed);
        let root = store.root();
        let text = Self::text_tower(&root, config)?;
        let scale = config.init_logit_scale.unwrap_or(INITIAL_LOGIT_SCALE);
        let logit_scale = root.parameter("logit_scale", &[], Init::Constant(scale))?;
        let logit_bias = config
            .init_logit_bias
            .map(|bias| root.parameter("logit_bias", &[], Init::Constant(bias)))
            .transpose()?;
        let visual = ImageTower::new(
            &root.child("visual"),
            &config.vision_cfg,
            config.embed_dim,
            config.vision_activation(),
        )?;
        let mode = store.mode().clone();
        Ok(Clip {
            visual,
            text,
            logit_scale,
            logit_bias,
            config: config.clone(),
            params: store.into_params(),
            mode,
            device,
        })
    }

    pub(crate) fn text_tower(root: &Builder<'_>, config: &ClipConfig) -> Result<TextTransformer> {
        let path = if config.custom_text { root.child("text") } else { root.clone() };
        TextTransformer::new(&path, &config.text_cfg, config.embed_dim, config.text_activation())
    }

    /// Switches between training and evaluation; a new model evaluates.
    pub fn mode(&self) -> &Mode {
        &self.mode
    }

    /// Normalised images `[batch, 3, size, size]` to raw embeddings `[batch, embed_dim]`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] where the images have another shape.
    pub fn encode_image(&self, images: &Tensor) -> Result<Tensor> {
        self.encode_image_taped(images, &mut Tape::off())
    }

    /// The same, with the blocks on `tape` (activation checkpointing).
    ///
    /// # Errors
    /// As [`Clip::encode_image`].
    pub fn encode_image_taped<'a>(&'a self, images: &Tensor, tape: &mut Tape<'a>) -> Result<Tensor> {
        self.visual.forward(images, tape)
    }

    /// Normalised images with a share (0..1) of each one's patches left out, as masked distillation wants them.
    /// Which ones is drawn by the mode's seed.
    ///
    /// # Errors
    /// As [`Clip::encode_image`]; [`crate::Error::Config`] where the tower is no ViT.
    pub fn encode_image_masked<'a>(
        &'a self,
        images: &Tensor,
        share: f64,
        tape: &mut Tape<'a>,
    ) -> Result<Tensor> {
        self.visual.forward_masked(images, share, tape)
    }

    /// Token ids `[batch, length <= context]` (i64) to raw embeddings `[batch, embed_dim]`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] where the tokens have another shape.
    pub fn encode_text(&self, tokens: &Tensor) -> Result<Tensor> {
        self.encode_text_taped(tokens, &mut Tape::off())
    }

    /// The same, with the blocks on `tape` (activation checkpointing).
    ///
    /// # Errors
    /// As [`Clip::encode_text`].
    pub fn encode_text_taped<'a>(&'a self, tokens: &Tensor, tape: &mut Tape<'a>) -> Result<Tensor> {
        self.text.forward(tokens, tape)
    }

    /// Puts gates on both towers, or takes them off: what follows is the model under these gates.
    ///
    /// # Errors
    /// [`crate::Error::Config`] where they are those of a model of another shape.
    pub fn set_gates(&mut self, gates: Option<Gates>) -> Result<()> {
        if let Some(gates) = &gates {
            gates.check(&self.config)?;
        }
        let (image, text) = gates.map_or((None, None), |gates| (Some(gates.image), Some(gates.text)));
        self.visual.set_gates(image)?;
        self.text.gates = text;
        Ok(())
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

    /// All parameters and buffers under their state-dict names.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Where the parameters live.
    pub fn device(&self) -> Device {
        self.device
    }
}
