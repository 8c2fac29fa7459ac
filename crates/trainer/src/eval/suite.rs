//! Evaluates the data sets of a recipe or a suite file. The embeddings of a set are computed once for all metrics.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_pipeline::evaluation::{DamagedSamples, EvalBatches};
use data_pipeline::notice;
use data_pipeline::policy::ErrorPolicy;
use data_pipeline::sources::{Source, SourceConfig};
use ndarray::Array2;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroshot_eval::{
    Classifier, EncodeError, Evaluation, LabelledEmbeddings, Labels, Report, StoredEmbeddings, StoredOptions,
    StoredSet, encode_captioned, encode_labelled, evaluate_stored,
};

use crate::eval::cache::{self, Cache};
use crate::eval::encoder::{BATCH, ModelEncoder};
use crate::eval::open_set::OpenSet;
use crate::progress::{self, Counted};
use crate::recipe::{EvalSet, EvalTask, Places, check_sets};
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
    /// Policy for damaged images, which are counted and named.
    #[serde(default)]
    pub damaged: ErrorPolicy,
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
        let origin = path.display().to_string();
        let fail = |reason: String| Error::recipe(&origin, reason);
        let table = Places::parse(&text).map_err(fail)?;
        let places = Places::of_file(&origin, text);
        let suite = places.read::<Suite>(table, || schemars::schema_for!(Suite).to_value()).map_err(fail)?;
        if suite.sets.is_empty() {
            return Err(fail("it has no data sets: add [[sets]]".into()));
        }
        check_sets("sets", &suite.sets).map_err(|reason| fail(places.locate(&reason)))?;
        let damaged = suite.damaged.validate();
        damaged.map_err(|error| fail(places.locate(&format!("damaged: {error}"))))?;
        Ok(suite)
    }

    /// Keeps only the data sets with these names, in the order of the suite. A data set of CLIP_benchmark can also be
    /// selected by its name there, such as `vtab/cifar100`. Case and the characters `-`, `_`, `/` and space do not
    /// matter.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a name that is not a data set of the suite.
    pub fn select(&mut self, names: &[String]) -> Result<()> {
        let wanted = names.iter().map(|name| plain(name)).collect::<Vec<_>>();
        let known = self.sets.iter().flat_map(aliases).collect::<Vec<_>>();
        if let Some(place) = wanted.iter().position(|name| !known.contains(name)) {
            let listed = self.sets.iter().map(|set| set.name.as_str()).collect::<Vec<_>>().join(", ");
            let reason = format!("it has no data set `{}`; use {listed}", names[place].trim());
            return Err(Error::recipe(&self.name, reason));
        }
        self.sets.retain(|set| aliases(set).iter().any(|name| wanted.contains(name)));
        Ok(())
    }
}

/// Normalises a name for comparisons.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_' | '/' | ' ')).collect::<String>().to_lowercase()
}

/// Returns the names of a set for [`Suite::select`].
fn aliases(set: &EvalSet) -> Vec<String> {
    let mut names = vec![plain(&set.name)];
    if let SourceConfig::ClipBenchmark(config) = &set.source {
        let folder = config.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let name = folder.split('@').next().unwrap_or_default();
        let name = name.strip_prefix("wds_").unwrap_or(name);
        names.push(plain(name));
        names.extend(name.strip_prefix("vtab-").map(plain));
    }
    names
}

/// The embeddings of one model on one data set.
#[derive(Debug)]
pub struct SetEmbeddings {
    pub(super) images: Array2<f32>,
    pub(super) labels: Option<Vec<usize>>,
    pub(super) class_names: Vec<String>,
    pub(super) classes: Option<Array2<f32>>,
    pub(super) texts: Option<(Array2<f32>, Vec<usize>)>,
    pub(super) train: Option<(Array2<f32>, Vec<usize>)>,
    /// Number of damaged images, which are left out.
    pub(super) damaged: usize,
    pub(super) logit_scale: f64,
}

