//! Squeeze-and-excite (Hu et al. 2018).

use tch::{Kind, Tensor};

use crate::Result;
use crate::activation::Activation;
use crate::conv::{Conv2d, ConvConfig, ConvInit};
use crate::params::ParamBuilder;

/// Settings of [`SqueezeExcite`].
#[derive(Clone, Copy, Debug)]
pub(super) struct SqueezeConfig {
    /// Parameter names of the two convolutions.
    pub(super) names: [&'static str; 2],
    /// Activation after the first convolution.
    pub(super) activation: Activation,
    /// Activation that yields the channel scales.
    pub(super) gate: Activation,
    /// Initialisation of the convolutions.
    pub(super) init: ConvInit,
}

/// timm's `SEModule`, which several families share.
pub(super) const SE_MODULE: SqueezeConfig = SqueezeConfig {
    names: ["fc1", "fc2"],
    activation: Activation::Relu,
    gate: Activation::Sigmoid,
    init: ConvInit::FanIn,
};

/// Squeeze-and-excite: scales each channel by a function of the global average.
#[derive(Debug)]
pub(super) struct SqueezeExcite {
    reduce: Conv2d,
    expand: Conv2d,
    config: SqueezeConfig,
}

impl SqueezeExcite {
    /// Creates a layer under `path` with `reduced` inner channels.
    pub(super) fn new(
        path: &ParamBuilder<'_>,
        channels: i64,
        reduced: i64,
        config: SqueezeConfig,
    ) -> Result<Self> {
        let layer = |name: &str, input, output| {
            let conv = ConvConfig::new(input, output, 1).with_bias().with_init(config.init);
            Conv2d::new(&path.child(name), conv, 1)
        };
        Ok(SqueezeExcite {
            reduce: layer(config.names[0], channels, reduced)?,
            expand: layer(config.names[1], reduced, channels)?,
            config,
        })
    }

    /// Scales the channels of `[batch, channels, height, width]`; the shape stays.
    pub(super) fn forward(&self, xs: &Tensor) -> Tensor {
        let mean = xs.mean_dim([2i64, 3].as_slice(), true, None::<Kind>);
        let inner = self.config.activation.forward(self.reduce.forward(&mean));
        xs * self.config.gate.forward(self.expand.forward(&inner))
    }
}
