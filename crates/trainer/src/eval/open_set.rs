//! An evaluation set whose data is open.

use std::path::Path;
use std::sync::Arc;

use data_pipeline::notice;
use data_pipeline::policy::ErrorPolicy;
use data_pipeline::sources::{Source, SourceConfig, Subset, fingerprint};
use zeroshot_eval::MetricName;

use crate::recipe::sources::{SourcePool, upright};
use crate::recipe::{DATASET_TEMPLATES, EvalSet, EvalTask, Templates, warn_of_repeated};
use crate::{Error, Result};

/// Largest number of classes without a top-5 accuracy, because every class would be among the best five.
pub const TOP5_CLASSES: usize = 5;

/// A data set for evaluation, opened once and used for every model.
#[derive(Clone)]
pub struct OpenSet {
    /// Its settings.
    pub(crate) config: EvalSet,
    /// Its images.
    pub(crate) source: Arc<dyn Source>,
    /// Its class names; empty for retrieval.
    pub(crate) class_names: Vec<String>,
    /// The prompts of each class; empty for retrieval.
    pub(crate) prompts: Vec<Vec<String>>,
    /// Policy for damaged images and broken shards.
    pub(crate) damaged: ErrorPolicy,
    /// Training images of the same classes, for k-NN and a linear probe.
    pub(crate) train: Option<Arc<dyn Source>>,
}

impl std::fmt::Debug for OpenSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenSet").field("config", &self.config).finish_non_exhaustive()
    }
}

impl OpenSet {
    /// Opens a set; relative paths start at `root`.
    ///
    /// # Errors
    /// [`Error::Data`] if its images or training images cannot be opened; [`Error::Recipe`] if its class names do not
    /// match; [`Error::Eval`] for an invalid prompt template.
    pub(crate) fn open(config: &EvalSet, root: &Path, pool: &mut SourcePool) -> Result<Self> {
        config.templates.check()?;
        let mut open =
            |source| pool.open(source, root).map(|source| upright(source, config.exif_orientation));
        let source = open(&config.source)?;
        let (class_names, prompts) = match config.task {
            EvalTask::Classification => {
                let names = class_names(config, source.as_ref(), root)?;
                let prompts = templates(config, source.as_ref()).prompts(&names, source.templates())?;
                (names, prompts)
            }
            EvalTask::Retrieval => {
                check_captions(&config.source, source.as_ref())?;
                (Vec::new(), Vec::new())
            }
        };
        if config.metric == Some(MetricName::Top5) && class_names.len() <= TOP5_CLASSES {
            let count = class_names.len();
            let reason =
                format!("metric = \"top-5\" needs more than {TOP5_CLASSES} classes, but the set has {count}");
            return Err(Error::recipe(&config.name, reason));
        }
        let train = config.train.as_ref().map(open).transpose()?;
        let damaged = ErrorPolicy::default();
        Ok(OpenSet { config: config.clone(), source, class_names, prompts, damaged, train })
    }

    /// Sets the policy for damaged images and broken shards.
    #[must_use]
    pub fn with_damaged(mut self, policy: ErrorPolicy) -> Self {
        self.damaged = policy;
        self
    }

    /// Returns the part of the set that is evaluated during training: its `limit`, without training images.
    ///
    /// # Errors
    /// The errors of [`Subset::spread`].
    pub(crate) fn part(&self) -> Result<Self> {
        let source = match self.config.limit {
            Some(limit) if limit < self.source.len() => {
                Arc::new(Subset::spread(Arc::clone(&self.source), limit)?) as Arc<dyn Source>
            }
            _ => Arc::clone(&self.source),
        };
        Ok(OpenSet { source, train: None, ..self.clone() })
    }

    /// Whether the set is evaluated on fewer images during training.
    pub(crate) fn is_limited(&self) -> bool {
        self.config.limit.is_some_and(|limit| limit < self.source.len())
    }

