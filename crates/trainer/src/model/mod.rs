//! Models of a run: locating them by name, opening them, and preparing their inputs.

pub(crate) mod cross_modal;
pub mod device;
pub mod features;
pub mod loaded;
pub mod locate;
pub mod processor;
pub(crate) mod published;
pub(crate) mod student;
