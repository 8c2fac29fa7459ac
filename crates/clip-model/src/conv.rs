//! Convolution, batch normalisation and the pairs of them that convolutional towers are made of.

use tch::{Kind, Tensor};

use crate::Result;
use crate::activation::Activation;
use crate::mode::Mode;
use crate::params::{Builder, Init};

/// Shape of a square convolution.
#[derive(Clone, Copy, Debug)]
pub struct ConvConfig {
    /// Input channels.
    pub input: i64,
    /// Output channels.
    pub output: i64,
    /// Side of the kernel.
    pub kernel: i64,
    /// Stride.
    pub stride: i64,
    /// Groups; as many as channels make it depthwise.
    pub groups: i64,
    /// Whether there is a bias.
    pub bias: bool,
    /// How the weight starts.
    pub start: ConvStart,
}

/// How the weight of a convolution starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvStart {
    /// Gaussian of variance 2 / fan-out (He et al. 2015), as in timm's towers.
    He,
    /// torch's default, uniform in ±1/sqrt(fan-in), as in OpenAI's ResNets.
    FanIn,
}

impl ConvConfig {
    /// A convolution of stride 1, one group and no bias.
    pub fn new(input: i64, output: i64, kernel: i64) -> Self {
        ConvConfig { input, output, kernel, stride: 1, groups: 1, bias: false, start: ConvStart::He }
    }

    /// One filter per channel.
    pub fn depthwise(channels: i64, kernel: i64, stride: i64) -> Self {
        ConvConfig { stride, groups: channels, ..ConvConfig::new(channels, channels, kernel) }
    }

    /// The same with another stride.
    pub fn stride(self, stride: i64) -> Self {
        ConvConfig { stride, ..self }
    }

    /// The same with a bias.
    pub fn with_bias(self) -> Self {
        ConvConfig { bias: true, ..self }
    }

    /// The same with another start.
    pub fn started(self, start: ConvStart) -> Self {
        ConvConfig { start, ..self }
    }

    /// Side of the output for an input of `side`.
    pub fn output_side(&self, side: i64) -> i64 {
        (side + 2 * (self.kernel / 2) - self.kernel) / self.stride + 1
    }
}

/// A square convolution, padded by half its kernel.
#[derive(Debug)]
pub struct Conv2d {
    weight: Tensor, // [out, in / groups, kernel, kernel]
    bias: Option<Tensor>,
    config: ConvConfig,
    mode: Mode,
}

impl Conv2d {
    /// A new layer under `path`, which counts the output's positions from an input of `side`.
    pub fn new(path: &Builder<'_>, config: ConvConfig, side: i64) -> Result<Self> {
        let ConvConfig { input, output, kernel, groups, .. } = config;
        let start = match config.start {
            ConvStart::He => Init::Normal((2.0 / (kernel * kernel * output / groups).max(1) as f64).sqrt()),
            ConvStart::FanIn => Init::fan_in(input / groups * kernel * kernel),
        };
        let side = config.output_side(side);
        let shape = [output, input / groups, kernel, kernel];
        Ok(Conv2d {
            weight: path.at(side * side).weight("weight", &shape, start)?,
            bias: if config.bias {
                Some(path.parameter("bias", &[output], Init::Constant(0.0))?)
            } else {
                None
            },
            config,
            mode: path.mode().0,
        })
    }

    /// `[batch, in, height, width]` to `[batch, out, ⌈height / stride⌉, ⌈width / stride⌉]`.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        let ConvConfig { kernel, stride, groups, .. } = self.config;
        let padding = kernel / 2;
        let operand = |tensor: &Tensor| self.mode.operand(tensor);
        let (weight, bias) = (operand(&self.weight), self.bias.as_ref().map(operand));
        operand(xs).conv2d(&weight, bias, [stride, stride], [padding, padding], [1, 1], groups)
    }
}

/// Batch normalisation of the channels of `[batch, channels, height, width]`; eps 1e-5, momentum 0.1.
///
/// While training it normalises with the batch's own statistics and moves the running ones; in
/// evaluation, or where its weight is locked, it reads the running ones and moves nothing.
#[derive(Debug)]
pub struct BatchNorm2d {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor, // i64, no dimension
    mode: Mode,
}

impl BatchNorm2d {
    /// A new layer under `path`, whose weight starts at `weight` (0 makes a residual branch start silent).
    pub fn new(path: &Builder<'_>, channels: i64, weight: f64) -> Result<Self> {
        let cpu = |kind| (kind, tch::Device::Cpu);
        Ok(BatchNorm2d {
            weight: path.parameter("weight", &[channels], Init::Constant(weight))?,
            bias: path.parameter("bias", &[channels], Init::Constant(0.0))?,
            running_mean: path.buffer("running_mean", Tensor::f_zeros([channels], cpu(Kind::Float))?)?,
            running_var: path.buffer("running_var", Tensor::f_ones([channels], cpu(Kind::Float))?)?,
            num_batches_tracked: path
                .buffer("num_batches_tracked", Tensor::f_zeros([0i64; 0], cpu(Kind::Int64))?)?,
            mode: path.mode().0,
        })
    }

    /// Same shape in and out.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        // A locked norm does not move, whatever the rest of the model does.
        let training = self.mode.is_training() && self.weight.requires_grad();
        let statistics = !(training && self.mode.is_recomputing());
        if training && statistics {
            tch::no_grad(|| {
                let _ = self.num_batches_tracked.shallow_clone().g_add_scalar_(1);
            });
        }
        xs.batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            statistics.then_some(&self.running_mean),
            statistics.then_some(&self.running_var),
            training,
            0.1,
            1e-5,
            true,
        )
    }
}

/// How the parts of a [`ConvNorm`] are called: the convolution and the norm.
pub type ConvNames<'a> = [&'a str; 2];

/// A convolution without bias, batch normalisation and an activation.
#[derive(Debug)]
pub struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm2d,
    activation: Activation,
}

impl ConvNorm {
    /// New layers under `path`, for an input of `side`.
    pub fn new(
        path: &Builder<'_>,
        names: ConvNames<'_>,
        config: ConvConfig,
        activation: Activation,
        side: i64,
    ) -> Result<Self> {
        Self::with_norm_start(path, names, config, activation, side, 1.0)
    }

    /// The same, with the weight of the norm started at `norm` (0 silences the branch that it ends).
    pub fn with_norm_start(
        path: &Builder<'_>,
        names: ConvNames<'_>,
        config: ConvConfig,
        activation: Activation,
        side: i64,
        norm: f64,
    ) -> Result<Self> {
        Ok(ConvNorm {
            conv: Conv2d::new(&path.child(names[0]), config, side)?,
            norm: BatchNorm2d::new(&path.child(names[1]), config.output, norm)?,
            activation,
        })
    }

    /// `[batch, in, height, width]` to `[batch, out, ⌈height / stride⌉, ⌈width / stride⌉]`.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        self.activation.forward(self.norm.forward(&self.conv.forward(xs)))
    }
}
