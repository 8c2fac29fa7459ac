//! Helpers of the workspace's integration tests: golden files, named tensors, tiny models and recipes.

pub mod fill;
pub mod golden;
pub mod tiny;
