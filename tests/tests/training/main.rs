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

/// For recipes without a teacher that is a run of the same file.
fn no_models(name: &str) -> std::path::PathBuf {
    unreachable!("no run is called {name}")
}
