//! Reads reference tensors and compares results with them.

use std::collections::HashMap;

use safetensors::{Dtype, SafeTensors};
use tch::{Kind, Tensor};

use crate::{Error, Result};

/// Reads the tensors of a safetensors file of float32 and integer values, on the CPU.
///
/// # Errors
/// [`Error::Reference`] for a broken file or another element type.
pub(crate) fn read(name: &str, bytes: &[u8]) -> Result<HashMap<String, Tensor>> {
    let broken = |e: safetensors::SafeTensorError| Error::reference(name, e.to_string());
    let file = SafeTensors::deserialize(bytes).map_err(broken)?;
    let mut found = HashMap::new();
    for (key, view) in file.tensors() {
        let shape = view.shape().iter().map(|size| *size as i64).collect::<Vec<_>>();
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::I64 => Kind::Int64,
            Dtype::I32 => Kind::Int,
            other => return Err(Error::reference(name, format!("`{key}` has the type {other:?}"))),
        };
        found.insert(key, Tensor::f_from_data_size(view.data(), &shape, kind)?);
    }
    Ok(found)
}

/// Returns max |found - expected| / max |expected|. A value that is not finite gives infinity.
///
/// # Errors
/// [`Error::Shape`] for different shapes.
pub(crate) fn deviation(name: &str, found: &Tensor, expected: &Tensor) -> Result<f64> {
    let (error, largest) = difference(name, found, expected)?;
    Ok(error / largest.max(1e-9))
}

/// Returns max |found - expected| and max |expected|. A value that is not finite gives infinity.
///
/// # Errors
/// [`Error::Shape`] for different shapes.
pub(crate) fn difference(name: &str, found: &Tensor, expected: &Tensor) -> Result<(f64, f64)> {
    if found.size() != expected.size() {
        return Err(Error::Shape { name: name.into(), found: found.size(), expected: expected.size() });
    }
    let on_cpu = |tensor: &Tensor| tensor.f_detach()?.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Double);
    let (found, expected) = (on_cpu(found)?, on_cpu(expected)?);
    let error = (&found - &expected).f_abs()?.f_max()?.f_double_value(&[])?;
    let largest = expected.f_abs()?.f_max()?.f_double_value(&[])?;
    Ok((if error.is_finite() { error } else { f64::INFINITY }, largest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_are_relative_to_the_largest_value() {
        let expected = Tensor::from_slice(&[1.0_f32, -4.0]);
        assert_eq!(deviation("a", &Tensor::from_slice(&[1.0_f32, -3.0]), &expected).unwrap(), 0.25);
        assert_eq!(deviation("a", &Tensor::from_slice(&[f32::NAN, -4.0]), &expected).unwrap(), f64::INFINITY);
        let error = deviation("a", &Tensor::from_slice(&[1.0_f32]), &expected).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
        assert!(matches!(read("a", b"broken").unwrap_err(), Error::Reference { .. }));
    }
}
