//! Batches for evaluation: every sample once, in order, with all its captions, by the evaluation transform.

use std::sync::Arc;

use ndarray::Array4;
use rayon::prelude::*;

use crate::image::{Preprocess, eval_into};
use crate::policy::ErrorPolicy;
use crate::sources::Source;
use crate::{Error, Result};

/// Samples of an [`EvalBatches`].
#[derive(Clone, Debug, PartialEq)]
pub struct EvalBatch {
    /// Normalised images `[batch, 3, size, size]`.
    pub images: Array4<f32>,
    /// Classes, where the source has them.
    pub labels: Vec<Option<usize>>,
    /// All captions of each sample.
    pub captions: Vec<Vec<String>>,
    /// Names.
    pub keys: Vec<String>,
}

/// All samples of a source in order. A damaged sample is an error: figures are over whole data sets.
pub struct EvalBatches {
    source: Arc<dyn Source>,
    preprocess: Preprocess,
    batch_size: usize,
    next: usize,
}

impl EvalBatches {
    /// Starts at the first sample.
    ///
    /// # Errors
    /// [`Error::Config`] for a batch or pictures of size 0, [`Error::BrokenShards`] where a shard is not whole.
    pub fn new(source: Arc<dyn Source>, preprocess: Preprocess, batch_size: usize) -> Result<Self> {
        if batch_size == 0 || preprocess.size == 0 {
            return Err(Error::Config("an evaluation batch needs at least one sample of one pixel".into()));
        }
        ErrorPolicy::Fail.check_shards(source.as_ref())?;
        Ok(EvalBatches { source, preprocess, batch_size, next: 0 })
    }

    fn make(&self, start: usize, end: usize) -> Result<EvalBatch> {
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
        let images = Array4::from_shape_vec((end - start, 3, side, side), pixels)
            .map_err(|e| Error::Config(format!("a batch has the wrong shape: {e}")))?;
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
        let batch = self.make(self.next, end);
        self.next = if batch.is_ok() { end } else { self.source.len() };
        Some(batch)
    }
}
