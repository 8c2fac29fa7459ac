//! Batches for evaluation: each sample once and in order, with all its captions.

use std::sync::Arc;

use ndarray::Array4;
use rayon::prelude::*;

use crate::image::{Preprocess, eval_into};
use crate::policy::ErrorPolicy;
use crate::sources::Source;
use crate::{Error, Result};

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

/// An iterator over all samples of a source in order. Metrics need the whole data set, so a damaged sample is an error.
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
    next: usize,
}

impl EvalBatches {
    /// Creates an iterator that starts at the first sample.
    ///
    /// # Errors
    /// [`Error::Setting`] for a batch or images of size 0, [`Error::BrokenShards`] if a shard is broken.
    pub fn new(source: Arc<dyn Source>, preprocess: Preprocess, batch_size: usize) -> Result<Self> {
        if batch_size == 0 || preprocess.size == 0 {
            let reason = "an evaluation batch needs at least one sample of one pixel";
            return Err(Error::setting("batch_size", reason));
        }
        ErrorPolicy::Fail.check_shards(source.as_ref())?;
        Ok(EvalBatches { source, preprocess, batch_size, next: 0 })
    }

    fn read(&self, start: usize, end: usize) -> Result<EvalBatch> {
        let side = self.preprocess.size;
        let mut pixels = vec![0f32; (end - start) * 3 * side * side];
        let facts = pixels
            .par_chunks_exact_mut(3 * side * side)
            .enumerate()
            .map(|(row, pixels)| {
                let sample = self.source.read(start + row, 0)?;
                let image = sample.image.into_pixels(&sample.key)?;
                eval_into(&image, &self.preprocess, pixels);
                Ok((sample.label, sample.captions, sample.key))
            })
            .collect::<Result<Vec<_>>>()?;
        let images = Array4::from_shape_vec((end - start, 3, side, side), pixels)?;
        let mut batch = EvalBatch { images, labels: Vec::new(), captions: Vec::new(), keys: Vec::new() };
        for (label, captions, key) in facts {
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
        let end = (self.next + self.batch_size).min(self.source.len());
        if self.next >= end {
            return None;
        }
        let batch = self.read(self.next, end);
        self.next = if batch.is_ok() { end } else { self.source.len() };
        Some(batch)
    }
}
