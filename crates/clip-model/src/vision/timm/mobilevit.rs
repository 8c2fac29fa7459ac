//! MobileViT (Mehta and Rastegari 2022): inverted residuals and transformers over unfolded patches.

use tch::Tensor;

use super::{drop_path_rates, global_average};
use crate::Result;
use crate::activation::Activation;
use crate::block::{BlockConfig, BlockInit, Naming, ResidualAttentionBlock};
use crate::conv::{Conv2d, ConvConfig, ConvNorm};
use crate::layers::{DropPath, LayerNorm};
use crate::params::{Init, ParamBuilder};
use crate::tape::Tape;

/// Published sizes of MobileViT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MobileVitSize {
    /// 5.6 M parameters.
    S,
    /// 2.3 M parameters.
    Xs,
    /// 1.3 M parameters.
    Xxs,
}

/// Side of the unfolded patches in pixels.
const PATCH: i64 = 2;

impl MobileVitSize {
    /// Returns the number of output features.
    pub(crate) fn features(self) -> i64 {
        match self {
            MobileVitSize::S => 640,
            MobileVitSize::Xs => 384,
            MobileVitSize::Xxs => 320,
        }
    }

    /// Returns the output channels of each of the five stages.
    fn channels(self) -> [i64; 5] {
        match self {
            MobileVitSize::S => [32, 64, 96, 128, 160],
            MobileVitSize::Xs => [32, 48, 64, 80, 96],
            MobileVitSize::Xxs => [16, 24, 48, 64, 80],
        }
    }

    /// Returns the transformer width of each of the last three stages.
    fn widths(self) -> [i64; 3] {
        match self {
            MobileVitSize::S => [144, 192, 240],
            MobileVitSize::Xs => [96, 120, 144],
            MobileVitSize::Xxs => [64, 80, 96],
        }
    }

    /// Returns the inner channels of an inverted residual as a multiple of the input channels.
    fn expansion(self) -> i64 {
        if self == MobileVitSize::Xxs { 2 } else { 4 }
    }
}

/// MobileViT: maps images to features.
#[derive(Debug)]
pub(super) struct MobileVit {
    stem: ConvNorm,
    stages: Vec<Block>,
    final_conv: ConvNorm,
}

#[derive(Debug)]
enum Block {
    Inverted(InvertedResidual),
    Transformer(MobileVitBlock),
}

impl MobileVit {
    pub(super) fn new(
        path: &ParamBuilder<'_>,
        size: MobileVitSize,
        side: i64,
        drop_path: f64,
    ) -> Result<Self> {
        let conv = ConvConfig::new(3, 16, 3).with_stride(2);
        let stem = ConvNorm::new(&path.child("stem"), ["conv", "bn"], conv, Activation::Silu, side)?;
        let (mut input, mut side) = (16, conv.output_side(side));
        let mut rates = drop_path_rates(drop_path, 10);
        let mut next_rate = || rates.next().unwrap_or(0.0);
        let mut stages = Vec::new();
        for (stage, output) in size.channels().into_iter().enumerate() {
            let stage_path = path.child("stages").child(stage);
            let repeats = if stage == 1 { 3 } else { 1 };
            for index in 0..repeats {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                let inner = input * size.expansion();
                let shape = InvertedShape { input, inner, output, stride };
                let block = InvertedResidual::new(&stage_path.child(index), shape, side, next_rate())?;
                (input, side) = (output, block.side);
                stages.push(Block::Inverted(block));
            }
            if let Some(index) = stage.checked_sub(2) {
                let (width, depth) = (size.widths()[index], [2, 4, 3][index]);
                let block =
                    MobileVitBlock::new(&stage_path.child(1), output, width, depth, side, next_rate())?;
                stages.push(Block::Transformer(block));
            }
        }
        let conv = ConvConfig::new(input, size.features(), 1);
        let final_conv =
            ConvNorm::new(&path.child("final_conv"), ["conv", "bn"], conv, Activation::Silu, side)?;
        Ok(MobileVit { stem, stages, final_conv })
    }

    /// Maps images `[batch, 3, size, size]` to features `[batch, features]`.
    pub(super) fn forward<'a>(&'a self, images: &Tensor, tape: &mut Tape<'a>) -> Tensor {
        let xs = self.stages.iter().fold(self.stem.forward(images), |xs, block| match block {
            Block::Inverted(block) => tape.run(xs, |xs| block.forward(xs)),
            Block::Transformer(block) => tape.run(xs, |xs| block.forward(xs)),
        });
        global_average(&self.final_conv.forward(&xs))
    }
}

/// Inverted residual: pointwise expansion, depthwise convolution, and pointwise projection without activation.
#[derive(Debug)]
struct InvertedResidual {
    layers: [ConvNorm; 3],
    /// Residual connection, if input and output have the same shape.
    shortcut: Option<DropPath>,
    side: i64,
}

#[derive(Clone, Copy)]
struct InvertedShape {
    input: i64,
    inner: i64,
    output: i64,
    stride: i64,
}

