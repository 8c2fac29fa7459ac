//! One pass over all samples and variants in order: what a store is made of.

use std::sync::Arc;

use ndarray::Array4;
use rayon::prelude::*;

use super::Variants;
use crate::image::{AugmentConfig, Preprocess};
use crate::policy::{ErrorPolicy, SkipCounts};
use crate::seen::AugmentedSample;
use crate::sources::Source;
use crate::{Error, Result};

/// The samples of some sources, each with its variants, as the loader shows them in training.
pub struct Pass {
    sources: Vec<Arc<dyn Source>>,
    variants: Variants,
    augment: AugmentConfig,
    views: Vec<Preprocess>,
    policy: ErrorPolicy,
    counts: SkipCounts,
}

/// Rows of a [`Pass`].
#[derive(Debug)]
pub struct PassBatch {
    /// Normalised images `[rows, 3, side, side]` of each view; zeros for damaged samples.
    pub images: Vec<Array4<f32>>,
    /// All captions of each row's sample; none for damaged ones.
    pub captions: Vec<Vec<String>>,
    /// Which rows are damaged.
    pub damaged: Vec<bool>,
}

impl Pass {
    /// A pass over `sources`; `views` are what the models want of their images.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that cannot work, [`Error::BrokenShards`] where the policy does not allow
    /// what shards have lost.
    pub fn new(
        sources: Vec<Arc<dyn Source>>,
        variants: Variants,
        augment: AugmentConfig,
        views: Vec<Preprocess>,
        policy: ErrorPolicy,
    ) -> Result<Self> {
        if let Some(problem) = augment.problem() {
            return Err(Error::Config(format!("augmentation: {problem}")));
        }
        if variants.count == 0 || views.iter().any(|view| view.size == 0) {
            return Err(Error::Config("a pass needs at least one variant, and pictures of one pixel".into()));
        }
        let mut counts = SkipCounts::default();
        sources.iter().try_for_each(|source| counts.record_shards(source.as_ref(), policy))?;
        Ok(Pass { sources, variants, augment, views, policy, counts })
    }

    /// These rows, each `sample * variants + variant`.
    ///
    /// # Errors
    /// [`Error::Sample`] or [`Error::TooManyDamaged`] as the policy says.
    pub fn rows(&mut self, rows: &[u64]) -> Result<PassBatch> {
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
                Err(error) => {
                    self.counts.record(&error, self.policy)?;
                    Vec::new()
                }
            });
        }
        self.counts.check(self.policy, false)?;
        let images = self.views.iter().zip(pixels).map(|(view, pixels)| {
            Array4::from_shape_vec((count, 3, view.size, view.size), pixels)
                .map_err(|e| Error::Config(format!("a batch has the wrong shape: {e}")))
        });
        Ok(PassBatch { images: images.collect::<Result<_>>()?, captions, damaged })
    }

    /// Judges what was left out, when all that is wanted was read.
    ///
    /// # Errors
    /// [`Error::TooManyDamaged`] as the policy says.
    pub fn finish(&self) -> Result<()> {
        self.counts.check(self.policy, true)
    }

    /// What was left out so far.
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

    /// Source and index of a sample that is counted through all sources.
    fn locate(&self, mut sample: u64) -> Result<(usize, usize)> {
        for (number, source) in self.sources.iter().enumerate() {
            if sample < source.len() as u64 {
                return Ok((number, sample as usize));
            }
            sample -= source.len() as u64;
        }
        Err(Error::Config("a pass ends with its last sample".into()))
    }
}
