//! Fixed subsets of a source, for experiments with less data and for short evaluations.

use std::sync::Arc;

use crate::sample::RawSample;
use crate::sources::{CorruptShards, Source};
use crate::{Error, Result};
use file_ext::random::mix;

/// A fixed fraction of the samples of a source.
///
/// The selection depends on the length of the source alone, so every run has the same samples. A smaller subset is part
/// of a larger one.
///
/// ```no_run
/// use data_pipeline::sources::Subset;
/// # let config: data_pipeline::SourceConfig = serde_json::from_str("{}")?;
/// let tenth = Subset::new(config.open("data")?, 0.1)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Subset {
    source: Arc<dyn Source>,
    indices: Vec<usize>,
}

impl Subset {
    /// Keeps a fraction of the samples, at least one.
    ///
    /// # Errors
    /// [`Error::Setting`] for a fraction outside of 0 to 1, or of 0.
    pub fn new(source: Arc<dyn Source>, fraction: f64) -> Result<Self> {
        if !(fraction > 0.0 && fraction <= 1.0) {
            let name = source.name();
            let reason = format!("the share {fraction} of `{name}` is not a number above 0 and at most 1");
            return Err(Error::setting("share", reason));
        }
        let kept = ((source.len() as f64 * fraction).round() as usize).clamp(1, source.len().max(1));
        let mut indices = (0..source.len()).collect::<Vec<_>>();
        indices.sort_by_cached_key(|&index| mix(&[index as u64, 0x5A4E]));
        indices.truncate(kept);
        indices.sort_unstable();
        Ok(Subset { source, indices })
    }

    /// Keeps `count` samples that are spread evenly over the source, or all samples of a smaller source. In a source
    /// that is sorted by class, each class keeps its share.
    ///
    /// # Errors
    /// [`Error::Setting`] for a count of 0.
    pub fn spread(source: Arc<dyn Source>, count: usize) -> Result<Self> {
        if count == 0 {
            return Err(Error::setting(
                "limit",
                format!("a limit of 0 leaves no sample of `{}`", source.name()),
            ));
        }
        let (all, kept) = (source.len() as u128, source.len().min(count) as u128);
        // The middle of each of `kept` equal parts.
        let indices = (0..kept).map(|place| ((2 * place + 1) * all / (2 * kept)) as usize).collect();
        Ok(Subset { source, indices })
    }
}

impl Source for Subset {
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

    fn templates(&self) -> Option<&[String]> {
        self.source.templates()
    }

    fn class_count(&self) -> Option<usize> {
        self.source.class_count()
    }

    fn corrupt_shards(&self) -> Option<&CorruptShards> {
        self.source.corrupt_shards()
    }
}

#[cfg(all(test, feature = "emoji"))]
mod tests {
    use super::*;
    use crate::sources::{Emoji, EmojiConfig};
    use std::collections::BTreeSet;

    #[test]
    fn smaller_subset_is_part_of_a_larger_one() {
        let emoji: Arc<dyn Source> = Arc::new(Emoji::open(&EmojiConfig::default()).unwrap());
        let keys = |share| {
            let source = Subset::new(emoji.clone(), share).unwrap();
            let keys = (0..source.len()).map(|i| source.read(i, 0).unwrap().captions[1].clone());
            keys.collect::<BTreeSet<_>>()
        };
        let (small, large, all) = (keys(0.1), keys(0.5), keys(1.0));
        assert!(small.is_subset(&large) && large.is_subset(&all));
        assert_eq!(small.len(), (emoji.len() as f64 * 0.1).round() as usize);
        assert_eq!(all.len(), emoji.len());
    }

    #[test]
    fn an_even_part_covers_the_whole_source() {
        let emoji: Arc<dyn Source> = Arc::new(Emoji::open(&EmojiConfig::default()).unwrap());
        let part = Subset::spread(Arc::clone(&emoji), 10).unwrap();
        assert_eq!(part.indices, Subset::spread(Arc::clone(&emoji), 10).unwrap().indices);
        let gaps = part.indices.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>();
        assert_eq!(part.len(), 10);
        assert!(gaps.iter().max().unwrap() - gaps.iter().min().unwrap() <= 1, "{:?}", part.indices);
        assert!(part.indices[0] < emoji.len() / 10 && part.indices[9] >= emoji.len() - emoji.len() / 10);
        let all = Subset::spread(Arc::clone(&emoji), usize::MAX).unwrap();
        assert!(all.indices.iter().copied().eq(0..emoji.len()));
        assert!(Subset::spread(emoji, 0).is_err());
    }

    #[test]
    fn invalid_fractions_are_refused() {
        let emoji: Arc<dyn Source> = Arc::new(Emoji::open(&EmojiConfig::default()).unwrap());
        for share in [0.0, -0.5, 1.5, f64::NAN] {
            assert!(Subset::new(emoji.clone(), share).is_err(), "{share}");
        }
        assert_eq!(Subset::new(emoji.clone(), 1e-9).unwrap().len(), 1);
    }
}
