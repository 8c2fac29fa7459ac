//! Training and distillation of CLIP models.
//!
//! 1. A [`recipe`] file is resolved into runs.
//! 2. A [plan](run::plan) estimates the cost of a run before it starts.
//! 3. The [`run`] loop feeds batches of the data pipeline to the training [`step`], which learns from frozen
//!    [teachers](teacher), and writes metrics, checkpoints and evaluations.
//! 4. A [job](run::job) performs all runs of a file, one after the other.
//!
//! A [checkpoint](run::checkpoint) holds everything that a resumed run needs to give the same result as an
//! uninterrupted one.
#![doc = include_str!("../README.md")]

pub mod error;
pub mod eval;
pub mod methods;
pub mod model;
pub mod optim;
pub mod progress;
pub mod recipe;
pub mod run;
pub mod step;
pub mod teacher;
mod text;

pub use error::{Error, Result};
pub use model::loaded::{LoadOptions, LoadedModel};
pub use model::locate::RunModels;
pub use recipe::{Job, ModelRef, Recipe};
