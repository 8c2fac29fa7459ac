//! A model as an encoder for zero-shot evaluation.

use clip_model::Clip;
use ndarray::{Array2, ArrayView4};
use zeroshot_eval::{EncodeError, Encoder, Report, StoredOptions};

use crate::Result;
use crate::eval::open_set::OpenSet;
use crate::eval::suite;
use crate::model::loaded::LoadedModel;
use crate::model::processor::{Processor, image_tensor, rows};

/// Number of samples per encoding batch.
pub(crate) const BATCH: usize = 256;

/// A model with its processor, as an [`Encoder`] for the evaluation.
pub struct ModelEncoder<'a> {
    /// The model.
    pub model: &'a Clip,
    /// Its processor.
    pub processor: &'a Processor,
}

impl<'a> From<&'a LoadedModel> for ModelEncoder<'a> {
    fn from(loaded: &'a LoadedModel) -> Self {
        ModelEncoder { model: &loaded.model, processor: &loaded.processor }
    }
}

impl Encoder for ModelEncoder<'_> {
    fn encode_images(&self, images: ArrayView4<'_, f32>) -> Result<Array2<f32>, EncodeError> {
        tch::no_grad(|| {
            let images = image_tensor(images, self.model.device())?;
            Ok(rows(&self.model.encode_image(&images)?)?)
        })
    }

    fn encode_texts(&self, texts: &[String]) -> Result<Array2<f32>, EncodeError> {
        tch::no_grad(|| {
            let tokens = self.processor.tokens(texts, self.model.device())?;
            Ok(rows(&self.model.encode_text(&tokens)?)?)
        })
    }
}

/// Evaluates a model on all sets, and returns only its zero-shot scores. `name` is the model's name in the report.
///
/// # Errors
/// [`crate::Error::Data`] if a set cannot be read, [`crate::Error::Eval`] if nothing can be measured on it.
pub fn evaluate(encoder: &ModelEncoder<'_>, sets: &[OpenSet], name: &str) -> Result<Report> {
    Ok(suite::report(name, &suite::evaluate_sets(encoder, sets, None, &StoredOptions::scores())?))
}