impl InvertedResidual {
    fn new(path: &ParamBuilder<'_>, shape: InvertedShape, side: i64, rate: f64) -> Result<Self> {
        let InvertedShape { input, inner, output, stride } = shape;
        let depthwise = ConvConfig::depthwise(inner, 3, stride);
        let after = depthwise.output_side(side);
        let layer = |name: &str, config, activation, side| {
            ConvNorm::new(&path.child(name), ["conv", "bn"], config, activation, side)
        };
        Ok(InvertedResidual {
            layers: [
                layer("conv1_1x1", ConvConfig::new(input, inner, 1), Activation::Silu, side)?,
                layer("conv2_kxk", depthwise, Activation::Silu, side)?,
                layer("conv3_1x1", ConvConfig::new(inner, output, 1), Activation::Identity, after)?,
            ],
            shortcut: (stride == 1 && input == output).then(|| DropPath::new(path, rate)),
            side: after,
        })
    }

    fn forward(&self, input: &Tensor) -> Tensor {
        let xs = self.layers.iter().fold(input.shallow_clone(), |xs, layer| layer.forward(&xs));
        match &self.shortcut {
            Some(drop_path) => drop_path.forward(xs) + input,
            None => xs,
        }
    }
}

/// MobileViT block: local convolution, attention among pixels at the same position of their patches, and fusion.
#[derive(Debug)]
struct MobileVitBlock {
    conv_kxk: ConvNorm,
    conv_1x1: Conv2d,
    transformer: Vec<ResidualAttentionBlock>,
    norm: LayerNorm,
    conv_proj: ConvNorm,
    conv_fusion: ConvNorm,
}

impl MobileVitBlock {
    fn new(
        path: &ParamBuilder<'_>,
        channels: i64,
        width: i64,
        depth: i64,
        side: i64,
        drop_path: f64,
    ) -> Result<Self> {
        let layer = |name: &str, config| {
            ConvNorm::new(&path.child(name), ["conv", "bn"], config, Activation::Silu, side)
        };
        let start = Init::Normal(0.01);
        let config = BlockConfig {
            width,
            heads: 4,
            head_width: width / 4,
            mlp_width: 2 * width,
            causal: false,
            activation: Activation::Silu,
            eps: 1e-5,
            layer_scale: None,
            drop_path,
            init: BlockInit { in_proj: start, out_proj: start, fc: start, proj: start },
        };
        let grid = (side + PATCH - 1) / PATCH;
        // Each position within a patch is a separate sequence.
        let transformer = (0..depth)
            .map(|index| {
                let path = path
                    .child("transformer")
                    .child(index)
                    .at_positions(grid * grid)
                    .with_sequences(PATCH * PATCH);
                ResidualAttentionBlock::new(&path, Naming::Timm, &config)
            })
            .collect::<Result<_>>()?;
        Ok(MobileVitBlock {
            conv_kxk: layer("conv_kxk", ConvConfig::new(channels, channels, 3))?,
            conv_1x1: Conv2d::new(&path.child("conv_1x1"), ConvConfig::new(channels, width, 1), side)?,
            transformer,
            norm: LayerNorm::new(&path.child("norm"), width, 1e-5)?,
            conv_proj: layer("conv_proj", ConvConfig::new(width, channels, 1))?,
            conv_fusion: layer("conv_fusion", ConvConfig::new(2 * channels, channels, 3))?,
        })
    }

    /// Applies the block; input and output are `[batch, channels, height, width]`.
    fn forward(&self, input: &Tensor) -> Tensor {
        let xs = self.conv_1x1.forward(&self.conv_kxk.forward(input)); // [batch, width, height, width]
        let (batch, channels, height, width) = xs.size4().unwrap_or_default();
        let (rows, columns) = ((height + PATCH - 1) / PATCH, (width + PATCH - 1) / PATCH);
        let resized = (rows * PATCH, columns * PATCH) != (height, width);
        // Sides that are not multiples of the patch size are resized to whole patches, and back afterwards.
        let xs = if resized {
            xs.upsample_bilinear2d([rows * PATCH, columns * PATCH], false, None, None)
        } else {
            xs
        };
        let xs = xs
            .reshape([batch, channels, rows, PATCH, columns, PATCH])
            .permute([0, 3, 5, 2, 4, 1]) // [batch, PATCH, PATCH, rows, columns, channels]
            .reshape([batch * PATCH * PATCH, rows * columns, channels]);
        let xs = self.transformer.iter().fold(xs, |xs, block| block.forward(&xs));
        let xs = self
            .norm
            .forward(&xs)
            .view([batch, PATCH, PATCH, rows, columns, channels])
            .permute([0, 5, 3, 1, 4, 2])
            .reshape([batch, channels, rows * PATCH, columns * PATCH]);
        let xs = if resized { xs.upsample_bilinear2d([height, width], false, None, None) } else { xs };
        let xs = self.conv_proj.forward(&xs);
        self.conv_fusion.forward(&Tensor::cat(&[input, &xs], 1))
    }
}
