//! Whole training runs on tiny models: what a run folder holds, stopping and resuming, accumulation, views.

mod dclip;
mod inherit;
mod methods;
mod prune;
mod recipes;
mod reinforced;
mod resume;
mod runs;
mod sweeps;
mod tokens;
mod towers;

/// For recipes that refer to no other run of their file.
fn no_models() -> trainer::RunModels {
    trainer::RunModels::default()
}
