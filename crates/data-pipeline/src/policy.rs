//! Handling of damaged samples: a policy with a budget, and the counts of skipped samples.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::sources::Source;
use crate::{DamageKind, Error, Result};

/// Handling of samples that cannot be read or decoded.
///
/// ```
/// use data_pipeline::ErrorPolicy;
/// ErrorPolicy::Skip { max_fraction: 0.05 }.validate()?;
/// assert!(ErrorPolicy::Skip { max_fraction: 5.0 }.validate().is_err());
/// # Ok::<(), data_pipeline::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ErrorPolicy {
    /// Stops at the first damaged sample.
    Fail,
    /// Leaves out damaged samples; in training, the next sample takes the place of a damaged one. Stops if more than
    /// `max_fraction` of the samples are damaged, or if broken shards lose more than this fraction of the bytes.
    Skip {
        /// Largest fraction of damaged samples, 0..=1.
        max_fraction: f64,
    },
}

impl Default for ErrorPolicy {
    /// Skips up to 1 %: web data has a few damaged samples, a wrong path has many.
    fn default() -> Self {
        ErrorPolicy::Skip { max_fraction: 0.01 }
    }
}

impl ErrorPolicy {
    /// Checks the range of the fraction.
    ///
    /// # Errors
    /// [`Error::Setting`] for a fraction outside of 0..=1.
    pub fn validate(self) -> Result<()> {
        match self {
            ErrorPolicy::Skip { max_fraction } if !(0.0..=1.0).contains(&max_fraction) => {
                let reason = format!("max_fraction = {max_fraction} is not between 0 and 1");
                Err(Error::setting("max_fraction", reason))
            }
            _ => Ok(()),
        }
    }

    /// Whether an evaluation may leave out `damaged` of `samples` images. A set with fewer than 1000 images counts as one
    /// with 1000, so that one damaged file does not stop the evaluation of a small set. Training counts its first 1000
    /// samples in this way too.
    pub fn allows(self, damaged: usize, samples: usize) -> bool {
        match self {
            ErrorPolicy::Fail => damaged == 0,
            ErrorPolicy::Skip { max_fraction } => {
                damaged as f64 <= max_fraction * samples.max(MIN_JUDGED as usize) as f64
            }
        }
    }

    /// Checks the broken shards of a source by the fraction of bytes that they lose.
    ///
    /// # Errors
    /// [`Error::BrokenShards`] for any loss with [`ErrorPolicy::Fail`], or for a larger loss than the budget.
    pub fn check_shards(self, source: &dyn Source) -> Result<()> {
        let Some(corrupt) = source.corrupt_shards() else { return Ok(()) };
        let allowed = match self {
            ErrorPolicy::Fail => None,
            ErrorPolicy::Skip { max_fraction } => Some(max_fraction),
        };
        if allowed.is_some_and(|most| corrupt.lost_fraction() <= most) {
            return Ok(());
        }
        Err(Error::BrokenShards {
            name: source.name().into(),
            summary: corrupt.summary(),
            lost_fraction: corrupt.lost_fraction(),
            max_fraction: allowed.unwrap_or(0.0),
        })
    }
}

/// Counts of read and damaged samples, by kind, with the first names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SkipCounts {
    /// Samples read, including damaged ones.
    pub seen: u64,
    /// Damaged samples by the names of [`crate::DamageKind`], and shards under `damaged shard`.
    pub kinds: BTreeMap<String, u64>,
    /// Names and causes of the first damaged samples.
    pub examples: Vec<String>,
}

/// Minimum number of samples for a fraction, so that one damaged file at the start does not stop a run.
const MIN_JUDGED: u64 = 1000;
const MAX_EXAMPLES: usize = 10;
const DAMAGED_SHARD: &str = "damaged shard";

impl SkipCounts {
    /// Returns the number of damaged samples and shards.
    pub fn skipped(&self) -> u64 {
        self.kinds.values().sum()
    }

