//! Fixed augmentations: a few per image, which every epoch and every run repeats.

use file_ext::random::mix;
use serde::{Deserialize, Serialize};

/// Number and seed of the fixed augmentations of each image.
///
/// A store of teacher embeddings has one embedding per variant, so the loader must show the same variants.
///
/// ```
/// let variants = data_pipeline::variants::Variants { count: 10, seed: 0 };
/// let rows_of_a_store = 1_000 * variants.count;
/// # assert_eq!(rows_of_a_store, 10_000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variants {
    /// Variants per image.
    pub count: u64,
    /// Seed of the variants, independent of the loader's seed.
    pub seed: u64,
}

impl Variants {
    /// Returns the random number that determines one variant of one sample.
    pub(crate) fn draw(self, source: usize, index: usize, variant: u64) -> u64 {
        mix(&[self.seed, source as u64, index as u64, variant])
    }
}
