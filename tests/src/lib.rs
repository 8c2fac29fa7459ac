//! What the workspace's integration tests share: the golden folder, the named fill, comparisons.

pub mod fill;
pub mod golden;
pub mod tiny;
