//! Log lines about skipped items. Each line is logged once per process, however often its source is opened.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Logs a warning, unless this line was logged before.
pub fn warn_once(line: &str) {
    if is_new(line) {
        tracing::warn!("{line}");
    }
}

/// Logs a line for `--verbose`, unless it was logged before.
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
    fn a_line_is_new_once() {
        assert!(is_new("of this test alone"));
        assert!(!is_new("of this test alone"));
        assert!(is_new("another one of it"));
    }
}
