//! Unicode categories for the tokenizer's splitting rule.

use std::sync::OnceLock;

use regex_syntax::hir::{Class, HirKind};

/// Category of a character for the splitting rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// General category L.
    Letter,
    /// General category N.
    Number,
    /// White space.
    Space,
    /// Other characters: marks, punctuation, symbols, controls.
    Other,
}

/// Returns the category of a character.
pub(super) fn kind(c: char) -> Kind {
    if c.is_ascii() {
        return match c {
            'a'..='z' | 'A'..='Z' => Kind::Letter,
            '0'..='9' => Kind::Number,
            _ if c.is_whitespace() => Kind::Space,
            _ => Kind::Other,
        };
    }
    static TABLES: OnceLock<[Vec<(char, char)>; 2]> = OnceLock::new();
    let [letters, numbers] = TABLES.get_or_init(|| [ranges(r"\p{L}"), ranges(r"\p{N}")]);
    if contains(letters, c) {
        Kind::Letter
    } else if contains(numbers, c) {
        Kind::Number
    } else if c.is_whitespace() {
        Kind::Space
    } else {
        Kind::Other
    }
}

/// Returns the sorted ranges of a character class in regex notation.
fn ranges(class: &str) -> Vec<(char, char)> {
    match regex_syntax::parse(class).map(|hir| hir.into_kind()) {
        Ok(HirKind::Class(Class::Unicode(class))) => {
            class.ranges().iter().map(|range| (range.start(), range.end())).collect()
        }
        _ => unreachable!("a fixed Unicode class"),
    }
}

/// Whether sorted ranges contain a character.
pub(super) fn contains(ranges: &[(char, char)], c: char) -> bool {
    let after = ranges.partition_point(|&(start, _)| start <= c);
    after > 0 && c <= ranges[after - 1].1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn categories_follow_unicode() {
        let expected = [
            ('a', Kind::Letter),
            ('中', Kind::Letter),
            ('ʰ', Kind::Letter),
            ('½', Kind::Number),
            ('Ⅷ', Kind::Number),
            ('٣', Kind::Number),
            ('\u{301}', Kind::Other), // a mark is not a letter
            ('_', Kind::Other),
            ('\u{200b}', Kind::Other), // zero width space is not white space
            ('\u{a0}', Kind::Space),
        ];
        for (c, wanted) in expected {
            assert_eq!(kind(c), wanted, "{c:?}");
        }
    }
}
