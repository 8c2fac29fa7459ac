//! Multi-tensor operations: norm, interpolation and AdamW. On a GPU, libtorch's kernels process many tensors per
//! launch.

use std::ffi::{c_char, c_void};

use tch::{TchError, Tensor};

use crate::call;

/// Hyperparameters of an AdamW update (Loshchilov and Hutter 2019), named as in PyTorch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Number of the update, starting at 1.
    pub step: i64,
    /// Learning rate.
    pub lr: f64,
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Factor on the gradients; 1 if they are not clipped.
    pub clip: f64,
}

/// Tensors of an AdamW update; entries with the same index belong together. Gradients and moments have the shape of
/// their parameter; the moments also have its memory layout.
#[derive(Debug, Default)]
pub struct AdamWTensors {
    /// Parameters; they may require gradients.
    pub parameters: Vec<Tensor>,
    /// Gradients.
    pub gradients: Vec<Tensor>,
    /// First moments.
    pub exp_avgs: Vec<Tensor>,
    /// Second moments.
    pub exp_avg_sqs: Vec<Tensor>,
}

/// Returns the pointers of a list of tensors.
fn pointers(tensors: &[Tensor]) -> Vec<*const c_void> {
    tensors.iter().map(|tensor| call::pointer(Some(tensor))).collect()
}

/// Returns the L2 norm over all elements of the tensors, a scalar on their device.
///
/// # Errors
/// [`TchError`] if the list is empty, the tensors are on several devices, or memory runs out.
#[expect(unsafe_code, reason = "a call of the C++ part")]
pub fn norm(tensors: &[Tensor]) -> Result<Tensor, TchError> {
    unsafe extern "C" {
        fn torch_ext_norm(
            tensors: *const *const c_void,
            count: usize,
            error: *mut *mut c_char,
        ) -> *mut c_void;
    }
    let pointers = pointers(tensors);
    // SAFETY: the pointers are those of live tensors, which C++ only reads.
    call::tensor(|error| unsafe { torch_ext_norm(pointers.as_ptr(), pointers.len(), error) })
}

/// Interpolates each target in place towards the source with the same index: `target + weight * (source - target)`.
///
/// # Errors
/// [`TchError`] if the shapes differ.
///
/// # Panics
/// If the lists have different lengths.
#[expect(unsafe_code, reason = "a call of the C++ part")]
pub fn lerp(targets: &[Tensor], sources: &[Tensor], weight: f64) -> Result<(), TchError> {
    unsafe extern "C" {
        fn torch_ext_lerp(
            targets: *const *const c_void,
            sources: *const *const c_void,
            count: usize,
            weight: f64,
            error: *mut *mut c_char,
        ) -> *mut c_void;
    }
    assert_eq!(targets.len(), sources.len(), "targets and sources");
    if targets.is_empty() {
        return Ok(());
    }
    let (targets, sources) = (pointers(targets), pointers(sources));
    // SAFETY: both lists hold pointers of live tensors, as many as the count.
    let _ = call::tensor(|error| unsafe {
        torch_ext_lerp(targets.as_ptr(), sources.as_ptr(), targets.len(), weight, error)
    })?;
    Ok(())
}

