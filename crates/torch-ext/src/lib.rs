//! What the `tch` binding leaves to the program that uses it: loading the CUDA half of libtorch.
#![doc = include_str!("../README.md")]

pub mod cuda;