/// Encodes a data set. With a cache, existing embeddings are read from it.
///
/// # Errors
/// [`Error::Data`] if the set cannot be read, [`Error::Eval`] if it lacks a required class or caption.
pub fn encode(encoder: &ModelEncoder<'_>, set: &OpenSet, cache: Option<Cache<'_>>) -> Result<SetEmbeddings> {
    let file = cache.map(|cache| cache::cache_file(cache, encoder.processor, set)).transpose()?;
    let logit_scale = encoder.model.logit_scale.exp().double_value(&[]);
    if let Some(rows) = file.as_deref().and_then(|file| cache::read(file, logit_scale)) {
        return Ok(rows);
    }
    let (name, source) = (set.name(), &set.source);
    let rows = match set.config.task {
        EvalTask::Retrieval => {
            let counted = Counted::new(encoder, name, source.len(), None);
            let mut batches = batches(encoder, source, set)?;
            let captioned = batches.by_ref().map(|batch| -> Result<_, EncodeError> {
                let batch = batch?;
                Ok((batch.images, batch.captions))
            });
            let rows = encode_captioned(&counted, captioned);
            let (rows, damaged) = finish(rows, name, &batches)?;
            SetEmbeddings {
                images: rows.images,
                labels: None,
                class_names: Vec::new(),
                classes: None,
                texts: Some((rows.texts, rows.image_of)),
                train: None,
                damaged,
                logit_scale,
            }
        }
        EvalTask::Classification => {
            let prompts = set.prompts.iter().map(Vec::len).sum();
            let counted = Counted::new(encoder, name, source.len(), Some(prompts));
            let classifier = Classifier::from_prompts(&counted, &set.class_names, &set.prompts)?;
            let (rows, damaged) = labelled(encoder, &counted, source, set, name)?;
            let train = set.train.as_ref().map(|source| {
                let name = format!("{name}, training images");
                let counted = Counted::new(encoder, &name, source.len(), None);
                let (rows, _) = labelled(encoder, &counted, source, set, &name)?;
                Ok::<_, Error>((rows.images, rows.labels))
            });
            SetEmbeddings {
                images: rows.images,
                labels: Some(rows.labels),
                classes: Some(classifier.embeddings().to_owned()),
                class_names: set.class_names.clone(),
                texts: None,
                train: train.transpose()?,
                damaged,
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
    set: &OpenSet,
    rows: &SetEmbeddings,
    teacher: Option<&SetEmbeddings>,
    options: &StoredOptions,
) -> Result<Evaluation> {
    let labels = rows.labels.as_ref().map(|test| Labels {
        classes: &rows.class_names,
        test,
        train: rows.train.as_ref().map(|(_, labels)| labels.as_slice()),
    });
    let image_of = rows.texts.as_ref().map(|(_, image_of)| image_of.as_slice());
    let stored = StoredSet { name: set.name(), labels, image_of };
    let mut found =
        evaluate_stored(&stored, &rows.view(), teacher.map(SetEmbeddings::view).as_ref(), options)?;
    found.metric = set.config.metric;
    found.counts.damaged = rows.damaged;
    if set.config.task == EvalTask::Classification {
        found.counts.prompts = Some(set.prompts.iter().map(Vec::len).sum());
        found.counts.prompts_per_class = set.prompts_per_class();
    }
    Ok(found)
}

/// Encodes all sets with [`encode`].
///
/// # Errors
/// The errors of [`encode`].
pub fn encode_sets(
    encoder: &ModelEncoder<'_>,
    sets: &[OpenSet],
    cache: Option<Cache<'_>>,
) -> Result<Vec<SetEmbeddings>> {
    sets.iter().map(|set| encode(encoder, set, cache)).collect()
}

/// Computes only the zero-shot scores of a model from its embeddings.
///
/// # Errors
/// The errors of [`measure`].
pub fn scores(model: &str, sets: &[OpenSet], rows: &[SetEmbeddings]) -> Result<Report> {
    let found = sets.iter().zip(rows).map(|(set, rows)| measure(set, rows, None, &StoredOptions::scores()));
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
    teacher: Option<&[SetEmbeddings]>,
    options: &StoredOptions,
) -> Result<Vec<Evaluation>> {
    sets.iter()
        .enumerate()
        .map(|(index, set)| {
            let rows = encode(encoder, set, None)?;
            let found = measure(set, &rows, teacher.and_then(|teacher| teacher.get(index)), options)?;
            progress::scores(&found.scores());
            Ok(found)
        })
        .collect()
}

/// Returns a report of the zero-shot scores of all sets.
pub fn report(model: &str, evaluations: &[Evaluation]) -> Report {
    Report { model: model.into(), sets: evaluations.iter().flat_map(Evaluation::scores).collect() }
}

impl SetEmbeddings {
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

/// Reads the images of a set, or its training images, under the set's policy for damage.
fn batches(encoder: &ModelEncoder<'_>, source: &Arc<dyn Source>, set: &OpenSet) -> Result<EvalBatches> {
    let preprocess = encoder.processor.preprocess().clone();
    Ok(EvalBatches::with_policy(Arc::clone(source), preprocess, BATCH, set.damaged)?)
}

/// Encodes images with labels. Returns their embeddings, and the number of damaged images that are left out.
fn labelled(
    encoder: &ModelEncoder<'_>,
    counted: &Counted<'_, ModelEncoder<'_>>,
    source: &Arc<dyn Source>,
    set: &OpenSet,
    name: &str,
) -> Result<(LabelledEmbeddings, usize)> {
    let mut batches = batches(encoder, source, set)?;
    let labelled = batches.by_ref().map(|batch| -> Result<_, EncodeError> {
        let batch = batch?;
        let labels = batch.labels.into_iter().collect::<Option<Vec<_>>>();
        Ok((batch.images, labels.ok_or("a sample has no label, which classification needs")?))
    });
    let rows = encode_labelled(counted, labelled);
    finish(rows, name, &batches)
}

/// Returns the log line that names the damaged images of a set.
pub(crate) fn damage_line(name: &str, damaged: &DamagedSamples) -> String {
    let noun = if damaged.len() == 1 { "image" } else { "images" };
    format!("{name}: left out {} damaged {noun} ({damaged})", damaged.len())
}

/// Logs the damaged images of a set. Returns an error if all are damaged.
fn finish<T>(rows: Result<T, zeroshot_eval::Error>, name: &str, batches: &EvalBatches) -> Result<(T, usize)> {
    let damaged = batches.damaged();
    match rows {
        Ok(rows) => {
            if !damaged.is_empty() {
                notice::warn_once(&damage_line(name, damaged));
            }
            Ok((rows, damaged.len()))
        }
        Err(zeroshot_eval::Error::Input(_)) if !damaged.is_empty() => {
            Err(Error::recipe(name, format!("no image can be decoded ({damaged})")))
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Suite> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        Suite::read(file.path())
    }

    fn set(name: &str, more: &str) -> String {
        format!("[[sets]]\nname = '{name}'\nsource = 'emoji'\n{more}\n")
    }

    #[test]
    fn sets_are_selected_by_their_names_in_the_order_of_the_suite() {
        let text = format!("name = 's'\n{}{}{}", set("CIFAR-100", ""), set("EuroSAT", ""), set("MNIST", ""));
        let select = |names: &[&str]| {
            let mut suite = read(&text).unwrap();
            suite.select(&names.iter().map(|name| name.to_string()).collect::<Vec<_>>())?;
            Ok::<_, Error>(suite.sets.into_iter().map(|set| set.name).collect::<Vec<_>>())
        };
        assert_eq!(select(&["eurosat", " cifar100"]).unwrap(), ["CIFAR-100", "EuroSAT"]);
        let error = select(&["cifar100", "cifar"]).unwrap_err().to_string();
        assert!(error.contains("`cifar`") && error.contains("CIFAR-100, EuroSAT, MNIST"), "{error}");
    }

    #[test]
    fn settings_of_sets_are_checked_when_a_suite_is_read() {
        let error = read(&format!("name = 's'\n{}", set("a", "metric = 'mean recall'"))).unwrap_err();
        assert!(error.to_string().contains("mean recall"), "{error}");
        let text = format!("name = 's'\ndamaged = {{ skip = {{ max_fraction = 2.0 }} }}\n{}", set("a", ""));
        assert!(read(&text).unwrap_err().to_string().contains("max_fraction"));
    }
}
