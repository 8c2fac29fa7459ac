//! Tokenizers of other models, from the `tokenizer.json` of Hugging Face models.

use std::path::Path;

use super::{ClipTokenizer, END_OF_TEXT, PADDING_FILES, Tokenizer};
use crate::error::FileFormat;
use crate::{Error, Result};

/// Texts that distinguish CLIP's tokenizer from others: upper case, contractions, digits, accents, other letters, emoji.
const PROBES: [&str; 4] = [
    "A photo of a Siamese cat.",
    "It isn't 1999, it's 2024!",
    "Zażółć naïve gęślą jaźń",
    "東京 tower & 😀😀",
];

/// A tokenizer from a `tokenizer.json`.
///
/// ```no_run
/// use data_pipeline::{JsonTokenizer, Tokenizer};
/// let tokenizer = JsonTokenizer::open("siglip/tokenizer.json")?.canonical(true);
/// let mut row = [0; 64];
/// tokenizer.encode_into("a photo of a cat", &mut row);
/// # Ok::<(), data_pipeline::Error>(())
/// ```
pub struct JsonTokenizer {
    inner: tokenizers::Tokenizer,
    /// Padding id; 0 if unset.
    pad: Option<i64>,
    cleaning: TextCleaning,
}

/// Cleaning of texts before tokenization. In Python, the tokenizer's class does it; `tokenizer.json` does not contain
/// it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextCleaning {
    /// None.
    #[default]
    None,
    /// Lower case (transformers' `Siglip2Tokenizer`, and `do_lower_case` of SigLIP 2's folders).
    Lower,
    /// transformers' `SiglipTokenizer`: ASCII punctuation is removed, and white space is collapsed.
    Siglip {
        /// Whether text becomes lower case (`do_lower_case`).
        lower: bool,
    },
    /// open_clip's `clean = "canonicalize"`: text is repaired, `_` becomes a space, punctuation is removed, text becomes
    /// lower case, and white space is collapsed.
    Canonicalize,
}

impl TextCleaning {
    /// Reads the cleaning from the settings beside a `tokenizer.json`: the class and `do_lower_case` of
    /// `tokenizer_config.json`. A missing class follows from the model type in `config.json`.
    fn beside(path: &Path) -> Result<Self> {
        let settings = read_json(&path.with_file_name(PADDING_FILES[0]))?.unwrap_or_default();
        let lower = settings.get("do_lower_case").and_then(serde_json::Value::as_bool);
        let class = settings.get("tokenizer_class").and_then(serde_json::Value::as_str);
        // A configuration that cannot be parsed has no model type.
        let model = read_json(&path.with_file_name("config.json")).ok().flatten();
        let model_type = model.as_ref().and_then(|model| model.get("model_type")?.as_str());
        let class = class.or(match model_type {
            Some("siglip") => Some("SiglipTokenizer"),
            Some("siglip2") => Some("Siglip2Tokenizer"),
            _ => None,
        });
        Ok(match class.map(|class| class.trim_end_matches("Fast")) {
            Some("SiglipTokenizer") => TextCleaning::Siglip { lower: lower.unwrap_or(true) },
            Some("Siglip2Tokenizer") => TextCleaning::Lower,
            _ if lower == Some(true) => TextCleaning::Lower,
            _ => TextCleaning::None,
        })
    }

    /// Cleans a text.
    fn apply(self, text: &str) -> std::borrow::Cow<'_, str> {
        match self {
            TextCleaning::None => text.into(),
            TextCleaning::Lower => text.to_lowercase().into(),
            TextCleaning::Siglip { lower } => {
                let text = if lower { text.to_lowercase() } else { text.to_string() };
                let kept = text.chars().filter(|c| !c.is_ascii_punctuation()).collect::<String>();
                kept.split_whitespace().collect::<Vec<_>>().join(" ").into()
            }
            TextCleaning::Canonicalize => canonicalize(text).into(),
        }
    }
}

