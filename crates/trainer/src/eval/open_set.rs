//! An evaluation set whose data is open.

use std::path::Path;
use std::sync::Arc;

use data_pipeline::sources::{Source, fingerprint};

use crate::recipe::sources::{SourcePool, upright};
use crate::recipe::{EvalSet, EvalTask};
use crate::{Error, Result};

/// A data set for evaluation, opened once and used for every model.
#[derive(Clone)]
pub struct OpenSet {
    /// Its settings.
    pub(crate) config: EvalSet,
    /// Its images.
    pub(crate) source: Arc<dyn Source>,
    /// Its class names; empty for retrieval.
    pub(crate) class_names: Vec<String>,
    /// Its prompt templates.
    pub(crate) templates: Vec<String>,
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
        let templates = config.templates.texts()?;
        let open = |source, pool: &mut SourcePool| {
            pool.open(source, root).map(|source| upright(source, config.exif_orientation))
        };
        let source = open(&config.source, pool)?;
        let class_names = match config.task {
            EvalTask::Classification => class_names(config, source.as_ref(), root)?,
            EvalTask::Retrieval => Vec::new(),
        };
        let train = config.train.as_ref().map(|train| open(train, pool)).transpose()?;
        Ok(OpenSet { config: config.clone(), source, class_names, templates, train })
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
        let settings = toml::to_string(&self.config);
        let mut parts = vec![
            settings.map_err(|e| Error::recipe(self.name(), e.to_string()))?,
            fingerprint(self.source.as_ref())?,
        ];
        if self.config.task == EvalTask::Classification {
            parts.push(self.class_names.join("\n"));
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
/// [`Error::Data`], [`Error::Recipe`] or [`Error::Eval`] for the first set that cannot be opened.
pub fn open_sets(sets: &[EvalSet], root: &Path) -> Result<Vec<OpenSet>> {
    let mut pool = SourcePool::default();
    sets.iter().map(|set| OpenSet::open(set, root, &mut pool)).collect()
}

fn class_names(set: &EvalSet, source: &dyn Source, root: &Path) -> Result<Vec<String>> {
    let source_names = source.class_names().ok_or_else(|| {
        let reason = "it has no classes: set task = \"retrieval\", use a folder of class folders, or name the class names \
                      of a webdataset or parquet source with `classes`";
        Error::recipe(source.name(), reason)
    })?;
    let Some(list) = &set.class_names else { return Ok(source_names.to_vec()) };
    let names = list.names(root)?;
    if names.len() != source_names.len() {
        let reason = format!(
            "it has {} classes, but the class list has {} names: list one name per class",
            source_names.len(),
            names.len()
        );
        return Err(Error::recipe(source.name(), reason));
    }
    Ok(names)
}
