//! Reinforced data: a teacher's (or several teachers') embeddings of a data set, stored once and read by every
//! training that follows (Vasu et al. 2024, MobileCLIP).
//!
//! A store is a folder: `store.json` says whose embeddings of what it holds, `shard-NNNNN.safetensors` hold them.
//! Row `sample * variants + variant` of the images belongs to one augmentation of one image, which the loader
//! repeats from its seed; texts are found by the caption itself, so equal captions are stored once.

mod pass;
mod read;
mod rows;
mod write;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::image::{AugmentConfig, Preprocess};
use crate::{Error, Result};
use file_ext::random::mix;

pub use pass::{Pass, PassBatch};
pub use read::{Store, manifest};
pub use write::{ShardRows, StoreWriter};

/// What a store is, in its folder.
pub const MANIFEST_FILE: &str = "store.json";
/// More rows than any machine holds; products of what is below stay countable.
const MAX_ROWS: u64 = 1 << 48;
/// Changes when older stores can no longer be read.
const VERSION: u32 = 1;

/// Augmentations that come again: `count` for each image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variants {
    /// How many.
    pub count: u64,
    /// What their random numbers are made from, whatever the seed of the loader that shows them.
    pub seed: u64,
}

impl Variants {
    /// The random number of one variant of one sample.
    pub(crate) fn draw(self, source: usize, index: usize, variant: u64) -> u64 {
        mix(&[self.seed, source as u64, index as u64, variant])
    }
}

/// How numbers are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// 4 bytes, exact.
    F32,
    /// 2 bytes; unit embeddings lose about 2e-4 of their length.
    #[default]
    F16,
    /// 2 bytes with the range of float32 and 8 bits of precision.
    Bf16,
    /// 1 byte, with a factor for each row.
    Int8,
}

/// Whose embeddings a store holds, and of what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format.
    pub version: u32,
    /// Augmentations per image.
    pub variants: Variants,
    /// The training transform that they are drawn from.
    pub augment: AugmentConfig,
    /// The sources in their order.
    pub sources: Vec<StoredSource>,
    /// The teachers in their order.
    pub teachers: Vec<StoredTeacher>,
    /// How numbers are stored.
    pub kind: StoreKind,
    /// Samples per shard; the last one may have fewer.
    pub shard_samples: u64,
    /// Texts beside the captions, such as class prompts.
    #[serde(default)]
    pub extra_texts: Vec<String>,
}

/// A source of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredSource {
    /// Samples.
    pub samples: u64,
    /// What they are ([`crate::sources::fingerprint`]).
    pub fingerprint: String,
}

/// A teacher of a store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredTeacher {
    /// For messages.
    pub name: String,
    /// Hash of its weights.
    pub identity: String,
    /// Width of its embeddings.
    pub width: usize,
    /// exp(logit scale).
    pub scale: f64,
    /// What its images were made by.
    pub image: Preprocess,
    /// Which tokenizer read its texts, and their length.
    pub tokenizer: String,
    /// Tokens per text.
    pub context_length: usize,
}

impl Manifest {
    /// A manifest of this format.
    pub fn new(
        variants: Variants,
        augment: AugmentConfig,
        sources: Vec<StoredSource>,
        teachers: Vec<StoredTeacher>,
    ) -> Self {
        Manifest {
            version: VERSION,
            variants,
            augment,
            sources,
            teachers,
            kind: StoreKind::default(),
            shard_samples: 2048,
            extra_texts: Vec::new(),
        }
    }

    /// Samples of all sources.
    pub fn samples(&self) -> u64 {
        self.sources.iter().map(|source| source.samples).sum()
    }

    /// Number of shards.
    pub fn shards(&self) -> u64 {
        self.samples().div_ceil(self.shard_samples.max(1))
    }

    /// Samples of one shard.
    pub fn shard(&self, number: u64) -> std::ops::Range<u64> {
        let start = number * self.shard_samples;
        start..(start + self.shard_samples).min(self.samples())
    }

    /// The first value in which another store of the same purpose differs, with its place and both values.
    pub fn difference(&self, other: &Manifest) -> Option<String> {
        let (Ok(own), Ok(other)) = (serde_json::to_value(self), serde_json::to_value(other)) else {
            return Some("they cannot be compared".into());
        };
        differing(String::new(), &own, &other)
    }

    fn check(&self) -> Result<(), String> {
        if self.version != VERSION {
            return Err(format!("has format {}, this program reads {VERSION}: make it again", self.version));
        }
        let samples = self.sources.iter().try_fold(0u64, |sum, source| sum.checked_add(source.samples));
        let rows =
            samples.and_then(|samples| samples.max(self.shard_samples).checked_mul(self.variants.count));
        if rows.is_none_or(|rows| rows > MAX_ROWS) {
            return Err("has more rows than can be counted: make it again".into());
        }
        if self.teachers.is_empty()
            || self.samples() == 0
            || self.variants.count == 0
            || self.shard_samples == 0
        {
            return Err("has no teacher, no sample or no variant: make it again".into());
        }
        match self.teachers.iter().find(|t| t.width == 0 || !(t.scale > 0.0 && t.scale <= 1e6)) {
            Some(bad) => Err(format!(
                "has width {} and scale {} for `{}`: make it again",
                bad.width, bad.scale, bad.name
            )),
            None => Ok(()),
        }
    }
}

/// The first place below `path` where two values are not the same.
fn differing(path: String, own: &Value, other: &Value) -> Option<String> {
    match (own, other) {
        // All fields are always written, so those of one are those of the other.
        (Value::Object(own), Value::Object(other)) => own.iter().find_map(|(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            differing(path, value, other.get(key).unwrap_or(&Value::Null))
        }),
        (Value::Array(own), Value::Array(other)) if own.len() == other.len() => {
            let mut pairs = own.iter().zip(other).enumerate();
            pairs.find_map(|(place, (own, other))| differing(format!("{path}[{place}]"), own, other))
        }
        (Value::Array(own), Value::Array(other)) => {
            Some(format!("`{path}` has {} entries, not {}", own.len(), other.len()))
        }
        _ => (own != other).then(|| format!("`{path}` is {own}, not {other}")),
    }
}

fn shard_file(number: u64) -> String {
    format!("shard-{number:05}.safetensors")
}

fn error(path: &std::path::Path, reason: impl Into<String>) -> Error {
    Error::Store { path: path.into(), reason: reason.into() }
}
