//! Basic layers of transformer towers: linear layers, norms, MLPs, layer scale and dropout.

use tch::{Kind, Tensor};
use torch_ext::linear::{Front, linear};

use crate::Result;
use crate::activation::Activation;
use crate::mode::Mode;
use crate::params::{Init, ParamBuilder};

/// Linear layer on the last axis.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Tensor,       // [out, in]
    bias: Option<Tensor>, // [out]
    mode: Mode,
}

impl Linear {
    /// Returns the number of input channels.
    pub(crate) fn input_width(&self) -> i64 {
        self.weight.size()[1]
    }

    /// Creates a layer under `path` with the given initialisation. `None` for `bias` creates no bias.
    pub(crate) fn new(
        path: &ParamBuilder<'_>,
        input: i64,
        output: i64,
        weight: Init,
        bias: impl Into<Option<Init>>,
    ) -> Result<Self> {
        Ok(Linear {
            weight: path.weight("weight", &[output, input], weight)?,
            bias: bias.into().map(|init| path.parameter("bias", &[output], init)).transpose()?,
            mode: path.mode().0,
        })
    }

    /// Maps `[.., in]` to `[.., out]`.
    pub(crate) fn forward(&self, xs: &Tensor) -> Tensor {
        self.forward_behind(xs, Front::Nothing)
    }

    /// Maps `front(xs)` to `[.., out]`, without storing `front(xs)` for the backward pass.
    pub(crate) fn forward_behind(&self, xs: &Tensor, front: Front<'_>) -> Tensor {
        linear(xs, front, &self.weight, self.bias.as_ref(), self.mode.operand_kind())
    }
}

/// Layer normalisation of the last axis.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    width: i64,
    eps: f64,
}

impl LayerNorm {
    /// Creates a layer under `path`. CLIP uses an epsilon of 1e-5.
    pub(crate) fn new(path: &ParamBuilder<'_>, width: i64, eps: f64) -> Result<Self> {
        let weight = path.parameter("weight", &[width], Init::Constant(1.0))?;
        let bias = path.parameter("bias", &[width], Init::Constant(0.0))?;
        Ok(LayerNorm { weight, bias, width, eps })
    }

    /// Normalises the last axis; the shape stays, and the output is float32.
    pub(crate) fn forward(&self, xs: &Tensor) -> Tensor {
        xs.to_kind(Kind::Float).layer_norm([self.width], Some(&self.weight), Some(&self.bias), self.eps, true)
    }

    /// Returns the norm for fusion with the following linear layer.
    pub(crate) fn front(&self) -> Front<'_> {
        Front::Norm { weight: &self.weight, bias: &self.bias, eps: self.eps }
    }

    /// Normalises only the `kept` channels and computes the statistics over them; the other channels become 0.
    pub(crate) fn forward_channels(&self, xs: &Tensor, kept: Option<&Tensor>) -> Tensor {
        let Some(kept) = kept else { return self.forward(xs) };
        let [weight, bias] = [&self.weight, &self.bias].map(|values| values.index_select(0, kept));
        let count = [kept.numel() as i64];
        let xs = xs.to_kind(Kind::Float);
        let normed = xs.index_select(-1, kept).layer_norm(count, Some(&weight), Some(&bias), self.eps, true);
        Tensor::zeros(xs.size(), (normed.kind(), xs.device())).index_copy(-1, kept, &normed)
    }
}

/// Parameter names of the two matrices of an [`Mlp`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct MlpNames {
    /// Name of the first matrix.
    pub(crate) fc: &'static str,
    /// Name of the second matrix.
    pub(crate) proj: &'static str,
}

/// Names in OpenAI's and open_clip's own towers.
pub(crate) const CLIP_MLP: MlpNames = MlpNames { fc: "c_fc", proj: "c_proj" };
/// Names in timm's towers.
pub(crate) const TIMM_MLP: MlpNames = MlpNames { fc: "fc1", proj: "fc2" };

/// Two-layer MLP of a transformer block.
#[derive(Debug)]
pub(crate) struct Mlp {
    fc: Linear,
    proj: Linear,
    activation: Activation,
}

impl Mlp {
    /// Creates an MLP under `path` with the given initialisations of its two weight matrices.
    pub(crate) fn new(
        path: &ParamBuilder<'_>,
        names: MlpNames,
        width: i64,
        inner: i64,
        activation: Activation,
        [fc, proj]: [Init; 2],
    ) -> Result<Self> {
        Ok(Mlp {
            fc: Linear::new(&path.child(names.fc), width, inner, fc, Init::fan_in(width))?,
            proj: Linear::new(&path.child(names.proj), inner, width, proj, Init::fan_in(inner))?,
            activation,
        })
    }

    /// Applies the MLP; the shape stays.
    pub(crate) fn forward(&self, xs: &Tensor) -> Tensor {
        self.forward_behind(xs, Front::Nothing, None)
    }

