//! RepViT (Wang et al. 2024), as in timm, in its training form.

use tch::Tensor;

use super::global_average;
use super::squeeze::{SE_MODULE, SqueezeExcite};
use crate::Result;
use crate::activation::Activation;
use crate::conv::{BatchNorm2d, Conv2d, ConvConfig, ConvInit, ConvNorm};
use crate::params::ParamBuilder;
use crate::tape::Tape;

/// Kernel size of the depthwise convolutions.
const KERNEL: i64 = 3;
/// Inner channels of a channel mixer as a multiple of its channels.
const MLP_RATIO: i64 = 2;

/// Dimensions of a RepViT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RepVitSize {
    /// Channels of the first stage; each later stage has twice as many.
    width: i64,
    /// Blocks of each stage.
    depths: [usize; 4],
}

impl RepVitSize {
    /// Parses a timm name such as `repvit_m1_0`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (width, depths) = match name.strip_prefix("repvit_")? {
            "m0_9" => (48, [2, 2, 14, 2]),
            "m1_0" => (56, [2, 2, 14, 2]),
            "m1_1" => (64, [2, 2, 12, 2]),
            "m1_5" => (64, [4, 4, 24, 4]),
            "m2_3" => (80, [6, 6, 34, 2]),
            _ => return None,
        };
        Some(RepVitSize { width, depths })
    }

    /// Returns the number of output features.
    pub(crate) fn features(self) -> i64 {
        self.width * 8
    }
}

/// Creates a convolution without bias and its norm, under timm's names.
fn conv_norm(
    path: &ParamBuilder<'_>,
    config: ConvConfig,
    activation: Activation,
    side: i64,
    norm_weight: f64,
) -> Result<ConvNorm> {
    let config = config.with_init(ConvInit::FanIn);
    ConvNorm::with_norm_weight(path, ["c", "bn"], config, activation, side, norm_weight)
}

/// RepViT: maps images to features.
#[derive(Debug)]
pub(super) struct RepVit {
    stem: [ConvNorm; 2],
    stages: Vec<Stage>,
}

#[derive(Debug)]
struct Stage {
    downsample: Option<Downsample>,
    blocks: Vec<Block>,
}

impl RepVit {
    pub(super) fn new(path: &ParamBuilder<'_>, size: RepVitSize, side: i64) -> Result<Self> {
        let (mut width, stem) = (size.width, path.child("stem"));
        let first = ConvConfig::new(3, width / 2, 3).with_stride(2);
        let second = ConvConfig::new(width / 2, width, 3).with_stride(2);
        let half = first.output_side(side);
        let stem = [
            conv_norm(&stem.child("conv1"), first, Activation::Gelu, side, 1.0)?,
            conv_norm(&stem.child("conv2"), second, Activation::Identity, half, 1.0)?,
        ];
        let mut side = second.output_side(half);
        let mut stages = Vec::new();
        for (index, depth) in size.depths.into_iter().enumerate() {
            let path = path.child("stages").child(index);
            let mut downsample = None;
            if index > 0 {
                let layer = Downsample::new(&path.child("downsample"), width, 2 * width, side)?;
                (width, side) = (2 * width, layer.side);
                downsample = Some(layer);
            }
            // Every second block has squeeze-and-excite.
            let blocks = (0..depth)
                .map(|block| Block::new(&path.child("blocks").child(block), width, block % 2 == 0, side))
                .collect::<Result<_>>()?;
            stages.push(Stage { downsample, blocks });
        }
        Ok(RepVit { stem, stages })
    }

    /// Maps images `[batch, 3, size, size]` to features `[batch, features]`.
    pub(super) fn forward<'a>(&'a self, images: &Tensor, tape: &mut Tape<'a>) -> Tensor {
        let mut xs = self.stem[1].forward(&self.stem[0].forward(images));
        for stage in &self.stages {
            if let Some(downsample) = &stage.downsample {
                xs = tape.run(xs, |xs| downsample.forward(xs));
            }
            xs = stage.blocks.iter().fold(xs, |xs, block| tape.run(xs, |xs| block.forward(xs)));
        }
        global_average(&xs)
    }
}

