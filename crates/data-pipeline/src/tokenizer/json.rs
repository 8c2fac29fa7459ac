//! Tokenizers of other models, from the `tokenizer.json` that Hugging Face models ship.

use std::path::Path;

use super::Tokenizer;
use crate::{Error, Result};

/// A tokenizer that a `tokenizer.json` describes.
pub struct JsonTokenizer {
    inner: tokenizers::Tokenizer,
    pad: i64,
}

impl JsonTokenizer {
    /// Reads a `tokenizer.json`. Padding is what the file says, or 0.
    ///
    /// # Errors
    /// [`Error::Format`] where the file is missing or not a tokenizer.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        Self::from_bytes(path, &bytes)
    }

    fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| Error::Format {
            path: path.into(),
            kind: "tokenizer.json",
            reason: e.to_string(),
        })?;
        let pad = inner.get_padding().map_or(0, |padding| i64::from(padding.pad_id));
        // Rows are cut and filled here, to the context length of the model that reads them.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Error::Config(e.to_string()))?;
        Ok(JsonTokenizer { inner, pad })
    }
}

impl Tokenizer for JsonTokenizer {
    fn encode_into(&self, text: &str, row: &mut [i64]) {
        row.fill(self.pad);
        // A tokenizer without an unknown token refuses some texts: such a row is padding alone.
        let Ok(encoding) = self.inner.encode_fast(text, true) else { return };
        let ids = encoding.get_ids();
        let taken = ids.len().min(row.len());
        for (place, id) in row.iter_mut().zip(ids) {
            *place = i64::from(*id);
        }
        // What is cut keeps its end token, if the tokenizer sets one.
        if taken < ids.len()
            && encoding.get_special_tokens_mask().last() == Some(&1)
            && let (Some(place), Some(end)) = (row.last_mut(), ids.last())
        {
            *place = i64::from(*end);
        }
    }

    fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &str = r#"{"version":"1.0","truncation":null,
        "padding":{"strategy":"BatchLongest","direction":"Right","pad_to_multiple_of":null,"pad_id":7,"pad_type_id":0,"pad_token":"[PAD]"},
        "added_tokens":[{"id":4,"content":"[END]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
        "normalizer":{"type":"Lowercase"},"pre_tokenizer":{"type":"Whitespace"},
        "post_processor":{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"[END]","type_id":0}}],
            "pair":[],"special_tokens":{"[END]":{"id":"[END]","ids":[4],"tokens":["[END]"]}}},
        "decoder":null,"model":{"type":"WordLevel","vocab":{"[UNK]":0,"a":1,"cat":2,"dog":3},"unk_token":"[UNK]"}}"#;

    #[test]
    fn rows_are_padded_and_cut_with_their_end_token() {
        let tokenizer = JsonTokenizer::from_bytes(Path::new("tiny"), TINY.as_bytes()).unwrap();
        let mut row = [0; 5];
        tokenizer.encode_into("A cat", &mut row);
        assert_eq!(row, [1, 2, 4, 7, 7]);
        let mut short = [0; 2];
        tokenizer.encode_into("a cat dog", &mut short);
        assert_eq!(short, [1, 4]);
        assert_eq!(tokenizer.vocab_size(), 5);
    }

    #[test]
    fn what_is_no_tokenizer_is_an_error() {
        assert!(matches!(JsonTokenizer::from_bytes(Path::new("x"), b"{}"), Err(Error::Format { .. })));
        assert!(matches!(JsonTokenizer::open(Path::new("missing/tokenizer.json")), Err(Error::Io { .. })));
    }
}
