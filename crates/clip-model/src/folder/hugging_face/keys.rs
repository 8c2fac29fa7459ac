//! Strict reading of JSON objects: every key is read, known to have no effect, or refused.

use serde_json::{Map, Value};

use crate::config::{Check, invalid, unsupported};

/// Keys that describe files, training or text generation, and do not affect the towers.
const IGNORED_KEYS: &[&str] = &[
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "add_cross_attention",
    "architectures",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "logit_scale_init_value",
    "max_length",
    "min_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "projection_dim",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
];

/// Reader of the keys of one JSON object, which tracks the keys that were read.
pub(super) struct Keys<'a> {
    /// Name of the object in error messages.
    pub(super) name: &'static str,
    values: &'a Map<String, Value>,
    read: Vec<&'static str>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(name: &'static str, values: &'a Map<String, Value>) -> Self {
        Keys { name, values, read: Vec::new() }
    }

    pub(super) fn get(&mut self, key: &'static str) -> Option<&'a Value> {
        self.read.push(key);
        self.values.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn integer(&mut self, key: &'static str, default: i64) -> Check<i64> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let number = value.as_i64();
        number.map_or_else(|| invalid(format!("{}.{key} = {value} is not an integer", self.name)), Ok)
    }

    pub(super) fn number(&mut self, key: &'static str, default: f64) -> Check<f64> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let number = value.as_f64();
        number.map_or_else(|| invalid(format!("{}.{key} = {value} is not a number", self.name)), Ok)
    }

    pub(super) fn string(&mut self, key: &'static str, default: &'a str) -> Check<&'a str> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let string = value.as_str();
        string.map_or_else(|| invalid(format!("{}.{key} = {value} is not a string", self.name)), Ok)
    }

    pub(super) fn dropout(&mut self, key: &'static str, notes: &mut Vec<String>) -> Check {
        let rate = self.number(key, 0.0)?;
        if rate != 0.0 {
            notes.push(format!("{}.{key} = {rate} is ignored; it affects only training", self.name));
        }
        Ok(())
    }

    /// Refuses keys that were not read, unless they are known to have no effect or are disabled.
    pub(super) fn finish(self) -> Check {
        let disabled = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(items) => items.is_empty(),
            _ => false,
        };
        match self.values.iter().find(|(key, value)| {
            !self.read.contains(&key.as_str()) && !IGNORED_KEYS.contains(&key.as_str()) && !disabled(value)
        }) {
            Some((key, value)) => {
                unsupported(format!("{}.{key} = {value} is not known and could affect the result", self.name))
            }
            None => Ok(()),
        }
    }
}
