//! Automatic weight inheritance (TinyCLIP, Wu et al. 2023): which parts of both towers stay is learned.
//!
//! 1. [`Masks`] hold a learned score for every part; a training pass draws [`crate::gates::Gates`] from them,
//! 2. the expected number of parameters that stay is a differentiable function of the scores,
//! 3. [`Masks::harden`] decides, and [`PruningPlan`] makes the model that is smaller in fact.

pub mod concrete;
mod cut;
mod masks;

#[cfg(test)]
mod tests;

pub use cut::PruningPlan;
pub use masks::{Drawn, Hard, Masks};
