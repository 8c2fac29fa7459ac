//! Sweeps: a grid of recipes, settings and seeds, resolved into cells, and the order in which the cells run.

mod cell_builder;
pub(crate) mod cells;
pub(crate) mod file;
