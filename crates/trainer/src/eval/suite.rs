//! Evaluates the data sets of a recipe or a suite file. The embeddings of a set are computed once for all metrics.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_pipeline::evaluation::EvalBatches;
use data_pipeline::sources::Source;
use ndarray::{Array2, Array4};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroshot_eval::{
    Classifier, Evaluation, Labels, Report, StoredEmbeddings, StoredOptions, StoredSet, encode_captioned,
    encode_labelled, evaluate_stored,
};

use crate::eval::cache::{self, Cache};
use crate::eval::encoder::{BATCH, ModelEncoder};
use crate::eval::open_set::OpenSet;
use crate::progress::{self, Counted};
use crate::recipe::{EvalSet, EvalTask};
use crate::{Error, Result};

/// A suite file: data sets that are evaluated together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// Name of the suite.
    pub name: String,
    /// Folder for relative paths of the sets; `--root` overrides it.
    #[serde(default = "here")]
    pub root: PathBuf,
    /// Data sets to evaluate.
    pub sets: Vec<EvalSet>,
    /// Settings of the evaluation.
    #[serde(default)]
    pub options: StoredOptions,
}

fn here() -> PathBuf {
    ".".into()
}

impl Suite {
    /// Reads a suite file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Data`] if it is not UTF-8; [`Error::Recipe`] with the invalid line.
    pub fn read(path: &Path) -> Result<Self> {
        let text = crate::text::read(path)?;
        let fail = |reason: String| Error::recipe(path.display().to_string(), reason);
        let suite: Suite =
            toml::from_str(&text).map_err(|e| fail(e.to_string().trim().replace('\n', "; ")))?;
        let mut names = std::collections::HashSet::new();
        if let Some(twice) = suite.sets.iter().find(|set| !names.insert(&set.name)) {
            return Err(fail(format!("two data sets have the name `{}`: rename one", twice.name)));
        }
        if suite.sets.is_empty() {
            return Err(fail("it has no data sets: add [[sets]]".into()));
        }
        Ok(suite)
    }
}

/// The embeddings of one model on one data set.
#[derive(Debug)]
pub struct SetRows {
    pub(super) images: Array2<f32>,
    pub(super) labels: Option<Vec<usize>>,
    pub(super) class_names: Vec<String>,
    pub(super) classes: Option<Array2<f32>>,
    pub(super) texts: Option<(Array2<f32>, Vec<usize>)>,
    pub(super) train: Option<(Array2<f32>, Vec<usize>)>,
    pub(super) logit_scale: f64,
}

/// Encodes a data set. With a cache, existing embeddings are read from it.
///
/// # Errors
/// [`Error::Data`] if the set cannot be read, [`Error::Eval`] if it lacks a required class or caption.
pub fn encode(encoder: &ModelEncoder<'_>, set: &OpenSet, cache: Option<Cache<'_>>) -> Result<SetRows> {
    let file = cache.map(|cache| cache::cache_file(cache, encoder.processor, set)).transpose()?;
    let logit_scale = encoder.model.logit_scale.exp().double_value(&[]);
    if let Some(rows) = file.as_deref().and_then(|file| cache::read(file, logit_scale)) {
        return Ok(rows);
    }
    let (name, source) = (set.name(), &set.source);
    let rows = match set.config.task {
        EvalTask::Retrieval => {
            let counted = Counted::new(encoder, name, source.len(), None);
            let rows = encode_captioned(&counted, captioned(encoder, source)?)?;
            SetRows {
                images: rows.images,
                labels: None,
                class_names: Vec::new(),
                classes: None,
                texts: Some((rows.texts, rows.image_of)),
                train: None,
                logit_scale,
            }
        }
        EvalTask::Classification => {
            let prompts = set.class_names.len() * set.templates.len();
            let counted = Counted::new(encoder, name, source.len(), Some(prompts));
            let classifier = Classifier::new(&counted, &set.class_names, &set.templates)?;
            let rows = encode_labelled(&counted, labelled(encoder, source)?)?;
            let train = set.train.as_ref().map(|source| {
                let name = format!("{name}, training images");
                let counted = Counted::new(encoder, &name, source.len(), None);
                let rows = encode_labelled(&counted, labelled(encoder, source)?)?;
                Ok::<_, Error>((rows.images, rows.labels))
            });
            SetRows {
                images: rows.images,
                labels: Some(rows.labels),
                classes: Some(classifier.embeddings().to_owned()),
                class_names: set.class_names.clone(),
                texts: None,
                train: train.transpose()?,
                logit_scale,
            }
        }
    };
    if let Some(file) = &file {
        cache::write(file, &rows)?;
    }
    Ok(rows)
}

