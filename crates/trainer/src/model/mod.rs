//! Models as a run uses them: found by name, opened, with what they read.

pub mod locate;
pub mod processor;
pub(crate) mod student;
