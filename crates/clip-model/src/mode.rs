//! Training or evaluation, and the random numbers of layers that drop something while training.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use file_ext::random::{GOLDEN_GAMMA, finalize};
use tch::{Device, Kind, Tensor};

/// In which numbers a model computes its matrix products and convolutions.
///
/// Weights, gradients, norms of layers, the residual stream of transformers and embeddings are float32 in both: what
/// mixed precision changes is the operands of the products (Micikevicius et al. 2018; bfloat16 has float32's range,
/// so that no loss scaling is needed).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Float32 throughout.
    #[default]
    Float32,
    /// Products of bfloat16 operands.
    BFloat16,
}

impl Precision {
    /// The faster one on a device: bfloat16 where its own instructions multiply it, float32 elsewhere.
    ///
    /// Without such instructions a product of bfloat16 operands takes many times as long as one of float32.
    pub fn fastest(device: Device) -> Self {
        match device.is_cuda() || multiplies_bf16() {
            true => Self::BFloat16,
            false => Self::Float32,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn multiplies_bf16() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(all(target_arch = "aarch64", target_os = "linux"))]
fn multiplies_bf16() -> bool {
    std::arch::is_aarch64_feature_detected!("bf16")
}

// Elsewhere libtorch has no kernels that use such instructions.
#[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_os = "linux"))))]
fn multiplies_bf16() -> bool {
    false
}

/// The switch that all layers of one model share. A new model evaluates.
///
/// Random drops are a function of the step's seed and the layer's name alone, whatever the device
/// and however often a forward pass is repeated: a resumed run draws what the unbroken run would
/// have drawn, and a pass that is computed again (activation checkpointing, gradient caching) drops
/// the same elements again.
#[derive(Clone, Debug, Default)]
pub struct Mode(Arc<State>);

#[derive(Debug, Default)]
struct State {
    training: AtomicBool,
    recomputing: AtomicBool,
    low_precision: AtomicBool,
    seed: AtomicU64,
}

impl Mode {
    /// Training mode, with the seed of this forward pass.
    pub fn train(&self, seed: u64) {
        self.0.seed.store(seed, Ordering::Relaxed);
        self.0.training.store(true, Ordering::Relaxed);
    }

    /// Evaluation mode: nothing is dropped, and BatchNorm reads its running statistics.
    pub fn eval(&self) {
        self.0.training.store(false, Ordering::Relaxed);
    }

    /// What the passes from here on compute in; a new model computes in float32.
    pub fn set_precision(&self, precision: Precision) {
        self.0.low_precision.store(precision == Precision::BFloat16, Ordering::Relaxed);
    }

    /// An operand of a matrix product or convolution, in the numbers that it is computed in.
    pub(crate) fn operand(&self, tensor: &Tensor) -> Tensor {
        if self.0.low_precision.load(Ordering::Relaxed) {
            tensor.to_kind(Kind::BFloat16)
        } else {
            tensor.shallow_clone()
        }
    }

    /// Runs `f` in training mode with the last seed, as a repetition of a pass that has been made.
    pub(crate) fn recompute<T>(&self, f: impl FnOnce() -> T) -> T {
        let training = self.0.training.swap(true, Ordering::Relaxed);
        self.0.recomputing.store(true, Ordering::Relaxed);
        let result = f();
        self.0.recomputing.store(false, Ordering::Relaxed);
        self.0.training.store(training, Ordering::Relaxed);
        result
    }

    /// Whether the pass repeats one that has been made, whose statistics were taken then.
    pub(crate) fn is_recomputing(&self) -> bool {
        self.0.recomputing.load(Ordering::Relaxed)
    }

    /// Whether the model trains.
    pub fn is_training(&self) -> bool {
        self.0.training.load(Ordering::Relaxed)
    }

    /// `count` numbers in 0..1 for the layer of this key, in the current pass.
    pub fn uniform(&self, layer: u64, count: usize) -> Vec<f32> {
        let seed = self.0.seed.load(Ordering::Relaxed);
        let start = finalize(seed.wrapping_mul(GOLDEN_GAMMA) ^ layer);
        (0..count as u64)
            .map(|place| {
                let bits = finalize(start.wrapping_add(GOLDEN_GAMMA.wrapping_mul(place + 1)));
                // 24 bits are what an f32 below 1 holds.
                (bits >> 40) as f32 / (1u64 << 24) as f32
            })
            .collect()
    }
}

/// FNV-1a of the name, mixed with the seed; the top bit is clear, since torch takes a signed seed.
pub(crate) fn name_seed(seed: u64, name: &str) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64 ^ seed.wrapping_mul(GOLDEN_GAMMA);
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    }
    hash >> 1
}

/// Seeds torch's generator, of which a process has one, and draws from it with no other draw of this function
/// in between: two models that are made at the same time in one process start as each would alone.
pub fn seeded<T>(seed: u64, draw: impl FnOnce() -> T) -> T {
    static GENERATOR: Mutex<()> = Mutex::new(());
    let _turn = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(seed as i64);
    draw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_seed_and_layer_alone() {
        let mode = Mode::default();
        assert!(!mode.is_training());
        mode.train(7);
        let first = mode.uniform(1, 4000);
        assert_eq!(first, mode.uniform(1, 4000));
        assert_ne!(first, mode.uniform(2, 4000));
        let shared = mode.clone();
        shared.train(8);
        assert_ne!(first, mode.uniform(1, 4000));
        assert!(first.iter().all(|x| (0.0..1.0).contains(x)));
        let mean = first.iter().sum::<f32>() / 4000.0;
        assert!((0.48..0.52).contains(&mean), "{mean}");
    }
}
