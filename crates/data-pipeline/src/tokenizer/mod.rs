//! Text to token ids: CLIP's byte-pair encoding, and foreign tokenizers from their `tokenizer.json`.

mod bpe;
mod clean;
mod clip;
mod entities;
mod json;
mod letters;
mod repair;

pub use clean::clean;
pub use clip::{ClipTokenizer, END_OF_TEXT, START_OF_TEXT};
pub use json::JsonTokenizer;
pub use repair::fix_text;

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
