//! Run-time support for programs on libtorch that the `tch` binding does not include: loading the CUDA library.
#![doc = include_str!("../README.md")]

pub mod cuda;
