//! Log lines about skipped items. Each line is logged once per process, however often its source is opened.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Logs a warning, unless the same line was logged before.
///
/// ```
/// data_pipeline::notice::warn_once("`photos`: left out 3 files");
/// data_pipeline::notice::warn_once("`photos`: left out 3 files"); // not logged again
/// ```
pub fn warn_once(line: &str) {
    if is_new(line) {
        tracing::warn!("{line}");
    }
}

/// Logs an information line, unless the same line was logged before.
///
/// ```
/// data_pipeline::notice::info_once("`photos`: left out 2 text files");
/// ```
pub fn info_once(line: &str) {
    if is_new(line) {
        tracing::info!("{line}");
    }
}

fn is_new(line: &str) -> bool {
    SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(line.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_new_only_once() {
        assert!(is_new("of this test alone"));
        assert!(!is_new("of this test alone"));
        assert!(is_new("another one of it"));
    }
}
