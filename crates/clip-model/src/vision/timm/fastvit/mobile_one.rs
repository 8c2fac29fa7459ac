//! MobileOne's block (Vasu et al. 2023): parallel branches whose sum one convolution can replace after training.

use tch::Tensor;

use crate::Result;
use crate::activation::Activation;
use crate::conv::{BatchNorm2d, ConvConfig, ConvInit, ConvNorm};
use crate::params::ParamBuilder;
use crate::vision::timm::squeeze::{SE_MODULE, SqueezeExcite};

/// Settings of a [`MobileOne`].
#[derive(Clone, Copy, Debug)]
pub(super) struct MobileOneConfig {
    conv: ConvConfig,
    activation: Activation,
    /// Inner channels of squeeze-and-excite.
    squeeze: Option<i64>,
    /// Whether the block has convolutions beside its identity branch.
    convolutions: bool,
}

impl MobileOneConfig {
    pub(super) fn new(conv: ConvConfig, activation: Activation) -> Self {
        let conv = conv.with_init(ConvInit::FanIn);
        MobileOneConfig { conv, activation, squeeze: None, convolutions: true }
    }

    /// Adds squeeze-and-excite with `reduced` inner channels.
    pub(super) fn with_squeeze(self, reduced: i64) -> Self {
        MobileOneConfig { squeeze: Some(reduced), ..self }
    }

    /// Leaves only the identity branch: a norm.
    pub(super) fn without_convolutions(self) -> Self {
        MobileOneConfig { convolutions: false, ..self }
    }
}

/// A block of up to three branches: a convolution, a pointwise convolution, and a norm alone.
#[derive(Debug)]
pub(super) struct MobileOne {
    conv: Option<ConvNorm>,
    scale: Option<ConvNorm>,
    identity: Option<BatchNorm2d>,
    squeeze: Option<SqueezeExcite>,
    activation: Activation,
}

impl MobileOne {
    /// Creates a block under `path` for an input with side `side`.
    pub(super) fn new(path: &ParamBuilder<'_>, config: MobileOneConfig, side: i64) -> Result<Self> {
        let MobileOneConfig { conv, activation, squeeze, convolutions } = config;
        let branch = |path: ParamBuilder<'_>, conv: ConvConfig| {
            ConvNorm::new(&path, ["conv", "bn"], conv, Activation::Identity, side)
        };
        let pointwise = ConvConfig { kernel: 1, padding: 0, ..conv };
        let has_scale = convolutions && conv.kernel > 1;
        let has_identity = conv.input == conv.output && conv.stride == 1;
        Ok(MobileOne {
            conv: convolutions.then(|| branch(path.child("conv_kxk").child(0), conv)).transpose()?,
            scale: has_scale.then(|| branch(path.child("conv_scale"), pointwise)).transpose()?,
            identity: has_identity
                .then(|| BatchNorm2d::new(&path.child("identity"), conv.input, 1.0))
                .transpose()?,
            squeeze: squeeze
                .map(|reduced| SqueezeExcite::new(&path.child("se"), conv.output, reduced, SE_MODULE))
                .transpose()?,
            activation,
        })
    }

    /// Maps `[batch, in, height, width]` to `[batch, out, height / stride, width / stride]`.
    pub(super) fn forward(&self, input: &Tensor) -> Tensor {
        let branches = [
            self.scale.as_ref().map(|layer| layer.forward(input)),
            self.identity.as_ref().map(|layer| layer.forward(input)),
            self.conv.as_ref().map(|layer| layer.forward(input)),
        ];
        let sum = branches.into_iter().flatten().reduce(|sum, branch| sum + branch);
        let xs = sum.unwrap_or_else(|| input.shallow_clone());
        self.activation.forward(match &self.squeeze {
            Some(squeeze) => squeeze.forward(&xs),
            None => xs,
        })
    }
}
