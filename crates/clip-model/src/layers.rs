//! The small layers that both towers are made of.

use tch::Tensor;

use crate::Result;
use crate::config::Activation;
use crate::params::{Builder, Init};

/// An affine map of the last dimension.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor, // [out, in]
    bias: Tensor,   // [out]
}

impl Linear {
    /// A new layer under `path`, with `weight` and `bias` started as given.
    pub fn new(path: &Builder<'_>, input: i64, output: i64, weight: Init, bias: Init) -> Result<Self> {
        Ok(Linear {
            weight: path.parameter("weight", &[output, input], weight)?,
            bias: path.parameter("bias", &[output], bias)?,
        })
    }

    /// `[.., in]` to `[.., out]`.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        xs.linear(&self.weight, Some(&self.bias))
    }
}

/// Layer normalisation of the last dimension, eps 1e-5.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    width: i64,
}

impl LayerNorm {
    /// A new layer under `path`.
    pub fn new(path: &Builder<'_>, width: i64) -> Result<Self> {
        let weight = path.parameter("weight", &[width], Init::Constant(1.0))?;
        let bias = path.parameter("bias", &[width], Init::Constant(0.0))?;
        Ok(LayerNorm { weight, bias, width })
    }

    /// Same shape in and out.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        xs.layer_norm([self.width], Some(&self.weight), Some(&self.bias), 1e-5, true)
    }
}

/// The two-layer MLP of a transformer block.
#[derive(Debug)]
pub struct Mlp {
    c_fc: Linear,
    c_proj: Linear,
    activation: Activation,
}

impl Mlp {
    /// A new MLP under `path`; the two inits are those of its weight matrices.
    pub fn new(
        path: &Builder<'_>,
        width: i64,
        inner: i64,
        activation: Activation,
        fc: Init,
        proj: Init,
    ) -> Result<Self> {
        Ok(Mlp {
            c_fc: Linear::new(&path.child("c_fc"), width, inner, fc, Init::fan_in(width))?,
            c_proj: Linear::new(&path.child("c_proj"), inner, width, proj, Init::fan_in(inner))?,
            activation,
        })
    }

    /// Same shape in and out.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        let hidden = self.c_fc.forward(xs); // [batch, seq, inner]
        let hidden = match self.activation {
            Activation::Gelu => hidden.gelu("none"),
            Activation::QuickGelu => (&hidden * 1.702).sigmoid_() * hidden,
        };
        self.c_proj.forward(&hidden)
    }
}
