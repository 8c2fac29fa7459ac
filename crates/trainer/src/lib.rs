//! Training and distillation of CLIP models.
//!
//! A [`recipe`] is resolved and becomes a plan; the [`step`] trains a student under the eyes of a
//! frozen [`teacher`]; checkpoints hold everything that a resumed run needs to equal an unbroken one.
#![doc = include_str!("../README.md")]

pub mod ema;
pub mod error;
pub mod optimizer;
pub mod schedule;
pub mod step;
pub mod teacher;

pub use error::{Error, Result};
