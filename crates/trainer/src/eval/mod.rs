//! Zero-shot evaluation of a model on data sets.

pub mod cache;
pub mod encoder;
pub(crate) mod measure;
pub mod open_set;
pub mod suite;
