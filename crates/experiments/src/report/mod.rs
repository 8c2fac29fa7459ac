//! Results of several runs: statistics over seeds, tables, charts, and the pages around them.

mod charts;
pub mod job;
mod page;
pub mod results;
pub mod stats;
mod tables;
