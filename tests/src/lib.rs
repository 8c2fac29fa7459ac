//! Helpers of the workspace's integration tests: golden files, named tensors, tiny models and recipes.

pub mod golden;
pub mod tiny;

pub use self_check::fill;
