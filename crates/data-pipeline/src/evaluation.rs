//! Batches for evaluation: each sample once and in order, with all its captions. Damaged samples are an error, or are
//! left out and named.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ndarray::Array4;
use rayon::prelude::*;

use crate::image::{Preprocess, eval_into};
use crate::policy::ErrorPolicy;
use crate::sources::Source;
use crate::{DamageKind, Error, Result};

/// A batch of evaluation samples.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct EvalBatch {
    /// Normalized images `[batch, 3, size, size]`.
    pub images: Array4<f32>,
    /// Classes, if the source has them.
    pub labels: Vec<Option<usize>>,
    /// All captions of each sample.
    pub captions: Vec<Vec<String>>,
    /// Names of the samples.
    pub keys: Vec<String>,
}

/// Maximum number of damaged samples that a message names.
const NAMED: usize = 100;
/// Number of samples per batch in a search for damage.
const SEARCH_BATCH: usize = 256;

/// A sample that cannot be read or decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamagedSample {
    /// Its name.
    pub key: String,
    /// The kind of damage.
    pub kind: DamageKind,
    /// The problem.
    pub reason: String,
}

/// The damaged samples of a source. Its text counts them by kind and names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DamagedSamples(pub Vec<DamagedSample>);

impl DamagedSamples {
    /// Returns the number of damaged samples.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no sample is damaged.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks the damaged samples of a set of `samples` images by [`ErrorPolicy::allows`].
    ///
    /// # Errors
    /// [`Error::TooManyDamaged`] with the names of the samples.
    pub fn check(&self, policy: ErrorPolicy, samples: usize) -> Result<()> {
        if policy.allows(self.len(), samples) {
            return Ok(());
        }
        let max_fraction = match policy {
            ErrorPolicy::Fail => 0.0,
            ErrorPolicy::Skip { max_fraction } => max_fraction,
        };
        Err(Error::TooManyDamaged {
            skipped: self.len() as u64,
            seen: samples as u64,
            max_fraction,
            summary: self.to_string(),
        })
    }
}

impl fmt::Display for DamagedSamples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds = BTreeMap::<&str, usize>::new();
        self.0.iter().for_each(|sample| *kinds.entry(sample.kind.as_str()).or_default() += 1);
        let kinds =
            kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ");
        let named = self.0.iter().take(NAMED).map(|sample| format!("`{}` ({})", sample.key, sample.reason));
        write!(f, "{kinds}: {}", named.collect::<Vec<_>>().join(", "))?;
        match self.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Reads and decodes all samples of a source, and returns the damaged ones. `on_progress` receives the number of
/// samples read since its last call.
///
/// # Errors
/// The errors of [`Source::read`] except [`Error::Sample`].
pub fn find_damaged(source: &dyn Source, on_progress: &mut dyn FnMut(u64)) -> Result<DamagedSamples> {
    search(source, 0, on_progress)
}

/// Reads and decodes the samples from `start`, and returns the damaged ones.
fn search(source: &dyn Source, start: usize, on_progress: &mut dyn FnMut(u64)) -> Result<DamagedSamples> {
    let mut damaged = DamagedSamples::default();
    for from in (start..source.len()).step_by(SEARCH_BATCH) {
        let indices = from..source.len().min(from + SEARCH_BATCH);
        let count = indices.len() as u64;
        let found = indices
            .into_par_iter()
            .map(|index| {
                let sample = source.read(index, 0)?;
                sample.image.into_pixels(&sample.key).map(drop)
            })
            .collect::<Vec<_>>();
        for result in found {
            damaged.0.extend(damage(result)?.err());
        }
        on_progress(count);
    }
    Ok(damaged)
}

/// Separates the damage of a sample from other errors.
fn damage<T>(result: Result<T>) -> Result<std::result::Result<T, DamagedSample>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Error::Sample { key, kind, reason }) => Ok(Err(DamagedSample { key, kind, reason })),
        Err(error) => Err(error),
    }
}

