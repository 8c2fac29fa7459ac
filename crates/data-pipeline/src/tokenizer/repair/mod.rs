//! Repair of broken text with the rules of ftfy 6.3.1 (Robyn Speer, Apache-2.0), which CLIP's tokenizer applies first.
//!
//! Repeats these steps until the text no longer changes:
//!
//! 1. resolve entities, unless the segment has a `<`;
//! 2. decode UTF-8 that was read as a single-byte encoding ([`encoding`]);
//! 3. replace C1 controls, ligatures, full-width forms, curly quotes, line breaks, terminal escapes and control
//!    characters;
//! 4. compose characters (NFC).

mod classes;
mod encoding;
mod utf8;

use std::collections::HashMap;
use std::sync::OnceLock;

use regex::Regex;
use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::entities::unescape_strict;
use super::steps;

/// Maximum length of a segment in characters; a segment also ends at a line break.
const SEGMENT: usize = 1_000_000;

/// Repairs a text line by line, like Python's ftfy.
///
/// ```
/// assert_eq!(data_pipeline::tokenizer::fix_text("schÃ¶n"), "schön");
/// ```
pub fn fix_text(text: &str) -> String {
    let mut fixed = String::with_capacity(text.len());
    // After a `<`, entities stay unchanged up to the end of the text.
    let mut entities = true;
    for line in text.split_inclusive('\n') {
        let mut rest = line;
        while !rest.is_empty() {
            let cut = match rest.len() > SEGMENT {
                true => rest.char_indices().nth(SEGMENT).map_or(rest.len(), |(at, _)| at),
                false => rest.len(),
            };
            let (segment, tail) = rest.split_at(cut);
            entities &= !segment.contains('<');
            fixed.push_str(&fix_segment(segment, entities));
            rest = tail;
        }
    }
    fixed
}

fn fix_segment(segment: &str, entities: bool) -> String {
    let mut text = segment.to_string();
    loop {
        steps::add(text.len());
        let before = text.clone();
        // A `<` from an entity does not count.
        if entities {
            text = unescape_strict(&text).into_owned();
        }
        text = encoding::fix(text);
        text = remove_terminal_escapes(plain_characters(text));
        text.retain(|c| !is_control(c));
        if !is_nfc(&text) {
            text = text.nfc().collect();
        }
        if text == before {
            return text;
        }
    }
}

/// Replaces C1 controls, ligatures, full-width forms, quotes and line breaks.
fn plain_characters(text: String) -> String {
    if text.bytes().all(|b| b.is_ascii() && b != b'\r') {
        return text;
    }
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match encoding::from_c1(c) {
            '\r' => {
                characters.next_if_eq(&'\n');
                plain.push('\n');
            }
            '\u{2028}' | '\u{2029}' => plain.push('\n'),
            '\u{2bc}' | '\u{2018}'..='\u{201b}' => plain.push('\''),
            '\u{201c}'..='\u{201f}' => plain.push('"'),
            '\u{3000}' => plain.push(' '),
            '\u{149}' => plain.push_str("'n"),
            other => match replacements().get(&other) {
                Some(replacement) => plain.push_str(replacement),
                None => plain.push(other),
            },
        }
    }
    plain
}

/// Returns the replacements of Latin ligatures and digraphs, and of half-width and full-width forms.
fn replacements() -> &'static HashMap<char, String> {
    static TABLE: OnceLock<HashMap<char, String>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let ligatures = "ĲĳǱǲǳǄǅǆǇǈǉǊǋǌﬀﬁﬂﬃﬄﬆ".chars();
        let widths = '\u{ff01}'..='\u{ffef}';
        let apart = |c: char| (c, std::iter::once(c).nfkc().collect::<String>());
        let mut table = ligatures.chain(widths).map(apart).collect::<HashMap<_, _>>();
        table.insert('ﬅ', "ſt".into());
        table.retain(|c, replacement| replacement.chars().ne(std::iter::once(*c)));
        table
    })
}

/// Removes escape sequences of terminals, such as those of colours.
fn remove_terminal_escapes(text: String) -> String {
    static ESCAPE: OnceLock<Regex> = OnceLock::new();
    if !text.contains('\u{1b}') {
        return text;
    }
    let escape =
        ESCAPE.get_or_init(|| Regex::new(r"\x1b\[[\d;]*[a-zA-Z]").expect("a fixed regular expression"));
    escape.replace_all(&text, "").into_owned()
}

/// Whether a character is a control without meaning in text: ASCII controls except white space, deprecated Arabic
/// controls, annotations, and the byte order mark.
fn is_control(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_repaired_like_ftfy() {
        for (broken, whole) in [
            ("schÃ¶n", "schön"),
            ("â€œquotedâ€\u{9d}", "\"quoted\""),
            ("voilÃ le travail", "voilà le travail"),
            ("L&AMP;AMP;ATILDE;&AMP;SUP3;PEZ", "LóPEZ"),
            ("Ã\u{a0} la mode", "à la mode"),
            ("ﬂuﬃeﬆ", "fluffiest"),
            ("Ｕﾀｰﾝ", "Uターン"),
            ("\u{1b}[36;44mblue\u{1b}[0m", "blue"),
            ("\u{feff}bom", "bom"),
            ("a\r\nb\rc\u{2028}d\u{85}", "a\nb\nc\nd…"),
            ("e\u{301}", "é"),
            ("&lt;b&gt; <i> &lt;", "&lt;b&gt; <i> &lt;"),
            ("This is OK: naïve café", "This is OK: naïve café"),
        ] {
            assert_eq!(fix_text(broken), whole, "{broken:?}");
        }
    }
}
