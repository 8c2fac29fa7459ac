//! Parts of libtorch that the `tch` binding does not reach: the CUDA library at run time, the choice of the library for
//! matrix products, and layers with a backward pass of their own.
#![doc = include_str!("../README.md")]

pub mod attention;
mod call;
pub mod cuda;
pub mod gradient;
pub mod layout;
pub mod linear;
pub mod lists;
pub mod products;
