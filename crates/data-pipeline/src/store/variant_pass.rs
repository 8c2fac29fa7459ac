//! A pass over all variants of all samples, from which a store is computed.

use std::sync::Arc;

use ndarray::Array4;
use rayon::prelude::*;

use super::Variants;
use crate::augmented::AugmentedSample;
use crate::image::{AugmentConfig, Preprocess};
use crate::policy::{ErrorPolicy, SkipCounts};
use crate::sources::Source;
use crate::{Error, Result};

/// All variants of the samples of some sources, augmented like in training.
///
/// ```no_run
/// use data_pipeline::store::{VariantPass, Variants};
/// use data_pipeline::{AugmentConfig, ErrorPolicy, Preprocess, SourceConfig};
/// # let config: SourceConfig = serde_json::from_str("{}")?;
/// let mut pass = VariantPass::new(
///     vec![config.open("data")?],
///     Variants { count: 10, seed: 0 },
///     AugmentConfig::default(),
///     vec![Preprocess::new(224)],
///     ErrorPolicy::default(),
/// )?;
/// let batch = pass.batch(&[0, 1, 2])?;
/// assert_eq!(batch.images[0].dim(), (3, 3, 224, 224));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct VariantPass {
    sources: Vec<Arc<dyn Source>>,
    variants: Variants,
    augment: AugmentConfig,
    views: Vec<Preprocess>,
    policy: ErrorPolicy,
    counts: SkipCounts,
}

/// A batch of a [`VariantPass`].
#[derive(Debug)]
#[non_exhaustive]
pub struct VariantBatch {
    /// Normalized images `[rows, 3, side, side]` of each view; zeros for damaged samples.
    pub images: Vec<Array4<f32>>,
    /// All captions of each row's sample; empty for damaged samples.
    pub captions: Vec<Vec<String>>,
    /// Whether each row's sample is damaged.
    pub damaged: Vec<bool>,
}

impl VariantPass {
    /// Creates a pass over sources; `views` holds the preprocessing of each teacher.
    ///
    /// # Errors
    /// [`Error::Setting`] for an invalid setting, [`Error::BrokenShards`] if shards have lost more than the policy
    /// allows.
    pub fn new(
        sources: Vec<Arc<dyn Source>>,
        variants: Variants,
        augment: AugmentConfig,
        views: Vec<Preprocess>,
        policy: ErrorPolicy,
    ) -> Result<Self> {
        augment.validate()?;
        if variants.count == 0 || views.iter().any(|view| view.size == 0) {
            let reason = "a pass needs at least one variant, and images of at least one pixel";
            return Err(Error::setting("variants", reason));
        }
        let mut counts = SkipCounts::default();
        sources.iter().try_for_each(|source| counts.record_shards(source.as_ref(), policy))?;
        Ok(VariantPass { sources, variants, augment, views, policy, counts })
    }

    /// Reads rows, each with the number `sample * variants + variant`.
    ///
    /// # Errors
    /// [`Error::Sample`] or [`Error::TooManyDamaged`] depending on the policy.
    pub fn batch(&mut self, rows: &[u64]) -> Result<VariantBatch> {
        let count = rows.len();
        let mut pixels =
            self.views.iter().map(|view| vec![0f32; count * 3 * view.size * view.size]).collect::<Vec<_>>();
        let mut slots = (0..count).map(|_| Vec::with_capacity(self.views.len())).collect::<Vec<_>>();
        for (view, pixels) in self.views.iter().zip(&mut pixels) {
            for (slot, pixels) in slots.iter_mut().zip(pixels.chunks_exact_mut(3 * view.size * view.size)) {
                slot.push(pixels);
            }
        }
        let results = slots
            .par_iter_mut()
            .enumerate()
            .map(|(place, slot)| self.row(rows[place], slot))
            .collect::<Vec<_>>();
        self.counts.seen += count as u64;
        let (mut captions, mut damaged) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for result in results {
            damaged.push(result.is_err());
            captions.push(match result {
                Ok(captions) => captions,
                Err(Error::Sample { key, kind, reason }) => {
                    self.counts.record(&key, kind, &reason, self.policy)?;
                    Vec::new()
                }
                Err(error) => return Err(error),
            });
        }
        self.counts.check(self.policy, false)?;
        let images = self
            .views
            .iter()
            .zip(pixels)
            .map(|(view, pixels)| Ok(Array4::from_shape_vec((count, 3, view.size, view.size), pixels)?));
        Ok(VariantBatch { images: images.collect::<Result<_>>()?, captions, damaged })
    }

    /// Checks the fraction of damaged samples after the last batch.
    ///
    /// # Errors
    /// [`Error::TooManyDamaged`] depending on the policy.
    pub fn finish(&self) -> Result<()> {
        self.counts.check(self.policy, true)
    }

    /// Returns the counts of read and damaged samples.
    pub fn counts(&self) -> &SkipCounts {
        &self.counts
    }

    fn row(&self, row: u64, pixels: &mut [&mut [f32]]) -> Result<Vec<String>> {
        let (sample, variant) = (row / self.variants.count, row % self.variants.count);
        let (number, index) = self.locate(sample)?;
        let draw = self.variants.draw(number, index, variant);
        let sample = AugmentedSample::read(self.sources[number].as_ref(), index, draw, Some(&self.augment))?;
        for (view, pixels) in self.views.iter().zip(pixels) {
            sample.view_into(view, pixels);
        }
        Ok(sample.captions)
    }

    /// Returns the source and the index of a sample, counted through all sources.
    fn locate(&self, mut sample: u64) -> Result<(usize, usize)> {
        for (number, source) in self.sources.iter().enumerate() {
            if sample < source.len() as u64 {
                return Ok((number, sample as usize));
            }
            sample -= source.len() as u64;
        }
        Err(Error::setting("row", "a row is behind the last sample"))
    }
}