/// Computes all metrics of one set from its embeddings, including fidelity if a teacher's embeddings are given.
///
/// # Errors
/// [`Error::Eval`] if nothing can be measured.
pub fn measure(
    name: &str,
    rows: &SetRows,
    teacher: Option<&SetRows>,
    options: &StoredOptions,
) -> Result<Evaluation> {
    let labels = rows.labels.as_ref().map(|test| Labels {
        classes: &rows.class_names,
        test,
        train: rows.train.as_ref().map(|(_, labels)| labels.as_slice()),
    });
    let image_of = rows.texts.as_ref().map(|(_, image_of)| image_of.as_slice());
    let set = StoredSet { name, labels, image_of };
    Ok(evaluate_stored(&set, &rows.view(), teacher.map(SetRows::view).as_ref(), options)?)
}

/// Encodes all sets with [`encode`].
///
/// # Errors
/// The errors of [`encode`].
pub fn encode_sets(
    encoder: &ModelEncoder<'_>,
    sets: &[OpenSet],
    cache: Option<Cache<'_>>,
) -> Result<Vec<SetRows>> {
    sets.iter().map(|set| encode(encoder, set, cache)).collect()
}

/// Computes only the zero-shot scores of a model from its embeddings.
///
/// # Errors
/// The errors of [`measure`].
pub fn scores(model: &str, sets: &[OpenSet], rows: &[SetRows]) -> Result<Report> {
    let found =
        sets.iter().zip(rows).map(|(set, rows)| measure(set.name(), rows, None, &StoredOptions::scores()));
    Ok(report(model, &found.collect::<Result<Vec<_>>>()?))
}

/// Evaluates a model on all sets, reading each set once. `teacher` holds the teacher's embeddings of the same sets.
/// Logs the results of each set as soon as they are known.
///
/// # Errors
/// The errors of [`encode`] and [`measure`].
pub fn evaluate_sets(
    encoder: &ModelEncoder<'_>,
    sets: &[OpenSet],
    teacher: Option<&[SetRows]>,
    options: &StoredOptions,
) -> Result<Vec<Evaluation>> {
    sets.iter()
        .enumerate()
        .map(|(index, set)| {
            let rows = encode(encoder, set, None)?;
            let found = measure(set.name(), &rows, teacher.and_then(|teacher| teacher.get(index)), options)?;
            progress::scores(&found.scores());
            Ok(found)
        })
        .collect()
}

/// Returns a report of the zero-shot scores of all sets.
pub fn report(model: &str, evaluations: &[Evaluation]) -> Report {
    Report { model: model.into(), sets: evaluations.iter().flat_map(Evaluation::scores).collect() }
}

impl SetRows {
    fn view(&self) -> StoredEmbeddings<'_> {
        StoredEmbeddings {
            images: self.images.view(),
            classes: self.classes.as_ref().map(|rows| rows.view()),
            texts: self.texts.as_ref().map(|(rows, _)| rows.view()),
            train_images: self.train.as_ref().map(|(rows, _)| rows.view()),
            logit_scale: Some(self.logit_scale),
        }
    }
}

type Batch<T> = Result<(Array4<f32>, Vec<T>), zeroshot_eval::EncodeError>;

fn labelled(
    encoder: &ModelEncoder<'_>,
    source: &Arc<dyn Source>,
) -> Result<impl Iterator<Item = Batch<usize>>> {
    let batches = EvalBatches::new(Arc::clone(source), encoder.processor.preprocess().clone(), BATCH)?;
    Ok(batches.map(|batch| {
        let batch = batch?;
        let labels = batch.labels.into_iter().collect::<Option<Vec<_>>>();
        Ok((batch.images, labels.ok_or("a sample has no label, which classification needs")?))
    }))
}

fn captioned(
    encoder: &ModelEncoder<'_>,
    source: &Arc<dyn Source>,
) -> Result<impl Iterator<Item = Batch<Vec<String>>>> {
    let batches = EvalBatches::new(Arc::clone(source), encoder.processor.preprocess().clone(), BATCH)?;
    Ok(batches.map(|batch| {
        let batch = batch?;
        Ok((batch.images, batch.captions))
    }))
}
