//! Convolution, batch normalisation, and the blocks of convolutional towers that combine them.

use tch::{Kind, Tensor};

use crate::Result;
use crate::activation::Activation;
use crate::mode::Mode;
use crate::params::{Init, ParamBuilder};

/// Dimensions of a square convolution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConvConfig {
    /// Input channels.
    pub(crate) input: i64,
    /// Output channels.
    pub(crate) output: i64,
    /// Kernel size in pixels.
    pub(crate) kernel: i64,
    /// Stride.
    pub(crate) stride: i64,
    /// Number of groups; equal to the number of channels in a depthwise convolution.
    pub(crate) groups: i64,
    /// Padding of each side in pixels; half the kernel size by default.
    pub(crate) padding: i64,
    /// Whether the convolution has a bias.
    pub(crate) bias: bool,
    /// Initialisation of the weight.
    pub(crate) init: ConvInit,
}

/// Initialisation of a convolution's weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConvInit {
    /// Normal distribution with variance 2 / fan-out (He et al. 2015), as in timm's towers.
    He,
    /// Uniform in ±1/sqrt(fan-in), torch's default, as in OpenAI's ResNets.
    FanIn,
    /// Normal distribution with a standard deviation of 0.02, as in transformers.
    Narrow,
    /// Xavier's uniform initialisation.
    Xavier,
}

impl ConvConfig {
    /// Creates a convolution with stride 1, one group and no bias.
    pub(crate) fn new(input: i64, output: i64, kernel: i64) -> Self {
        let padding = kernel / 2;
        ConvConfig { input, output, kernel, stride: 1, groups: 1, padding, bias: false, init: ConvInit::He }
    }

    /// Creates a depthwise convolution: one filter per channel.
    pub(crate) fn depthwise(channels: i64, kernel: i64, stride: i64) -> Self {
        ConvConfig { stride, groups: channels, ..ConvConfig::new(channels, channels, kernel) }
    }

    /// Sets the stride.
    pub(crate) fn with_stride(self, stride: i64) -> Self {
        ConvConfig { stride, ..self }
    }

    /// Creates a convolution of patches that do not overlap: the stride is the kernel size, without padding.
    pub(crate) fn patches(input: i64, output: i64, size: i64) -> Self {
        ConvConfig { stride: size, padding: 0, ..ConvConfig::new(input, output, size) }
    }

    /// Sets the number of groups.
    pub(crate) fn with_groups(self, groups: i64) -> Self {
        ConvConfig { groups, ..self }
    }

    /// Adds a bias.
    pub(crate) fn with_bias(self) -> Self {
        ConvConfig { bias: true, ..self }
    }

    /// Sets the initialisation of the weight.
    pub(crate) fn with_init(self, init: ConvInit) -> Self {
        ConvConfig { init, ..self }
    }

    /// Returns the side of the output for a square input with side `side`.
    pub(crate) fn output_side(&self, side: i64) -> i64 {
        (side + 2 * self.padding - self.kernel) / self.stride + 1
    }
}

/// A square convolution.
#[derive(Debug)]
pub(crate) struct Conv2d {
    weight: Tensor, // [out, in / groups, kernel, kernel]
    bias: Option<Tensor>,
    config: ConvConfig,
    mode: Mode,
}

impl Conv2d {
    /// Creates a layer under `path` for an input with side `side`.
    pub(crate) fn new(path: &ParamBuilder<'_>, config: ConvConfig, side: i64) -> Result<Self> {
        let ConvConfig { input, output, kernel, groups, .. } = config;
        let init = match config.init {
            ConvInit::He => Init::Normal((2.0 / (kernel * kernel * output / groups).max(1) as f64).sqrt()),
            ConvInit::FanIn => Init::fan_in(input / groups * kernel * kernel),
            ConvInit::Narrow => Init::Normal(0.02),
            ConvInit::Xavier => {
                Init::xavier((output * kernel * kernel).max(1), input / groups * kernel * kernel)
            }
        };
        let side = config.output_side(side);
        let shape = [output, input / groups, kernel, kernel];
        Ok(Conv2d {
            weight: path.at_positions(side * side).weight("weight", &shape, init)?,
            bias: if config.bias {
                Some(path.parameter("bias", &[output], Init::Constant(0.0))?)
            } else {
                None
            },
            config,
            mode: path.mode().0,
        })
    }

    /// Maps `[batch, in, height, width]` to `[batch, out, height / stride, width / stride]`, rounded up if the
    /// padding is half the kernel size.
    pub(crate) fn forward(&self, xs: &Tensor) -> Tensor {
        let ConvConfig { stride, groups, padding, .. } = self.config;
        let operand = |tensor: &Tensor| self.mode.operand(tensor);
        let (weight, bias) = (operand(&self.weight), self.bias.as_ref().map(operand));
        operand(xs).conv2d(&weight, bias, [stride, stride], [padding, padding], [1, 1], groups)
    }
}

/// Batch normalisation of the channels of `[batch, channels, height, width]`, with eps 1e-5 and momentum 0.1.
///
/// In training mode it normalises with the statistics of the batch and updates the running statistics. In evaluation
/// mode, or if its weight is locked, it uses the running statistics and does not update them.
#[derive(Debug)]
pub(crate) struct BatchNorm2d {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor, // i64 scalar
    mode: Mode,
}

impl BatchNorm2d {
    /// Creates a layer under `path`. `weight` is the initial weight; 0 makes the residual branch output zero at
    /// first.
    pub(crate) fn new(path: &ParamBuilder<'_>, channels: i64, weight: f64) -> Result<Self> {
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

    /// Normalises the channels; the shape stays.
    pub(crate) fn forward(&self, xs: &Tensor) -> Tensor {
        // A locked norm stays in evaluation mode.
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

/// Parameter names of a [`ConvNorm`]: the convolution and the norm.
pub(crate) type ConvNames<'a> = [&'a str; 2];

/// A convolution without bias, followed by batch normalisation and an activation.
#[derive(Debug)]
pub(crate) struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm2d,
    activation: Activation,
}

impl ConvNorm {
    /// Creates the layers under `path` for an input with side `side`.
    pub(crate) fn new(
        path: &ParamBuilder<'_>,
        names: ConvNames<'_>,
        config: ConvConfig,
        activation: Activation,
        side: i64,
    ) -> Result<Self> {
        Self::with_norm_weight(path, names, config, activation, side, 1.0)
    }

    /// Creates the layers with an initial norm weight; 0 makes the residual branch output zero at first.
    pub(crate) fn with_norm_weight(
        path: &ParamBuilder<'_>,
        names: ConvNames<'_>,
        config: ConvConfig,
        activation: Activation,
        side: i64,
        norm_weight: f64,
    ) -> Result<Self> {
        Ok(ConvNorm {
            conv: Conv2d::new(&path.child(names[0]), config, side)?,
            norm: BatchNorm2d::new(&path.child(names[1]), config.output, norm_weight)?,
            activation,
        })
    }

    /// Maps `[batch, in, height, width]` to `[batch, out, ⌈height / stride⌉, ⌈width / stride⌉]`.
    pub(crate) fn forward(&self, xs: &Tensor) -> Tensor {
        self.activation.forward(self.norm.forward(&self.conv.forward(xs)))
    }
}
