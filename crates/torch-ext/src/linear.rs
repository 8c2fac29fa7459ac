//! Linear layers fused with the preceding layer norm or activation.
//!
//! The norm or activation and the linear layer form one node of the autograd graph. The node saves its input for the
//! backward pass and recomputes the output of the norm or activation.

use std::ffi::{c_char, c_void};

use tch::{Kind, TchError, Tensor};

use crate::call;
use crate::products::{self, Library};

/// An element-wise activation before a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// The exact GELU (erf).
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `x * sigmoid(x)`.
    Silu,
}

/// The operation applied to the input of a linear layer.
#[derive(Clone, Copy, Debug)]
pub enum Front<'a> {
    /// Nothing.
    Nothing,
    /// A layer norm over the last axis, in float32.
    Norm {
        /// Scale, `[in]`.
        weight: &'a Tensor,
        /// Offset, `[in]`.
        bias: &'a Tensor,
        /// Added to the variance.
        eps: f64,
    },
    /// An activation.
    Activation(Function),
}

impl Front<'_> {
    /// The value of `Front` in linear.cpp.
    fn code(self) -> i64 {
        match self {
            Front::Nothing => 0,
            Front::Norm { .. } => 1,
            Front::Activation(Function::Gelu) => 2,
            Front::Activation(Function::GeluTanh) => 3,
            Front::Activation(Function::QuickGelu) => 4,
            Front::Activation(Function::Relu) => 5,
            Front::Activation(Function::Silu) => 6,
        }
    }
}

/// Computes [`f_linear`] and panics on an error.
///
/// # Panics
/// If shapes do not match or memory runs out, like tch's functions without `f_`.
pub fn linear(
    input: &Tensor,
    front: Front<'_>,
    weight: &Tensor,
    bias: Option<&Tensor>,
    kind: Kind,
) -> Tensor {
    f_linear(input, front, weight, bias, kind).unwrap_or_else(|error| panic!("{error}"))
}

