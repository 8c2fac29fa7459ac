//! The memory layout of image batches.

use std::ffi::{c_char, c_void};

use tch::Tensor;

use crate::call;

/// Returns `images` `[batch, channels, height, width]` in PyTorch's memory format `channels_last`: the channels of a
/// pixel are adjacent in memory. Convolutions, norms and activations keep the format.
///
/// # Panics
/// If the tensor does not have four dimensions or memory runs out, like tch's functions without `f_`.
#[expect(unsafe_code, reason = "a call of the C++ part")]
pub fn channels_last(images: &Tensor) -> Tensor {
    unsafe extern "C" {
        fn torch_ext_channels_last(images: *const c_void, error: *mut *mut c_char) -> *mut c_void;
    }
    let images = call::pointer(Some(images));
    // SAFETY: the pointer is that of a live tensor, which C++ only reads.
    let result = call::tensor(|error| unsafe { torch_ext_channels_last(images, error) });
    result.unwrap_or_else(|error| panic!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn values_are_kept_and_channels_are_adjacent() {
        let images = Tensor::arange(2 * 3 * 4 * 5, (Kind::Float, Device::Cpu)).view([2, 3, 4, 5]);
        let last = channels_last(&images);
        assert!(last.equal(&images));
        assert_eq!(last.stride(), [60, 1, 15, 3]);
    }
}
