//! Weight updates: AdamW, averaged weights (EMA) and the learning rate schedule.

pub mod adamw;
pub mod ema;
pub mod schedule;
