//! Text to token ids: CLIP's byte-pair encoding, and foreign tokenizers from their `tokenizer.json`.

mod bpe;
mod clean;
mod clip;
mod entities;
mod export;
mod json;
mod letters;
mod repair;

pub use clean::clean;
pub use clip::{ClipTokenizer, END_OF_TEXT, START_OF_TEXT};
pub use export::{foreign_settings, hugging_face_files};
pub use json::{JsonTokenizer, PADDING_FILES};
pub use repair::fix_text;

use crate::{Error, Result};

/// Longest context: far above what text towers have, and far below what memory has.
pub const MAX_CONTEXT: usize = 65_536;

/// A context length that rows can be made of.
///
/// # Errors
/// [`Error::Config`] for 0 and above [`MAX_CONTEXT`].
pub fn check_context(context_length: usize) -> Result<usize> {
    if (1..=MAX_CONTEXT).contains(&context_length) {
        return Ok(context_length);
    }
    Err(Error::Config(format!(
        "a context of {context_length} tokens is not between 1 and {MAX_CONTEXT}: take the model's context length, such as 77"
    )))
}

/// Turns text into the fixed-length id rows that a text tower reads.
pub trait Tokenizer: Send + Sync {
    /// Writes the ids of `text`, start and end tokens included, into `row`
    /// (its length is the context length) and pads the rest. A text that is
    /// too long is truncated so that the row still ends in the end token.
    fn encode_into(&self, text: &str, row: &mut [i64]);

    /// Number of ids, as the text tower's `vocab_size` must be.
    fn vocab_size(&self) -> usize;

    /// [`Tokenizer::encode_into`] of bytes that should be UTF-8; each bad sequence is read as U+FFFD.
    fn encode_bytes_into(&self, text: &[u8], row: &mut [i64]) {
        self.encode_into(&String::from_utf8_lossy(text), row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_have_bounds() {
        assert_eq!(check_context(77).unwrap(), 77);
        assert_eq!(check_context(MAX_CONTEXT).unwrap(), MAX_CONTEXT);
        for wrong in [0, MAX_CONTEXT + 1, 99_999_999_999_999] {
            let error = check_context(wrong).unwrap_err().to_string();
            assert!(error.contains(&wrong.to_string()), "{error}");
        }
    }
}
