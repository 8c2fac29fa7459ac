//! Opens the data of a recipe. Runs and evaluation sets that name the same source share it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use data_pipeline::mixture::Mixture;
use data_pipeline::sample::RawSample;
use data_pipeline::sources::{self, Source, SourceConfig, Subset, Upright};

use crate::recipe::{Recipe, TrainSource};
use crate::{Error, Result};

/// The open sources, shared by runs and evaluation sets.
#[derive(Default)]
pub(crate) struct SourcePool {
    opened: Vec<(PathBuf, SourceConfig, Arc<dyn Source>)>,
}

impl SourcePool {
    /// Opens a source, or returns it if it is already open. Relative paths start at `root`.
    ///
    /// # Errors
    /// [`Error::Data`] if the source cannot be opened.
    pub(crate) fn open(&mut self, config: &SourceConfig, root: &Path) -> Result<Arc<dyn Source>> {
        let same = |(folder, other, _): &&(PathBuf, SourceConfig, _)| folder == root && other == config;
        if let Some((_, _, source)) = self.opened.iter().find(same) {
            return Ok(Arc::clone(source));
        }
        let source = config.open(root)?;
        self.opened.push((root.into(), config.clone(), Arc::clone(&source)));
        Ok(source)
    }
}

/// The training data of a run.
pub(crate) struct TrainingData {
    sources: Vec<Arc<dyn Source>>,
    weights: Vec<f64>,
    /// The error of the first source that is not on this machine.
    absent: Option<Error>,
    /// For each source, why it is not on this machine; `None` if it is.
    missing: Vec<Option<String>>,
    fingerprints: OnceLock<Vec<String>>,
}

impl TrainingData {
    /// Opens the sources of a recipe. A source that cannot be opened has the number of samples given in the recipe.
    ///
    /// # Errors
    /// [`Error::Data`] if a source cannot be opened and the recipe does not give its number of samples.
    pub(crate) fn open(recipe: &Recipe, pool: &mut SourcePool) -> Result<Self> {
        let mut data = TrainingData {
            sources: Vec::new(),
            weights: Vec::new(),
            absent: None,
            missing: Vec::new(),
            fingerprints: OnceLock::new(),
        };
        for config in &recipe.data.train {
            let source = match (pool.open(&config.source, &recipe.data.root), config.samples) {
                (Ok(source), _) => {
                    data.missing.push(None);
                    upright(source, config.exif_orientation)
                }
                (Err(error), Some(len)) => {
                    data.missing.push(Some(error.to_string()));
                    let source = Arc::new(Absent { name: format!("(missing: {error})"), len });
                    data.absent.get_or_insert(error);
                    source
                }
                (Err(error), None) => return Err(error),
            };
            data.sources.push(subset(config, source)?);
            data.weights.push(config.weight);
        }
        Ok(data)
    }

    /// Requires that all sources are on this machine.
    ///
    /// # Errors
    /// The error of the first source that could not be opened.
    pub(crate) fn complete(mut self) -> Result<Self> {
        self.absent.take().map_or(Ok(self), Err)
    }

    /// Returns the sources, in the recipe's order.
    pub(crate) fn sources(&self) -> &[Arc<dyn Source>] {
        &self.sources
    }

    /// Returns, for each source, why it is not on this machine; `None` if it is.
    pub(crate) fn missing(&self) -> &[Option<String>] {
        &self.missing
    }

    /// Returns the sources with their weights in an epoch.
    pub(crate) fn weighted(&self) -> impl Iterator<Item = (&Arc<dyn Source>, f64)> {
        self.sources.iter().zip(self.weights.iter().copied())
    }

    /// Returns the mixture of the sources.
    ///
    /// # Errors
    /// [`Error::Data`] if a weight is invalid.
    pub(crate) fn mixture(&self) -> Result<Mixture> {
        Ok(Mixture::new(self.weighted().map(|(source, weight)| (Arc::clone(source), weight)))?)
    }

    /// Returns the fingerprint of each source. The first call computes them.
    ///
    /// # Errors
    /// [`Error::Data`] if a source cannot be read.
    pub(crate) fn fingerprints(&self) -> Result<&[String]> {
        if let Some(known) = self.fingerprints.get() {
            return Ok(known);
        }
        let found = self.sources.iter().map(|source| sources::fingerprint(source.as_ref()));
        let found = found.collect::<Result<Vec<_>, _>>()?;
        Ok(self.fingerprints.get_or_init(|| found))
    }
}

/// Returns a source whose images are turned by their EXIF orientation, if `turn` is set.
pub(crate) fn upright(source: Arc<dyn Source>, turn: bool) -> Arc<dyn Source> {
    if turn { Arc::new(Upright::new(source)) } else { source }
}

/// Returns the part of a source that the recipe uses. A share of 1 needs no wrapper.
fn subset(config: &TrainSource, source: Arc<dyn Source>) -> Result<Arc<dyn Source>> {
    Ok(if config.share == 1.0 { source } else { Arc::new(Subset::new(source, config.share)?) })
}

/// A source that is not on this machine; only its number of samples is known.
struct Absent {
    name: String,
    len: usize,
}

impl Source for Absent {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, _: usize, _: u64) -> data_pipeline::Result<RawSample> {
        Err(data_pipeline::Error::Empty(self.name.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sources_are_opened_once() {
        let mut pool = SourcePool::default();
        let text = "name = 'r'\nstudent.model = 'ViT-nano-32px'\nlosses.task = 1.0\ntrain = { batch_size = 8, steps = 3 }\n\
                    data.train = [{ source = 'emoji' }, { source = 'emoji', weight = 2.0 }]";
        let recipe = crate::recipe::parse(text, &[], "test").unwrap().runs.remove(0);
        let data = TrainingData::open(&recipe, &mut pool).unwrap();
        let again = TrainingData::open(&recipe, &mut pool).unwrap();
        assert_eq!(pool.opened.len(), 1);
        assert!(
            data.sources()
                .iter()
                .chain(again.sources())
                .all(|source| Arc::ptr_eq(source, &data.sources()[0]))
        );
    }

    #[test]
    fn an_absent_source_counts_in_a_plan_but_cannot_be_trained_on() {
        let text = "name = 'r'\nstudent.model = 'ViT-nano-32px'\nlosses.task = 1.0\ntrain = { batch_size = 8, steps = 3 }\n\
                    data.train = [{ source = 'csv', path = 'missing.csv', samples = 70 }]";
        let recipe = crate::recipe::parse(text, &[], "test").unwrap().runs.remove(0);
        let data = TrainingData::open(&recipe, &mut SourcePool::default()).unwrap();
        assert_eq!(data.mixture().unwrap().len(), 70);
        assert!(data.complete().err().unwrap().to_string().contains("missing.csv"));
    }
}
