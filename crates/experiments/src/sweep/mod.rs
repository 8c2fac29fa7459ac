//! Sweeps: a grid of recipes, settings and seeds, resolved into cells, and the order in which the cells run.

pub mod cells;
pub mod file;
