//! Reports caption problems of otherwise good samples: a warning about the first when it occurs, and the total as
//! information when the source is closed.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::{Mutex, PoisonError};

use crate::notice;

/// Problems of one source.
pub(super) struct CaptionProblems {
    source: String,
    broken_json: Mutex<Counted>,
    entries: Mutex<Counted>,
}

/// Problems of one kind. A sample that is read again counts once.
#[derive(Default)]
struct Counted {
    /// Hashes of the names of the samples.
    samples: HashSet<u64>,
    total: u64,
}

impl Counted {
    /// Counts the problems of a sample. Returns whether they are the first.
    fn add(&mut self, count: u64, sample: &str) -> bool {
        let is_first = self.samples.is_empty();
        if self.samples.insert(BuildHasherDefault::<DefaultHasher>::default().hash_one(sample)) {
            self.total += count;
        }
        is_first
    }
}

impl CaptionProblems {
    pub(super) fn new(source: &str) -> Self {
        CaptionProblems { source: source.into(), broken_json: Mutex::default(), entries: Mutex::default() }
    }

    /// Records an invalid `.json` file beside a `.txt` file that was used instead.
    pub(super) fn broken_json(&self, reason: &str, sample: &str) {
        if self.broken_json.lock().unwrap_or_else(PoisonError::into_inner).add(1, sample) {
            notice::warn_once(&format!(
                "`{}`: a .json file cannot be read, and the .txt file beside it is used instead (first `{sample}`: {reason})",
                self.source
            ));
        }
    }

    /// Records entries in a list of captions that are empty or not texts.
    pub(super) fn entries(&self, count: u64, key: &str, sample: &str) {
        if self.entries.lock().unwrap_or_else(PoisonError::into_inner).add(count, sample) {
            notice::warn_once(&format!(
                "`{}`: left out entries of `{key}` that are empty or not texts (first {count} of `{sample}`)",
                self.source
            ));
        }
    }
}

impl Drop for CaptionProblems {
    fn drop(&mut self) {
        for (counted, what) in [
            (&mut self.broken_json, "broken .json files, whose .txt files were used"),
            (&mut self.entries, "entries of captions that are empty or not texts"),
        ] {
            let Counted { samples, total } = counted.get_mut().unwrap_or_else(PoisonError::into_inner);
            // The warning names a single sample already.
            if samples.len() > 1 {
                let (source, samples) = (&self.source, samples.len());
                notice::info_once(&format!("`{source}`: ignored {total} {what}, in {samples} samples"));
            }
        }
    }
}
