//! Comparisons of training runs: sweeps over recipes and seeds, statistics, tables, charts and reports.
#![doc = include_str!("../README.md")]

mod error;
mod report;
pub mod settings;
mod sweep;

pub use error::{Error, Result};
pub use report::job;
pub use report::origin::Origin;
pub use report::results::{
    BySeed, CellResults, ClassMetric, Comparison, MainMetric, Predictor, SweepReport, write_reports,
};
pub use report::stats::{Difference, Summary};
pub use sweep::cells::{Ended, FailedRun, Limits, Progress, Runner, run_cells};
pub use sweep::file::{Cell, CellState, MeanPart, Sweep};
