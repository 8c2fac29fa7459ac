//! Training and distillation of CLIP models.
//!
//! 1. a [`recipe`] file is resolved into runs,
//! 2. a [`plan`] estimates the cost of a run before it starts,
//! 3. the [`run`] loop feeds batches of the data pipeline to the [`step`], guided by a frozen [`teacher`], and writes
//!    metrics, checkpoints and evaluations,
//! 4. a [`job`] performs all runs of a file one after the other and compares them.
//!
//! A [`checkpoint`] holds the complete state of a run, so a resumed run gives the same result as an uninterrupted one.
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
pub use recipe::{Job, Recipe};
pub use teacher::teachers::Models;
