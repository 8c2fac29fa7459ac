//! Networks of inverted residuals: EfficientNet-B0 (Tan and Le 2019), MobileNetV3-Small (Howard et al. 2019) and
//! MobileNetV4 (Qin et al. 2024).

mod attention;
mod block;
mod mobilenet_v4;

use tch::{Kind, Tensor};

use super::global_average;
use super::squeeze::SqueezeConfig;
use crate::Result;
use crate::activation::Activation;
use crate::conv::{Conv2d, ConvConfig, ConvInit, ConvNorm};
use crate::params::ParamBuilder;
use crate::tape::Tape;
use block::Block;
pub(crate) use mobilenet_v4::MobileNetV4Size;

/// A network of inverted residuals: maps images to features.
#[derive(Debug)]
pub(super) struct InvertedNet {
    stem: ConvNorm,
    blocks: Vec<Block>,
    head: Head,
}

#[derive(Debug)]
enum Head {
    /// Convolution, norm and activation before global pooling.
    EfficientNet(ConvNorm),
    /// Convolution with bias and activation after global pooling.
    MobileNetV3(Conv2d, Activation),
    /// Convolution, norm and activation after global pooling.
    MobileNetV4(ConvNorm),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockKind {
    /// Depthwise convolution, then pointwise convolution.
    Separable,
    /// Inverted residual: pointwise expansion, depthwise convolution, pointwise projection.
    Inverted,
    /// One convolution with norm and activation.
    Plain,
    /// Fused inverted residual: a full convolution expands, a pointwise one projects.
    Fused,
    /// Universal inverted bottleneck (MobileNetV4): an inverted residual with optional depthwise convolutions before
    /// and after the expansion.
    Universal {
        /// Kernel size of the depthwise convolution before the expansion; 0 for none.
        start: i64,
    },
    /// Multi-query attention (MobileNetV4): all heads share one key and value per position.
    MultiQuery {
        /// Number of attention heads of 64 channels.
        heads: i64,
        /// Stride of the grid of keys and values.
        kv_stride: i64,
    },
}

/// A row of the papers' architecture tables: `repeats` blocks, the first of which has the stride.
#[derive(Clone, Copy, Debug)]
struct Stage {
    kind: BlockKind,
    repeats: usize,
    /// Kernel size; 0 for no depthwise convolution after the expansion.
    kernel: i64,
    stride: i64,
    /// Inner channels as a multiple of the input channels.
    expansion: f64,
    output: i64,
    squeeze: bool,
    /// Initial value of layer scale; `None` for none.
    layer_scale: Option<f64>,
    activation: Activation,
}

impl Stage {
    /// Creates a stage of EfficientNet: with squeeze-and-excite and SiLU.
    fn new(kind: BlockKind, repeats: usize, kernel: i64, stride: i64, expansion: f64, output: i64) -> Self {
        Stage {
            kind,
            repeats,
            kernel,
            stride,
            expansion,
            output,
            squeeze: true,
            layer_scale: None,
            activation: Activation::Silu,
        }
    }

    fn with_activation(self, activation: Activation) -> Self {
        Stage { activation, ..self }
    }

    fn without_squeeze(self) -> Self {
        Stage { squeeze: false, ..self }
    }
}

/// Squeeze-and-excite of the blocks.
#[derive(Clone, Copy, Debug)]
struct Squeeze {
    /// Whether to reduce to a quarter of the block's inner channels, rounded to multiples of 8, instead of a quarter of
    /// its input channels.
    of_inner: bool,
    config: SqueezeConfig,
}

impl Squeeze {
    fn new(of_inner: bool, activation: Activation, gate: Activation) -> Self {
        let names = ["conv_reduce", "conv_expand"];
        Squeeze { of_inner, config: SqueezeConfig { names, activation, gate, init: ConvInit::He } }
    }
}

impl InvertedNet {
    pub(super) fn efficientnet_b0(path: &ParamBuilder<'_>, side: i64, drop_path: f64) -> Result<Self> {
        use BlockKind::{Inverted, Separable};
        let stages = [
            Stage::new(Separable, 1, 3, 1, 1.0, 16),
            Stage::new(Inverted, 2, 3, 2, 6.0, 24),
            Stage::new(Inverted, 2, 5, 2, 6.0, 40),
            Stage::new(Inverted, 3, 3, 2, 6.0, 80),
            Stage::new(Inverted, 3, 5, 1, 6.0, 112),
            Stage::new(Inverted, 4, 5, 2, 6.0, 192),
            Stage::new(Inverted, 1, 3, 1, 6.0, 320),
        ];
        let squeeze = Squeeze::new(false, Activation::Silu, Activation::Sigmoid);
        let stages = stages.each_ref().map(std::slice::from_ref);
        let (stem, blocks, side) = body(path, 32, Activation::Silu, &stages, squeeze, side, drop_path)?;
        let conv = ConvConfig::new(320, 1280, 1);
        let head = ConvNorm::new(path, ["conv_head", "bn2"], conv, Activation::Silu, side)?;
        Ok(InvertedNet { stem, blocks, head: Head::EfficientNet(head) })
    }

