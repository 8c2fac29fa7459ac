//! Key maps: conversion of other libraries' tensor names to open_clip's.

pub(crate) mod clip;
pub(crate) mod siglip;

use std::collections::{BTreeMap, HashMap};

use tch::Tensor;

use super::read_error::{ReadResult, damaged};

/// Conversion of a tensor to open_clip's form.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Target {
    /// A new name.
    Rename(String),
    /// A new name, transposed.
    Transposed(String),
    /// One of three parts (query, key, value) that are stacked along the first axis.
    Part(String, usize),
    /// Split along the first axis: the first third (query), and the rest (key and value).
    Split(String, String),
    /// A new name, reshaped to a scalar.
    Scalar(String),
    /// A new name, with a leading axis of size 1.
    Batched(String),
}

impl Target {
    /// Returns the names that the conversion produces.
    pub(crate) fn names(&self) -> Vec<&str> {
        match self {
            Target::Rename(name)
            | Target::Transposed(name)
            | Target::Part(name, _)
            | Target::Scalar(name)
            | Target::Batched(name) => vec![name],
            Target::Split(first, second) => vec![first, second],
        }
    }
}

/// Converts tensors to their targets.
///
/// # Errors
/// [`super::read_error::ReadError::Damaged`] for a duplicate name, a missing part, or an unsuitable shape.
pub(crate) fn apply(tensors: Vec<(Target, Tensor)>) -> ReadResult<HashMap<String, Tensor>> {
    let mut weights = HashMap::new();
    let mut parts = BTreeMap::<String, [Option<Tensor>; 3]>::new();
    let mut insert = |name: String, tensor| match weights.insert(name.clone(), tensor) {
        None => Ok(()),
        Some(_) => damaged(format!("two of its tensors are named `{name}`")),
    };
    for (target, tensor) in tensors {
        match target {
            Target::Rename(name) => insert(name, tensor)?,
            Target::Transposed(name) if tensor.dim() == 2 => insert(name, tensor.f_transpose(0, 1)?)?,
            Target::Scalar(name) if tensor.numel() == 1 => {
                insert(name, tensor.f_reshape([0i64; 0].as_slice())?)?;
            }
            Target::Batched(name) => insert(name, tensor.f_unsqueeze(0)?)?,
            Target::Split(first, second) if tensor.dim() > 0 && tensor.size()[0] % 3 == 0 => {
                let third = tensor.size()[0] / 3;
                insert(first, tensor.f_narrow(0, 0, third)?)?;
                insert(second, tensor.f_narrow(0, third, 2 * third)?)?;
            }
            Target::Part(name, part) if part < 3 => {
                let slot = &mut parts.entry(name.clone()).or_default()[part];
                if slot.replace(tensor).is_some() {
                    return damaged(format!("part {part} of `{name}` is duplicated"));
                }
            }
            other => {
                let names = other.names().join("` and `");
                return damaged(format!(
                    "`{names}` cannot be built from a tensor of shape {:?}",
                    tensor.size()
                ));
            }
        }
    }
    for (name, parts) in parts {
        let [Some(query), Some(key), Some(value)] = parts else {
            return damaged(format!("query, key or value is missing for `{name}`"));
        };
        insert(name, Tensor::f_cat(&[query, key, value], 0)?)?;
    }
    Ok(weights)
}

/// Splits `number.rest` into the number and the rest.
pub(crate) fn numbered(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.split_once('.')?;
    Some((number.parse().ok()?, rest))
}
