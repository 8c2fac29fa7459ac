//! Evaluates the data sets of a recipe or a suite file from embeddings that are computed once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clip_model::weights::write_atomic;
use data_pipeline::evaluation::EvalBatches;
use data_pipeline::sources::{Source, fingerprint};
use ndarray::{Array2, Array4};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroshot_eval::{
    Classifier, Evaluation, Labels, Report, StoredOptions, StoredRows, StoredSet, encode_captioned,
    encode_labelled, evaluate_stored,
};

use crate::eval::encoder::{BATCH, ModelEncoder};
use crate::model::processor::Processor;
use crate::progress::{Counted, figures};
use crate::recipe::{EvalSet, EvalTask};
use crate::{Error, Result};

/// A suite file: data sets that are evaluated together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// Its name.
    pub name: String,
    /// Relative paths of the sets start here.
    #[serde(default = "here")]
    pub root: PathBuf,
    /// The data sets.
    pub sets: Vec<EvalSet>,
    /// Options of the measurements.
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

/// The rows (embeddings) of one model on one data set.
#[derive(Debug)]
pub struct SetRows {
    images: Array2<f32>,
    labels: Option<Vec<usize>>,
    class_names: Vec<String>,
    classes: Option<Array2<f32>>,
    texts: Option<(Array2<f32>, Vec<usize>)>,
    train: Option<(Array2<f32>, Vec<usize>)>,
    logit_scale: f64,
}

/// The cache, and the identity of the model whose rows it holds.
#[derive(Clone, Copy, Debug)]
pub struct Cache<'a> {
    /// The folder of the cache.
    pub folder: &'a Path,
    /// Identity of the model's weights ([`crate::teacher::frozen::Teacher::identity`]).
    pub identity: &'a str,
}

/// Encodes a data set; relative paths start at `root`. With a cache, existing rows are read from it.
///
/// # Errors
/// [`Error::Data`] if the set cannot be read, [`Error::Eval`] if it lacks a required class or caption.
pub fn encode(
    encoder: &ModelEncoder<'_>,
    set: &EvalSet,
    root: &Path,
    cache: Option<Cache<'_>>,
) -> Result<SetRows> {
    let source = set.source.open(root)?;
    let file =
        cache.map(|cache| cache_file(cache, encoder.reader, set, source.as_ref(), root)).transpose()?;
    let logit_scale = encoder.model.logit_scale.exp().double_value(&[]);
    if let Some(rows) = file.as_deref().and_then(|file| read(file, logit_scale)) {
        return Ok(rows);
    }
    let rows = match set.task {
        EvalTask::Retrieval => {
            let counted = Counted::new(encoder, &set.name, source.len(), None);
            let rows = encode_captioned(&counted, captioned(encoder, &source)?)?;
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
            let class_names = class_names(set, source.as_ref(), root)?;
            let templates = set.templates.texts()?;
            let prompts = class_names.len() * templates.len();
            let counted = Counted::new(encoder, &set.name, source.len(), Some(prompts));
            let classifier = Classifier::new(&counted, &class_names, &templates)?;
            let rows = encode_labelled(&counted, labelled(encoder, &source)?)?;
            let train = set.train.as_ref().map(|train| {
                let source = train.open(root)?;
                let name = format!("{}, training images", set.name);
                let counted = Counted::new(encoder, &name, source.len(), None);
                let rows = encode_labelled(&counted, labelled(encoder, &source)?)?;
                Ok::<_, Error>((rows.images, rows.labels))
            });
            SetRows {
                images: rows.images,
                labels: Some(rows.labels),
                classes: Some(classifier.rows().to_owned()),
                class_names,
                texts: None,
                train: train.transpose()?,
                logit_scale,
            }
        }
    };
    if let Some(file) = &file {
        write(file, &rows)?;
    }
    Ok(rows)
}

/// Computes all measurements of one set from its rows, including fidelity if a teacher's rows are given.
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
    sets: &[EvalSet],
    root: &Path,
    cache: Option<Cache<'_>>,
) -> Result<Vec<SetRows>> {
    sets.iter().map(|set| encode(encoder, set, root, cache)).collect()
}

/// Computes only the zero-shot scores of a model from its rows.
///
/// # Errors
/// The errors of [`measure`].
pub fn scores(model: &str, sets: &[EvalSet], rows: &[SetRows]) -> Result<Report> {
    let found =
        sets.iter().zip(rows).map(|(set, rows)| measure(&set.name, rows, None, &StoredOptions::scores()));
    Ok(report(model, &found.collect::<Result<Vec<_>>>()?))
}

/// Evaluates all sets, reading each one once. `teacher` holds the rows of another model on the same sets. The results
/// of each set are logged as soon as they are known.
///
/// # Errors
/// The errors of [`encode`] and [`measure`].
pub fn evaluate_sets(
    encoder: &ModelEncoder<'_>,
    sets: &[EvalSet],
    root: &Path,
    teacher: Option<&[SetRows]>,
    options: &StoredOptions,
) -> Result<Vec<Evaluation>> {
    sets.iter()
        .enumerate()
        .map(|(place, set)| {
            let rows = encode(encoder, set, root, None)?;
            let found = measure(&set.name, &rows, teacher.and_then(|teacher| teacher.get(place)), options)?;
            figures(&found.scores());
            Ok(found)
        })
        .collect()
}

/// The zero-shot scores of all sets.
pub fn report(model: &str, evaluations: &[Evaluation]) -> Report {
    Report { model: model.into(), sets: evaluations.iter().flat_map(Evaluation::scores).collect() }
}

impl SetRows {
    fn view(&self) -> StoredRows<'_> {
        StoredRows {
            images: self.images.view(),
            classes: self.classes.as_ref().map(|rows| rows.view()),
            texts: self.texts.as_ref().map(|(rows, _)| rows.view()),
            train_images: self.train.as_ref().map(|(rows, _)| rows.view()),
            logit_scale: Some(self.logit_scale),
        }
    }
}

