//! Networks of inverted residuals: EfficientNet-B0 (Tan and Le 2019) and MobileNetV3-Small (Howard et al. 2019).

use tch::{Kind, Tensor};

use super::global_average;
use crate::Result;
use crate::activation::Activation;
use crate::conv::{Conv2d, ConvConfig, ConvNorm};
use crate::layers::DropPath;
use crate::params::ParamBuilder;
use crate::tape::Tape;

/// A network of inverted residuals: maps images to features.
#[derive(Debug)]
pub(super) struct InvertedNet {
    stem: ConvNorm,
    blocks: Vec<Block>,
    head: Head,
}

#[derive(Debug)]
enum Head {
    /// Convolution, norm and activation before global pooling (EfficientNet).
    BeforePooling(ConvNorm),
    /// Convolution with bias and activation after global pooling (MobileNetV3).
    AfterPooling(Conv2d, Activation),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockKind {
    /// Depthwise convolution, then pointwise convolution.
    Separable,
    /// Inverted residual: pointwise expansion, depthwise convolution, pointwise projection.
    Inverted,
    /// One pointwise convolution with norm and activation.
    Plain,
}

/// A row of the papers' architecture tables: `repeats` blocks, the first of which has the stride.
#[derive(Clone, Copy, Debug)]
struct Stage {
    kind: BlockKind,
    repeats: usize,
    kernel: i64,
    stride: i64,
    /// Inner channels as a multiple of the input channels.
    expansion: f64,
    output: i64,
    squeeze: bool,
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

/// Settings of squeeze-and-excite.
#[derive(Clone, Copy, Debug)]
struct Squeeze {
    /// Whether to reduce to a quarter of the block's inner channels, rounded to multiples of 8, instead of a quarter of
    /// its input channels.
    of_inner: bool,
    activation: Activation,
    gate: Activation,
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
        let squeeze = Squeeze { of_inner: false, activation: Activation::Silu, gate: Activation::Sigmoid };
        let stages = stages.each_ref().map(std::slice::from_ref);
        let (stem, blocks, side) = body(path, 32, Activation::Silu, &stages, squeeze, side, drop_path)?;
        let conv = ConvConfig::new(320, 1280, 1);
        let head = ConvNorm::new(path, ["conv_head", "bn2"], conv, Activation::Silu, side)?;
        Ok(InvertedNet { stem, blocks, head: Head::BeforePooling(head) })
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
        let squeeze = Squeeze { of_inner: true, activation: Relu, gate: Activation::HardSigmoid };
        let (stem, blocks, _) = body(path, 16, HardSwish, &stages, squeeze, side, drop_path)?;
        let head = Conv2d::new(&path.child("conv_head"), ConvConfig::new(576, 1024, 1).with_bias(), 1)?;
        Ok(InvertedNet { stem, blocks, head: Head::AfterPooling(head, HardSwish) })
    }

