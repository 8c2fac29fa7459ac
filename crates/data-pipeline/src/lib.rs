//! Image-text data for CLIP training: sources, CLIP's tokenizer, transforms and a deterministic loader.
#![doc = include_str!("../README.md")]

pub mod annotations;
mod augmented;
pub mod damage;
#[cfg(feature = "download")]
pub mod download;
pub mod error;
pub mod evaluation;
#[cfg(feature = "hub")]
pub mod hub;
pub mod image;
pub mod loader;
#[cfg(feature = "download")]
pub mod manifest;
pub mod mixture;
pub mod names;
pub mod notice;
pub mod order;
pub mod policy;
pub mod sample;
pub mod sources;
#[cfg(feature = "store")]
pub mod store;
pub mod text;
pub mod tokenizer;
pub mod variants;

pub use annotations::{Annotations, ViewAnnotations};
pub use damage::DamageKind;
pub use error::{Error, Result};
pub use evaluation::{DamagedSample, DamagedSamples, EvalBatch, EvalBatches, find_damaged};
pub use image::{AugmentConfig, Preprocess};
pub use loader::{Batch, InputSpec, Loader, LoaderConfig, Position};
pub use mixture::{Mixture, WeightedSource};
pub use policy::ErrorPolicy;
pub use sample::{RawImage, RawSample};
pub use sources::{Source, SourceConfig};
#[cfg(feature = "hf-tokenizers")]
pub use tokenizer::JsonTokenizer;
pub use tokenizer::{ClipTokenizer, Tokenizer};
