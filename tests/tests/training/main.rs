//! Complete training runs on tiny models: run folders, resuming, losses, methods, pruning, stores and sweeps.

mod dclip;
mod evaluation;
mod inherit;
mod methods;
mod micro_batches;
mod prune;
mod recipes;
mod reinforced;
mod resume;
mod runs;
mod sweeps;
mod tokens;
mod towers;

/// Returns no run models, for recipes that do not refer to another run of their file.
fn no_models() -> trainer::RunModels {
    trainer::RunModels::default()
}
