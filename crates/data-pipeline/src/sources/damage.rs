//! Shards that are not whole: which, from which byte on, and how much is lost with them.

use std::path::PathBuf;

use crate::sources::shard::Index;

/// Broken shards that a message names.
const NAMED: usize = 3;

/// The broken shards of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorruptShards {
    /// The broken ones, in the order of the source.
    pub broken: Vec<BrokenShard>,
    /// Number of all shards.
    pub shards: usize,
    /// Estimated bytes that cannot be read.
    pub lost_bytes: u64,
    /// Estimated bytes of all shards as they were.
    pub total_bytes: u64,
}

/// A shard that cannot be read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenShard {
    /// The file.
    pub path: PathBuf,
    /// The first byte that cannot be read.
    pub offset: u64,
    /// What is wrong there.
    pub reason: String,
    /// Estimated bytes that are lost.
    pub lost_bytes: u64,
}

impl CorruptShards {
    /// Lost share of all bytes, 0..=1.
    pub fn lost_fraction(&self) -> f64 {
        self.lost_bytes as f64 / self.total_bytes.max(1) as f64
    }

    /// How many are broken and what is wrong with the first few, on one line.
    pub fn summary(&self) -> String {
        let named = self.broken.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>();
        let more = match self.broken.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        format!("{} of {} shards are broken: {}{more}", self.broken.len(), self.shards, named.join("; "))
    }

    /// None where all shards are whole.
    ///
    /// A shard that was cut does not say how long it was: it counts as long as the whole ones are on
    /// average. Where none is whole, nothing says that little is missing, so all of it counts as lost.
    pub(super) fn estimate(shards: &[(PathBuf, Index)]) -> Option<Self> {
        let whole = shards.iter().filter(|(_, index)| index.flaw.is_none()).map(|(_, index)| index.length);
        let mean = whole.clone().sum::<u64>().checked_div(whole.count() as u64);
        let mut damage =
            CorruptShards { broken: vec![], shards: shards.len(), lost_bytes: 0, total_bytes: 0 };
        for (path, index) in shards {
            let Some(flaw) = &index.flaw else {
                damage.total_bytes += index.length;
                continue;
            };
            let least = index.length.max(flaw.cut_from.unwrap_or(0)).max(1);
            let original = least.max(mean.unwrap_or(0));
            let readable = if mean.is_none() && flaw.cut_from.is_some() { 0 } else { index.whole };
            let lost_bytes = original.saturating_sub(readable).max(1);
            damage.lost_bytes += lost_bytes;
            damage.total_bytes += original;
            let (path, reason) = (path.clone(), flaw.reason.clone());
            damage.broken.push(BrokenShard { path, offset: index.whole, reason, lost_bytes });
        }
        (!damage.broken.is_empty()).then_some(damage)
    }
}

impl std::fmt::Display for BrokenShard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` at byte {}: {}", self.path.display(), self.offset, self.reason)
    }
}
