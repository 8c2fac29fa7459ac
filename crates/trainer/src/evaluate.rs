//! Zero-shot evaluation of a model on data sets of a recipe.

use std::path::Path;
use std::sync::Arc;

use clip_model::Clip;
use data_pipeline::evaluation::EvalBatches;
use data_pipeline::sources::Source;
use ndarray::{Array2, ArrayView4};
use zeroshot_eval::{Classifier, EncodeError, Encoder, Report, Score, SetScore};

use crate::recipe::{EvalSet, EvalTask};
use crate::views::{Reader, image_tensor, rows};
use crate::{Error, Result};

/// Samples that are encoded at once.
pub(crate) const BATCH: usize = 256;

/// A model with its way of reading, as the evaluation wants it.
pub struct ModelEncoder<'a> {
    /// The model.
    pub model: &'a Clip,
    /// How it reads.
    pub reader: &'a Reader,
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
            let tokens = self.reader.tokens(texts, self.model.device())?;
            Ok(rows(&self.model.encode_text(&tokens)?)?)
        })
    }
}

/// Evaluates a model on all sets; relative paths start at `root`, and `name` stands in the report.
///
/// # Errors
/// [`Error::Data`] where a set cannot be read, [`Error::Eval`] where nothing can be measured on it.
pub fn evaluate(encoder: &ModelEncoder<'_>, sets: &[EvalSet], root: &Path, name: &str) -> Result<Report> {
    let scores = sets.iter().map(|set| {
        let source = set.source.open(root)?;
        let score = evaluate_source(encoder, &source, set.task, &set.templates.texts()?, None)?;
        Ok(SetScore { set: set.name.clone(), score })
    });
    Ok(Report { model: name.into(), sets: scores.collect::<Result<_>>()? })
}

/// Evaluates a model on one source; `class_names` stand in place of the source's own.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_source(
    encoder: &ModelEncoder<'_>,
    source: &Arc<dyn Source>,
    task: EvalTask,
    templates: &[String],
    class_names: Option<&[String]>,
) -> Result<Score> {
    let batches = EvalBatches::new(Arc::clone(source), encoder.reader.preprocess().clone(), BATCH)?;
    match task {
        EvalTask::Retrieval => {
            let batches = batches.map(|batch| {
                let batch = batch?;
                Ok((batch.images, batch.captions))
            });
            Ok(Score::Retrieval(zeroshot_eval::retrieval_set(encoder, batches)?))
        }
        EvalTask::Classification => {
            let classes = source.class_names().ok_or_else(|| {
                let reason =
                    "it has no classes; ask for task = \"retrieval\", or name a folder of class folders";
                Error::recipe(source.name(), reason)
            })?;
            let classes = match class_names {
                Some(names) if names.len() == classes.len() => names,
                Some(names) => {
                    let reason = format!("it has {} classes, the class list {}", classes.len(), names.len());
                    return Err(Error::recipe(source.name(), reason));
                }
                None => classes,
            };
            let classifier = Classifier::new(encoder, classes, templates)?;
            let batches = batches.map(|batch| {
                let batch = batch?;
                let labels = batch.labels.into_iter().collect::<Option<Vec<_>>>();
                Ok((batch.images, labels.ok_or("a sample has no label")?))
            });
            Ok(Score::Classification(zeroshot_eval::classification(encoder, &classifier, classes, batches)?))
        }
    }
}
