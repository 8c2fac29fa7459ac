//! Tests of the public interface, as one program: it is linked once.

mod clip_benchmark;
mod common;
mod download;
mod hostile_images;
mod hub;
mod loader;
mod log;
mod nothing_lost;
mod shards;
mod sources;
mod store;