/// An iterator over all samples of a source in order. Metrics need the whole data set, so a damaged sample is an error
/// unless a policy allows leaving it out.
///
/// ```no_run
/// use data_pipeline::{EvalBatches, Preprocess, SourceConfig};
/// # let config: SourceConfig = serde_json::from_str("{}")?;
/// for batch in EvalBatches::new(config.open("data")?, Preprocess::new(224), 256)? {
///     println!("{:?}", batch?.images.dim());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct EvalBatches {
    source: Arc<dyn Source>,
    preprocess: Preprocess,
    batch_size: usize,
    policy: ErrorPolicy,
    next: usize,
    damaged: DamagedSamples,
}

impl EvalBatches {
    /// Creates an iterator that ends with an error at the first damaged sample.
    ///
    /// # Errors
    /// [`Error::Setting`] for a batch or images of size 0, [`Error::BrokenShards`] if a shard is broken.
    pub fn new(source: Arc<dyn Source>, preprocess: Preprocess, batch_size: usize) -> Result<Self> {
        Self::with_policy(source, preprocess, batch_size, ErrorPolicy::Fail)
    }

    /// Creates an iterator that leaves out damaged samples up to the number that the policy
    /// [allows](ErrorPolicy::allows). If more are damaged, it ends with an error that names all damaged samples of the
    /// source.
    ///
    /// # Errors
    /// [`Error::Setting`] for a batch or images of size 0, [`Error::BrokenShards`] if the shards lose more than the policy
    /// allows.
    pub fn with_policy(
        source: Arc<dyn Source>,
        preprocess: Preprocess,
        batch_size: usize,
        policy: ErrorPolicy,
    ) -> Result<Self> {
        if batch_size == 0 || preprocess.size == 0 {
            let reason = "an evaluation batch needs at least one sample of one pixel";
            return Err(Error::setting("batch_size", reason));
        }
        policy.check_shards(source.as_ref())?;
        let damaged = DamagedSamples::default();
        Ok(EvalBatches { source, preprocess, batch_size, policy, next: 0, damaged })
    }

    /// Returns the damaged samples that the batches have left out so far.
    pub fn damaged(&self) -> &DamagedSamples {
        &self.damaged
    }

    fn read(&mut self, start: usize, end: usize) -> Result<EvalBatch> {
        let side = self.preprocess.size;
        let length = 3 * side * side;
        let mut pixels = vec![0f32; (end - start) * length];
        let facts = pixels
            .par_chunks_exact_mut(length)
            .enumerate()
            .map(|(row, pixels)| {
                let sample = self.source.read(start + row, 0)?;
                let image = sample.image.into_pixels(&sample.key)?;
                eval_into(&image, &self.preprocess, pixels);
                Ok((sample.label, sample.captions, sample.key))
            })
            .collect::<Vec<_>>();
        let mut kept = Vec::with_capacity(facts.len());
        for (row, fact) in facts.into_iter().enumerate() {
            match damage(fact)? {
                Ok(fact) => {
                    pixels.copy_within(row * length..(row + 1) * length, kept.len() * length);
                    kept.push(fact);
                }
                Err(DamagedSample { key, kind, reason }) if self.policy == ErrorPolicy::Fail => {
                    return Err(Error::Sample { key, kind, reason });
                }
                Err(sample) => self.damaged.0.push(sample),
            }
        }
        if !self.policy.allows(self.damaged.len(), self.source.len()) {
            self.damaged.0.extend(search(self.source.as_ref(), end, &mut |_| {})?.0);
            self.damaged.check(self.policy, self.source.len())?;
        }
        pixels.truncate(kept.len() * length);
        let images = Array4::from_shape_vec((kept.len(), 3, side, side), pixels)?;
        let mut batch = EvalBatch { images, labels: Vec::new(), captions: Vec::new(), keys: Vec::new() };
        for (label, captions, key) in kept {
            batch.labels.push(label);
            batch.captions.push(captions);
            batch.keys.push(key);
        }
        Ok(batch)
    }
}

impl Iterator for EvalBatches {
    type Item = Result<EvalBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (start, end) = (self.next, (self.next + self.batch_size).min(self.source.len()));
            if start >= end {
                return None;
            }
            let batch = self.read(start, end);
            self.next = if batch.is_ok() { end } else { self.source.len() };
            // A batch without valid samples is skipped.
            if !batch.as_ref().is_ok_and(|batch| batch.keys.is_empty()) {
                return Some(batch);
            }
        }
    }
}