    pub(super) fn mobilenet_v3_small(path: &ParamBuilder<'_>, side: i64, drop_path: f64) -> Result<Self> {
        use Activation::{HardSwish, Relu};
        use BlockKind::{Inverted, Plain, Separable};
        // timm's stages contain different blocks, which it numbers consecutively.
        let stages: [&[Stage]; 6] = [
            &[Stage::new(Separable, 1, 3, 2, 1.0, 16).with_activation(Relu)],
            &[
                Stage::new(Inverted, 1, 3, 2, 4.5, 24).with_activation(Relu).without_squeeze(),
                Stage::new(Inverted, 1, 3, 1, 3.67, 24).with_activation(Relu).without_squeeze(),
            ],
            &[
                Stage::new(Inverted, 1, 5, 2, 4.0, 40).with_activation(HardSwish),
                Stage::new(Inverted, 2, 5, 1, 6.0, 40).with_activation(HardSwish),
            ],
            &[Stage::new(Inverted, 2, 5, 1, 3.0, 48).with_activation(HardSwish)],
            &[Stage::new(Inverted, 3, 5, 2, 6.0, 96).with_activation(HardSwish)],
            &[Stage::new(Plain, 1, 1, 1, 1.0, 576).with_activation(HardSwish).without_squeeze()],
        ];
        let squeeze = Squeeze::new(true, Relu, Activation::HardSigmoid);
        let (stem, blocks, _) = body(path, 16, HardSwish, &stages, squeeze, side, drop_path)?;
        let head = Conv2d::new(&path.child("conv_head"), ConvConfig::new(576, 1024, 1).with_bias(), 1)?;
        Ok(InvertedNet { stem, blocks, head: Head::MobileNetV3(head, HardSwish) })
    }

    /// Maps images `[batch, 3, size, size]` to features `[batch, features]`.
    pub(super) fn forward<'a>(&'a self, images: &Tensor, tape: &mut Tape<'a>) -> Tensor {
        let xs = self
            .blocks
            .iter()
            .fold(self.stem.forward(images), |xs, block| tape.run(xs, |xs| block.forward(xs)));
        match &self.head {
            Head::EfficientNet(head) => global_average(&head.forward(&xs)),
            Head::MobileNetV3(conv, activation) => {
                let mean = xs.mean_dim([2i64, 3].as_slice(), true, None::<Kind>);
                activation.forward(conv.forward(&mean)).flatten(1, 3)
            }
            Head::MobileNetV4(head) => {
                head.forward(&xs.mean_dim([2i64, 3].as_slice(), true, None::<Kind>)).flatten(1, 3)
            }
        }
    }
}

/// Builds the stem and the blocks, and returns them with the side of their output.
fn body(
    path: &ParamBuilder<'_>,
    stem: i64,
    activation: Activation,
    stages: &[&[Stage]],
    squeeze: Squeeze,
    side: i64,
    drop_path: f64,
) -> Result<(ConvNorm, Vec<Block>, i64)> {
    let conv = ConvConfig::new(3, stem, 3).with_stride(2);
    let (mut input, mut side, image_side) = (stem, conv.output_side(side), side);
    let stem = ConvNorm::new(path, ["conv_stem", "bn1"], conv, activation, image_side)?;
    let total = stages.iter().flat_map(|rows| rows.iter()).map(|row| row.repeats).sum::<usize>();
    let mut blocks = Vec::new();
    for (stage, rows) in stages.iter().enumerate() {
        let stage_path = path.child("blocks").child(stage);
        let mut index = 0;
        for row in *rows {
            for repeat in 0..row.repeats {
                let current = Stage { stride: if repeat == 0 { row.stride } else { 1 }, ..*row };
                // timm divides by the number of blocks here, so even the last rate stays below the largest.
                let rate = drop_path * blocks.len() as f64 / total as f64;
                let block = Block::new(&stage_path.child(index), input, current, squeeze, side, rate)?;
                (input, side) = (row.output, block.side);
                blocks.push(block);
                index += 1;
            }
        }
    }
    Ok((stem, blocks, side))
}

/// Rounds a number of channels to a multiple of 8 that is at least 90% of it (MobileNetV2's rule).
fn round_channels(channels: f64) -> i64 {
    let rounded = ((channels + 4.0) as i64 / 8 * 8).max(8);
    if (rounded as f64) < 0.9 * channels { rounded + 8 } else { rounded }
}