/// Block of a token mixer (depthwise), optional squeeze-and-excite, and a channel mixer (pointwise).
#[derive(Debug)]
struct Block {
    conv: ConvNorm,
    conv1: Conv2d,
    norm: BatchNorm2d,
    squeeze: Option<SqueezeExcite>,
    mixer: ChannelMixer,
}

impl Block {
    fn new(path: &ParamBuilder<'_>, width: i64, squeeze: bool, side: i64) -> Result<Self> {
        let tokens = path.child("token_mixer");
        let depthwise = |kernel| ConvConfig::depthwise(width, kernel, 1);
        let conv1 = depthwise(1).with_bias().with_init(ConvInit::FanIn);
        // A quarter of the channels, rounded to multiples of 8.
        let reduced = ((width / 4 + 4) / 8 * 8).max(8);
        Ok(Block {
            conv: conv_norm(&tokens.child("conv"), depthwise(KERNEL), Activation::Identity, side, 1.0)?,
            conv1: Conv2d::new(&tokens.child("conv1"), conv1, side)?,
            norm: BatchNorm2d::new(&tokens.child("bn"), width, 1.0)?,
            squeeze: squeeze
                .then(|| SqueezeExcite::new(&path.child("se"), width, reduced, SE_MODULE))
                .transpose()?,
            mixer: ChannelMixer::new(&path.child("channel_mixer"), width, side)?,
        })
    }

    /// Applies the block; the shape stays.
    fn forward(&self, xs: &Tensor) -> Tensor {
        let xs = self.norm.forward(&(self.conv.forward(xs) + self.conv1.forward(xs) + xs));
        let xs = match &self.squeeze {
            Some(squeeze) => squeeze.forward(&xs),
            None => xs,
        };
        self.mixer.forward(&xs)
    }
}

/// Two pointwise convolutions with a residual connection.
#[derive(Debug)]
struct ChannelMixer([ConvNorm; 2]);

impl ChannelMixer {
    fn new(path: &ParamBuilder<'_>, width: i64, side: i64) -> Result<Self> {
        let (wider, narrower) =
            (ConvConfig::new(width, MLP_RATIO * width, 1), ConvConfig::new(MLP_RATIO * width, width, 1));
        Ok(ChannelMixer([
            conv_norm(&path.child("conv1"), wider, Activation::Gelu, side, 1.0)?,
            // The branch outputs zero at first.
            conv_norm(&path.child("conv2"), narrower, Activation::Identity, side, 0.0)?,
        ]))
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        self.0[1].forward(&self.0[0].forward(xs)) + xs
    }
}

/// Step between two stages: halves the grid and doubles the channels.
#[derive(Debug)]
struct Downsample {
    pre_block: Block,
    spatial: ConvNorm,
    channels: ConvNorm,
    mixer: ChannelMixer,
    side: i64,
}

impl Downsample {
    fn new(path: &ParamBuilder<'_>, input: i64, output: i64, side: i64) -> Result<Self> {
        let spatial = ConvConfig::depthwise(input, KERNEL, 2);
        let (after, identity) = (spatial.output_side(side), Activation::Identity);
        let channels = ConvConfig::new(input, output, 1);
        Ok(Downsample {
            pre_block: Block::new(&path.child("pre_block"), input, false, side)?,
            spatial: conv_norm(&path.child("spatial_downsample"), spatial, identity, side, 1.0)?,
            channels: conv_norm(&path.child("channel_downsample"), channels, identity, after, 1.0)?,
            mixer: ChannelMixer::new(&path.child("ffn"), output, after)?,
            side: after,
        })
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        let xs = self.spatial.forward(&self.pre_block.forward(xs));
        self.mixer.forward(&self.channels.forward(&xs))
    }
}
