//! Tokenizers: CLIP's byte-pair encoding, and tokenizers of other models from their `tokenizer.json`.

mod bpe;
mod clean;
mod clip;
mod entities;
mod export;
#[cfg(feature = "hf-tokenizers")]
mod json;
mod letters;
mod repair;
mod steps;

pub use clean::clean;
pub use clip::{ClipTokenizer, END_OF_TEXT, START_OF_TEXT};
pub use export::{TokenizerFile, foreign_settings, hugging_face_files};
#[cfg(feature = "hf-tokenizers")]
pub use json::{JsonTokenizer, TextCleaning};
pub use repair::fix_text;

use crate::{Error, Result};

/// Files beside a `tokenizer.json` that may name the padding token.
pub const PADDING_FILES: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];
/// Maximum context length, far above that of any text tower.
pub const MAX_CONTEXT: usize = 65_536;

/// Checks a context length, and returns it.
///
/// ```
/// use data_pipeline::tokenizer::check_context;
/// assert_eq!(check_context(77)?, 77);
/// assert!(check_context(0).is_err());
/// # Ok::<(), data_pipeline::Error>(())
/// ```
///
/// # Errors
/// [`Error::Setting`] for 0 and above [`MAX_CONTEXT`].
pub fn check_context(context_length: usize) -> Result<usize> {
    if (1..=MAX_CONTEXT).contains(&context_length) {
        return Ok(context_length);
    }
    Err(Error::setting(
        "context_length",
        format!(
            "a context of {context_length} tokens is not between 1 and {MAX_CONTEXT}: take the model's context length, such as 77"
        ),
    ))
}

/// Converts texts to rows of token ids, the input of a text tower.
///
/// ```
/// use data_pipeline::{ClipTokenizer, Tokenizer};
/// let mut row = [0; 6];
/// ClipTokenizer::new().encode_into("a cat", &mut row);
/// assert_eq!(row, [49406, 320, 2368, 49407, 0, 0]);
/// ```
pub trait Tokenizer: Send + Sync {
    /// Writes the ids of a text with start and end token into `row`, whose length is the context length, and pads the
    /// rest. A long text is truncated before its end token.
    fn encode_into(&self, text: &str, row: &mut [i64]);

    /// Returns the number of ids, the `vocab_size` of the text tower.
    fn vocab_size(&self) -> usize;

    /// Encodes bytes that should be UTF-8; each invalid sequence becomes U+FFFD.
    fn encode_bytes_into(&self, text: &[u8], row: &mut [i64]) {
        self.encode_into(&String::from_utf8_lossy(text), row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_lengths_outside_of_the_bounds_are_refused() {
        assert_eq!(check_context(77).unwrap(), 77);
        assert_eq!(check_context(MAX_CONTEXT).unwrap(), MAX_CONTEXT);
        for wrong in [0, MAX_CONTEXT + 1, 99_999_999_999_999] {
            let error = check_context(wrong).unwrap_err().to_string();
            assert!(error.contains(&wrong.to_string()), "{error}");
        }
    }
}
