//! Results of several runs: statistics over seeds, tables, charts and report pages.

mod charts;
pub mod job;
mod page;
pub mod results;
pub mod stats;
mod tables;
