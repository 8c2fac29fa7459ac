//! Whole training runs on tiny models: what a run folder holds, stopping and resuming, accumulation, views.

mod recipes;
mod resume;
mod runs;
mod towers;
