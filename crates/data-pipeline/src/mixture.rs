//! Several sources as one: each is seen as often per epoch as its weight says.

use std::sync::Arc;

use crate::order::Permutation;
use crate::sources::Source;
use crate::{Error, Result};
use file_ext::random::mix;

/// Weighted sources. A weight of 1 shows every sample once per epoch, 0.5 a different random
/// half each epoch, 2.5 every sample twice and half of them once more.
#[derive(Clone)]
pub struct Mixture {
    parts: Vec<Part>,
}

#[derive(Clone)]
struct Part {
    source: Arc<dyn Source>,
    visits: u64,
}

impl Mixture {
    /// Mixes sources by weight.
    ///
    /// # Errors
    /// [`Error::Empty`] where a source has no sample, [`Error::Config`] where a weight cannot work or there is no source.
    pub fn new(sources: Vec<(Arc<dyn Source>, f64)>) -> Result<Self> {
        if sources.is_empty() {
            return Err(Error::Config("no source of samples: name at least one".into()));
        }
        let part = |(source, weight): (Arc<dyn Source>, f64)| {
            if source.is_empty() {
                return Err(Error::Empty(source.name().into()));
            }
            if !(weight > 0.0 && weight <= 1e6) {
                let name = source.name();
                return Err(Error::Config(format!(
                    "the weight {weight} of `{name}` is not a positive number of at most 1e6"
                )));
            }
            let visits = ((source.len() as f64 * weight).round() as u64).max(1);
            Ok(Part { source, visits })
        };
        Ok(Mixture { parts: sources.into_iter().map(part).collect::<Result<_>>()? })
    }

    /// One source, each sample once per epoch.
    ///
    /// # Errors
    /// [`Error::Empty`] where it has no sample.
    pub fn single(source: Arc<dyn Source>) -> Result<Self> {
        Self::new(vec![(source, 1.0)])
    }

    /// Samples per epoch.
    pub fn len(&self) -> u64 {
        self.parts.iter().map(|part| part.visits).sum()
    }

    /// Never true: a mixture without samples cannot be made.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sources in their order.
    pub fn sources(&self) -> impl Iterator<Item = &Arc<dyn Source>> {
        self.parts.iter().map(|part| &part.source)
    }

    /// Source and sample index at a place of an epoch; a pure function of its arguments.
    pub(crate) fn locate(&self, place: u64, epoch: u64, seed: u64, shuffle: bool) -> (usize, usize) {
        let mut visit =
            if shuffle { Permutation::new(self.len(), mix(&[seed, epoch])).at(place) } else { place };
        for (number, part) in self.parts.iter().enumerate() {
            if visit < part.visits {
                let len = part.source.len() as u64;
                let (round, index) = (visit / len, visit % len);
                // Only an incomplete round has to choose its samples.
                let index = if part.visits - round * len < len {
                    Permutation::new(len, mix(&[seed, epoch, number as u64, round])).at(index)
                } else {
                    index
                };
                return (number, index as usize);
            }
            visit -= part.visits;
        }
        (0, 0)
    }

    /// Place of a source's first sample where all samples of all sources are counted through.
    pub(crate) fn first_sample(&self, number: usize) -> u64 {
        self.parts[..number].iter().map(|part| part.source.len() as u64).sum()
    }

    pub(crate) fn source(&self, number: usize) -> &dyn Source {
        self.parts[number].source.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::RawSample;
    use std::collections::HashMap;

    struct Numbers(usize);

    impl Source for Numbers {
        fn name(&self) -> &str {
            "numbers"
        }

        fn len(&self) -> usize {
            self.0
        }

        fn read(&self, index: usize, _: u64) -> Result<RawSample> {
            Err(Error::Config(index.to_string()))
        }
    }

    #[test]
    fn weights_are_visits_per_epoch() {
        let sources: Vec<(Arc<dyn Source>, f64)> =
            vec![(Arc::new(Numbers(10)), 1.0), (Arc::new(Numbers(8)), 0.5), (Arc::new(Numbers(4)), 2.5)];
        let mixture = Mixture::new(sources).unwrap();
        assert_eq!(mixture.len(), 10 + 4 + 10);
        let count = |epoch| {
            let mut counts = HashMap::<_, u64>::new();
            (0..mixture.len())
                .for_each(|i| *counts.entry(mixture.locate(i, epoch, 3, true)).or_default() += 1);
            counts
        };
        let (first, second) = (count(0), count(1));
        assert!((0..10).all(|i| first[&(0, i)] == 1));
        assert_eq!(first.keys().filter(|(source, _)| *source == 1).count(), 4);
        assert!((0..4).all(|i| (2..=3).contains(&first[&(2, i)])));
        assert_ne!(first, second);
        assert!(Mixture::single(Arc::new(Numbers(0))).is_err());
        assert!(Mixture::new(vec![(Arc::new(Numbers(1)), f64::NAN)]).is_err());
    }
}
