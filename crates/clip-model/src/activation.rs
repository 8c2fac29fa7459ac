//! Activation functions, by the names that published configurations use.

use tch::Tensor;
use torch_ext::linear::{Front, Function};

use crate::names::named_enum;

/// An element-wise activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// The exact GELU (erf).
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// OpenAI's `x * sigmoid(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `x * sigmoid(x)`, also called swish.
    Silu,
    /// `x * min(max(x + 3, 0), 6) / 6` (MobileNetV3).
    HardSwish,
    /// `min(max(x + 3, 0), 6) / 6` (MobileNetV3).
    HardSigmoid,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// The input, unchanged.
    Identity,
}

impl Activation {
    /// Applies the function; the shape stays. Takes the input by value, so that its memory can be reused.
    pub fn forward(self, xs: Tensor) -> Tensor {
        match self {
            Activation::Gelu => xs.gelu("none"),
            Activation::GeluTanh => xs.gelu("tanh"),
            Activation::QuickGelu => (&xs * 1.702).sigmoid_() * xs,
            Activation::Relu => xs.relu(),
            Activation::Silu => xs.silu(),
            Activation::HardSwish => xs.hardswish(),
            Activation::HardSigmoid => xs.hardsigmoid(),
            Activation::Sigmoid => xs.sigmoid(),
            Activation::Identity => xs,
        }
    }

    /// Returns the activation for fusion with the following linear layer, which recomputes it in the backward pass.
    /// Returns `None` if the layer does not support it.
    pub(crate) fn front(self) -> Option<Front<'static>> {
        let function = match self {
            Activation::Gelu => Function::Gelu,
            Activation::GeluTanh => Function::GeluTanh,
            Activation::QuickGelu => Function::QuickGelu,
            Activation::Relu => Function::Relu,
            Activation::Silu => Function::Silu,
            Activation::HardSwish | Activation::HardSigmoid | Activation::Sigmoid => return None,
            Activation::Identity => return Some(Front::Nothing),
        };
        Some(Front::Activation(function))
    }
}

named_enum!(
    Activation,
    "activation",
    Gelu = "gelu",
    GeluTanh = "gelu_tanh",
    QuickGelu = "quick_gelu",
    Relu = "relu",
    Silu = "silu",
    HardSwish = "hard_swish",
    HardSigmoid = "hard_sigmoid",
    Sigmoid = "sigmoid",
    Identity = "identity",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_match_their_formulas() {
        let xs = [-4.0f64, -1.5, -0.2, 0.0, 0.7, 2.0, 5.0];
        let hard = |x: f64| (x + 3.0).clamp(0.0, 6.0) / 6.0;
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let tanh = |x: f64| 0.5 * x * (1.0 + (0.797_884_560_8 * (x + 0.044715 * x * x * x)).tanh());
        let formulas: [(Activation, &dyn Fn(f64) -> f64); 8] = [
            (Activation::GeluTanh, &tanh),
            (Activation::QuickGelu, &|x| x * sigmoid(1.702 * x)),
            (Activation::Relu, &|x| x.max(0.0)),
            (Activation::Silu, &|x| x * sigmoid(x)),
            (Activation::HardSwish, &|x| x * hard(x)),
            (Activation::HardSigmoid, &hard),
            (Activation::Sigmoid, &sigmoid),
            (Activation::Identity, &|x| x),
        ];
        for (activation, formula) in formulas {
            assert_eq!(activation.to_string().parse::<Activation>().unwrap(), activation);
            let found = Vec::<f64>::try_from(activation.forward(Tensor::from_slice(&xs))).unwrap();
            for (x, found) in xs.iter().zip(found) {
                assert!((found - formula(*x)).abs() < 1e-9, "{activation:?}({x}) = {found}");
            }
        }
        // Known values of the exact GELU, which needs erf: x Φ(x).
        let exact =
            Vec::<f64>::try_from(Activation::Gelu.forward(Tensor::from_slice(&[1.0f64, -2.0]))).unwrap();
        assert!(
            (exact[0] - 0.841_344_746).abs() < 1e-8 && (exact[1] + 0.045_500_264).abs() < 1e-8,
            "{exact:?}"
        );
    }
}