/// Returns `front(input)` `[.., in]` times the transpose of `weight` `[out, in]`, plus `bias` `[out]`: `[.., out]` of
/// type `kind`. The matrix product uses operands of type `kind`, [`Kind::BFloat16`] or [`Kind::Float`]. On the CPU,
/// float32 products run in [`products::library`].
///
/// # Errors
/// [`TchError`] if shapes do not match or memory runs out.
#[expect(unsafe_code, reason = "a call of the C++ part")]
pub fn f_linear(
    input: &Tensor,
    front: Front<'_>,
    weight: &Tensor,
    bias: Option<&Tensor>,
    kind: Kind,
) -> Result<Tensor, TchError> {
    unsafe extern "C" {
        fn torch_ext_linear(
            input: *const c_void,
            norm_weight: *const c_void,
            norm_bias: *const c_void,
            weight: *const c_void,
            bias: *const c_void,
            front: i64,
            eps: f64,
            low_precision: bool,
            onednn: bool,
            error: *mut *mut c_char,
        ) -> *mut c_void;
    }
    let (norm_weight, norm_bias, eps) = match front {
        Front::Norm { weight, bias, eps } => (Some(weight), Some(bias), eps),
        Front::Nothing | Front::Activation(_) => (None, None, 0.0),
    };
    let [input, weight] = [input, weight].map(|tensor| call::pointer(Some(tensor)));
    let [norm_weight, norm_bias, bias] = [norm_weight, norm_bias, bias].map(call::pointer);
    let (low_precision, onednn) = (kind == Kind::BFloat16, products::library() == Library::OneDnn);
    call::tensor(|error| {
        // SAFETY: the pointers are null where C++ allows it, or those of live tensors, which C++ only reads.
        unsafe {
            torch_ext_linear(
                input,
                norm_weight,
                norm_bias,
                weight,
                bias,
                front.code(),
                eps,
                low_precision,
                onednn,
                error,
            )
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::products::{choose, fastest};
    use tch::Device;

    const FUNCTIONS: [Function; 5] =
        [Function::Gelu, Function::GeluTanh, Function::QuickGelu, Function::Relu, Function::Silu];

    type Layer = fn(&Tensor, Front<'_>, &Tensor, Option<&Tensor>, Kind) -> Tensor;

    fn values(shape: &[i64], offset: f64) -> Tensor {
        let count = shape.iter().product::<i64>();
        (Tensor::arange(count, (Kind::Float, Device::Cpu)) + offset).sin().view(shape)
    }

    /// Computes the layer with separate libtorch functions.
    fn reference(
        input: &Tensor,
        front: Front<'_>,
        weight: &Tensor,
        bias: Option<&Tensor>,
        kind: Kind,
    ) -> Tensor {
        let input = match front {
            Front::Nothing => input.shallow_clone(),
            Front::Norm { weight, bias, eps } => {
                input.layer_norm(weight.size(), Some(weight), Some(bias), eps, true)
            }
            Front::Activation(Function::Gelu) => input.gelu("none"),
            Front::Activation(Function::GeluTanh) => input.gelu("tanh"),
            Front::Activation(Function::QuickGelu) => input * (input * 1.702).sigmoid(),
            Front::Activation(Function::Relu) => input.relu(),
            Front::Activation(Function::Silu) => input.silu(),
        };
        input.to_kind(kind).linear(&weight.to_kind(kind), bias.map(|bias| bias.to_kind(kind)).as_ref())
    }

    /// Returns the output and all gradients of a layer.
    fn pass(
        shape: &[i64],
        function: Option<Function>,
        with_norm: bool,
        with_bias: bool,
        kind: Kind,
        run: impl Fn(&Tensor, Front<'_>, &Tensor, Option<&Tensor>, Kind) -> Tensor,
    ) -> Vec<Tensor> {
        let leaf = |shape: &[i64], offset| values(shape, offset).set_requires_grad(true);
        let (input, weight, bias) = (leaf(shape, 0.5), leaf(&[24, 16], 7.0), leaf(&[24], 3.0));
        let (norm_weight, norm_bias) = (leaf(&[16], 1.0), leaf(&[16], 2.0));
        let front = match function {
            Some(function) => Front::Activation(function),
            None if with_norm => Front::Norm { weight: &norm_weight, bias: &norm_bias, eps: 1e-5 },
            None => Front::Nothing,
        };
        let output = run(&input, front, &weight, with_bias.then_some(&bias), kind);
        assert_eq!(output.kind(), kind);
        (output.to_kind(Kind::Float) * values(&output.size(), 9.0)).sum(Kind::Float).backward();
        let mut leaves = vec![&input, &weight];
        leaves.extend(with_bias.then_some(&bias));
        leaves.extend(with_norm.then_some([&norm_weight, &norm_bias]).into_iter().flatten());
        let gradients = leaves.into_iter().map(Tensor::grad).collect::<Vec<_>>();
        [output.detach().to_kind(Kind::Float)].into_iter().chain(gradients).collect()
    }

    /// Asserts that the largest difference, relative to the largest value, is below `tolerance`.
    fn assert_close(expected: &[Tensor], found: &[Tensor], tolerance: f64, what: &str) {
        assert_eq!(expected.len(), found.len());
        for (expected, found) in expected.iter().zip(found) {
            let largest = |tensor: &Tensor| tensor.abs().max().double_value(&[]);
            let error = largest(&(expected - found)) / largest(expected);
            assert!(expected.size() == found.size() && error < tolerance, "{what}: {error}");
        }
    }

    #[test]
    fn outputs_and_gradients_equal_those_of_libtorchs_functions() {
        let fronts = FUNCTIONS.map(|function| (Some(function), false));
        for (function, with_norm) in fronts.into_iter().chain([(None, true), (None, false)]) {
            for (shape, with_bias) in
                [(&[5, 16][..], true), (&[2, 3, 16], false), (&[1, 16], true), (&[2, 7, 3, 16], true)]
            {
                let pass = |kind, run: Layer| pass(shape, function, with_norm, with_bias, kind, run);
                let what = format!("{function:?}, norm {with_norm}, {shape:?}");
                for library in Library::ALL.into_iter().filter(|library| library.is_available()) {
                    choose(library);
                    assert_close(&pass(Kind::Float, reference), &pass(Kind::Float, linear), 1e-5, &what);
                }
                // bfloat16 has 8 significant bits, and the gradient of an activation is computed in a different order.
                assert_close(&pass(Kind::BFloat16, reference), &pass(Kind::BFloat16, linear), 0.02, &what);
            }
        }
        choose(fastest());
    }

    #[test]
    fn frozen_weights_get_no_gradient_and_inputs_still_do() {
        let (weight, input) = (values(&[4, 3], 0.0), values(&[2, 3], 1.0).set_requires_grad(true));
        let front = Front::Activation(Function::Gelu);
        linear(&input, front, &weight, None, Kind::Float).sum(Kind::Float).backward();
        assert!(input.grad().abs().min().double_value(&[]) > 0.0 && !weight.requires_grad());
        let frozen = tch::no_grad(|| linear(&input, front, &weight, None, Kind::Float));
        assert!(!frozen.requires_grad());
    }

    #[test]
    fn wrong_shapes_are_errors() {
        let (input, weight) = (values(&[2, 3], 0.0), values(&[4, 5], 0.0));
        for library in Library::ALL.into_iter().filter(|library| library.is_available()) {
            choose(library);
            assert!(f_linear(&input, Front::Nothing, &weight, None, Kind::Float).is_err());
        }
        choose(fastest());
    }
}
