//! Broken shards: the first unreadable byte of each, and an estimate of the loss.

use std::path::PathBuf;

use crate::sources::shard::Index;

/// Maximum number of broken shards that a message names.
const NAMED: usize = 3;

/// The broken shards of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CorruptShards {
    /// The broken shards, in the order of the source.
    pub broken: Vec<BrokenShard>,
    /// Number of all shards.
    pub shards: usize,
    /// Estimated lost bytes.
    pub lost_bytes: u64,
    /// Estimated original size of all shards.
    pub total_bytes: u64,
}

/// A shard that cannot be read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokenShard {
    /// The file.
    pub path: PathBuf,
    /// Offset of the first unreadable byte.
    pub offset: u64,
    /// The problem at that byte.
    pub reason: String,
    /// Estimated lost bytes.
    pub lost_bytes: u64,
}

impl CorruptShards {
    /// Returns the lost fraction of all bytes, 0..=1.
    pub fn lost_fraction(&self) -> f64 {
        self.lost_bytes as f64 / self.total_bytes.max(1) as f64
    }

    /// Returns the number of broken shards and the problems of the first few on one line.
    pub fn summary(&self) -> String {
        let named = self.broken.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>();
        let more = match self.broken.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        format!("{} of {} shards are broken: {}{more}", self.broken.len(), self.shards, named.join("; "))
    }

    /// Estimates the loss, or returns `None` if all shards are complete.
    ///
    /// The original size of a truncated shard is unknown, so the mean size of the complete shards stands in for it. If
    /// no shard is complete, only the member in which the shard ends counts as lost.
    pub(super) fn estimate(shards: &[(PathBuf, Index)]) -> Option<Self> {
        let whole =
            shards.iter().filter(|(_, index)| index.corruption.is_none()).map(|(_, index)| index.length);
        let mean = whole.clone().sum::<u64>().checked_div(whole.count() as u64);
        let mut corrupt =
            CorruptShards { broken: vec![], shards: shards.len(), lost_bytes: 0, total_bytes: 0 };
        for (path, index) in shards {
            let Some(corruption) = &index.corruption else {
                corrupt.total_bytes += index.length;
                continue;
            };
            let least = index.length.max(corruption.cut_from.unwrap_or(0)).max(1);
            let original = least.max(mean.unwrap_or(0));
            let lost_bytes = original.saturating_sub(index.whole).max(1);
            corrupt.lost_bytes += lost_bytes;
            corrupt.total_bytes += original;
            let (path, reason) = (path.clone(), corruption.reason.clone());
            corrupt.broken.push(BrokenShard { path, offset: index.whole, reason, lost_bytes });
        }
        (!corrupt.broken.is_empty()).then_some(corrupt)
    }
}

impl std::fmt::Display for BrokenShard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` at byte {}: {}", self.path.display(), self.offset, self.reason)
    }
}
