//! Mixtures of sources; a source's weight is its number of visits per sample and epoch.

use std::sync::Arc;

use file_ext::random::mix;

use crate::order::Permutation;
use crate::sources::Source;
use crate::{Error, Result};

/// A source with its weight in a [`Mixture`].
#[derive(Clone)]
pub struct WeightedSource {
    /// The source.
    pub source: Arc<dyn Source>,
    /// Visits per sample and epoch: 1 for each sample once, 0.5 for a different random half in each epoch, 2.5 for each
    /// sample twice and a random half once more.
    pub weight: f64,
}

impl From<(Arc<dyn Source>, f64)> for WeightedSource {
    fn from((source, weight): (Arc<dyn Source>, f64)) -> Self {
        WeightedSource { source, weight }
    }
}

/// Weighted sources as one stream of samples.
///
/// ```no_run
/// use data_pipeline::{Mixture, SourceConfig, WeightedSource};
/// # let (photos, drawings): (SourceConfig, SourceConfig) = (serde_json::from_str("{}")?, serde_json::from_str("{}")?);
/// let mixture = Mixture::new([
///     WeightedSource { source: photos.open("data")?, weight: 1.0 },
///     WeightedSource { source: drawings.open("data")?, weight: 0.5 },
/// ])?;
/// println!("{} samples per epoch", mixture.len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    /// [`Error::Empty`] if a source has no samples, [`Error::Setting`] for an invalid weight or without sources.
    pub fn new(sources: impl IntoIterator<Item = impl Into<WeightedSource>>) -> Result<Self> {
        let part = |WeightedSource { source, weight }: WeightedSource| {
            if source.is_empty() {
                return Err(Error::Empty(source.name().into()));
            }
            if !(weight > 0.0 && weight <= 1e6) {
                let name = source.name();
                return Err(Error::setting(
                    "weight",
                    format!("the weight {weight} of `{name}` is not a positive number of at most 1e6"),
                ));
            }
            let visits = ((source.len() as f64 * weight).round() as u64).max(1);
            Ok(Part { source, visits })
        };
        let parts = sources.into_iter().map(|own| part(own.into())).collect::<Result<Vec<_>>>()?;
        if parts.is_empty() {
            return Err(Error::setting("sources", "a mixture needs at least one source"));
        }
        Ok(Mixture { parts })
    }

    /// Creates a mixture of one source with each sample once per epoch.
    ///
    /// # Errors
    /// [`Error::Empty`] if the source has no samples.
    pub fn single(source: Arc<dyn Source>) -> Result<Self> {
        Self::new([(source, 1.0)])
    }

    /// Returns the number of samples per epoch.
    pub fn len(&self) -> u64 {
        self.parts.iter().map(|part| part.visits).sum()
    }

    /// Returns false, because a mixture has at least one sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the sources in their order.
    pub fn sources(&self) -> impl Iterator<Item = &Arc<dyn Source>> {
        self.parts.iter().map(|part| &part.source)
    }

    /// Returns the source and the sample index at a place of an epoch. Equal arguments give equal results.
    pub(crate) fn locate(&self, place: u64, epoch: u64, seed: u64, shuffle: bool) -> (usize, usize) {
        let mut visit =
            if shuffle { Permutation::new(self.len(), mix(&[seed, epoch])).at(place) } else { place };
        for (number, part) in self.parts.iter().enumerate() {
            if visit < part.visits {
                let len = part.source.len() as u64;
                let (round, index) = (visit / len, visit % len);
                // Only an incomplete round chooses among its samples.
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

    /// Returns the number of samples in all sources before this one.
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
            Err(Error::setting("index", index.to_string()))
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
        let wrong: (Arc<dyn Source>, f64) = (Arc::new(Numbers(1)), f64::NAN);
        assert!(matches!(Mixture::new([wrong]), Err(Error::Setting { name: "weight", .. })));
        assert!(matches!(Mixture::new(Vec::<WeightedSource>::new()), Err(Error::Setting { .. })));
    }
}
