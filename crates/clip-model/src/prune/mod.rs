//! Automatic weight inheritance (TinyCLIP, Wu et al. 2023): learns which parts of both towers to keep.
//!
//! 1. [`Masks`] hold a learned score for every part; a training pass samples pruning gates from them.
//! 2. The expected number of remaining parameters is a differentiable function of the scores.
//! 3. [`Masks::harden`] decides which parts remain, and [`PruningPlan`] builds the smaller model.

pub(crate) mod concrete;
mod masks;
mod plan;

#[cfg(test)]
mod tests;

pub use crate::gates::Gates;
pub use masks::{GateSample, HardGates, Masks};
pub use plan::PruningPlan;
