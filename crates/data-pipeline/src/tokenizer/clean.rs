//! What CLIP's tokenizer does to text before it splits it.

use std::borrow::Cow;

use super::entities::unescape;
use super::repair::fix_text;

/// Repairs the text, unescapes HTML entities twice, folds white space and lowers the case, as CLIP's tokenizer does.
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

/// Whether nothing would change: most captions are plain lower-case ASCII.
fn is_clean(text: &str) -> bool {
    let plain = |b: u8| matches!(b, b' '..=b'~') && !b.is_ascii_uppercase() && b != b'&';
    text.bytes().all(plain) && !text.starts_with(' ') && !text.ends_with(' ') && !text.contains("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_lowers_and_unescapes_twice() {
        assert_eq!(clean("  A\tB \n\n C "), "a b c");
        // The repair resolves entities to the end, but not beside a `<`.
        assert_eq!(clean("&amp;amp;amp;lt;b"), "<b");
        assert_eq!(clean("< &amp;amp;amp;lt;b"), "< &amp;lt;b");
        assert_eq!(clean("already clean"), "already clean");
        assert!(matches!(clean("already clean"), Cow::Borrowed(_)));
        assert_eq!(clean(""), "");
        assert_eq!(clean(" \u{3000}\u{a0}"), "");
    }
}
