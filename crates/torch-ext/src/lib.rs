//! Parts of libtorch that the `tch` binding does not reach: the CUDA library at run time, and the choice of the library for
//! matrix products.
#![doc = include_str!("../README.md")]

pub mod cuda;
pub mod gradient;
pub mod products;
