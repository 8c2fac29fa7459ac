//! Stores of teacher embeddings, computed once and read by later runs (dataset reinforcement; Vasu et al. 2024,
//! MobileCLIP).
//!
//! A store is a folder: `store.json` describes teachers, data and augmentation, `shard-NNNNN.safetensors` contain the
//! embeddings. Row `sample * variants + variant` of the image embeddings belongs to one variant of one image, which the
//! loader repeats from its seed. Text embeddings are found by a hash of the caption, so equal captions are stored once.

mod encoding;
mod read;

mod variant_pass;
mod write;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::error::StoreProblem;
use crate::image::{AugmentConfig, Preprocess};
pub use crate::variants::Variants;
use crate::{Error, Result};

pub use read::{Store, manifest};
pub use variant_pass::{VariantBatch, VariantPass};
pub use write::{ShardEmbeddings, StoreWriter};

/// Name of the manifest in a store's folder.
pub const MANIFEST_FILE: &str = "store.json";
/// Maximum number of rows, so that products of counts do not overflow.
const MAX_ROWS: u64 = 1 << 48;
/// Version of the format.
const VERSION: u32 = 1;

/// Number format of a store.
///
/// ```
/// use data_pipeline::store::StoreKind;
/// assert_eq!("bf16".parse::<StoreKind>()?, StoreKind::Bf16);
/// assert_eq!(StoreKind::Int8.to_string(), "int8");
/// # Ok::<(), data_pipeline::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// 4 bytes, exact.
    F32,
    /// 2 bytes, with an error of about 2e-4 for unit embeddings.
    #[default]
    F16,
    /// 2 bytes, with the range of float32 and 8 bits of precision.
    Bf16,
    /// 1 byte, with a scale for each embedding.
    Int8,
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StoreKind::F32 => "f32",
            StoreKind::F16 => "f16",
            StoreKind::Bf16 => "bf16",
            StoreKind::Int8 => "int8",
        })
    }
}

impl FromStr for StoreKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(StoreKind::F32),
            "f16" => Ok(StoreKind::F16),
            "bf16" => Ok(StoreKind::Bf16),
            "int8" => Ok(StoreKind::Int8),
            other => Err(Error::setting("kind", format!("kind `{other}` is not f32, f16, bf16 or int8"))),
        }
    }
}

/// Description of a store: teachers, data, augmentation and format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Manifest {
    /// Version of the format.
    pub version: u32,
    /// Fixed augmentations per image.
    pub variants: Variants,
    /// Training transform of the augmentations.
    pub augment: AugmentConfig,
    /// Sources in their order.
    pub sources: Vec<StoredSource>,
    /// Teachers in their order.
    pub teachers: Vec<StoredTeacher>,
    /// Number format.
    pub kind: StoreKind,
    /// Samples per shard; the last one may have fewer.
    pub shard_samples: u64,
    /// Texts other than captions, such as class prompts.
    #[serde(default)]
    pub extra_texts: Vec<String>,
}

/// A source of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredSource {
    /// Number of samples.
    pub samples: u64,
    /// Fingerprint of the samples ([`crate::sources::fingerprint`]).
    pub fingerprint: String,
}

/// A teacher of a store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredTeacher {
    /// Name for messages.
    pub name: String,
    /// Hash of its weights.
    pub identity: String,
    /// Width of its embeddings.
    pub width: usize,
    /// Logit scale after exp.
    pub scale: f64,
    /// Preprocessing of its images.
    pub image: Preprocess,
    /// Name of its tokenizer.
    pub tokenizer: String,
    /// Tokens per text.
    pub context_length: usize,
}

impl Manifest {
    /// Creates a manifest of the current format with the default number format and shard size.
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

    /// Returns the number of samples of all sources.
    pub fn samples(&self) -> u64 {
        self.sources.iter().map(|source| source.samples).sum()
    }

    /// Returns the number of shards.
    pub fn shards(&self) -> u64 {
        self.samples().div_ceil(self.shard_samples.max(1))
    }

    /// Returns the samples of one shard.
    pub fn shard(&self, number: u64) -> std::ops::Range<u64> {
        let start = number * self.shard_samples;
        start..(start + self.shard_samples).min(self.samples())
    }

    /// Describes the first difference from another manifest: its place and both values; `None` if they are equal.
    pub fn difference(&self, other: &Manifest) -> Option<String> {
        let (Ok(own), Ok(other)) = (serde_json::to_value(self), serde_json::to_value(other)) else {
            return Some("they cannot be compared".into());
        };
        differing(String::new(), &own, &other)
    }

    /// Sets the number format.
    #[must_use]
    pub fn with_kind(mut self, kind: StoreKind) -> Self {
        self.kind = kind;
        self
    }

    /// Sets the number of samples per shard.
    #[must_use]
    pub fn with_shard_samples(mut self, samples: u64) -> Self {
        self.shard_samples = samples;
        self
    }

    /// Sets the texts other than captions.
    #[must_use]
    pub fn with_extra_texts(mut self, texts: Vec<String>) -> Self {
        self.extra_texts = texts;
        self
    }

    fn check(&self) -> Result<(), String> {
        if self.version != VERSION {
            return Err(format!(
                "has format {}, but this program reads {VERSION}: create it again",
                self.version
            ));
        }
        let samples = self.sources.iter().try_fold(0u64, |sum, source| sum.checked_add(source.samples));
        let rows =
            samples.and_then(|samples| samples.max(self.shard_samples).checked_mul(self.variants.count));
        if rows.is_none_or(|rows| rows > MAX_ROWS) {
            return Err("has too many embeddings: create it again".into());
        }
        if self.teachers.is_empty()
            || self.samples() == 0
            || self.variants.count == 0
            || self.shard_samples == 0
        {
            return Err("has no teacher, no sample or no variant: create it again".into());
        }
        match self.teachers.iter().find(|t| t.width == 0 || !(t.scale > 0.0 && t.scale <= 1e6)) {
            Some(bad) => Err(format!(
                "has width {} and scale {} for `{}`: create it again",
                bad.width, bad.scale, bad.name
            )),
            None => Ok(()),
        }
    }
}

/// Describes the first difference of two values below `path`.
fn differing(path: String, own: &Value, other: &Value) -> Option<String> {
    match (own, other) {
        // All fields are always written, so both objects have the same keys.
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

fn error(path: &std::path::Path, problem: StoreProblem, reason: impl Into<String>) -> Error {
    Error::Store { path: path.into(), problem, reason: reason.into() }
}
