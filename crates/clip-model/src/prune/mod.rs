//! Automatic weight inheritance (TinyCLIP, Wu et al. 2023): learns which parts of both towers to keep.
//!
//! 1. [`Masks`] hold a learned score for every part; a training pass samples pruning gates from them.
//! 2. The expected number of remaining parameters is a differentiable function of the scores.
//! 3. [`Masks::harden`] decides which parts remain, and [`PruningPlan`] builds the smaller model.
//!
//! ```no_run
//! use clip_model::prune::{Masks, PruningPlan};
//!
//! # let mut model = clip_model::open("models/vit-b-16", tch::Device::Cpu, 0)?.model;
//! let masks = Masks::new(model.config(), model.device())?;
//! // In each training step:
//! model.mode().train(1);
//! let (gates, sample) = masks.sample(model.mode())?;
//! model.set_gates(Some(gates))?;
//! // ... run the forward and backward pass of the loss, then:
//! sample.backward(&masks)?;
//! model.set_gates(None)?;
//! // At the end:
//! let pruned = PruningPlan::new(model.config(), &masks.harden()?)?.apply(&model)?;
//! # Ok::<(), clip_model::Error>(())
//! ```

pub(crate) mod concrete;
mod masks;
mod plan;

#[cfg(test)]
mod tests;

pub use crate::gates::Gates;
pub use masks::{GateSample, HardGates, Masks};
pub use plan::PruningPlan;
