//! The small layers that transformer towers are made of.

use tch::{Kind, Tensor};

use crate::Result;
use crate::activation::Activation;
use crate::mode::Mode;
use crate::params::{Builder, Init};

/// An affine map of the last dimension.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,       // [out, in]
    bias: Option<Tensor>, // [out]
    mode: Mode,
}

impl Linear {
    /// Width of what it reads.
    pub(crate) fn input_width(&self) -> i64 {
        self.weight.size()[1]
    }

    /// A new layer under `path`, with `weight` and `bias` started as given; no bias for `None`.
    pub fn new(
        path: &Builder<'_>,
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

    /// `[.., in]` to `[.., out]`.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        let operand = |tensor: &Tensor| self.mode.operand(tensor);
        operand(xs).linear(&operand(&self.weight), self.bias.as_ref().map(operand))
    }
}

/// Layer normalisation of the last dimension.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    width: i64,
    eps: f64,
}

impl LayerNorm {
    /// A new layer under `path`; CLIP's eps is 1e-5.
    pub fn new(path: &Builder<'_>, width: i64, eps: f64) -> Result<Self> {
        let weight = path.parameter("weight", &[width], Init::Constant(1.0))?;
        let bias = path.parameter("bias", &[width], Init::Constant(0.0))?;
        Ok(LayerNorm { weight, bias, width, eps })
    }

    /// Same shape in and out; float32 out, whatever comes in.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        xs.to_kind(Kind::Float).layer_norm([self.width], Some(&self.weight), Some(&self.bias), self.eps, true)
    }

    /// The same where only the channels at these places count: statistics are taken over them, and the others are 0.
    pub fn forward_over(&self, xs: &Tensor, kept: Option<&Tensor>) -> Tensor {
        let Some(kept) = kept else { return self.forward(xs) };
        let [weight, bias] = [&self.weight, &self.bias].map(|row| row.index_select(0, kept));
        let count = [kept.numel() as i64];
        let xs = xs.to_kind(Kind::Float);
        let normed = xs.index_select(-1, kept).layer_norm(count, Some(&weight), Some(&bias), self.eps, true);
        Tensor::zeros(xs.size(), (normed.kind(), xs.device())).index_copy(-1, kept, &normed)
    }
}

/// What the two matrices of an [`Mlp`] are called, and how they start.
#[derive(Clone, Copy, Debug)]
pub struct MlpNames {
    /// Name of the first.
    pub fc: &'static str,
    /// Name of the second.
    pub proj: &'static str,
}

/// The names in OpenAI's and open_clip's own towers.
pub const CLIP_MLP: MlpNames = MlpNames { fc: "c_fc", proj: "c_proj" };
/// The names in timm's towers.
pub const TIMM_MLP: MlpNames = MlpNames { fc: "fc1", proj: "fc2" };

/// The two-layer MLP of a transformer block.
#[derive(Debug)]
pub struct Mlp {
    fc: Linear,
    proj: Linear,
    activation: Activation,
}

impl Mlp {
    /// A new MLP under `path`; the two inits are those of its weight matrices.
    pub fn new(
        path: &Builder<'_>,
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

    /// Same shape in and out.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        self.proj.forward(&self.activation.forward(self.fc.forward(xs)))
    }

    /// The same with a factor on each inner channel (`[inner]`).
    pub fn gated(&self, xs: &Tensor, gates: &Tensor) -> Tensor {
        self.proj.forward(&(self.activation.forward(self.fc.forward(xs)) * gates))
    }
}

/// A learned factor per channel on a residual branch (Touvron et al. 2021).
#[derive(Debug)]
pub struct LayerScale(Tensor); // [width]

impl LayerScale {
    /// A new layer under `path`, or none without a start value.
    pub fn new(path: &Builder<'_>, width: i64, start: Option<f64>) -> Result<Option<Self>> {
        start
            .map(|value| Ok(LayerScale(path.parameter("gamma", &[width], Init::Constant(value))?)))
            .transpose()
    }

