//! Tokenizer files for Python's transformers: CLIP's own, and the settings for another `tokenizer.json`.

use serde_json::{Map, Value, json};

use super::bpe;
use super::{END_OF_TEXT, START_OF_TEXT};

/// Names of the start and end token in Hugging Face's files; the ids are those of [`START_OF_TEXT`] and [`END_OF_TEXT`].
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// The pattern with which transformers splits words, after it has removed special tokens.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// A file of a tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenizerFile {
    /// Name in the model's folder.
    pub name: &'static str,
    /// Content.
    pub bytes: Vec<u8>,
}

/// Returns CLIP's tokenizer as the files that transformers' `CLIPTokenizer` loads, for a text tower of `context_length`
/// tokens.
///
/// ```
/// let files = data_pipeline::tokenizer::hugging_face_files(77);
/// assert_eq!(files[0].name, "tokenizer.json");
/// ```
///
/// The ids equal those of [`super::ClipTokenizer`]. Only the text cleaning differs. transformers normalises to NFC,
/// collapses white space and converts to lower case. It does not repair texts (curly quotes, wide letters, mojibake) or
/// unescape HTML entities. It converts a Greek capital sigma at the end of a word to `σ`; this crate converts it to
/// `ς`. Texts are padded with the end token, whose id is [`END_OF_TEXT`]. A causal text tower that pools at the first
/// end token does not see the padding.
pub fn hugging_face_files(context_length: usize) -> Vec<TokenizerFile> {
    let bpe::Published { vocabulary, merges } = bpe::published();
    let tokens = json!({ "bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END });
    let mut settings = json!({
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": context_length,
        "do_lower_case": true,
        "add_prefix_space": false,
        "errors": "replace",
    });
    if let (Some(settings), Some(tokens)) = (settings.as_object_mut(), tokens.as_object()) {
        settings.extend(tokens.clone());
    }
    let file = |name, bytes| TokenizerFile { name, bytes };
    vec![
        file("tokenizer.json", tokenizer_json().to_string().into_bytes()),
        file("vocab.json", Value::Object(vocab(vocabulary)).to_string().into_bytes()),
        file("merges.txt", format!("#version: 0.2\n{}\n", merges.join("\n")).into_bytes()),
        file("tokenizer_config.json", pretty(&settings)),
        file("special_tokens_map.json", pretty(&tokens)),
    ]
}

/// Returns a `tokenizer_config.json` with which transformers reads another tokenizer's `tokenizer.json` unchanged.
/// Without it, transformers assumes that a CLIP model uses CLIP's tokenizer and keeps only the vocabulary.
///
/// ```
/// let settings = data_pipeline::tokenizer::foreign_settings(64, Some("</s>"));
/// assert!(String::from_utf8(settings)?.contains("\"model_max_length\": 64"));
/// # Ok::<(), std::string::FromUtf8Error>(())
/// ```
pub fn foreign_settings(context_length: usize, pad_token: Option<&str>) -> Vec<u8> {
    let mut settings =
        json!({ "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context_length });
    if let Some(pad) = pad_token {
        settings["pad_token"] = pad.into();
    }
    pretty(&settings)
}

fn pretty(json: &Value) -> Vec<u8> {
    format!("{json:#}\n").into_bytes()
}

/// Returns a map from tokens to ids. If two merges produce the same token, the last one counts.
fn vocab(vocabulary: Vec<(String, u32)>) -> Map<String, Value> {
    let special = [(START.to_string(), START_OF_TEXT.into()), (END.to_string(), END_OF_TEXT.into())];
    vocabulary.into_iter().map(|(token, id)| (token, id.into())).chain(special).collect()
}

/// Returns the tokenizer as a single file in the format of Hugging Face's tokenizers.
pub(super) fn tokenizer_json() -> Value {
    let bpe::Published { vocabulary, merges } = bpe::published();
    let added = [(START, START_OF_TEXT), (END, END_OF_TEXT)].map(|(token, id)| {
        json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "NFC" },
            { "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " },
            { "type": "Lowercase" },
        ]},
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "behavior": "Removed", "invert": true, "pattern": { "Regex": WORDS } },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true },
        ]},
        "post_processor": { "type": "RobertaProcessing", "sep": [END, END_OF_TEXT],
            "cls": [START, START_OF_TEXT], "trim_offsets": false, "add_prefix_space": false },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": END, "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>", "fuse_unk": false, "vocab": vocab(vocabulary), "merges": merges },
    })
}

#[cfg(all(test, feature = "hf-tokenizers"))]
mod tests {
    use super::super::{ClipTokenizer, JsonTokenizer, Tokenizer};
    use super::*;

    /// Writes the files into a folder, and returns the tokenizer that Hugging Face's library loads from them.
    fn written(context: usize) -> (tempfile::TempDir, JsonTokenizer) {
        let folder = tempfile::tempdir().unwrap();
        for TokenizerFile { name, bytes } in hugging_face_files(context) {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        let tokenizer = JsonTokenizer::open(folder.path().join("tokenizer.json")).unwrap();
        (folder, tokenizer)
    }

    #[test]
    fn written_tokenizer_gives_clips_ids() {
        let (_folder, written) = written(77);
        assert!(written.is_clips());
        assert_eq!(written.vocab_size(), 49_408);
        for text in [
            "",
            "a photo of a cat",
            "  It's   TWO\tdogs,\n isn't it?  they'll we've I'm you're he'd ",
            "1999 2024 3.14 50% ½ Ⅷ ٣",
            "wow! hi!! (yes) #tag @name a_b a-b \\ / \"q\" {}[]<>|~^`$€£",
            "Zażółć gęślą jaźń naïve café ÅNGSTRÖM Straße ΣΊΣΥΦΟ İstanbul",
            "東京タワー 한국어 русский العربية हिन्दी ไทย",
            "😀😀 👩‍👩‍👧 🇵🇱 e\u{301} a\u{200b}b x \u{a0}y",
            "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
            "<start_of_text",
        ] {
            let [mut ours, mut theirs] = [[0; 120]; 2];
            ClipTokenizer::new().encode_into(text, &mut ours);
            written.encode_into(text, &mut theirs);
            let end = ours.iter().position(|id| *id == END_OF_TEXT).unwrap();
            assert_eq!(theirs[..=end], ours[..=end], "{text:?}");
            // The settings name the end token as padding.
            assert!(theirs[end..].iter().all(|id| *id == END_OF_TEXT), "{text:?}: {theirs:?}");
        }
    }

    #[test]
    fn vocabulary_merges_and_settings_agree_with_tokenizer_json() {
        let (folder, _) = written(32);
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let json = |name: &str| serde_json::from_str::<Value>(&read(name)).unwrap();
        let whole = json("tokenizer.json");
        assert_eq!(json("vocab.json"), whole["model"]["vocab"]);
        assert_eq!(json("vocab.json").as_object().unwrap().len(), 49_408);
        assert_eq!(json("vocab.json")["cat</w>"], 2368);
        let merges = read("merges.txt");
        let merges = merges.lines().skip(1).collect::<Vec<_>>();
        assert_eq!(Value::from(merges), whole["model"]["merges"]);
        let settings = json("tokenizer_config.json");
        assert_eq!(settings["model_max_length"], 32);
        assert_eq!(settings["tokenizer_class"], "CLIPTokenizer");
        for (key, token) in json("special_tokens_map.json").as_object().unwrap() {
            assert_eq!(settings[key], *token);
            assert!(!json("vocab.json")[token.as_str().unwrap()].is_null(), "{key}");
        }
    }
}
