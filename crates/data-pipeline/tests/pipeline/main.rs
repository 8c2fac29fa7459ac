//! Tests of the public interface, as one program: it is linked once.

mod clip_benchmark;
mod common;
mod download;
mod hostile_images;
mod hub;
mod image_variants;
mod jpeg;
mod loader;
mod log;
mod nothing_lost;
mod parquet_files;
mod shards;
mod sources;
mod store;
mod tables;
