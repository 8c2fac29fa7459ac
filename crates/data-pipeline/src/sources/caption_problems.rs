//! Reports caption problems of otherwise good samples: the first when it occurs, the total when the source is closed.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::notice;

/// Counts of one source.
pub(super) struct CaptionProblems {
    source: String,
    broken_json: AtomicU64,
    entries: AtomicU64,
}

impl CaptionProblems {
    pub(super) fn new(source: &str) -> Self {
        CaptionProblems { source: source.into(), broken_json: AtomicU64::new(0), entries: AtomicU64::new(0) }
    }

    /// Records an invalid `.json` file beside a `.txt` file that was used instead.
    pub(super) fn broken_json(&self, reason: &str, sample: &str) {
        if self.broken_json.fetch_add(1, Ordering::Relaxed) == 0 {
            notice::warn_once(&format!(
                "`{}`: a .json file cannot be read, and the .txt file beside it is used instead (first `{sample}`: {reason})",
                self.source
            ));
        }
    }

    /// Records entries in a list of captions that are empty or not texts.
    pub(super) fn entries(&self, count: u64, key: &str, sample: &str) {
        if self.entries.fetch_add(count, Ordering::Relaxed) == 0 {
            notice::warn_once(&format!(
                "`{}`: left out entries of `{key}` that are empty or not texts (first {count} of `{sample}`)",
                self.source
            ));
        }
    }
}

impl Drop for CaptionProblems {
    fn drop(&mut self) {
        for (count, what) in [
            (*self.broken_json.get_mut(), "broken .json files, whose .txt files were used"),
            (*self.entries.get_mut(), "entries of captions that are empty or not texts"),
        ] {
            if count > 1 {
                notice::warn_once(&format!(
                    "`{}`: ignored {count} {what}, counting repeated reads",
                    self.source
                ));
            }
        }
    }
}
