//! Sweeps: a grid of recipes, settings and seeds, resolved into cells, and the order in which they are made.

pub mod cells;
pub mod file;
