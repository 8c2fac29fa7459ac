//! Zero-shot evaluation of a model on data sets.

pub mod encoder;
pub(crate) mod measure;
pub mod suite;
