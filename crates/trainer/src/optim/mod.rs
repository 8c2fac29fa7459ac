//! How weights change: AdamW, averaged weights, the learning rate.

pub mod adamw;
pub mod ema;
pub mod schedule;