    /// Returns the number of damaged samples without shards, which [`ErrorPolicy::check_shards`] checks by their bytes.
    fn skipped_samples(&self) -> u64 {
        self.skipped() - self.kinds.get(DAMAGED_SHARD).copied().unwrap_or(0)
    }

    /// Returns the counts by kind and the first names on one line.
    pub fn summary(&self) -> String {
        let kinds =
            self.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ");
        format!("{kinds}; first: {}", self.examples.join("; "))
    }

    /// Checks the broken shards of a source, and counts and names those that the policy allows.
    pub(crate) fn record_shards(&mut self, source: &dyn Source, policy: ErrorPolicy) -> Result<()> {
        policy.check_shards(source)?;
        for shard in source.corrupt_shards().iter().flat_map(|corrupt| &corrupt.broken) {
            let line =
                format!("broken shard {shard}; about {} bytes are lost: fetch it again", shard.lost_bytes);
            crate::log_warn!("{line}");
            self.count(DAMAGED_SHARD, || shard.to_string());
        }
        Ok(())
    }

    /// Adds the counts of a later session with the same sources.
    pub fn plus(&self, later: &SkipCounts) -> SkipCounts {
        let mut all = SkipCounts { seen: self.seen + later.seen, ..self.clone() };
        for (kind, count) in &later.kinds {
            let own = all.kinds.entry(kind.clone()).or_default();
            // Every session counts the same broken shards again.
            *own = if kind == DAMAGED_SHARD { *count } else { *own + count };
        }
        for example in &later.examples {
            if all.examples.len() < MAX_EXAMPLES && !all.examples.contains(example) {
                all.examples.push(example.clone());
            }
        }
        all
    }

    /// Records one damaged sample.
    pub(crate) fn record(
        &mut self,
        key: &str,
        kind: DamageKind,
        reason: &str,
        policy: ErrorPolicy,
    ) -> Result<()> {
        if policy == ErrorPolicy::Fail {
            return Err(Error::Sample { key: key.into(), kind, reason: reason.into() });
        }
        self.count(kind.as_str(), || format!("{key}: {reason}"));
        Ok(())
    }

    fn count(&mut self, kind: &str, example: impl FnOnce() -> String) {
        *self.kinds.entry(kind.to_string()).or_default() += 1;
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(example());
        }
    }

    /// Checks the fraction of damaged samples; `complete` at the end of an epoch.
    pub(crate) fn check(&self, policy: ErrorPolicy, complete: bool) -> Result<()> {
        let ErrorPolicy::Skip { max_fraction } = policy else { return Ok(()) };
        let judged = if complete { self.seen } else { self.seen.max(MIN_JUDGED) };
        let skipped = self.skipped_samples();
        if skipped as f64 > max_fraction * judged as f64 {
            return Err(Error::TooManyDamaged {
                skipped,
                seen: self.seen,
                max_fraction,
                summary: self.summary(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_evaluation_set_may_have_a_damaged_image() {
        let policy = ErrorPolicy::default();
        assert!(policy.allows(1, 4) && policy.allows(10, 4) && !policy.allows(11, 4));
        assert!(policy.allows(50, 5000) && !policy.allows(51, 5000));
        assert!(ErrorPolicy::Fail.allows(0, 4) && !ErrorPolicy::Fail.allows(1, 5000));
    }

    #[test]
    fn sessions_add_up_and_shards_count_once() {
        let counts = |seen, samples, example: &str| SkipCounts {
            seen,
            kinds: [("truncated".to_string(), samples), (DAMAGED_SHARD.to_string(), 2)].into(),
            examples: vec!["a.tar at byte 5".into(), example.into()],
        };
        let all = counts(100, 3, "x").plus(&counts(50, 4, "y"));
        assert_eq!((all.seen, all.skipped(), all.skipped_samples()), (150, 9, 7));
        assert_eq!(all.examples, ["a.tar at byte 5", "x", "y"]);
        assert_eq!(SkipCounts::default().plus(&all), all);
    }
}
