//! Text cleaning of CLIP's tokenizer, before the text is split.

use std::borrow::Cow;

use super::entities::unescape;
use super::repair::fix_text;

/// Cleans a text like CLIP's tokenizer: repairs it, unescapes HTML entities twice, collapses white space and converts it
/// to lower case.
///
/// ```
/// assert_eq!(data_pipeline::tokenizer::clean("  A  Caf\u{c3}\u{a9} &amp;amp; Bar "), "a café & bar");
/// ```
pub fn clean(text: &str) -> Cow<'_, str> {
    if is_clean(text) {
        return Cow::Borrowed(text);
    }
    let fixed = fix_text(text);
    let once = unescape(&fixed);
    let twice = unescape(&once);
    let mut folded = String::with_capacity(twice.len());
    for word in twice.split_whitespace() {
        if !folded.is_empty() {
            folded.push(' ');
        }
        folded.push_str(word);
    }
    Cow::Owned(if folded.bytes().any(|b| b.is_ascii_uppercase() || !b.is_ascii()) {
        folded.to_lowercase()
    } else {
        folded
    })
}

/// Whether cleaning would change nothing. Most captions are lower-case ASCII.
fn is_clean(text: &str) -> bool {
    let plain = |b: u8| matches!(b, b' '..=b'~') && !b.is_ascii_uppercase() && b != b'&';
    text.bytes().all(plain) && !text.starts_with(' ') && !text.ends_with(' ') && !text.contains("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_folded_lowered_and_unescaped_twice() {
        assert_eq!(clean("  A\tB \n\n C "), "a b c");
        // The repair resolves nested entities, except in a text with a `<`.
        assert_eq!(clean("&amp;amp;amp;lt;b"), "<b");
        assert_eq!(clean("< &amp;amp;amp;lt;b"), "< &amp;lt;b");
        assert_eq!(clean("already clean"), "already clean");
        assert!(matches!(clean("already clean"), Cow::Borrowed(_)));
        assert_eq!(clean(""), "");
        assert_eq!(clean(" \u{3000}\u{a0}"), "");
    }
}
