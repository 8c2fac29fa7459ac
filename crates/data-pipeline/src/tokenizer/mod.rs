//! Text to token ids: CLIP's byte-pair encoding, and foreign tokenizers from their `tokenizer.json`.

/// Turns text into the fixed-length id rows that a text tower reads.
pub trait Tokenizer: Send + Sync {
    /// Writes the ids of `text`, start and end tokens included, into `row`
    /// (its length is the context length) and pads the rest. A text that is
    /// too long is truncated so that the row still ends in the end token.
    fn encode_into(&self, text: &str, row: &mut [i64]);

    /// Number of ids, as the text tower's `vocab_size` must be.
    fn vocab_size(&self) -> usize;
}
