//! From the names of other libraries to open_clip's: what becomes of each tensor.

pub(crate) mod clip;
pub(crate) mod siglip;

use std::collections::{BTreeMap, HashMap};

use tch::Tensor;

use super::fault::{Found, damaged};

/// What becomes of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Target {
    /// Another name.
    As(String),
    /// Another name, `[a, b]` as `[b, a]`.
    Transposed(String),
    /// One of the three parts of a matrix or vector that are kept below each other: query, key, value.
    Part(String, usize),
    /// The first third of the rows and the rest: query, and key with value.
    Split(String, String),
    /// Without dimensions.
    Scalar(String),
    /// With a first dimension of 1.
    Batched(String),
}

impl Target {
    /// The names that it gives.
    pub(crate) fn names(&self) -> Vec<&str> {
        match self {
            Target::As(name)
            | Target::Transposed(name)
            | Target::Part(name, _)
            | Target::Scalar(name)
            | Target::Batched(name) => vec![name],
            Target::Split(first, second) => vec![first, second],
        }
    }
}

/// Puts tensors where their targets say.
///
/// # Errors
/// A name that comes twice, a part that is missing, or a shape that a target cannot take.
pub(crate) fn apply(rows: Vec<(Target, Tensor)>) -> Found<HashMap<String, Tensor>> {
    let mut weights = HashMap::new();
    let mut parts = BTreeMap::<String, [Option<Tensor>; 3]>::new();
    let mut put = |name: String, tensor| match weights.insert(name.clone(), tensor) {
        None => Ok(()),
        Some(_) => damaged(format!("two of its tensors are `{name}`")),
    };
    for (target, tensor) in rows {
        match target {
            Target::As(name) => put(name, tensor)?,
            Target::Transposed(name) if tensor.dim() == 2 => put(name, tensor.f_transpose(0, 1)?)?,
            Target::Scalar(name) if tensor.numel() == 1 => {
                put(name, tensor.f_reshape([0i64; 0].as_slice())?)?;
            }
            Target::Batched(name) => put(name, tensor.f_unsqueeze(0)?)?,
            Target::Split(first, second) if tensor.dim() > 0 && tensor.size()[0] % 3 == 0 => {
                let third = tensor.size()[0] / 3;
                put(first, tensor.f_narrow(0, 0, third)?)?;
                put(second, tensor.f_narrow(0, third, 2 * third)?)?;
            }
            Target::Part(name, part) if part < 3 => {
                let place = &mut parts.entry(name.clone()).or_default()[part];
                if place.replace(tensor).is_some() {
                    return damaged(format!("part {part} of `{name}` is there twice"));
                }
            }
            other => {
                let names = other.names().join("` and `");
                return damaged(format!("`{names}` cannot be made of a tensor of shape {:?}", tensor.size()));
            }
        }
    }
    for (name, parts) in parts {
        let [Some(query), Some(key), Some(value)] = parts else {
            return damaged(format!("query, key or value is missing for `{name}`"));
        };
        put(name, Tensor::f_cat(&[query, key, value], 0)?)?;
    }
    Ok(weights)
}

/// `Some((number, rest))` of `number.rest`, where the number is one.
pub(crate) fn numbered(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.split_once('.')?;
    Some((number.parse().ok()?, rest))
}
