//! Comparisons of training runs: sweeps over recipes and seeds, statistics, tables, charts and reports.
#![doc = include_str!("../README.md")]

mod error;
pub mod report;
pub mod sweep;

pub use error::{Error, Result};
pub use report::job;
pub use report::results::{BySeed, CellResults, Comparison, SweepReport, write_reports};
pub use sweep::cells::{Ended, Limits, Progress, Runner, run_cells};
pub use sweep::file::{Cell, CellState, MeanPart, Sweep};
