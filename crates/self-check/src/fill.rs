//! Named tensors that any language can reproduce bit for bit: inputs and weights of the golden values.

use file_ext::SplitMix64;
use tch::{Kind, Tensor};

/// Returns float32 values in [-1, 1) from SplitMix64, seeded with the FNV-1a hash of `name`.
pub fn unit_values(name: &str, count: usize) -> Vec<f32> {
    let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    let mut random = SplitMix64::new(hash);
    (0..count).map(|_| (2.0 * ((random.next_u64() >> 40) as f64 / f64::from(1 << 24)) - 1.0) as f32).collect()
}

/// Returns [`unit_values`] as a tensor.
pub fn unit(name: &str, shape: &[i64]) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    Tensor::from_slice(&unit_values(name, count)).view(shape)
}

/// Returns the named value of a state-dict entry, scaled so that activations neither vanish nor explode.
pub fn parameter(name: &str, shape: &[i64]) -> Tensor {
    if name.ends_with("num_batches_tracked") {
        return Tensor::zeros(shape, (Kind::Int64, tch::Device::Cpu));
    }
    if name.ends_with("logit_scale") {
        return Tensor::full(shape, f64::from((1.0f64 / 0.07).ln() as f32), (Kind::Float, tch::Device::Cpu));
    }
    let count = shape.iter().product::<i64>() as usize;
    let mut values = unit_values(name, count);
    let map: Box<dyn Fn(f32) -> f32> = if name.ends_with("running_var") {
        Box::new(|v| 0.75 + 0.25 * v)
    } else if name.ends_with("running_mean") {
        Box::new(|v| 0.1 * v)
    } else if shape.len() <= 1 {
        if name.ends_with("weight") { Box::new(|v| 1.0 + 0.1 * v) } else { Box::new(|v| 0.05 * v) }
    } else {
        let fan_in = count as f64 / shape[0] as f64;
        let factor = (3.0 / fan_in).sqrt() as f32;
        Box::new(move |v| factor * v)
    };
    values.iter_mut().for_each(|v| *v = map(*v));
    Tensor::from_slice(&values).view(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_values_agree_with_the_reference_generator() {
        let text = include_str!("../../../tests/golden/fill-check.json");
        let check: serde_json::Value = serde_json::from_str(text).unwrap();
        let found = format!("{:?}", unit_values("input.image", 4));
        let numbers: Vec<f32> = serde_json::from_value(check["values"].clone()).unwrap();
        assert_eq!(found, format!("{numbers:?}"));
    }
}