/// Updates parameters and moments in place, like `torch.optim.AdamW(fused=True)`. Gradients are scaled in place if they
/// are clipped.
///
/// # Errors
/// [`TchError`] if memory runs out.
///
/// # Panics
/// If the lists have different lengths, a tensor does not have its parameter's shape, or a moment not its memory
/// layout.
#[expect(unsafe_code, reason = "a call of the C++ part")]
pub fn adamw(tensors: &AdamWTensors, update: &AdamW) -> Result<(), TchError> {
    unsafe extern "C" {
        fn torch_ext_adamw(
            parameters: *const *const c_void,
            gradients: *const *const c_void,
            exp_avgs: *const *const c_void,
            exp_avg_sqs: *const *const c_void,
            count: usize,
            step: f64,
            lr: f64,
            beta1: f64,
            beta2: f64,
            weight_decay: f64,
            eps: f64,
            clip: f64,
            error: *mut *mut c_char,
        ) -> *mut c_void;
    }
    let AdamWTensors { parameters, gradients, exp_avgs, exp_avg_sqs } = tensors;
    for list in [gradients, exp_avgs, exp_avg_sqs] {
        // The kernel checks neither lengths nor shapes.
        assert_eq!(list.len(), parameters.len(), "tensors of an update");
        for (tensor, parameter) in list.iter().zip(parameters) {
            assert_eq!(tensor.size(), parameter.size(), "shape of a tensor of an update");
        }
    }
    for (parameter, moment) in parameters.iter().zip(exp_avgs).chain(parameters.iter().zip(exp_avg_sqs)) {
        assert_eq!(moment.stride(), parameter.stride(), "layout of a moment");
    }
    if parameters.is_empty() {
        return Ok(());
    }
    let [parameters, gradients, exp_avgs, exp_avg_sqs] =
        [parameters, gradients, exp_avgs, exp_avg_sqs].map(|list| pointers(list));
    let AdamW { step, lr, beta1, beta2, weight_decay, eps, clip } = *update;
    // SAFETY: all lists hold pointers of live tensors of equal shapes, as many as the count.
    let _ = call::tensor(|error| unsafe {
        torch_ext_adamw(
            parameters.as_ptr(),
            gradients.as_ptr(),
            exp_avgs.as_ptr(),
            exp_avg_sqs.as_ptr(),
            parameters.len(),
            step as f64,
            lr,
            beta1,
            beta2,
            weight_decay,
            eps,
            clip,
            error,
        )
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_norm_covers_all_tensors() {
        let tensors = [Tensor::from_slice(&[3.0f32]), Tensor::from_slice(&[0.0f32, 4.0])];
        assert_eq!(norm(&tensors).unwrap().double_value(&[]), 5.0);
        assert!(norm(&[]).is_err());
    }

    #[test]
    fn targets_move_by_the_weight() {
        let target = Tensor::from_slice(&[1.0f32, 2.0]);
        lerp(&[target.shallow_clone()], &[Tensor::from_slice(&[5.0f32, 2.0])], 0.25).unwrap();
        assert_eq!(Vec::<f32>::try_from(target).unwrap(), [2.0, 2.0]);
        lerp(&[], &[], 0.5).unwrap();
    }

    #[test]
    fn an_update_follows_the_formula_in_every_layout() {
        let parameter = Tensor::from_slice(&[1.0f32, -2.0, 3.0, 0.5]).view([2, 2]).set_requires_grad(true);
        // A transposed gradient.
        let gradient = Tensor::from_slice(&[4.0f32, 0.5, -1.0, 2.0]).view([2, 2]).tr();
        let moments = || (0..1).map(|_| parameter.detach().zeros_like()).collect::<Vec<_>>();
        let update =
            AdamW { step: 1, lr: 0.1, beta1: 0.9, beta2: 0.99, weight_decay: 0.5, eps: 1e-8, clip: 0.5 };
        let tensors = AdamWTensors {
            parameters: vec![parameter.shallow_clone()],
            gradients: vec![gradient],
            exp_avgs: moments(),
            exp_avg_sqs: moments(),
        };
        adamw(&tensors, &update).unwrap();
        // The first step moves each element by the learning rate against the sign of its gradient.
        let expected = [0.95 - 0.1, -1.9 + 0.1, 2.85 - 0.1, 0.475 - 0.1];
        let found = Vec::<f32>::try_from(parameter.detach().view([-1])).unwrap();
        for (expected, found) in expected.iter().zip(&found) {
            assert!((expected - f64::from(*found)).abs() < 1e-6, "{found:?}");
        }
        let first = Vec::<f32>::try_from(tensors.exp_avgs[0].view([-1])).unwrap();
        for (expected, found) in [0.2, -0.05, 0.025, 0.1].iter().zip(&first) {
            assert!((expected - found).abs() < 1e-6, "{first:?}");
        }
    }
}
