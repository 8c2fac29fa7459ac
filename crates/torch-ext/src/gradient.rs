//! Clearing of gradients between steps.

use tch::Tensor;

/// Removes the gradient of a leaf tensor, like PyTorch's `zero_grad(set_to_none=True)`.
///
/// The next backward pass then stores its gradient instead of adding it to zeros. A parameter outside its graph has no
/// gradient.
#[expect(unsafe_code, reason = "a call of the C++ part")]
pub fn clear(tensor: &Tensor) {
    unsafe extern "C" {
        fn torch_ext_clear_gradient(tensor: *const std::ffi::c_void);
    }
    // SAFETY: the pointer is that of a live tensor. Its gradient is reference-counted, so other handles stay valid.
    unsafe { torch_ext_clear_gradient(tensor.as_ptr().cast()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn a_cleared_gradient_is_undefined_and_accumulates_from_zero() {
        let leaf = Tensor::ones([3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        (&leaf * 2.0).sum(Kind::Float).backward();
        let held = leaf.grad();
        clear(&leaf);
        assert!(!leaf.grad().defined());
        (&leaf * 5.0).sum(Kind::Float).backward();
        assert_eq!(leaf.grad().sum(Kind::Float).double_value(&[]), 15.0);
        assert_eq!(held.sum(Kind::Float).double_value(&[]), 6.0);
        // Clearing a tensor without a gradient has no effect.
        clear(&Tensor::ones([3], (Kind::Float, Device::Cpu)));
    }
}
