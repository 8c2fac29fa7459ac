//! Models as a run uses them: found by name, opened, with what they read.

pub(crate) mod cross_modal;
pub mod device;
pub mod features;
pub mod locate;
pub mod processor;
pub(crate) mod student;
