//! Parts of libtorch that the `tch` binding does not expose: CUDA at run time, the choice of the library for matrix
//! products, layers with custom backward passes, and multi-tensor operations.
#![doc = include_str!("../README.md")]

pub mod attention;
mod call;
pub mod cuda;
pub mod embedding;
pub mod gradient;
pub mod layout;
pub mod linear;
pub mod lists;
pub mod products;
