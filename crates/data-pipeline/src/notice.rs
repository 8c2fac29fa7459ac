//! Log lines. A line may contain names of files and samples, so its control characters are escaped. Lines about skipped
//! items are logged once per process, however often their source is opened.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Logs an information line, with its control characters escaped by [`printable`]. Takes the arguments of [`format!`];
/// the caller's crate depends on `tracing`.
///
/// ```
/// data_pipeline::log_info!("`{}` is left out", "photo\u{1b}[2J.jpg");
/// ```
#[macro_export]
macro_rules! log_info {
    ($($text:tt)*) => {
        ::tracing::info!("{}", $crate::notice::printable(&::std::format!($($text)*)))
    };
}

/// Logs a warning, like [`log_info!`](crate::log_info).
#[macro_export]
macro_rules! log_warn {
    ($($text:tt)*) => {
        ::tracing::warn!("{}", $crate::notice::printable(&::std::format!($($text)*)))
    };
}

/// Logs a warning, unless the same line was logged before.
///
/// ```
/// data_pipeline::notice::warn_once("`photos`: left out 3 files");
/// data_pipeline::notice::warn_once("`photos`: left out 3 files"); // not logged again
/// ```
pub fn warn_once(line: &str) {
    if is_new(line) {
        crate::log_warn!("{line}");
    }
}

/// Logs an information line, unless the same line was logged before.
///
/// ```
/// data_pipeline::notice::info_once("`photos`: left out 2 text files");
/// ```
pub fn info_once(line: &str) {
    if is_new(line) {
        crate::log_info!("{line}");
    }
}

/// Escapes control characters, such as those of a file name, so that a message is safe to print and stays on one line.
///
/// ```
/// use data_pipeline::notice::printable;
/// assert_eq!(printable("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
/// ```
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unsafe(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown.into()
}

/// Whether a character controls a terminal, breaks a line or changes the direction of text.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

fn is_new(line: &str) -> bool {
    SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(line.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("caf\u{e9} `x`"), "caf\u{e9} `x`");
        assert_eq!(printable("a\0b\r\n\u{9b}1m\u{202e}"), "a\\u{0}b\\r\\n\\u{9b}1m\\u{202e}");
    }

    #[test]
    fn line_is_new_only_once() {
        assert!(is_new("of this test alone"));
        assert!(!is_new("of this test alone"));
        assert!(is_new("another one of it"));
    }
}
