//! The frozen teacher: no gradient, no training mode, its own scale.

use clip_model::folder::{self, Adjust};
use clip_model::{Clip, PreprocessConfig, presets};
use kd_losses::Embeddings;
use kd_losses::embeddings::normalize;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use crate::{Error, Result};

/// A teacher in memory.
#[derive(Debug)]
pub struct Teacher {
    model: Clip,
    preprocess: PreprocessConfig,
    scale: Tensor,
}

impl Teacher {
    /// Freezes a model.
    pub fn new(model: Clip, preprocess: PreprocessConfig) -> Self {
        model.params().set_requires_grad(false);
        let scale = model.logit_scale.detach().exp();
        Teacher { model, preprocess, scale }
    }

    /// Opens a model folder or a checkpoint; `preset` names the architecture of a checkpoint whose shapes do not
    /// tell it, and `image_size` moves it to images of another size.
    ///
    /// # Errors
    /// [`Error::Recipe`] where `name` is a preset, which has no weights; the model crate's errors otherwise.
    pub fn open(
        name: &str,
        preset: Option<&str>,
        image_size: Option<i64>,
        device: tch::Device,
    ) -> Result<Self> {
        let path = std::path::Path::new(name);
        let adjust = Adjust { image_size, ..Adjust::default() };
        let opened = match preset {
            Some(preset) if path.is_file() => {
                folder::open_file(&presets::get(preset)?, path, device, &adjust)?
            }
            _ => folder::open_adjusted(name, device, 0, &adjust)?,
        };
        for note in &opened.notes {
            tracing::info!("teacher {name}: {note}");
        }
        if !opened.has_weights {
            let reason =
                format!("`{name}` is a preset without weights: name a model folder or a safetensors file");
            return Err(Error::recipe("teacher", reason));
        }
        Ok(Self::new(opened.model, opened.preprocess))
    }

    /// Unit embeddings of images `[batch, 3, size, size]` and tokens `[batch, length]`, in its own preprocessing and ids.
    ///
    /// # Errors
    /// [`Error::Model`] where the shapes are not the teacher's.
    pub fn embed(&self, images: &Tensor, tokens: &Tensor) -> Result<Embeddings> {
        Ok(Embeddings::new(self.embed_images(images)?, self.embed_texts(tokens)?)?)
    }

    /// Unit embeddings of images alone.
    ///
    /// # Errors
    /// As [`Teacher::embed`].
    pub fn embed_images(&self, images: &Tensor) -> Result<Tensor> {
        tch::no_grad(|| Ok(normalize(&self.model.encode_image(images)?)))
    }

    /// Unit embeddings of tokens alone.
    ///
    /// # Errors
    /// As [`Teacher::embed`].
    pub fn embed_texts(&self, tokens: &Tensor) -> Result<Tensor> {
        tch::no_grad(|| Ok(normalize(&self.model.encode_text(tokens)?)))
    }

    /// SHA-256 over names, shapes and values of its weights, whatever file they came from.
    ///
    /// # Errors
    /// [`Error::Torch`] where a weight cannot be read.
    pub fn identity(&self) -> Result<String> {
        let mut hash = Sha256::new();
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

    /// The model.
    pub fn model(&self) -> &Clip {
        &self.model
    }

    /// What it wants of its images.
    pub fn preprocess(&self) -> &PreprocessConfig {
        &self.preprocess
    }

    /// exp(logit scale), a constant scalar.
    pub fn scale(&self) -> &Tensor {
        &self.scale
    }
}
