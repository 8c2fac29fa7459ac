//! A frozen teacher: without gradient, in evaluation mode, with its own logit scale.

use clip_model::{Clip, CrossModal, Tape};
use kd_losses::embeddings::normalize;
use kd_losses::{Embeddings, TokenStates};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use crate::model::cross_modal;
use crate::model::features::{self, FeatureHooks};
use crate::model::loaded::LoadedModel;
use crate::step::batch::ViewTensors;
use crate::{Error, Result};

/// A teacher in memory.
#[derive(Debug)]
pub struct Teacher {
    model: Clip,
    /// The head of a cross-modal teacher, which embeds only pairs.
    head: Option<CrossModal>,
    scale: Tensor,
}

impl From<LoadedModel> for Teacher {
    /// Freezes a model, with its cross-modal head if it has one.
    fn from(loaded: LoadedModel) -> Self {
        let teacher = Teacher::new(loaded.model);
        match loaded.head {
            Some(head) => teacher.with_head(head),
            None => teacher,
        }
    }
}

impl Teacher {
    /// Freezes a model.
    pub fn new(model: Clip) -> Self {
        model.params().set_requires_grad(false);
        let scale = model.logit_scale.detach().exp();
        Teacher { model, head: None, scale }
    }

    /// Adds a cross-modal head, with its logit scale.
    #[must_use]
    pub fn with_head(self, head: CrossModal) -> Self {
        head.params().set_requires_grad(false);
        Teacher { scale: head.logit_scale.detach().exp(), head: Some(head), ..self }
    }

    /// Whether the teacher reads the object boxes of the data.
    pub fn reads_boxes(&self) -> bool {
        self.head.as_ref().is_some_and(|head| head.config().boxes > 0)
    }

    /// Returns the unit embeddings of images `[batch, 3, size, size]` and tokens `[batch, length]` from the teacher's
    /// processor, with the features selected by `hooks`. Row i of images and tokens is one pair.
    ///
    /// # Errors
    /// [`Error::Model`] if the shapes do not match the teacher, or if it does not have these features.
    pub fn embed(&self, view: &ViewTensors, hooks: &FeatureHooks) -> Result<(Embeddings, TokenStates)> {
        tch::no_grad(|| match &self.head {
            Some(head) => cross_modal::enriched(&self.model, head, view, hooks),
            None => {
                let (pairs, states) = features::read(&self.model, view, hooks, &mut Tape::off())?;
                Ok((pairs.normalized(), states))
            }
        })
    }

    /// Checks that the teacher embeds images and texts separately. A cross-modal teacher embeds only pairs.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a cross-modal teacher. The message states that it has no `what`.
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

    /// Returns the unit embeddings of images, without captions.
    ///
    /// # Errors
    /// The errors of [`Teacher::embed`]; [`Error::Recipe`] if the teacher is cross-modal.
    pub fn embed_images(&self, images: &Tensor) -> Result<Tensor> {
        self.needs_no_pairs("embedding of an image alone")?;
        tch::no_grad(|| Ok(normalize(&self.model.encode_image(images)?)))
    }

    /// Returns the unit embeddings of tokens, without images.
    ///
    /// # Errors
    /// The errors of [`Teacher::embed_images`].
    pub fn embed_texts(&self, tokens: &Tensor) -> Result<Tensor> {
        self.needs_no_pairs("embedding of a text alone")?;
        tch::no_grad(|| Ok(normalize(&self.model.encode_text(tokens)?)))
    }

    /// Returns the identity of the model: the SHA-256 of its configuration and of the names, shapes and values of its
    /// weights. It does not depend on their file. Equal weights with different activations have different identities.
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
        Ok(file_ext::to_hex(hash.finalize()))
    }

    /// Returns the model. For a cross-modal teacher, it is the CLIP below the head.
    pub fn model(&self) -> &Clip {
        &self.model
    }

    /// Returns exp(logit scale), a constant scalar.
    pub fn scale(&self) -> &Tensor {
        &self.scale
    }
}
