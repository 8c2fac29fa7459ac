//! Training and evaluation mode, precision, and the random numbers of dropout layers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use file_ext::random::{GOLDEN_GAMMA, finalize};
use tch::{Device, Kind, Tensor};

use crate::names::named_enum;

/// Precision of matrix products and convolutions.
///
/// Weights, gradients, norms, the residual stream of transformers and embeddings are float32 in both cases. Mixed
/// precision changes only the operands of the products (Micikevicius et al. 2018). bfloat16 has the range of float32,
/// so loss scaling is not needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// float32 throughout.
    #[default]
    Float32,
    /// bfloat16 operands.
    BFloat16,
}

named_enum!(Precision, "precision", Float32 = "float32", BFloat16 = "bfloat16");

impl Precision {
    /// Returns the faster precision on a device: bfloat16 if the device has instructions for it, float32 otherwise.
    ///
    /// Without such instructions, bfloat16 products take many times as long as float32 products.
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

// On other platforms, libtorch has no kernels that use such instructions.
#[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_os = "linux"))))]
fn multiplies_bf16() -> bool {
    false
}

/// Training or evaluation mode, shared by all layers of a model. A new model is in evaluation mode.
///
/// Dropped elements depend only on the step's seed and the layer's name, not on the device or the number of forward
/// passes. A resumed run therefore drops the same elements as an uninterrupted one, and so does a repeated pass
/// (activation checkpointing, gradient caching).
#[derive(Clone, Debug, Default)]
pub struct Mode(Arc<State>);

#[derive(Debug, Default)]
struct State {
    training: AtomicBool,
    recomputing: AtomicBool,
    low_precision: AtomicBool,
    seed: AtomicU64,
    first_row: AtomicU64,
}

impl Mode {
    /// Switches to training mode, with the seed of the next forward pass.
    pub fn train(&self, seed: u64) {
        self.0.seed.store(seed, Ordering::Relaxed);
        self.set_first_row(0);
        self.0.training.store(true, Ordering::Relaxed);
    }

    /// Switches to evaluation mode: nothing is dropped, and BatchNorm uses its running statistics.
    pub fn eval(&self) {
        self.0.training.store(false, Ordering::Relaxed);
    }

    /// Sets the batch row at which the following passes start, for passes over parts of a batch. Dropped elements then
    /// equal those of one pass over the whole batch. [`Mode::train`] resets the row to 0.
    pub fn set_first_row(&self, row: u64) {
        self.0.first_row.store(row, Ordering::Relaxed);
    }

    /// Sets the precision of the following passes; a new model uses float32.
    pub fn set_precision(&self, precision: Precision) {
        self.0.low_precision.store(precision == Precision::BFloat16, Ordering::Relaxed);
    }

    /// Converts an operand of a matrix product or convolution to the current precision.
    pub(crate) fn operand(&self, tensor: &Tensor) -> Tensor {
        match self.operand_kind() {
            Kind::BFloat16 => tensor.to_kind(Kind::BFloat16),
            _ => tensor.shallow_clone(),
        }
    }

    /// Returns the type of matrix-product operands.
    pub(crate) fn operand_kind(&self) -> Kind {
        if self.0.low_precision.load(Ordering::Relaxed) { Kind::BFloat16 } else { Kind::Float }
    }

    /// Runs `f` in training mode with the last seed, to repeat an earlier pass. Running statistics of BatchNorm are not
    /// updated again.
    pub fn recompute<T>(&self, f: impl FnOnce() -> T) -> T {
        let training = self.0.training.swap(true, Ordering::Relaxed);
        self.0.recomputing.store(true, Ordering::Relaxed);
        let result = f();
        self.0.recomputing.store(false, Ordering::Relaxed);
        self.0.training.store(training, Ordering::Relaxed);
        result
    }

    /// Whether the current pass repeats an earlier one, which has already updated the running statistics.
    pub(crate) fn is_recomputing(&self) -> bool {
        self.0.recomputing.load(Ordering::Relaxed)
    }

    /// Whether the model is in training mode.
    pub fn is_training(&self) -> bool {
        self.0.training.load(Ordering::Relaxed)
    }

    /// Returns `count` uniform random numbers in 0..1 for a layer and the current pass.
    pub fn uniform(&self, layer: u64, count: usize) -> Vec<f32> {
        self.draw(layer, 0, count)
    }

    /// Returns `rows * per_row` uniform random numbers in 0..1 for a layer and the current pass: `per_row` for each
    /// batch row from the one that [`Mode::set_first_row`] set.
    pub fn uniform_rows(&self, layer: u64, rows: usize, per_row: usize) -> Vec<f32> {
        let first = self.0.first_row.load(Ordering::Relaxed);
        self.draw(layer, first * per_row as u64, rows * per_row)
    }

    /// Returns the random numbers with the indices `first..first + count` of a layer.
    fn draw(&self, layer: u64, first: u64, count: usize) -> Vec<f32> {
        let seed = self.0.seed.load(Ordering::Relaxed);
        let start = finalize(seed.wrapping_mul(GOLDEN_GAMMA) ^ layer);
        (first..first + count as u64)
            .map(|index| {
                let bits = finalize(start.wrapping_add(GOLDEN_GAMMA.wrapping_mul(index + 1)));
                // An f32 below 1 has 24 bits.
                (bits >> 40) as f32 / (1u64 << 24) as f32
            })
            .collect()
    }
}

/// Returns the seed of a name's random numbers. The top bit is clear, since torch takes a signed seed.
pub(crate) fn name_seed(seed: u64, name: &str) -> u64 {
    name_hash(seed, name) >> 1
}

/// Hashes a name with FNV-1a and mixes in the seed.
pub(crate) fn name_hash(seed: u64, name: &str) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64 ^ seed.wrapping_mul(GOLDEN_GAMMA);
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    }
    hash
}

/// Seeds torch's global generator and runs `draw` while holding a lock, so that concurrent calls of this function do
/// not affect each other. Code that draws from the generator outside this function can still interfere.
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

    #[test]
    fn chunks_of_rows_draw_the_numbers_of_the_whole_batch() {
        let mode = Mode::default();
        mode.train(7);
        let whole = mode.uniform_rows(1, 5, 3);
        assert_eq!(whole, mode.uniform(1, 15));
        mode.set_first_row(2);
        assert_eq!(mode.uniform_rows(1, 3, 3), whole[6..]);
        mode.train(7);
        assert_eq!(mode.uniform_rows(1, 2, 3), whole[..6]);
    }
}
