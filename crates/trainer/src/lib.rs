//! Training and distillation of CLIP models.
//!
//! 1. a [`recipe`] file is resolved into runs,
//! 2. a [`plan`] says what a run will cost, before it starts,
//! 3. the [`run`] loop feeds batches of the data pipeline to the [`step`], under the eyes of a
//!    frozen [`teacher`], and writes metrics, checkpoints and evaluations,
//! 4. a [`job`] makes all runs of a file one after the other and compares them.
//!
//! A [`checkpoint`] holds everything that a resumed run needs to equal an unbroken one.
#![doc = include_str!("../README.md")]

pub mod card;
mod charts;
pub mod checkpoint;
pub mod classes;
mod cross_modal;
pub mod ema;
pub mod error;
pub mod evaluate;
pub mod guide;
pub mod job;
mod measure;
pub mod methods;
pub mod metrics;
pub mod models;
pub mod optimizer;
pub mod plan;
pub mod progress;
pub mod prune;
pub mod recipe;
pub mod reinforce;
pub mod report;
pub mod run;
mod run_folder;
pub mod schedule;
pub mod step;
mod student;
pub mod suite;
pub mod sweep;
pub mod teacher;
mod teaching;
mod tensorboard;
mod text;
pub mod tokens;
pub mod views;

pub use error::{Error, Result};
pub use recipe::{Job, Recipe};
pub use teaching::Models;