    /// Applies the MLP to `front(xs)`, with an optional gate per inner channel, `[inner]`.
    pub(crate) fn forward_behind(&self, xs: &Tensor, front: Front<'_>, gates: Option<&Tensor>) -> Tensor {
        let inner = self.fc.forward_behind(xs, front);
        match (gates, self.activation.front()) {
            (Some(gates), _) => self.proj.forward(&(self.activation.forward(inner) * gates)),
            (None, Some(activation)) => self.proj.forward_behind(&inner, activation),
            (None, None) => self.proj.forward(&self.activation.forward(inner)),
        }
    }
}

/// Layer scale: a learned factor per channel on a residual branch (Touvron et al. 2021).
#[derive(Debug)]
pub(crate) struct LayerScale(Tensor); // [width]

impl LayerScale {
    /// Creates a layer under `path`; `None` without an initial value.
    pub(crate) fn new(path: &ParamBuilder<'_>, width: i64, init: Option<f64>) -> Result<Option<Self>> {
        init.map(|value| Ok(LayerScale(path.parameter("gamma", &[width], Init::Constant(value))?)))
            .transpose()
    }

    /// Scales the channels; the shape stays.
    pub(crate) fn forward(&self, xs: Tensor) -> Tensor {
        xs * &self.0
    }
}

/// Stochastic depth: in training, drops a sample's residual branch with probability `rate`, and scales it by
/// `1 / (1 - rate)` otherwise (Huang et al. 2016; per sample, as in timm).
#[derive(Debug)]
pub(crate) struct DropPath {
    rate: f64,
    mode: Mode,
    layer: u64,
}

impl DropPath {
    /// Creates a layer; `path` determines its random numbers.
    pub(crate) fn new(path: &ParamBuilder<'_>, rate: f64) -> Self {
        let (mode, layer) = path.child("drop_path").mode();
        DropPath { rate, mode, layer }
    }

    /// Drops samples in training mode; the first axis is the batch, and the shape stays.
    pub(crate) fn forward(&self, xs: Tensor) -> Tensor {
        if self.rate == 0.0 || !self.mode.is_training() {
            return xs;
        }
        let batch = xs.size()[0];
        let mask = keep_mask(&self.mode, self.layer, [batch as usize, 1], self.rate);
        let mut shape = vec![1; xs.dim()];
        shape[0] = batch;
        let mask = mask.to_device(xs.device()).to_kind(xs.kind()).view(shape.as_slice());
        xs * mask
    }
}

/// Dropout of single elements.
#[derive(Debug)]
pub(crate) struct Dropout {
    rate: f64,
    mode: Mode,
    layer: u64,
}

impl Dropout {
    /// Creates a layer; `path` determines its random numbers.
    pub(crate) fn new(path: &ParamBuilder<'_>, rate: f64) -> Self {
        let (mode, layer) = path.child("dropout").mode();
        Dropout { rate, mode, layer }
    }

    /// Drops elements in training mode; the shape stays.
    pub(crate) fn forward(&self, xs: Tensor) -> Tensor {
        if self.rate == 0.0 || !self.mode.is_training() {
            return xs;
        }
        let rows = xs.size()[0] as usize;
        let mask = keep_mask(&self.mode, self.layer, [rows, xs.numel() / rows.max(1)], self.rate);
        let mask = mask.to_device(xs.device()).to_kind(xs.kind()).view(xs.size().as_slice());
        xs * mask
    }
}

/// Returns `rows * per_row` dropout factors: 0 with probability `rate`, `1 / (1 - rate)` otherwise.
fn keep_mask(mode: &Mode, layer: u64, [rows, per_row]: [usize; 2], rate: f64) -> Tensor {
    let keep = 1.0 / (1.0 - rate);
    let mask = mode
        .uniform_rows(layer, rows, per_row)
        .into_iter()
        .map(|draw| if f64::from(draw) < rate { 0.0 } else { keep as f32 })
        .collect::<Vec<_>>();
    Tensor::from_slice(&mask).to_kind(Kind::Float)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::ParamStore;
    use tch::Device;

    #[test]
    fn dropout_preserves_the_mean_and_repeats_with_the_seed() {
        let store = ParamStore::new(Device::Cpu, 0);
        let path = store.root().child("block");
        let (drop_path, dropout) = (DropPath::new(&path, 0.25), Dropout::new(&path, 0.25));
        let ones = || Tensor::ones([4000, 3], (Kind::Float, Device::Cpu));
        // Evaluation mode drops nothing.
        assert!(drop_path.forward(ones()).equal(&ones()) && dropout.forward(ones()).equal(&ones()));
        store.mode().train(5);
        let (samples, elements) = (drop_path.forward(ones()), dropout.forward(ones()));
        for dropped in [&samples, &elements] {
            let mean = dropped.mean(Kind::Float).double_value(&[]);
            assert!((0.95..1.05).contains(&mean), "{mean}");
        }
        // DropPath drops whole samples, Dropout single elements.
        assert!(
            samples.select(1, 0).equal(&samples.select(1, 2))
                && !elements.select(1, 0).equal(&elements.select(1, 2))
        );
        assert!(samples.equal(&drop_path.forward(ones())));
        store.mode().train(6);
        assert!(!samples.equal(&drop_path.forward(ones())));
    }
}