impl JsonTokenizer {
    /// Reads a `tokenizer.json`. The padding token comes from the file, else from the files beside it
    /// ([`PADDING_FILES`]); its default is id 0. The files beside it also determine the cleaning of texts
    /// ([`TextCleaning`]).
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Format`] if it or a file beside it is malformed.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let mut tokenizer = Self::from_bytes(path, &bytes)?;
        tokenizer.cleaning = TextCleaning::beside(path)?;
        if tokenizer.pad.is_none() {
            for file in PADDING_FILES.map(|name| path.with_file_name(name)) {
                let Some(token) = pad_token(&file)? else { continue };
                let id = tokenizer.inner.token_to_id(&token).ok_or_else(|| Error::Format {
                    path: file,
                    format: FileFormat::TokenizerSettings,
                    reason: format!("its pad_token `{token}` is not a token of `{}`", path.display()),
                })?;
                tokenizer.pad = Some(i64::from(id));
                break;
            }
        }
        Ok(tokenizer)
    }

    /// Cleans texts like open_clip's `clean = "canonicalize"` ([`TextCleaning::Canonicalize`]) if `on`.
    #[must_use]
    pub fn canonical(mut self, on: bool) -> Self {
        if on {
            self.cleaning = TextCleaning::Canonicalize;
        }
        self
    }

    /// Returns the cleaning of texts.
    pub fn cleaning(&self) -> TextCleaning {
        self.cleaning
    }

    fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| Error::Format {
            path: path.into(),
            format: FileFormat::Tokenizer,
            reason: e.to_string(),
        })?;
        let pad = inner.get_padding().map(|padding| i64::from(padding.pad_id));
        // Truncation and padding depend on the model's context length.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Error::Format {
            path: path.into(),
            format: FileFormat::Tokenizer,
            reason: e.to_string(),
        })?;
        Ok(JsonTokenizer { inner, pad, cleaning: TextCleaning::None })
    }

    /// Returns the padding token, as spelled in the vocabulary.
    pub fn pad_token(&self) -> Option<String> {
        self.inner.id_to_token(u32::try_from(self.pad.unwrap_or(0)).ok()?)
    }

    /// Whether the file is a copy of CLIP's tokenizer, which most CLIP models include: the number of ids is equal, and
    /// the ids of a few texts are. Padding may differ, because CLIP's towers do not see it.
    pub fn is_clips(&self) -> bool {
        let clip = ClipTokenizer::new();
        self.vocab_size() == clip.vocab_size()
            && PROBES.iter().all(|text| {
                let [mut own, mut clips] = [[0; 77]; 2];
                self.encode_into(text, &mut own);
                clip.encode_into(text, &mut clips);
                let length = clips.iter().position(|id| *id == END_OF_TEXT).map_or(77, |end| end + 1);
                own[..length] == clips[..length]
            })
    }
}

impl Tokenizer for JsonTokenizer {
    fn encode_into(&self, text: &str, row: &mut [i64]) {
        row.fill(self.pad.unwrap_or(0));
        // A tokenizer without an unknown token refuses some texts. Their rows contain only padding.
        let text = self.cleaning.apply(text);
        let Ok(encoding) = self.inner.encode_fast(&*text, true) else { return };
        let ids = encoding.get_ids();
        let taken = ids.len().min(row.len());
        for (place, id) in row.iter_mut().zip(ids) {
            *place = i64::from(*id);
        }
        // A truncated text keeps its end token, if the tokenizer adds one.
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

/// Reads the padding token of a settings file, a text or an object. Returns `None` if the file or the token is missing.
fn pad_token(path: &Path) -> Result<Option<String>> {
    let json = read_json(path)?.unwrap_or_default();
    let token =
        json.get("pad_token").and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
    Ok(token.map(String::from))
}

/// Reads a settings file; `None` if it is missing.
fn read_json(path: &Path) -> Result<Option<serde_json::Value>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path, e)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::Format {
        path: path.into(),
        format: FileFormat::TokenizerSettings,
        reason: e.to_string(),
    })
}

/// Cleans a text like open_clip's `canonicalize`.
fn canonicalize(text: &str) -> String {
    let text = super::clean(text);
    let kept = text.chars().map(|c| if c == '_' { ' ' } else { c }).filter(|c| !c.is_ascii_punctuation());
    let text = kept.collect::<String>().to_lowercase();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
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
    fn rows_are_padded_and_truncated_with_their_end_token() {
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
    fn texts_are_cleaned_as_in_transformers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        // Without the normalizer, which would make everything lower case.
        std::fs::write(&path, TINY.replace(r#"{"type":"Lowercase"}"#, "null")).unwrap();
        let ids = |text: &str| {
            let mut row = [0; 5];
            JsonTokenizer::open(&path).unwrap().encode_into(text, &mut row);
            row
        };
        let (cat, unknown) = ([1, 2, 4, 7, 7], [0, 0, 4, 7, 7]);
        assert_eq!((ids("a cat"), ids("A Cat")), (cat, unknown));
        let settings = |text: &str| std::fs::write(folder.path().join(PADDING_FILES[0]), text).unwrap();
        settings(r#"{"tokenizer_class": "SiglipTokenizer", "do_lower_case": true}"#);
        assert_eq!((ids("A  C_at."), ids("a cat")), (cat, cat));
        settings(r#"{"tokenizer_class": "SiglipTokenizerFast"}"#);
        assert_eq!(ids("A (Cat)!"), cat);
        settings(r#"{"tokenizer_class": "SiglipTokenizer", "do_lower_case": false}"#);
        assert_eq!((ids("A Cat."), ids("a cat.")), (unknown, cat));
        settings(r#"{"tokenizer_class": "GemmaTokenizer", "do_lower_case": true}"#);
        assert_eq!((ids("A Cat"), ids("a cat.")), (cat, [1, 2, 0, 4, 7]));
        settings(r#"{"tokenizer_class": "GemmaTokenizer"}"#);
        assert_eq!(ids("A Cat"), unknown);
        settings("{}");
        std::fs::write(folder.path().join("config.json"), r#"{"model_type": "siglip"}"#).unwrap();
        assert_eq!(ids("A Cat."), cat);
    }

    #[test]
    fn padding_token_may_come_from_files_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let row = || {
            let mut row = [0; 4];
            JsonTokenizer::open(&path).unwrap().encode_into("a cat", &mut row);
            row
        };
        std::fs::write(&path, TINY).unwrap();
        assert_eq!(row(), [1, 2, 4, 7]);
        let mut json: serde_json::Value = serde_json::from_str(TINY).unwrap();
        json["padding"] = serde_json::Value::Null;
        std::fs::write(&path, json.to_string()).unwrap();
        assert_eq!(row(), [1, 2, 4, 0]);
        std::fs::write(folder.path().join(PADDING_FILES[1]), r#"{"pad_token": {"content": "dog"}}"#).unwrap();
        assert_eq!(row(), [1, 2, 4, 3]);
        std::fs::write(folder.path().join(PADDING_FILES[0]), r#"{"pad_token": "[END]"}"#).unwrap();
        assert_eq!(row(), [1, 2, 4, 4]);
        for broken in ["{", r#"{"pad_token": "bird"}"#] {
            std::fs::write(folder.path().join(PADDING_FILES[0]), broken).unwrap();
            assert!(matches!(JsonTokenizer::open(&path), Err(Error::Format { .. })), "{broken}");
        }
    }

    #[test]
    fn canonical_texts_equal_open_clips() {
        assert_eq!(canonicalize("  A_photo of\ta Cat, isn't it?! "), "a photo of a cat isnt it");
        assert_eq!(canonicalize("cats &amp;amp; caf\u{c3}\u{a9}s"), "cats cafés");
        let tokenizer =
            JsonTokenizer::from_bytes(Path::new("tiny"), TINY.as_bytes()).unwrap().canonical(true);
        let mut row = [0; 4];
        tokenizer.encode_into("A_cat!", &mut row);
        assert_eq!(row, [1, 2, 4, 7]);
    }

    #[test]
    fn copies_of_clips_tokenizer_are_recognised() {
        let open = |json: &serde_json::Value| {
            JsonTokenizer::from_bytes(Path::new("clip"), json.to_string().as_bytes()).unwrap()
        };
        let mut json = super::super::export::tokenizer_json();
        assert!(open(&json).is_clips());
        // The same number of ids without the normalizer, or with two ids exchanged.
        json["normalizer"] = serde_json::Value::Null;
        assert!(!open(&json).is_clips());
        let mut json = super::super::export::tokenizer_json();
        json["model"]["vocab"]["cat</w>"] = 1929.into();
        json["model"]["vocab"]["dog</w>"] = 2368.into();
        assert!(!open(&json).is_clips());
        assert!(!JsonTokenizer::from_bytes(Path::new("tiny"), TINY.as_bytes()).unwrap().is_clips());
    }

    #[test]
    fn malformed_tokenizer_is_an_error() {
        assert!(matches!(JsonTokenizer::from_bytes(Path::new("x"), b"{}"), Err(Error::Format { .. })));
        assert!(matches!(JsonTokenizer::open(Path::new("missing/tokenizer.json")), Err(Error::Io { .. })));
    }
}
