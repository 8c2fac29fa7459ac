//! The frozen teacher: no gradient, no training mode, its own scale.

use std::path::Path;

use clip_model::folder::{self, Adjust};
use clip_model::{Clip, PreprocessConfig, presets};
use kd_losses::Embeddings;
use tch::Tensor;

use crate::models::{Need, locate};
use crate::recipe::TeacherConfig;
use crate::views::Reader;
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
        let path = Path::new(name);
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
        tch::no_grad(|| {
            let pairs = Embeddings::new(self.model.encode_image(images)?, self.model.encode_text(tokens)?)?;
            Ok(pairs.normalized())
        })
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

/// The teacher of a recipe and how it reads; `run` is the model folder of the run that `teacher.run` names.
pub(crate) fn open(
    config: &TeacherConfig,
    run: Option<&Path>,
    device: tch::Device,
    progress: bool,
) -> Result<(Teacher, Reader)> {
    let folder = run.map(|path| path.display().to_string());
    let name = config.model.clone().or(folder).ok_or_else(|| {
        Error::recipe(
            "teacher",
            format!("the run `{}` has no model yet", config.run.as_deref().unwrap_or_default()),
        )
    })?;
    let name = locate(&name, Need::Weights, progress)?;
    let teacher = Teacher::open(&name, config.arch.as_deref(), config.image_size, device)?;
    let (own, preprocess) = (teacher.model().config(), teacher.preprocess());
    let reader = Reader::of_model(&name, own, preprocess, config.tokenizer.as_deref())?;
    Ok((teacher, reader))
}
