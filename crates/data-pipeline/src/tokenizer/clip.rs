//! CLIP's tokenizer: cleaning, splitting into words, byte-pair merges, start and end tokens.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::OnceLock;

use super::Tokenizer;
use super::bpe::Bpe;
use super::clean::clean;
use super::letters::{Kind, kind};

/// Id of the start token.
pub const START_OF_TEXT: i64 = 49_406;
/// Id of the end token, the largest of all.
pub const END_OF_TEXT: i64 = 49_407;

const SPECIAL: [(&str, u32); 2] =
    [("<start_of_text>", START_OF_TEXT as u32), ("<end_of_text>", END_OF_TEXT as u32)];
/// Endings that are words of their own after an apostrophe, in the order in which they are tried.
const CONTRACTIONS: [&str; 7] = ["s", "t", "re", "ve", "m", "ll", "d"];
/// Words that each thread remembers.
const REMEMBERED: usize = 1 << 15;
/// Longer words are rare and not remembered.
const REMEMBERED_BYTES: usize = 32;

thread_local! {
    static WORDS: RefCell<HashMap<Box<str>, Box<[u32]>>> = RefCell::default();
}

/// The tokenizer of OpenAI's CLIP and of most open_clip models. Padding is 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClipTokenizer;

impl ClipTokenizer {
    /// The tokenizer; its tables are shared and unpacked once per process.
    pub fn new() -> Self {
        table();
        ClipTokenizer
    }

    /// All ids of a text, without start and end tokens.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        encode(text, usize::MAX, &mut ids);
        ids
    }
}

impl Tokenizer for ClipTokenizer {
    fn encode_into(&self, text: &str, row: &mut [i64]) {
        let Some(last) = row.len().checked_sub(1) else { return };
        let mut ids = Vec::with_capacity(row.len());
        encode(text, last, &mut ids);
        row.fill(0);
        row[0] = START_OF_TEXT;
        let taken = ids.len().min(last.saturating_sub(1));
        for (place, id) in row[1.min(last)..].iter_mut().zip(&ids[..taken]) {
            *place = i64::from(*id);
        }
        row[(1 + taken).min(last)] = END_OF_TEXT;
    }

    fn vocab_size(&self) -> usize {
        table().symbols() + SPECIAL.len()
    }
}

fn table() -> &'static Bpe {
    static TABLE: OnceLock<Bpe> = OnceLock::new();
    TABLE.get_or_init(Bpe::embedded)
}

/// Appends ids until there are at least `enough`, or the text ends.
fn encode(text: &str, enough: usize, ids: &mut Vec<u32>) {
    let text = clean(text);
    let mut rest = text.as_ref();
    while ids.len() < enough {
        rest = rest.trim_start();
        if rest.is_empty() {
            return;
        }
        let (word, special) = split(rest);
        match special {
            Some(id) => ids.push(id),
            None => merge(&rest[..word], ids),
        }
        rest = &rest[word..];
    }
}

/// Length of the word that `rest` starts with (no space), and its id if it is a special token.
fn split(rest: &str) -> (usize, Option<u32>) {
    for (name, id) in SPECIAL {
        if rest.starts_with(name) {
            return (name.len(), Some(id));
        }
    }
    if let Some(ending) = rest.strip_prefix('\'')
        && let Some(found) = CONTRACTIONS.iter().find_map(|known| folded_prefix(ending, known))
    {
        return (1 + found, None);
    }
    let mut characters = rest.chars();
    let first = characters.next().map_or(Kind::Space, kind);
    match first {
        Kind::Number => (rest.len() - characters.as_str().len(), None),
        wanted => (rest.find(|c| kind(c) != wanted).unwrap_or(rest.len()), None),
    }
}

/// Bytes of `text` that spell `known`; the long s counts as an s, as it does where case is ignored.
fn folded_prefix(text: &str, known: &str) -> Option<usize> {
    let mut taken = 0;
    for wanted in known.chars() {
        let found = text[taken..].chars().next()?;
        if found != wanted && !(wanted == 's' && found == 'ſ') {
            return None;
        }
        taken += found.len_utf8();
    }
    Some(taken)
}

fn merge(word: &str, ids: &mut Vec<u32>) {
    if word.len() > REMEMBERED_BYTES {
        return table().merge_word(word.as_bytes(), ids);
    }
    WORDS.with_borrow_mut(|words| {
        if let Some(known) = words.get(word) {
            return ids.extend_from_slice(known);
        }
        let start = ids.len();
        table().merge_word(word.as_bytes(), ids);
        if words.len() < REMEMBERED {
            words.insert(word.into(), ids[start..].into());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn row(text: &str, context: usize) -> Vec<i64> {
        let mut row = vec![-1; context];
        ClipTokenizer::new().encode_into(text, &mut row);
        row
    }

    #[test]
    fn a_row_has_start_ids_end_and_padding() {
        assert_eq!(row("a cat", 6), [49406, 320, 2368, 49407, 0, 0]);
        assert_eq!(row("", 3), [49406, 49407, 0]);
        assert_eq!(ClipTokenizer::new().vocab_size(), 49_408);
    }

    #[test]
    fn a_long_text_keeps_its_end_token_in_any_context() {
        assert_eq!(row("a cat a cat", 4), [49406, 320, 2368, 49407]);
        assert_eq!(row("a cat", 4), [49406, 320, 2368, 49407]);
        assert_eq!(row("a cat", 3), [49406, 320, 49407]);
        assert_eq!(row("a cat", 2), [49406, 49407]);
        assert_eq!(row("a cat", 1), [49407]);
        assert!(row("a cat", 0).is_empty());
    }

    #[test]
    fn special_tokens_in_text_are_ids() {
        assert_eq!(ClipTokenizer::new().encode("<START_OF_TEXT>x"), [49406, 343]);
    }

    #[test]
    fn hostile_texts_are_quick() {
        // Generous limits: what is quadratic in a megabyte takes hours.
        let megabyte = 1 << 20;
        for text in [
            "x".repeat(megabyte),
            "x ".repeat(megabyte / 2),
            "&".repeat(megabyte),
            "&amp;".repeat(megabyte / 5),
            "Ã".repeat(megabyte / 2),
            "Ã©".repeat(megabyte / 4),
            "â€™ б".repeat(megabyte / 12),
            "\u{200b}".repeat(megabyte / 3),
            "\u{300}".repeat(megabyte / 2),
            "\n".repeat(megabyte),
        ] {
            let start = Instant::now();
            let ids = row(&text, 77);
            assert_eq!(ids[0], START_OF_TEXT);
            assert!(ids.contains(&END_OF_TEXT));
            let limit = Duration::from_secs(20);
            assert!(start.elapsed() < limit, "{:?}… took {:?}", &text.chars().next(), start.elapsed());
        }
    }

    #[test]
    fn invalid_utf8_is_read_with_replacement_characters() {
        let mut bytes = vec![0; 8];
        ClipTokenizer::new().encode_bytes_into(b"a\xff\xfecat", &mut bytes);
        assert_eq!(bytes, row("a\u{fffd}\u{fffd}cat", 8));
    }
}