    /// Returns the sources of the set: its images, and its training images.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Arc<dyn Source>> {
        std::iter::once(&self.source).chain(&self.train)
    }

    /// Returns the number of prompts per class, if all classes have the same number.
    pub(crate) fn prompts_per_class(&self) -> Option<usize> {
        let first = self.prompts.first().map(Vec::len)?;
        self.prompts.iter().all(|prompts| prompts.len() == first).then_some(first)
    }

    /// Returns the name of the set in reports.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Returns the identity of the set: its settings, the fingerprints of its data, and its class names. Equal
    /// identities give equal embeddings.
    ///
    /// # Errors
    /// [`Error::Data`] if the data cannot be read; [`Error::Recipe`] if TOML cannot represent a setting.
    pub(crate) fn identity(&self) -> Result<Vec<String>> {
        // Neither a limit nor a metric changes the embeddings of the whole set.
        let settings = toml::to_string(&EvalSet { limit: None, metric: None, ..self.config.clone() });
        let mut parts = vec![
            settings.map_err(|e| Error::recipe(self.name(), e.to_string()))?,
            fingerprint(self.source.as_ref())?,
        ];
        if self.config.task == EvalTask::Classification {
            parts.push(self.class_names.join("\n"));
            parts
                .push(self.prompts.iter().map(|prompts| prompts.join("\n")).collect::<Vec<_>>().join("\n\n"));
        }
        if let Some(train) = &self.train {
            parts.push(fingerprint(train.as_ref())?);
        }
        Ok(parts)
    }
}

/// Opens data sets, each source once; relative paths start at `root`.
///
/// # Errors
/// [`Error::Data`], [`Error::Recipe`] or [`Error::Eval`] if one set cannot be opened; [`Error::Sets`] if several cannot.
pub fn open_sets(sets: &[EvalSet], root: &Path) -> Result<Vec<OpenSet>> {
    let mut pool = SourcePool::default();
    let (mut open, mut failed) = (Vec::new(), Vec::new());
    for set in sets {
        match OpenSet::open(set, root, &mut pool) {
            Ok(set) => open.push(set),
            Err(error) => failed.push((set.name.clone(), error)),
        }
    }
    match failed.len() {
        0 => Ok(open),
        1 => Err(failed.swap_remove(0).1),
        _ => Err(Error::Sets(failed.into_iter().map(|(name, error)| (name, with_causes(&error))).collect())),
    }
}

/// Returns an error and its causes on one line.
fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(&format!(": {inner_text}"));
        }
        cause = inner.source();
    }
    text
}

/// Refuses the retrieval of captions from data with class labels only, whether its samples are damaged or not.
fn check_captions(config: &SourceConfig, source: &dyn Source) -> Result<()> {
    /// Number of samples to look at.
    const SAMPLES: usize = 64;
    if source.class_count().is_none() {
        return Ok(());
    }
    // The captions of these sources are the class names in templates.
    let has_no_captions = matches!(
        config,
        SourceConfig::Folder(_)
            | SourceConfig::Cifar10(_)
            | SourceConfig::Cifar100(_)
            | SourceConfig::ClipBenchmark(_)
    );
    let has_captions = |index: usize| match source.read(index, 0) {
        Ok(sample) => !sample.captions.is_empty(),
        Err(error) => !matches!(error, data_pipeline::Error::Sample { .. }),
    };
    if has_no_captions || !(0..source.len().min(SAMPLES)).any(has_captions) {
        let reason = "its images have classes and no captions, so there is nothing to retrieve: use --task classification, \
                      or task = \"classification\" in a file";
        return Err(Error::recipe(source.name(), reason));
    }
    Ok(())
}

/// Returns the prompt templates of a set. A data set of CLIP_benchmark without its own uses `plain`, with a log line.
fn templates(set: &EvalSet, source: &dyn Source) -> Templates {
    let is_missing = matches!(set.source, SourceConfig::ClipBenchmark(_))
        && set.templates == Templates::Named(DATASET_TEMPLATES.into())
        && source.templates().is_none();
    if !is_missing {
        return set.templates.clone();
    }
    notice::warn_once(&format!(
        "`{}` has no zeroshot_classification_templates.txt (its prompt templates, one per line, with {{c}} for the class \
         name): `a photo of a {{}}.` is used; add the file, or set prompts (--prompts)",
        source.name()
    ));
    Templates::Named("plain".into())
}

