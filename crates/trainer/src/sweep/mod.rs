//! Sweeps: a grid of recipes, settings and seeds, made cell by cell and compared fairly.
//!
//! Every cell is a run folder that is named by what shapes its result, so that cells that several sweeps have in
//! common are made once, finished ones are kept and stopped ones go on.

mod cells;
mod file;
mod page;
mod results;
pub mod stats;
mod tables;

pub use cells::{Limits, Progress, run_cells};
pub use file::{Cell, CellState, Sweep};
pub use results::{BySeed, CellResults, Comparison, SweepReport, write_reports};
