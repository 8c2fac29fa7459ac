//! Results of several runs: statistics over seeds, tables, charts and report pages.

mod charts;
pub mod job;
pub(crate) mod origin;
mod page;
pub(crate) mod results;
pub(crate) mod stats;
mod tables;
mod teachers;
