//! The CLIP model: image tower, text tower, learned logit scale and optional logit bias.

use tch::{Device, Tensor};

use crate::gates::Gates;
use crate::mode::Mode;
use crate::params::{Init, ParamBuilder, ParamStore, Params};
use crate::tape::Tape;
use crate::text::TextTransformer;
use crate::vision::ImageTower;
use crate::{ClipConfig, Error, Result, Tower};

/// ln(1/0.07), CLIP's initial logit scale.
pub(crate) const INITIAL_LOGIT_SCALE: f64 = 2.659_260_036_932_778;
/// ln(100), CLIP's largest logit scale.
pub(crate) const MAX_LOGIT_SCALE: f64 = 4.605_170_185_988_092;

/// A CLIP dual encoder with its parameters.
///
/// ```no_run
/// use clip_model::{Clip, presets};
/// use tch::{Device, Kind, Tensor};
///
/// let model = Clip::new(&presets::get("ViT-B-32")?, Device::Cpu, 0)?;
/// let images = Tensor::zeros([1, 3, 224, 224], (Kind::Float, Device::Cpu));
/// let embedding = tch::no_grad(|| model.encode_image(&images))?; // [1, 512], not normalised
/// # Ok::<(), clip_model::Error>(())
/// ```
#[derive(Debug)]
pub struct Clip {
    /// Image tower.
    pub(crate) visual: ImageTower,
    /// Text tower.
    pub(crate) text: TextTransformer,
    /// Learned logit scale, stored as its natural logarithm; a scalar tensor.
    pub logit_scale: Tensor,
    /// Learned logit bias (SigLIP); a scalar tensor.
    pub logit_bias: Option<Tensor>,
    config: ClipConfig,
    params: Params,
    mode: Mode,
    device: Device,
    /// The only tower with weights; `None` if both have them.
    only: Option<Tower>,
}

impl Clip {
    /// Creates a model with randomly initialised weights, which depend only on `seed`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] if the configuration cannot be built.
    pub fn new(config: &ClipConfig, device: Device, seed: u64) -> Result<Self> {
        Self::build(config, ParamStore::new(device, seed))
    }

    /// Creates a model whose parameters have undefined values, for [`crate::weights::replace`].
    ///
    /// # Errors
    /// The errors of [`Clip::new`].
    pub(crate) fn unset(config: &ClipConfig, device: Device) -> Result<Self> {
        Self::build(config, ParamStore::unset(device))
    }

    fn build(config: &ClipConfig, store: ParamStore) -> Result<Self> {
        config.validate("model")?;
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
        let (mode, device) = (store.mode().clone(), store.device());
        Ok(Clip {
            visual,
            text,
            logit_scale,
            logit_bias,
            config: config.clone(),
            params: store.into_params(),
            mode,
            device,
            only: None,
        })
    }

    pub(crate) fn text_tower(root: &ParamBuilder<'_>, config: &ClipConfig) -> Result<TextTransformer> {
        let path = if config.custom_text { root.child("text") } else { root.clone() };
        TextTransformer::new(&path, &config.text_cfg, config.embed_dim, config.text_activation())
    }

    /// Returns the training and evaluation mode of the model; a new model is in evaluation mode.
    pub fn mode(&self) -> &Mode {
        &self.mode
    }

    /// Encodes normalised images `[batch, 3, size, size]` to embeddings `[batch, embed_dim]` that are not yet of unit
    /// length.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the images have another shape; [`crate::Error::OneTower`] if the model was opened from
    /// weights of the text tower only.
    pub fn encode_image(&self, images: &Tensor) -> Result<Tensor> {
        self.encode_image_taped(images, &mut Tape::off())
    }

    /// Encodes images with activation checkpointing on `tape`.
    ///
    /// # Errors
    /// The errors of [`Clip::encode_image`].
    pub fn encode_image_taped<'a>(&'a self, images: &Tensor, tape: &mut Tape<'a>) -> Result<Tensor> {
        self.check_tower(Tower::Image)?;
        self.visual.forward(images, tape)
    }

    /// Encodes images with a fraction (0..1) of their patches left out, as in masked distillation. The seed of
    /// [`Clip::mode`] selects the patches.
    ///
    /// # Errors
    /// The errors of [`Clip::encode_image`]; [`crate::Error::Unsupported`] if the image tower is not a ViT.
    pub fn encode_image_masked<'a>(
        &'a self,
        images: &Tensor,
        fraction: f64,
        tape: &mut Tape<'a>,
    ) -> Result<Tensor> {
        self.visual.forward_masked(images, fraction, tape)
    }

    /// Encodes token ids `[batch, length <= context]` (i64) to embeddings `[batch, embed_dim]` that are not yet of
    /// unit length.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the tokens have another shape; [`crate::Error::OneTower`] if the model was opened from
    /// weights of the image tower only.
    pub fn encode_text(&self, tokens: &Tensor) -> Result<Tensor> {
        self.encode_text_taped(tokens, &mut Tape::off())
    }

    /// Encodes token ids with activation checkpointing on `tape`.
    ///
    /// # Errors
    /// The errors of [`Clip::encode_text`].
    pub fn encode_text_taped<'a>(&'a self, tokens: &Tensor, tape: &mut Tape<'a>) -> Result<Tensor> {
        self.check_tower(Tower::Text)?;
        self.text.forward(tokens, tape)
    }

    /// Returns the tower that was opened, if the weights hold one tower only. The other cannot encode.
    pub fn only_tower(&self) -> Option<Tower> {
        self.only
    }

    /// Records that only one tower has weights.
    pub(crate) fn set_only_tower(&mut self, tower: Option<Tower>) {
        self.only = tower;
    }

    fn check_tower(&self, tower: Tower) -> Result<()> {
        match self.only {
            Some(only) if only != tower => Err(Error::OneTower { origin: None, tower: only }),
            _ => Ok(()),
        }
    }

    /// Sets the pruning gates of both towers; `None` removes them.
    ///
    /// # Errors
    /// [`crate::Error::Incompatible`] if the gates belong to a model of another shape.
    pub fn set_gates(&mut self, gates: Option<Gates>) -> Result<()> {
        if let Some(gates) = &gates {
            gates.validate(&self.config)?;
        }
        let (image, text) = gates.map_or((None, None), |gates| (Some(gates.image), Some(gates.text)));
        self.visual.set_gates(image)?;
        self.text.gates = text;
        Ok(())
    }

    /// Clamps the logit scale to 0..=ln(100), as CLIP does after every step.
    pub fn clamp_logit_scale(&self) {
        tch::no_grad(|| {
            let _ = self.logit_scale.shallow_clone().clamp_(0.0, MAX_LOGIT_SCALE);
        });
    }

    /// Returns the number of image blocks that [`Clip::image_states`] can select; `None` if the image tower is not a
    /// ViT.
    pub fn image_depth(&self) -> Option<usize> {
        self.visual.depth()
    }

    /// Returns the number of text blocks that [`Clip::text_states`] can select.
    pub fn text_depth(&self) -> usize {
        self.text.depth()
    }

    /// Returns the configuration of the model.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// Returns all parameters and buffers under their state-dict names.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Returns the device of the parameters.
    pub fn device(&self) -> Device {
        self.device
    }
}
