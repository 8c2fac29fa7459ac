//! A fixed part of a source, for questions such as how much data a student needs.

use std::sync::Arc;

use crate::sample::RawSample;
use crate::sources::{CorruptShards, Source};
use crate::{Error, Result};
use file_ext::random::mix;

/// A share of the samples of a source. Which ones depends on the length of the source alone, so every run
/// sees the same ones; a smaller share is part of a larger one.
pub struct Share {
    source: Arc<dyn Source>,
    indices: Vec<usize>,
}

impl Share {
    /// Keeps `share` of the samples, rounded to at least one.
    ///
    /// # Errors
    /// [`Error::Config`] where `share` is not above 0 and at most 1.
    pub fn new(source: Arc<dyn Source>, share: f64) -> Result<Self> {
        if !(share > 0.0 && share <= 1.0) {
            let name = source.name();
            return Err(Error::Config(format!(
                "the share {share} of `{name}` is not a number above 0 and at most 1"
            )));
        }
        let kept = ((source.len() as f64 * share).round() as usize).clamp(1, source.len().max(1));
        let mut indices = (0..source.len()).collect::<Vec<_>>();
        indices.sort_by_cached_key(|&index| mix(&[index as u64, 0x5A4E]));
        indices.truncate(kept);
        indices.sort_unstable();
        Ok(Share { source, indices })
    }
}

impl Source for Share {
    fn name(&self) -> &str {
        self.source.name()
    }

    fn len(&self) -> usize {
        self.indices.len()
    }

    fn read(&self, index: usize, draw: u64) -> Result<RawSample> {
        self.source.read(self.indices[index], draw)
    }

    fn class_names(&self) -> Option<&[String]> {
        self.source.class_names()
    }

    fn damage(&self) -> Option<&CorruptShards> {
        self.source.damage()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::{Emoji, EmojiConfig};
    use std::collections::BTreeSet;

    #[test]
    fn a_smaller_share_is_part_of_a_larger_one() {
        let emoji: Arc<dyn Source> = Arc::new(Emoji::open(&EmojiConfig::default()).unwrap());
        let keys = |share| {
            let source = Share::new(emoji.clone(), share).unwrap();
            let keys = (0..source.len()).map(|i| source.read(i, 0).unwrap().captions[1].clone());
            keys.collect::<BTreeSet<_>>()
        };
        let (small, large, all) = (keys(0.1), keys(0.5), keys(1.0));
        assert!(small.is_subset(&large) && large.is_subset(&all));
        assert_eq!(small.len(), (emoji.len() as f64 * 0.1).round() as usize);
        assert_eq!(all.len(), emoji.len());
    }

    #[test]
    fn a_share_that_cannot_be_is_refused() {
        let emoji: Arc<dyn Source> = Arc::new(Emoji::open(&EmojiConfig::default()).unwrap());
        for share in [0.0, -0.5, 1.5, f64::NAN] {
            assert!(Share::new(emoji.clone(), share).is_err(), "{share}");
        }
        assert_eq!(Share::new(emoji.clone(), 1e-9).unwrap().len(), 1);
    }
}
