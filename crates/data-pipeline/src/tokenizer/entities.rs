//! HTML character references by the rules of HTML5 (Python's `html.unescape`), and by the stricter rules of ftfy.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::OnceLock;

use super::steps;

/// HTML5's named character references (W3C): name and code points in hexadecimal.
const NAMED: &str = include_str!("../../data/html5-entities.txt");
/// Replacements of numeric references to C1 controls (HTML5, "numeric character reference end state").
const C1_MEANINGS: [u32; 32] = [
    0x20ac, 0x81, 0x201a, 0x192, 0x201e, 0x2026, 0x2020, 0x2021, 0x2c6, 0x2030, 0x160, 0x2039, 0x152, 0x8d,
    0x17d, 0x8f, 0x90, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x2dc, 0x2122, 0x161, 0x203a,
    0x153, 0x9d, 0x17e, 0x178,
];

/// Returns the values of the names. A name includes its semicolon, if it needs one.
fn named() -> &'static HashMap<&'static str, String> {
    static TABLE: OnceLock<HashMap<&'static str, String>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let entry = |line: &'static str| {
            let (name, points) = line.split_once(' ')?;
            let points = points.split(' ').filter_map(|p| char::from_u32(u32::from_str_radix(p, 16).ok()?));
            Some((name, points.collect()))
        };
        NAMED.lines().filter_map(entry).collect()
    })
}

/// Resolves all references by the rules of HTML5: some names need no semicolon, and the longest known name counts.
pub(super) fn unescape(text: &str) -> Cow<'_, str> {
    replace(text, |rest| {
        if let Some((value, length)) = numeric(rest) {
            return Some((value, length));
        }
        let stop = |c: char| matches!(c, '\t' | '\n' | '\u{c}' | ' ' | '<' | '&' | '#' | ';');
        let body = &rest[1..];
        let end = body.char_indices().take(32).take_while(|&(_, c)| !stop(c)).last();
        let mut end = end.map(|(at, c)| at + c.len_utf8())?;
        end += usize::from(body[end..].starts_with(';'));
        if let Some(value) = named().get(&body[..end]) {
            return Some((value.clone(), 1 + end));
        }
        // The shortest names have two letters.
        let cuts = body[..end].char_indices().map(|(at, _)| at).skip(2).collect::<Vec<_>>();
        let known = cuts.into_iter().rev().find_map(|cut| Some((named().get(&body[..cut])?, cut)))?;
        Some((known.0.clone(), 1 + known.1))
    })
}

/// Resolves references like ftfy: only with a semicolon, and also names in capitals such as `&EACUTE;`.
pub(super) fn unescape_strict(text: &str) -> Cow<'_, str> {
    replace(text, |rest| {
        let body = &rest[1..];
        let digits = body.strip_prefix('#').unwrap_or(body);
        let length = digits.bytes().take(25).take_while(u8::is_ascii_alphanumeric).count();
        if !(1..=24).contains(&length) || digits.as_bytes().get(length) != Some(&b';') {
            return None;
        }
        let whole = 1 + body.len() - digits.len() + length + 1;
        if body.starts_with('#') {
            // If HTML5 would resolve only a part of the reference, it stays unchanged.
            return numeric(rest).filter(|(_, taken)| *taken == whole);
        }
        let name = &body[..=length];
        Some((named().get(name).cloned().or_else(|| in_capitals(name))?, whole))
    })
}

/// Resolves the capitals of a lower-case name to the capital letter, unless HTML5 knows a part of the name.
fn in_capitals(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if lower == name || lower.to_ascii_uppercase() != name {
        return None;
    }
    let value = named().get(lower.as_str())?;
    let reference = format!("&{name}");
    (unescape(&reference) == reference).then(|| value.to_uppercase())
}

/// Returns the value of a numeric reference and its length in bytes.
fn numeric(rest: &str) -> Option<(String, usize)> {
    let body = rest.strip_prefix("&#")?;
    let (digits, radix) = match body.strip_prefix(['x', 'X']) {
        Some(hex) => (hex, 16),
        None => (body, 10),
    };
    let length = digits.bytes().take_while(|b| char::from(*b).is_digit(radix)).count();
    steps::add(length);
    if length == 0 {
        return None;
    }
    let semicolon = usize::from(digits.as_bytes().get(length) == Some(&b';'));
    let number = digits[..length].chars().fold(0u32, |sum, digit| {
        sum.saturating_mul(radix).saturating_add(digit.to_digit(radix).unwrap_or(0))
    });
    Some((code_point(number), rest.len() - digits.len() + length + semicolon))
}

fn code_point(number: u32) -> String {
    match number {
        0 => "\u{fffd}".into(),
        0x80..=0x9f => char::from_u32(C1_MEANINGS[number as usize - 0x80]).into_iter().collect(),
        // Controls and noncharacters are removed.
        0x1..=0x8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef => String::new(),
        _ if number <= 0x10_ffff && number & 0xfffe == 0xfffe => String::new(),
        _ => char::from_u32(number).unwrap_or('\u{fffd}').to_string(),
    }
}

/// Replaces each reference by the value that `resolve` returns with the length of the reference.
fn replace<'a>(text: &'a str, resolve: impl Fn(&str) -> Option<(String, usize)>) -> Cow<'a, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        result.push_str(&rest[..at]);
        rest = &rest[at..];
        steps::add(1 + at);
        let (value, taken) = resolve(rest).unwrap_or_else(|| ("&".into(), 1));
        result.push_str(&value);
        rest = &rest[taken..];
    }
    result.push_str(rest);
    Cow::Owned(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_follow_html5() {
        for (text, expected) in [
            ("&lt;b&gt;", "<b>"),
            ("a &lt b", "a < b"),
            ("&notanentity;", "\u{ac}anentity;"),
            ("&ampamp;", "&amp;"),
            (
                "&#128512;&#x41;&#65 &#0; &#xD800; &#x110000; &#99999999999;",
                "😀AA \u{fffd} \u{fffd} \u{fffd} \u{fffd}",
            ),
            ("&#x80;&#1;&#xfdd0;", "€"),
            ("&", "&"),
            ("&;", "&;"),
            ("&#;&#x;", "&#;&#x;"),
            ("&é", "&é"),
            ("&unknown", "&unknown"),
        ] {
            assert_eq!(unescape(text), expected, "{text}");
        }
    }

    #[test]
    fn strict_references_follow_ftfy() {
        for (text, expected) in [
            ("&lt;b&gt", "<b&gt"),
            ("P&EACUTE;REZ &nTILDE; BUNDESSTRA&SZLIG;E", "PÉREZ &nTILDE; BUNDESSTRASSE"),
            ("&#12x;", "&#12x;"),
            ("&#233;", "é"),
            ("&notanentity;", "&notanentity;"),
        ] {
            assert_eq!(unescape_strict(text), expected, "{text}");
        }
    }

    #[test]
    fn all_names_are_known() {
        assert_eq!(named().len(), 2231);
    }
}