fn class_names(set: &EvalSet, source: &dyn Source, root: &Path) -> Result<Vec<String>> {
    let own = source.class_names().ok_or_else(|| {
        let reason = "it has no classes: set task = \"retrieval\", or use a folder of class folders";
        Error::recipe(source.name(), reason)
    })?;
    let Some(list) = &set.class_names else { return Ok(own.to_vec()) };
    let names = list.names(root)?;
    if names.len() != own.len() {
        let reason = format!(
            "it has {} classes, but the class list has {} names: list one name per class",
            own.len(),
            names.len()
        );
        return Err(Error::recipe(source.name(), reason));
    }
    Ok(names)
}

type Batch<T> = Result<(Array4<f32>, Vec<T>), zeroshot_eval::EncodeError>;

fn labelled(
    encoder: &ModelEncoder<'_>,
    source: &Arc<dyn Source>,
) -> Result<impl Iterator<Item = Batch<usize>>> {
    let batches = EvalBatches::new(Arc::clone(source), encoder.reader.preprocess().clone(), BATCH)?;
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
    let batches = EvalBatches::new(Arc::clone(source), encoder.reader.preprocess().clone(), BATCH)?;
    Ok(batches.map(|batch| {
        let batch = batch?;
        Ok((batch.images, batch.captions))
    }))
}

/// The cache key of a model's rows on a set: a hash of weights, processor, data and class names.
fn cache_file(
    cache: Cache<'_>,
    reader: &Processor,
    set: &EvalSet,
    source: &dyn Source,
    root: &Path,
) -> Result<PathBuf> {
    let broken = |e: String| Error::recipe(&set.name, e);
    let mut parts = vec![
        cache.identity.to_string(),
        serde_json::to_string(reader.preprocess()).map_err(|e| broken(e.to_string()))?,
        format!("{} {}", reader.tokenizer_name(), reader.context_length()),
        toml::to_string(set).map_err(|e| broken(e.to_string()))?,
        fingerprint(source)?,
    ];
    if set.task == EvalTask::Classification {
        parts.push(class_names(set, source, root)?.join("\n"));
    }
    if let Some(train) = &set.train {
        parts.push(fingerprint(train.open(root)?.as_ref())?);
    }
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let name = hash.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect::<String>();
    Ok(cache.folder.join(format!("rows-{name}.safetensors")))
}

/// Checks a set early for errors that would otherwise appear only during its evaluation.
///
/// # Errors
/// [`Error::Data`] if its images or training images cannot be opened, [`Error::Recipe`] if its class names do not
/// match.
pub(crate) fn check(set: &EvalSet, root: &Path) -> Result<()> {
    let source = set.source.open(root)?;
    if set.task == EvalTask::Classification {
        class_names(set, source.as_ref(), root)?;
    }
    set.train.iter().try_for_each(|train| Ok(train.open(root).map(|_| ())?))
}

/// The data other than tensors, stored in the file's metadata.
#[derive(Serialize, Deserialize)]
struct Facts {
    labels: Option<Vec<usize>>,
    class_names: Vec<String>,
    image_of: Option<Vec<usize>>,
    train_labels: Option<Vec<usize>>,
}

const FACTS: &str = "facts";

fn write(file: &Path, rows: &SetRows) -> Result<()> {
    let facts = Facts {
        labels: rows.labels.clone(),
        class_names: rows.class_names.clone(),
        image_of: rows.texts.as_ref().map(|(_, image_of)| image_of.clone()),
        train_labels: rows.train.as_ref().map(|(_, labels)| labels.clone()),
    };
    let broken = |e: String| Error::recipe(file.display().to_string(), e);
    let facts = serde_json::to_string(&facts).map_err(|e| broken(e.to_string()))?;
    let arrays = [
        ("images", Some(&rows.images)),
        ("classes", rows.classes.as_ref()),
        ("texts", rows.texts.as_ref().map(|(rows, _)| rows)),
        ("train", rows.train.as_ref().map(|(rows, _)| rows)),
    ];
    let bytes = arrays
        .into_iter()
        .filter_map(|(name, rows)| Some((name, rows?)))
        .map(|(name, rows)| {
            let bytes = rows.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
            (name, vec![rows.nrows(), rows.ncols()], bytes)
        })
        .collect::<Vec<_>>();
    let views = bytes
        .iter()
        .map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
    let metadata = HashMap::from([(FACTS.to_string(), facts)]);
    let file_bytes = views
        .and_then(|views| safetensors::serialize(views, Some(metadata)))
        .map_err(|e| broken(e.to_string()))?;
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    Ok(write_atomic(file, &file_bytes)?)
}

/// Reads cached rows. Returns `None` if they are missing or unreadable; they are then computed again.
fn read(file: &Path, logit_scale: f64) -> Option<SetRows> {
    let bytes = std::fs::read(file).ok()?;
    let (_, header) = SafeTensors::read_metadata(&bytes).ok()?;
    let facts: Facts = serde_json::from_str(header.metadata().as_ref()?.get(FACTS)?).ok()?;
    let tensors = SafeTensors::deserialize(&bytes).ok()?;
    let array = |name: &str| {
        let view = tensors.tensor(name).ok()?;
        let [rows, width] = *view.shape() else { return None };
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Array2::from_shape_vec((rows, width), values.collect()).ok()
    };
    Some(SetRows {
        images: array("images")?,
        labels: facts.labels,
        class_names: facts.class_names,
        classes: array("classes"),
        texts: array("texts").zip(facts.image_of),
        train: array("train").zip(facts.train_labels),
        logit_scale,
    })
}
