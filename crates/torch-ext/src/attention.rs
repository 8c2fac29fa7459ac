//! Softmax attention on a packed tensor of queries, keys and values (QKV).

use std::ffi::{c_char, c_void};

use tch::{TchError, Tensor};

use crate::call;

/// Returns the softmax attention `[batch, seq, heads * width]` of the packed `qkv` `[batch, seq, 3 * heads * width]`, a
/// CPU tensor. With `causal`, a token attends only to itself and to earlier tokens. The backward pass writes one packed
/// gradient.
///
/// # Panics
/// If shapes do not match or memory runs out, like tch's functions without `f_`.
pub fn attention(qkv: &Tensor, heads: i64, causal: bool) -> Tensor {
    f_attention(qkv, heads, causal).unwrap_or_else(|error| panic!("{error}"))
}

/// Computes [`attention`] and returns errors instead of panicking.
///
/// # Errors
/// [`TchError`] if shapes do not match or memory runs out.
#[expect(unsafe_code, reason = "a call of the C++ part")]
pub fn f_attention(qkv: &Tensor, heads: i64, causal: bool) -> Result<Tensor, TchError> {
    unsafe extern "C" {
        fn torch_ext_attention(
            qkv: *const c_void,
            heads: i64,
            causal: bool,
            error: *mut *mut c_char,
        ) -> *mut c_void;
    }
    let qkv = call::pointer(Some(qkv));
    // SAFETY: the pointer is that of a live tensor, which C++ only reads.
    call::tensor(|error| unsafe { torch_ext_attention(qkv, heads, causal, error) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    /// Computes attention with separate operations.
    fn reference(qkv: &Tensor, heads: i64, causal: bool) -> Tensor {
        let (batch, seq, width) = (qkv.size()[0], qkv.size()[1], qkv.size()[2] / 3 / heads);
        let parts = qkv.view([batch, seq, 3, heads, width]).permute([2, 0, 3, 1, 4]);
        let (query, key, value) = (parts.select(0, 0), parts.select(0, 1), parts.select(0, 2));
        let mut scores = query.matmul(&key.transpose(2, 3)) / (width as f64).sqrt();
        if causal {
            let later = Tensor::ones([seq, seq], (Kind::Bool, Device::Cpu)).triu(1);
            scores = scores.masked_fill(&later, f64::NEG_INFINITY);
        }
        scores.softmax(-1, Kind::Float).matmul(&value).transpose(1, 2).reshape([batch, seq, heads * width])
    }

    #[test]
    fn output_and_gradient_equal_those_of_single_steps() {
        for (batch, seq, heads, width) in [(1, 1, 1, 4), (2, 5, 3, 8), (3, 50, 2, 64)] {
            for causal in [false, true] {
                let count = batch * seq * 3 * heads * width;
                let pass = |run: &dyn Fn(&Tensor) -> Tensor| {
                    let values = Tensor::arange(count, (Kind::Float, Device::Cpu)).sin();
                    let qkv = values.view([batch, seq, 3 * heads * width]).set_requires_grad(true);
                    let output = run(&qkv);
                    (output.sin() * 2.0).sum(Kind::Float).backward();
                    [output.detach(), qkv.grad()]
                };
                let expected = pass(&|qkv| reference(qkv, heads, causal));
                let found = pass(&|qkv| attention(qkv, heads, causal));
                for (expected, found) in expected.iter().zip(&found) {
                    let error = (expected - found).abs().max().double_value(&[]);
                    assert!(expected.size() == found.size() && error < 1e-5, "{causal}, {seq}: {error}");
                }
            }
        }
    }

    #[test]
    fn wrong_shapes_are_errors() {
        let qkv = Tensor::zeros([2, 3, 10], (Kind::Float, Device::Cpu));
        assert!(f_attention(&qkv, 2, false).is_err());
    }
}