fn class_names(set: &EvalSet, source: &dyn Source, root: &Path) -> Result<Vec<String>> {
    let fail = |reason: String| Error::recipe(source.name(), reason);
    let count = source.class_count().ok_or_else(|| {
        let reason = "it has no classes: set task = \"retrieval\", use a folder of class folders, or set `classes` of a \
                      webdataset or parquet source to a file of class names";
        fail(reason.into())
    })?;
    let names = match (&set.class_names, source.class_names()) {
        (Some(list), own) => {
            let names = list.names(root)?;
            // Without class names, the largest label gives the number of classes, and the last ones may have no image.
            let fits = if own.is_some() { names.len() == count } else { names.len() >= count };
            if !fits {
                return Err(fail(format!(
                    "it has {count} classes, but the class list has {} names: list one name per class",
                    names.len()
                )));
            }
            names
        }
        (None, Some(own)) => {
            // Class folders with equal names are reported by their source.
            if matches!(set.source, SourceConfig::ClipBenchmark(_)) {
                warn_of_repeated(own, source.name());
            }
            own.to_vec()
        }
        (None, None) => {
            return Err(fail(format!(
                "its {count} classes have no names, because it has no classnames.txt (one name per line, the first for class \
                 0): add this file, or set class_names (--class-names) to such a file"
            )));
        }
    };
    if let [only] = names.as_slice() {
        notice::warn_once(&format!(
            "`{}` has one class, `{only}`: every image counts as correct, so the accuracy is meaningless",
            source.name()
        ));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use data_pipeline::sources::{ClipBenchmarkConfig, FolderConfig};

    use super::*;

    fn error(task: EvalTask, source: SourceConfig) -> String {
        let set = EvalSet::new("a", task, source);
        OpenSet::open(&set, Path::new(""), &mut SourcePool::default()).unwrap_err().to_string()
    }

    #[test]
    fn class_data_is_not_retrieved() {
        let folder = tempfile::tempdir().unwrap();
        for class in ["cat", "dog"] {
            std::fs::create_dir(folder.path().join(class)).unwrap();
            std::fs::write(folder.path().join(class).join("a.png"), "damaged").unwrap();
        }
        let source = SourceConfig::Folder(FolderConfig::new(folder.path()));
        let found = error(EvalTask::Retrieval, source);
        for part in ["classes and no captions", "--task classification"] {
            assert!(found.contains(part), "{found}");
        }
    }

    /// Returns a member of a tar with one byte of content.
    fn member(name: &str, content: u8) -> Vec<u8> {
        let mut block = vec![0; 1024];
        for (at, bytes) in [
            (0, name.as_bytes()),
            (100, b"0000644"),
            (124, b"00000000001"),
            // The sum is computed with spaces in its own field.
            (148, b"        "),
            (156, b"0"),
            (257, b"ustar\0"),
            (263, b"00"),
        ] {
            block[at..at + bytes.len()].copy_from_slice(bytes);
        }
        let sum = block.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block[512] = content;
        block
    }

    #[test]
    fn missing_class_names_and_templates_are_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("test")).unwrap();
        let shard = [member("s0.cls", b'1'), member("s0.png", b'x'), vec![0; 1024]].concat();
        std::fs::write(folder.path().join("test/0.tar"), shard).unwrap();
        let source =
            || SourceConfig::ClipBenchmark(ClipBenchmarkConfig::new(folder.path().display().to_string()));
        let found = error(EvalTask::Classification, source());
        for part in ["2 classes", "no classnames.txt", "one name per line", "--class-names"] {
            assert!(found.contains(part), "{part}: {found}");
        }
        assert!(error(EvalTask::Retrieval, source()).contains("--task classification"));
        std::fs::write(folder.path().join("classnames.txt"), "cat\ndog\n").unwrap();
        let set = EvalSet::new("a", EvalTask::Classification, source());
        let prompts = |set: &EvalSet| {
            OpenSet::open(set, Path::new(""), &mut SourcePool::default()).map(|open| open.prompts)
        };
        assert_eq!(prompts(&set).unwrap(), [["a photo of a cat."], ["a photo of a dog."]]);
        let templates = folder.path().join("zeroshot_classification_templates.txt");
        std::fs::write(&templates, "{c}!\n").unwrap();
        assert_eq!(prompts(&set).unwrap(), [["cat!"], ["dog!"]]);
        std::fs::write(&templates, "{c}!\na thing\n").unwrap();
        let error = prompts(&set).unwrap_err().to_string();
        for part in ["templates.txt", "line 2", "`a thing`"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
