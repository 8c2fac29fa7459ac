//! Tests of the checkpoint readers, with writers of the formats that torch writes.

mod containers;
mod hostile;
mod layouts;
mod memory;
mod models;
mod mutations;
mod write;

use std::collections::HashMap;

use tch::{Kind, Tensor};

use super::WeightFile;

/// Returns a small state dict under open_clip's names.
fn state() -> Vec<(String, Tensor)> {
    let values = |shape: &[i64]| {
        let count = shape.iter().product::<i64>();
        Tensor::arange(count, (Kind::Float, tch::Device::Cpu)).reshape(shape) / 8.0
    };
    vec![
        ("logit_scale".into(), values(&[])),
        ("visual.proj".into(), values(&[4, 3])),
        ("positional_embedding".into(), values(&[5, 4])),
    ]
}

fn assert_equal(found: &HashMap<String, Tensor>, expected: &[(String, Tensor)]) {
    assert_eq!(found.len(), expected.len(), "{:?}", found.keys());
    for (name, tensor) in expected {
        let found = found.get(name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!((found.size(), found.kind()), (tensor.size(), tensor.kind()), "{name}");
        assert!(found.equal(tensor), "{name}");
    }
}

/// Reads valid bytes.
fn read(bytes: &[u8]) -> WeightFile {
    WeightFile::from_bytes(bytes).unwrap()
}

/// Returns the error message for invalid bytes.
fn refusal(bytes: &[u8]) -> String {
    WeightFile::from_bytes(bytes).unwrap_err().to_string()
}
