//! Image-text data for CLIP training: sources, tokenizer, transforms, batches and the loader.

#![doc = include_str!("../README.md")]

mod boxes;
pub mod download;
pub mod error;
pub mod evaluation;
pub mod hub;
pub mod image;
pub mod loader;
pub mod manifest;
pub mod mixture;
pub mod notice;
pub mod order;
pub mod policy;
pub mod sample;
mod seen;
pub mod sources;
pub mod store;
pub mod text;
pub mod tokenizer;

pub use error::{Error, Result};
