//! A frozen teacher: without gradient, in evaluation mode, with its own logit scale.

use clip_model::folder::{self, ConfigOverrides};
use clip_model::{Clip, CrossModal, PreprocessConfig, Tape, presets};
use kd_losses::embeddings::normalize;
use kd_losses::{Embeddings, TokenStates};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use crate::model::cross_modal;
use crate::model::features::{self, FeatureHooks};
use crate::step::batch::ViewTensors;
use crate::{Error, Result};

/// A teacher in memory.
#[derive(Debug)]
pub struct Teacher {
    model: Clip,
    preprocess: PreprocessConfig,
    /// The head of a cross-modal teacher, which embeds only pairs.
    head: Option<CrossModal>,
    scale: Tensor,
}

impl Teacher {
    /// Freezes a model.
    pub fn new(model: Clip, preprocess: PreprocessConfig) -> Self {
        model.params().set_requires_grad(false);
        let scale = model.logit_scale.detach().exp();
        Teacher { model, preprocess, head: None, scale }
    }

    /// Adds a cross-modal head, with its logit scale.
    #[must_use]
    pub fn with_head(self, head: CrossModal) -> Self {
        head.params().set_requires_grad(false);
        Teacher { scale: head.logit_scale.detach().exp(), head: Some(head), ..self }
    }

    /// Whether it reads object boxes, if the data has them.
    pub fn reads_boxes(&self) -> bool {
        self.head.as_ref().is_some_and(|head| head.config().boxes > 0)
    }

    /// Opens a model folder, with its cross-modal head if any, or a checkpoint. `preset` names the architecture of a
    /// checkpoint if it cannot be inferred from the shapes. `image_size` adapts the model to another image size.
    ///
    /// # Errors
    /// [`Error::Recipe`] if `name` is a preset, which has no weights; otherwise the model crate's errors.
    pub fn open(
        name: &str,
        preset: Option<&str>,
        image_size: Option<i64>,
        device: tch::Device,
    ) -> Result<Self> {
        let path = std::path::Path::new(name);
        let overrides = ConfigOverrides::default().with_image_size(image_size);
        let opened = match preset {
            Some(preset) if path.is_file() => {
                folder::open_file(&presets::get(preset)?, path, device, &overrides)?
            }
            _ => folder::open_with(name, device, 0, &overrides)?,
        };
        for note in &opened.notes {
            tracing::info!("teacher {name}: {note}");
        }
        if !opened.has_weights {
            return Err(without_weights(name));
        }
        let head = CrossModal::open(path, &opened.model)?;
        let teacher = Self::new(opened.model, opened.preprocess);
        Ok(match head {
            Some(head) => teacher.with_head(head),
            None => teacher,
        })
    }

    /// Returns the unit embeddings of images `[batch, 3, size, size]` and tokens `[batch, length]`, in its own
    /// preprocessing and ids, with the features selected by `taps`. Row i of both is one pair.
    ///
    /// # Errors
    /// [`Error::Model`] if the shapes do not match the teacher, or if it does not have these features.
    pub fn embed(&self, view: &ViewTensors, taps: &FeatureHooks) -> Result<(Embeddings, TokenStates)> {
        tch::no_grad(|| match &self.head {
            Some(head) => cross_modal::enriched(&self.model, head, view, taps),
            None => {
                let (pairs, states) = features::read(&self.model, view, taps, &mut Tape::off())?;
                Ok((pairs.normalized(), states))
            }
        })
    }

    /// Fails for a teacher whose embeddings of images depend on their captions.
    ///
    /// # Errors
    /// [`Error::Recipe`], which names `what` as unavailable.
    pub fn needs_no_pairs(&self, what: &str) -> Result<()> {
        if self.head.is_none() {
            return Ok(());
        }
        let reason = format!(
            "it is cross-modal: its embedding of an image depends on the caption, so there is no {what}; \
             name it without a `store`, for losses that compare the pairs of a batch"
        );
        Err(Error::recipe("teacher", reason))
    }

    /// Unit embeddings of images alone.
    ///
    /// # Errors
    /// The errors of [`Teacher::embed`]; [`Error::Recipe`] if the teacher is cross-modal.
    pub fn embed_images(&self, images: &Tensor) -> Result<Tensor> {
        self.needs_no_pairs("embedding of an image alone")?;
        tch::no_grad(|| Ok(normalize(&self.model.encode_image(images)?)))
    }

    /// Unit embeddings of tokens alone.
    ///
    /// # Errors
    /// The errors of [`Teacher::embed_images`].
    pub fn embed_texts(&self, tokens: &Tensor) -> Result<Tensor> {
        self.needs_no_pairs("embedding of a text alone")?;
        tch::no_grad(|| Ok(normalize(&self.model.encode_text(tokens)?)))
    }

    /// Returns the SHA-256 over its configuration and over names, shapes and values of its weights, independent of
    /// their file. The same weights with another activation are another teacher.
    ///
    /// # Errors
    /// [`Error::Torch`] if a weight cannot be read.
    pub fn identity(&self) -> Result<String> {
        let mut hash = Sha256::new();
        let config = serde_json::to_string(self.model.config());
        hash.update(config.map_err(|e| Error::recipe("teacher", e.to_string()))?);
        let mut entries = self.model.params().state().collect::<Vec<_>>();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            let tensor = entry.tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
            let values = Vec::<f32>::try_from(tensor.f_contiguous()?.f_view([-1])?)?;
            hash.update(format!("{}{:?}", entry.name, entry.tensor.size()));
            values.iter().for_each(|value| hash.update(value.to_le_bytes()));
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The model. For a cross-modal teacher: the CLIP below its head.
    pub fn model(&self) -> &Clip {
        &self.model
    }

    /// Its image preprocessing.
    pub fn preprocess(&self) -> &PreprocessConfig {
        &self.preprocess
    }

    /// exp(logit scale), a constant scalar.
    pub fn scale(&self) -> &Tensor {
        &self.scale
    }
}

pub(crate) fn without_weights(name: &str) -> Error {
    let reason = format!("`{name}` has no weights: name a model folder or a safetensors file");
    Error::recipe("teacher", reason)
}