    /// Maps images `[batch, 3, size, size]` to features `[batch, features]`.
    pub(super) fn forward<'a>(&'a self, images: &Tensor, tape: &mut Tape<'a>) -> Tensor {
        let xs = self
            .blocks
            .iter()
            .fold(self.stem.forward(images), |xs, block| tape.run(xs, |xs| block.forward(xs)));
        match &self.head {
            Head::BeforePooling(head) => global_average(&head.forward(&xs)),
            Head::AfterPooling(conv, activation) => {
                let mean = xs.mean_dim([2i64, 3].as_slice(), true, None::<Kind>);
                activation.forward(conv.forward(&mean)).flatten(1, 3)
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

#[derive(Debug)]
struct Block {
    expand: Option<ConvNorm>,
    depthwise: Option<ConvNorm>,
    squeeze: Option<SqueezeExcite>,
    project: Option<ConvNorm>,
    /// Residual connection, if input and output have the same shape.
    shortcut: Option<DropPath>,
    side: i64,
}

impl Block {
    fn new(
        path: &ParamBuilder<'_>,
        input: i64,
        stage: Stage,
        squeeze: Squeeze,
        side: i64,
        rate: f64,
    ) -> Result<Self> {
        let Stage { kind, kernel, stride, output, activation, .. } = stage;
        if kind == BlockKind::Plain {
            let conv = ConvConfig::new(input, output, kernel).with_stride(stride);
            return Ok(Block {
                expand: Some(ConvNorm::new(path, ["conv", "bn1"], conv, activation, side)?),
                depthwise: None,
                squeeze: None,
                project: None,
                shortcut: None,
                side: conv.output_side(side),
            });
        }
        let inverted = kind == BlockKind::Inverted;
        let inner = if inverted { round_channels(input as f64 * stage.expansion) } else { input };
        let depthwise = ConvConfig::depthwise(inner, kernel, stride);
        let after = depthwise.output_side(side);
        let (depthwise_norm, project, project_norm) =
            if inverted { ("bn2", "conv_pwl", "bn3") } else { ("bn1", "conv_pw", "bn2") };
        let identity = Activation::Identity;
        let reduced = if squeeze.of_inner { round_channels(inner as f64 / 4.0) } else { input / 4 };
        Ok(Block {
            expand: inverted
                .then(|| {
                    let conv = ConvConfig::new(input, inner, 1);
                    ConvNorm::new(path, ["conv_pw", "bn1"], conv, activation, side)
                })
                .transpose()?,
            depthwise: Some(ConvNorm::new(path, ["conv_dw", depthwise_norm], depthwise, activation, side)?),
            squeeze: stage
                .squeeze
                .then(|| SqueezeExcite::new(&path.child("se"), inner, reduced, squeeze))
                .transpose()?,
            project: Some(ConvNorm::new(
                path,
                [project, project_norm],
                ConvConfig::new(inner, output, 1),
                identity,
                after,
            )?),
            shortcut: (stride == 1 && input == output).then(|| DropPath::new(path, rate)),
            side: after,
        })
    }

    fn forward(&self, input: &Tensor) -> Tensor {
        let mut xs = input.shallow_clone();
        for layer in [&self.expand, &self.depthwise].into_iter().flatten() {
            xs = layer.forward(&xs);
        }
        if let Some(squeeze) = &self.squeeze {
            xs = squeeze.forward(&xs);
        }
        if let Some(project) = &self.project {
            xs = project.forward(&xs);
        }
        match &self.shortcut {
            Some(drop_path) => drop_path.forward(xs) + input,
            None => xs,
        }
    }
}

/// Squeeze-and-excite: scales each channel by a function of the global average (Hu et al. 2018).
#[derive(Debug)]
struct SqueezeExcite {
    reduce: Conv2d,
    expand: Conv2d,
    config: Squeeze,
}

impl SqueezeExcite {
    fn new(path: &ParamBuilder<'_>, channels: i64, reduced: i64, config: Squeeze) -> Result<Self> {
        let reduce = ConvConfig::new(channels, reduced, 1).with_bias();
        let expand = ConvConfig::new(reduced, channels, 1).with_bias();
        Ok(SqueezeExcite {
            reduce: Conv2d::new(&path.child("conv_reduce"), reduce, 1)?,
            expand: Conv2d::new(&path.child("conv_expand"), expand, 1)?,
            config,
        })
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        let mean = xs.mean_dim([2i64, 3].as_slice(), true, None::<Kind>);
        let inner = self.config.activation.forward(self.reduce.forward(&mean));
        xs * self.config.gate.forward(self.expand.forward(&inner))
    }
}

/// Rounds a number of channels to a multiple of 8 that is at least 90% of it (MobileNetV2's rule).
fn round_channels(channels: f64) -> i64 {
    let rounded = ((channels + 4.0) as i64 / 8 * 8).max(8);
    if (rounded as f64) < 0.9 * channels { rounded + 8 } else { rounded }
}
