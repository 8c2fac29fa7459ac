//! Repair of UTF-8 that was decoded as a single-byte encoding.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

use super::super::steps;
use super::classes::{is_bad, is_in};
use super::utf8;

/// Name of a code page and the characters of its bytes 80 to ff, in the order in which pages are tried.
const CODE_PAGES: &str = include_str!("../../../data/code-pages.txt");
/// Byte for the replacement character in encodings with unassigned bytes.
const SUBSTITUTE: u8 = 0x1a;

struct CodePage {
    name: &'static str,
    bytes: HashMap<char, u8>,
    /// Windows pages have unassigned bytes. Bytes that were lost there appear as U+FFFD and become [`SUBSTITUTE`].
    lossy: bool,
}

impl CodePage {
    /// Encodes a text in this page, or returns `None` if the page lacks a character.
    fn encode(&self, text: &str) -> Option<Vec<u8>> {
        text.chars()
            .map(|c| match c {
                '\u{1a}' if self.lossy => None,
                '\u{fffd}' if self.lossy => Some(SUBSTITUTE),
                '\0'..='\x7f' => Some(c as u8),
                _ => self.bytes.get(&c).copied(),
            })
            .collect()
    }
}

fn code_pages() -> &'static [CodePage] {
    static PAGES: OnceLock<Vec<CodePage>> = OnceLock::new();
    PAGES.get_or_init(|| {
        let page = |line: &'static str| {
            let (name, points) = line.split_once(' ')?;
            let characters =
                points.split(' ').filter_map(|p| char::from_u32(u32::from_str_radix(p, 16).ok()?));
            let bytes = characters.zip(0x80..=0xff).collect();
            Some(CodePage { name, bytes, lossy: name.starts_with("windows") })
        };
        CODE_PAGES.lines().filter(|line| !line.starts_with('#')).filter_map(page).collect()
    })
}

/// Returns the character of Windows-1252 for a C1 control.
fn windows_1252(control: char) -> char {
    static BACK: OnceLock<HashMap<u32, char>> = OnceLock::new();
    let back = BACK.get_or_init(|| {
        let page = code_pages().iter().find(|page| page.name == "windows-1252");
        page.into_iter().flat_map(|page| page.bytes.iter().map(|(c, b)| (u32::from(*b), *c))).collect()
    });
    back.get(&u32::from(control)).copied().unwrap_or(control)
}

/// Repairs the text repeatedly until it no longer changes.
pub(super) fn fix(mut text: String) -> String {
    while let Some(fixed) = fix_once(&text) {
        if fixed == text {
            break;
        }
        text = fixed;
    }
    text
}

/// Repairs one level of mojibake, or returns `None` if the text is correct or cannot be repaired.
fn fix_once(text: &str) -> Option<String> {
    steps::add(text.len());
    if text.is_ascii() || !is_bad(text) {
        return None;
    }
    let mut latin_1 = false;
    for page in code_pages() {
        let Some(mut bytes) = page.encode(text) else { continue };
        latin_1 |= page.name == "latin-1";
        // In Mac Roman, an en dash before a space would become a letter.
        if page.name != "macroman" {
            utf8::restore_no_break_spaces(&mut bytes);
        }
        if page.lossy {
            bytes = utf8::replace_lossy(&bytes);
        }
        if let Some(decoded) = utf8::decode(&bytes) {
            return Some(decoded);
        }
    }
    let parts = fix_parts(text);
    if parts != text {
        return Some(parts);
    }
    let controls = text.chars().any(is_c1);
    if latin_1 && controls {
        // Latin-1 with C1 controls is probably Windows-1252, which leaves five bytes unassigned.
        let unassigned = |c: char| matches!(c, '\u{81}' | '\u{8d}' | '\u{8f}' | '\u{90}' | '\u{9d}');
        if !text.contains(unassigned) {
            return Some(text.chars().map(from_c1).collect());
        }
    }
    controls.then(|| text.chars().map(from_c1).collect())
}

fn is_c1(c: char) -> bool {
    matches!(c, '\u{80}'..='\u{9f}')
}

/// Replaces a C1 control by the character of Windows-1252.
pub(super) fn from_c1(c: char) -> char {
    if is_c1(c) { windows_1252(c) } else { c }
}

/// Repairs runs of misread UTF-8 in a text that cannot be repaired as a whole.
fn fix_parts(text: &str) -> String {
    let mut fixed = String::with_capacity(text.len());
    let mut copied = 0;
    let mut at = 0;
    let mut before = None;
    while at < text.len() {
        let run =
            if before.is_some_and(|c| is_in("utf8_continuation_strict", c)) { 0 } else { run(&text[at..]) };
        steps::add(1 + run);
        let step = if run > 0 { run } else { text[at..].chars().next().map_or(1, char::len_utf8) };
        let part: Range<usize> = at..at + step;
        if run > 0 && run < text.len() && is_bad(&text[part.clone()]) {
            fixed.push_str(&text[copied..at]);
            fixed.push_str(&fix(text[part.clone()].to_string()));
            copied = part.end;
        }
        before = text[part.clone()].chars().next_back();
        at = part.end;
    }
    fixed.push_str(&text[copied..]);
    fixed
}

/// Returns the length in bytes of the prefix of `text` that consists of misread UTF-8 sequences.
fn run(text: &str) -> usize {
    let mut taken = 0;
    loop {
        let mut characters = text[taken..].chars();
        let follow = match characters.next() {
            Some(c) if is_in("utf8_first_of_2", c) => 1,
            Some(c) if is_in("utf8_first_of_3", c) => 2,
            Some(c) if is_in("utf8_first_of_4", c) => 3,
            _ => return taken,
        };
        if !(0..follow).all(|_| characters.next().is_some_and(|c| is_in("utf8_continuation", c))) {
            return taken;
        }
        taken = text.len() - characters.as_str().len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pages_are_embedded() {
        assert_eq!(code_pages().len(), 10);
        assert!(code_pages().iter().all(|page| page.bytes.len() == 128));
        assert_eq!(windows_1252('\u{80}'), '€');
    }

    #[test]
    fn runs_within_a_text_are_repaired() {
        assert_eq!(fix("日本 Ã© 日本".into()), "日本 é 日本");
    }
}