    /// Same shape in and out.
    pub fn forward(&self, xs: Tensor) -> Tensor {
        xs * &self.0
    }
}

/// Stochastic depth: while training, a sample's residual branch is left out with probability `rate`
/// and scaled by `1 / (1 - rate)` otherwise (Huang et al. 2016, per sample as timm does it).
#[derive(Debug)]
pub struct DropPath {
    rate: f64,
    mode: Mode,
    layer: u64,
}

impl DropPath {
    /// A new layer; `path` names its random stream.
    pub fn new(path: &Builder<'_>, rate: f64) -> Self {
        let (mode, layer) = path.child("drop_path").mode();
        DropPath { rate, mode, layer }
    }

    /// Same shape in and out; the first dimension is that of the samples.
    pub fn forward(&self, xs: Tensor) -> Tensor {
        if self.rate == 0.0 || !self.mode.is_training() {
            return xs;
        }
        let batch = xs.size()[0];
        let mask = keep_mask(&self.mode, self.layer, batch as usize, self.rate);
        let mut shape = vec![1; xs.dim()];
        shape[0] = batch;
        let mask = mask.to_device(xs.device()).to_kind(xs.kind()).view(shape.as_slice());
        xs * mask
    }
}

/// Dropout of single elements, keyed as all random drops are.
#[derive(Debug)]
pub struct Dropout {
    rate: f64,
    mode: Mode,
    layer: u64,
}

impl Dropout {
    /// A new layer; `path` names its random stream.
    pub fn new(path: &Builder<'_>, rate: f64) -> Self {
        let (mode, layer) = path.child("dropout").mode();
        Dropout { rate, mode, layer }
    }

    /// Same shape in and out.
    pub fn forward(&self, xs: Tensor) -> Tensor {
        if self.rate == 0.0 || !self.mode.is_training() {
            return xs;
        }
        let mask = keep_mask(&self.mode, self.layer, xs.numel(), self.rate);
        let mask = mask.to_device(xs.device()).to_kind(xs.kind()).view(xs.size().as_slice());
        xs * mask
    }
}

/// Zero with probability `rate`, the inverse of the kept share otherwise.
fn keep_mask(mode: &Mode, layer: u64, count: usize, rate: f64) -> Tensor {
    let keep = 1.0 / (1.0 - rate);
    let mask = mode
        .uniform(layer, count)
        .into_iter()
        .map(|draw| if f64::from(draw) < rate { 0.0 } else { keep as f32 })
        .collect::<Vec<_>>();
    Tensor::from_slice(&mask).to_kind(Kind::Float)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::Store;
    use tch::Device;

    #[test]
    fn drops_keep_the_mean_and_repeat_with_the_seed() {
        let store = Store::new(Device::Cpu, 0);
        let path = store.root().child("block");
        let (drop_path, dropout) = (DropPath::new(&path, 0.25), Dropout::new(&path, 0.25));
        let ones = || Tensor::ones([4000, 3], (Kind::Float, Device::Cpu));
        // Nothing is dropped in evaluation.
        assert!(drop_path.forward(ones()).equal(&ones()) && dropout.forward(ones()).equal(&ones()));
        store.mode().train(5);
        let (rows, elements) = (drop_path.forward(ones()), dropout.forward(ones()));
        for dropped in [&rows, &elements] {
            let mean = dropped.mean(Kind::Float).double_value(&[]);
            assert!((0.95..1.05).contains(&mean), "{mean}");
        }
        // Whole samples, or single elements.
        assert!(
            rows.select(1, 0).equal(&rows.select(1, 2))
                && !elements.select(1, 0).equal(&elements.select(1, 2))
        );
        assert!(rows.equal(&drop_path.forward(ones())));
        store.mode().train(6);
        assert!(!rows.equal(&drop_path.forward(ones())));
    }
}
