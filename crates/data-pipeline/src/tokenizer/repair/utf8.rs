//! Decoding of damaged UTF-8.

use std::sync::OnceLock;

use regex::bytes::Regex;

fn fixed(pattern: &'static str, cell: &'static OnceLock<Regex>) -> &'static Regex {
    cell.get_or_init(|| Regex::new(pattern).expect("a fixed regular expression"))
}

/// Restores bytes A0 that were converted to spaces, if the result is UTF-8.
///
/// C3 before a space usually stands for the word "à" rather than the start of a word, except before some Portuguese
/// words.
pub(super) fn restore_no_break_spaces(bytes: &mut Vec<u8>) {
    static ALTERED: OnceLock<Regex> = OnceLock::new();
    let altered = fixed(
        r"(?s-u)[\xc2\xc3\xc5\xce\xd0\xd9][ ]|[\xe2\xe3][ ][\x80-\x84\x86-\x9f\xa1-\xbf]|[\xe0-\xe3][\x80-\x84\x86-\x9f\xa1-\xbf][ ]|\xf0[ ][\x80-\xbf][\x80-\xbf]|\xf0[\x80-\xbf][ ][\x80-\xbf]|\xf0[\x80-\xbf][\x80-\xbf][ ]",
        &ALTERED,
    );
    if !altered.is_match(bytes) {
        return;
    }
    let mut spaced = Vec::with_capacity(bytes.len() + 8);
    let mut rest = bytes.as_slice();
    while let Some((&byte, tail)) = rest.split_first() {
        spaced.push(byte);
        rest = tail;
        if byte == 0xc3
            && let Some(after) = tail.strip_prefix(b" ")
            && ![" ", "quele", "quela", "quilo", "s "].iter().any(|word| after.starts_with(word.as_bytes()))
        {
            spaced.push(0xa0);
        }
    }
    let restored = altered.replace_all(&spaced, |found: &regex::bytes::Captures<'_>| {
        found[0].iter().map(|&byte| if byte == b' ' { 0xa0 } else { byte }).collect::<Vec<_>>()
    });
    *bytes = restored.into_owned();
}

/// Replaces sequences with lost bytes (1A, in some positions a question mark) by U+FFFD.
pub(super) fn replace_lossy(bytes: &[u8]) -> Vec<u8> {
    static LOSSY: OnceLock<Regex> = OnceLock::new();
    let lossy = fixed(
        r"(?s-u)[\xc2-\xdf]\x1a|[\xc2-\xc3]\?|\xed[\xa0-\xaf][\x1a?]\xed[\xb0-\xbf][\x1a?\x80-\xbf]|\xed[\xa0-\xaf][\x1a?\x80-\xbf]\xed[\xb0-\xbf][\x1a?]|[\xe0-\xef][\x1a?][\x1a\x80-\xbf]|[\xe0-\xef][\x1a\x80-\xbf][\x1a?]|[\xf0-\xf4][\x1a?][\x1a\x80-\xbf][\x1a\x80-\xbf]|[\xf0-\xf4][\x1a\x80-\xbf][\x1a?][\x1a\x80-\xbf]|[\xf0-\xf4][\x1a\x80-\xbf][\x1a\x80-\xbf][\x1a?]|\x1a",
        &LOSSY,
    );
    lossy.replace_all(bytes, "\u{fffd}".as_bytes()).into_owned()
}

/// Decodes UTF-8 with two extensions: surrogate pairs of three bytes each, and Java's two-byte null.
pub(super) fn decode(bytes: &[u8]) -> Option<String> {
    let mut decoded = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        match std::str::from_utf8(rest) {
            Ok(text) => {
                decoded.push_str(text);
                return Some(decoded);
            }
            Err(error) => {
                let (good, bad) = rest.split_at(error.valid_up_to());
                decoded.push_str(std::str::from_utf8(good).ok()?);
                let (c, taken) = variant(bad)?;
                decoded.push(c);
                rest = &bad[taken..];
            }
        }
    }
    Some(decoded)
}

fn variant(bytes: &[u8]) -> Option<(char, usize)> {
    match *bytes {
        [0xc0, 0x80, ..] => Some(('\0', 2)),
        [0xed, a @ 0xa0..=0xaf, b @ 0x80..=0xbf, 0xed, c @ 0xb0..=0xbf, d @ 0x80..=0xbf, ..] => {
            let bits = |byte: u8, mask: u8, shift: u32| u32::from(byte & mask) << shift;
            let point = 0x10000 + bits(a, 0x0f, 16) + bits(b, 0x3f, 10) + bits(c, 0x0f, 6) + bits(d, 0x3f, 0);
            Some((char::from_u32(point)?, 6))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surrogate_pairs_and_nulls_are_decoded() {
        assert_eq!(decode(b"a\xed\xa0\xbd\xed\xb8\x8d\xc0\x80z").unwrap(), "a😍\0z");
        assert_eq!(decode(b"a\xff"), None);
        assert_eq!(decode(b"\xed\xa0\xbd"), None);
    }

    #[test]
    fn spaces_and_lost_bytes_are_restored() {
        let mut bytes = b"voil\xc3 le".to_vec();
        restore_no_break_spaces(&mut bytes);
        assert_eq!(bytes, "voilà le".as_bytes());
        assert_eq!(replace_lossy(b"\xe2\x80\x1a!"), "\u{fffd}!".as_bytes());
    }
}
