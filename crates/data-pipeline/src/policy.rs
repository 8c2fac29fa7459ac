//! What happens with damaged samples: a named policy with a budget, and the counts of what was left out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::sources::Source;
use crate::{Error, Result};

/// What to do with a sample that cannot be read or decoded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ErrorPolicy {
    /// Stop at the first one.
    Fail,
    /// Take the next sample in order instead, unless more than this share is damaged.
    Skip {
        /// Largest share of damaged samples, 0..=1.
        max_fraction: f64,
    },
}

impl Default for ErrorPolicy {
    /// One in a hundred: web data has some, a wrong path has more.
    fn default() -> Self {
        ErrorPolicy::Skip { max_fraction: 0.01 }
    }
}

impl ErrorPolicy {
    /// What is wrong with the setting, if anything.
    pub fn problem(self) -> Option<String> {
        match self {
            ErrorPolicy::Skip { max_fraction } if !(0.0..=1.0).contains(&max_fraction) => {
                Some(format!("max_fraction = {max_fraction} is not a share"))
            }
            _ => None,
        }
    }

    /// Judges the broken shards of a source by the share of bytes that is lost with them.
    ///
    /// # Errors
    /// [`Error::BrokenShards`] where there is any under [`ErrorPolicy::Fail`], or more is lost than the budget.
    pub fn check_shards(self, source: &dyn Source) -> Result<()> {
        let Some(damage) = source.damage() else { return Ok(()) };
        let allowed = match self {
            ErrorPolicy::Fail => None,
            ErrorPolicy::Skip { max_fraction } => Some(max_fraction),
        };
        if allowed.is_some_and(|most| damage.lost_fraction() <= most) {
            return Ok(());
        }
        Err(Error::BrokenShards {
            name: source.name().into(),
            summary: damage.summary(),
            lost_fraction: damage.lost_fraction(),
            max_fraction: allowed.unwrap_or(0.0),
        })
    }
}

/// How many samples were read and left out, by kind, with the first names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkipCounts {
    /// Samples read, damaged ones included.
    pub seen: u64,
    /// Damaged samples by kind; of the kind `damaged shard` the shards are counted.
    pub kinds: BTreeMap<String, u64>,
    /// The first damaged samples: name and cause.
    pub examples: Vec<String>,
}

/// Shares are judged from this many samples on, so that one bad file at the start does not stop a run.
const ENOUGH_TO_JUDGE: u64 = 1000;
const MAX_EXAMPLES: usize = 10;
const DAMAGED_SHARD: &str = "damaged shard";

impl SkipCounts {
    /// What was left out, of all kinds.
    pub fn skipped(&self) -> u64 {
        self.kinds.values().sum()
    }

    /// Damaged samples; shards are judged by their bytes ([`ErrorPolicy::check_shards`]).
    fn skipped_samples(&self) -> u64 {
        self.skipped() - self.kinds.get(DAMAGED_SHARD).copied().unwrap_or(0)
    }

    /// Kinds with their counts and the first names, on one line.
    pub fn summary(&self) -> String {
        let kinds =
            self.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ");
        format!("{kinds}; first: {}", self.examples.join("; "))
    }

    /// Judges the broken shards of a source, and counts and names those that the policy allows.
    pub(crate) fn record_shards(&mut self, source: &dyn Source, policy: ErrorPolicy) -> Result<()> {
        policy.check_shards(source)?;
        for shard in source.damage().iter().flat_map(|damage| &damage.broken) {
            tracing::warn!(
                "broken shard {shard}; about {} bytes are lost: fetch it again to have them",
                shard.lost_bytes
            );
            self.count(DAMAGED_SHARD, || shard.to_string());
        }
        Ok(())
    }

    /// These counts and those of a later sitting with the same sources, together.
    pub fn plus(&self, later: &SkipCounts) -> SkipCounts {
        let mut all = SkipCounts { seen: self.seen + later.seen, ..self.clone() };
        for (kind, count) in &later.kinds {
            let own = all.kinds.entry(kind.clone()).or_default();
            // A shard is met again in every sitting, a sample's visit happens once.
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
    pub(crate) fn record(&mut self, error: &Error, policy: ErrorPolicy) -> Result<()> {
        let Error::Sample { key, kind, reason } = error else {
            return Err(Error::Config(error.to_string()));
        };
        if policy == ErrorPolicy::Fail {
            return Err(Error::Sample { key: key.clone(), kind, reason: reason.clone() });
        }
        self.count(kind, || format!("{key}: {reason}"));
        Ok(())
    }

    fn count(&mut self, kind: &str, example: impl FnOnce() -> String) {
        *self.kinds.entry(kind.to_string()).or_default() += 1;
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(example());
        }
    }

    /// Fails where more than the policy's share is damaged; `complete` says that an epoch is over.
    pub(crate) fn check(&self, policy: ErrorPolicy, complete: bool) -> Result<()> {
        let ErrorPolicy::Skip { max_fraction } = policy else { return Ok(()) };
        let judged = if complete { self.seen } else { self.seen.max(ENOUGH_TO_JUDGE) };
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
    fn sittings_add_up_and_shards_are_counted_once() {
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
