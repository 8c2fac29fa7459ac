//! Atomic file writes, SHA-256 of files, hexadecimal, little-endian numbers and SplitMix64.

#![doc = include_str!("../README.md")]

pub mod atomic;
pub mod digest;
pub mod error;
pub mod le;
pub mod random;

pub use atomic::{with_suffix, write_atomic, write_target};
pub use digest::{sha256_file, sha256_hex, to_hex};
pub use error::{Error, Result};
pub use le::{f32_from_le_bytes, f32_to_le_bytes};
pub use random::SplitMix64;
