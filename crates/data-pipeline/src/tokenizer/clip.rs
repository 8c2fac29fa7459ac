//! CLIP's tokenizer: cleaning, splitting into words, byte-pair encoding, start and end token.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::OnceLock;

use super::Tokenizer;
use super::bpe::Bpe;
use super::clean::clean;
use super::letters::{Kind, kind};
use super::steps;

/// Id of the start token.
pub const START_OF_TEXT: i64 = 49_406;
/// Id of the end token, the largest id.
pub const END_OF_TEXT: i64 = 49_407;

const SPECIAL: [(&str, u32); 2] =
    [("<start_of_text>", START_OF_TEXT as u32), ("<end_of_text>", END_OF_TEXT as u32)];
/// Endings that form a separate word with an apostrophe, in the order in which they are tried.
const CONTRACTIONS: [&str; 7] = ["s", "t", "re", "ve", "m", "ll", "d"];
/// Maximum number of words in each thread's cache.
const CACHED: usize = 1 << 15;
/// Maximum length in bytes of a cached word.
const CACHED_BYTES: usize = 32;

thread_local! {
    static WORDS: RefCell<HashMap<Box<str>, Box<[u32]>>> = RefCell::default();
}

/// The tokenizer of OpenAI's CLIP and of most open_clip models. Its padding id is 0.
///
/// ```
/// use data_pipeline::ClipTokenizer;
/// assert_eq!(ClipTokenizer::new().encode("a photo of a cat"), [320, 1125, 539, 320, 2368]);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ClipTokenizer;

impl ClipTokenizer {
    /// Creates the tokenizer. All instances share one table, which is unpacked once per process.
    pub fn new() -> Self {
        table();
        ClipTokenizer
    }

    /// Returns all ids of a text, without start and end token.
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

/// Appends ids until at least `enough` exist, or the text ends.
fn encode(text: &str, enough: usize, ids: &mut Vec<u32>) {
    let text = clean(text);
    let mut rest = text.as_ref();
    while ids.len() < enough {
        rest = rest.trim_start();
        if rest.is_empty() {
            return;
        }
        let (word, special) = split(rest);
        steps::add(word);
        match special {
            Some(id) => ids.push(id),
            None => merge(&rest[..word], ids),
        }
        rest = &rest[word..];
    }
}

/// Returns the length of the first word of `rest` (without a leading space), and its id if it is a special token.
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

/// Returns the length of the prefix of `text` that equals `known` without regard to case: a long s counts as an s.
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
    if word.len() > CACHED_BYTES {
        return table().merge_word(word.as_bytes(), ids);
    }
    WORDS.with_borrow_mut(|words| {
        if let Some(known) = words.get(word) {
            return ids.extend_from_slice(known);
        }
        let start = ids.len();
        table().merge_word(word.as_bytes(), ids);
        if words.len() < CACHED {
            words.insert(word.into(), ids[start..].into());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str, context: usize) -> Vec<i64> {
        let mut row = vec![-1; context];
        ClipTokenizer::new().encode_into(text, &mut row);
        row
    }

    #[test]
    fn row_has_start_token_ids_end_token_and_padding() {
        assert_eq!(row("a cat", 6), [49406, 320, 2368, 49407, 0, 0]);
        assert_eq!(row("", 3), [49406, 49407, 0]);
        assert_eq!(ClipTokenizer::new().vocab_size(), 49_408);
    }

    #[test]
    fn long_text_keeps_its_end_token() {
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
    fn steps_grow_linearly_with_hostile_texts() {
        let steps = |unit: &str, length: usize| {
            let text = unit.repeat(length / unit.len());
            steps::take();
            let ids = row(&text, 77);
            assert_eq!(ids[0], START_OF_TEXT);
            assert!(ids.contains(&END_OF_TEXT));
            ClipTokenizer::new().encode(&text);
            steps::take()
        };
        for unit in ["x", "x ", "&", "&amp;", "&#1", "Ã", "Ã©", "â€™ б", "\u{200b}", "\u{300}", "\n"]
        {
            let (half, whole) = (steps(unit, 1 << 16), steps(unit, 1 << 17));
            // n log n at most triples; n² quadruples.
            assert!(whole <= 3 * half.max(1 << 10), "{unit:?}: {half} and {whole} steps");
            assert!(whole <= 64 << 17, "{unit:?}: {whole} steps");
        }
    }

    #[test]
    fn invalid_utf8_becomes_replacement_characters() {
        let mut bytes = vec![0; 8];
        ClipTokenizer::new().encode_bytes_into(b"a\xff\xfecat", &mut bytes);
        assert_eq!(bytes, row("a\u{fffd}\u{fffd}cat", 8));
    }
}
