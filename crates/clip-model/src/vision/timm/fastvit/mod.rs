//! FastViT (Vasu et al. 2023) and MobileCLIP's MCi towers (Vasu et al. 2024), as in timm, in their training form.

mod mobile_one;

use tch::Tensor;

use super::squeeze::{SE_MODULE, SqueezeExcite};
use super::{drop_path_rates, global_average};
use crate::Result;
use crate::activation::Activation;
use crate::conv::{BatchNorm2d, Conv2d, ConvConfig, ConvInit, ConvNorm};
use crate::layers::{DropPath, Linear};
use crate::params::{Init, ParamBuilder};
use crate::tape::Tape;
use mobile_one::{MobileOne, MobileOneConfig};

/// Initial value of layer scale.
const LAYER_SCALE: f64 = 1e-5;
/// Channels of one attention head.
const HEAD_WIDTH: i64 = 32;
/// Kernel size of the convolution in an MLP, of the step between stages and of the positional encoding.
const LARGE_KERNEL: i64 = 7;

/// Dimensions of a FastViT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FastVitSize {
    /// Channels of the first stage; each later stage has twice as many.
    width: i64,
    /// Blocks of each stage.
    depths: [usize; 4],
    /// MLP inner channels as a multiple of the channels.
    mlp_ratio: i64,
    /// Whether the last stage has attention and a positional encoding.
    attention: bool,
    /// Whether this is one of MobileCLIP's towers: squeeze-and-excite before the last two stages, and an activation
    /// after the large convolutions.
    mobile_clip: bool,
}

impl FastVitSize {
    /// Parses a timm name such as `fastvit_mci0` or `fastvit_t8`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (width, depths, mlp_ratio) = match name.strip_prefix("fastvit_")? {
            "t8" => (48, [2, 2, 4, 2], 3),
            "t12" => (64, [2, 2, 6, 2], 3),
            "s12" => (64, [2, 2, 6, 2], 4),
            "sa12" => (64, [2, 2, 6, 2], 4),
            "sa24" => (64, [4, 4, 12, 4], 4),
            "mci0" => (64, [2, 6, 10, 2], 3),
            "mci1" => (64, [4, 12, 20, 4], 3),
            "mci2" => (80, [4, 12, 24, 4], 3),
            _ => return None,
        };
        let mobile_clip = name.contains("_mci");
        Some(FastVitSize {
            width,
            depths,
            mlp_ratio,
            attention: mobile_clip || name.contains("_sa"),
            mobile_clip,
        })
    }

    /// Returns the number of output features.
    pub(crate) fn features(self) -> i64 {
        self.width * 16
    }
}

/// FastViT: maps images to features.
#[derive(Debug)]
pub(super) struct FastVit {
    stem: Vec<MobileOne>,
    stages: Vec<Stage>,
    final_conv: MobileOne,
}

#[derive(Debug)]
struct Stage {
    downsample: Option<Downsample>,
    /// Depthwise convolution with a residual connection, as a positional encoding.
    pos_enc: Option<Conv2d>,
    blocks: Vec<Block>,
}

impl FastVit {
    pub(super) fn new(path: &ParamBuilder<'_>, size: FastVitSize, side: i64, drop_path: f64) -> Result<Self> {
        let (mut width, mut side) = (size.width, side);
        let convs = [
            ConvConfig::new(3, width, 3).with_stride(2),
            ConvConfig::depthwise(width, 3, 2),
            ConvConfig::new(width, width, 1),
        ];
        let mut stem = Vec::new();
        for (index, conv) in convs.into_iter().enumerate() {
            let config = MobileOneConfig::new(conv, Activation::Gelu);
            stem.push(MobileOne::new(&path.child("stem").child(index), config, side)?);
            side = conv.output_side(side);
        }
        let mut rates = drop_path_rates(drop_path, size.depths.iter().sum());
        let mut stages = Vec::new();
        for (index, depth) in size.depths.into_iter().enumerate() {
            let path = path.child("stages").child(index);
            let mut downsample = None;
            if index > 0 {
                let layer =
                    Downsample::new(&path.child("downsample").child("proj"), width, index, size, side)?;
                (width, side) = (2 * width, layer.side);
                downsample = Some(layer);
            }
            let attention = size.attention && index == 3;
            let pos_enc =
                ConvConfig::depthwise(width, LARGE_KERNEL, 1).with_bias().with_init(ConvInit::FanIn);
            stages.push(Stage {
                downsample,
                pos_enc: attention
                    .then(|| Conv2d::new(&path.child("pos_emb").child("pos_enc"), pos_enc, side))
                    .transpose()?,
                blocks: (0..depth)
                    .map(|block| {
                        let (path, rate) = (path.child("blocks").child(block), rates.next().unwrap_or(0.0));
                        Block::new(&path, width, size.mlp_ratio, attention, side, rate)
                    })
                    .collect::<Result<_>>()?,
            });
        }
        let conv = ConvConfig::new(width, 2 * width, 3).with_groups(width);
        // A sixteenth of the channels.
        let config = MobileOneConfig::new(conv, Activation::Gelu).with_squeeze(2 * width / 16);
        let final_conv = MobileOne::new(&path.child("final_conv"), config, side)?;
        Ok(FastVit { stem, stages, final_conv })
    }

    /// Maps images `[batch, 3, size, size]` to features `[batch, features]`.
    pub(super) fn forward<'a>(&'a self, images: &Tensor, tape: &mut Tape<'a>) -> Tensor {
        let mut xs = self.stem.iter().fold(images.shallow_clone(), |xs, layer| layer.forward(&xs));
        for stage in &self.stages {
            if let Some(downsample) = &stage.downsample {
                xs = downsample.forward(&xs);
            }
            if let Some(pos_enc) = &stage.pos_enc {
                xs = pos_enc.forward(&xs) + xs;
            }
            xs = stage.blocks.iter().fold(xs, |xs, block| tape.run(xs, |xs| block.forward(xs)));
        }
        global_average(&self.final_conv.forward(&xs))
    }
}

/// Step between two stages: halves the grid and doubles the channels.
#[derive(Debug)]
struct Downsample {
    large: ConvNorm,
    small: ConvNorm,
    squeeze: Option<SqueezeExcite>,
    activation: Activation,
    pointwise: MobileOne,
    side: i64,
}

impl Downsample {
    fn new(path: &ParamBuilder<'_>, input: i64, stage: usize, size: FastVitSize, side: i64) -> Result<Self> {
        let (large, output) = (path.child(0), 2 * input);
        let conv = |kernel| {
            let conv = ConvConfig::new(input, output, kernel).with_groups(input).with_stride(2);
            conv.with_init(ConvInit::FanIn)
        };
        let layer = |name: &str, kernel| {
            ConvNorm::new(&large.child(name), ["conv", "bn"], conv(kernel), Activation::Identity, side)
        };
        let after = conv(LARGE_KERNEL).output_side(side);
        // A quarter of the channels, rounded to multiples of 8.
        let reduced = ((output / 4 + 4) / 8 * 8).max(8);
        let squeeze = size.mobile_clip && stage >= 2;
        let pointwise = MobileOneConfig::new(ConvConfig::new(output, output, 1), Activation::Gelu);
        Ok(Downsample {
            large: layer("large_conv", LARGE_KERNEL)?,
            small: layer("small_conv", 3)?,
            squeeze: squeeze
                .then(|| SqueezeExcite::new(&large.child("se"), output, reduced, SE_MODULE))
                .transpose()?,
            activation: if size.mobile_clip { Activation::Gelu } else { Activation::Identity },
            pointwise: MobileOne::new(&path.child(1), pointwise, after)?,
            side: after,
        })
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        let mut xs = self.large.forward(xs) + self.small.forward(xs);
        if let Some(squeeze) = &self.squeeze {
            xs = squeeze.forward(&xs);
        }
        self.pointwise.forward(&self.activation.forward(xs))
    }
}

/// Layer scale of the channels of `[batch, channels, height, width]`.
#[derive(Debug)]
struct ChannelScale(Tensor); // [channels, 1, 1]

impl ChannelScale {
    fn new(path: &ParamBuilder<'_>, channels: i64) -> Result<Self> {
        Ok(ChannelScale(path.parameter("gamma", &[channels, 1, 1], Init::Constant(LAYER_SCALE))?))
    }

    fn forward(&self, xs: Tensor) -> Tensor {
        xs * &self.0
    }
}

/// Block of a token mixer and an MLP.
#[derive(Debug)]
struct Block {
    mixer: TokenMixer,
    mlp: ConvMlp,
    layer_scale: ChannelScale,
    drop_path: DropPath,
}

#[derive(Debug)]
enum TokenMixer {
    /// Difference of a depthwise MobileOne block and a norm.
    Conv { norm: Box<MobileOne>, mixer: Box<MobileOne>, layer_scale: ChannelScale },
    /// Self-attention of all pixels.
    Attention { norm: BatchNorm2d, attention: Attention, layer_scale: ChannelScale, drop_path: DropPath },
}

impl Block {
    fn new(
        path: &ParamBuilder<'_>,
        width: i64,
        mlp_ratio: i64,
        attention: bool,
        side: i64,
        rate: f64,
    ) -> Result<Self> {
        let token_mixer = path.child("token_mixer");
        let mixer = if attention {
            TokenMixer::Attention {
                norm: BatchNorm2d::new(&path.child("norm"), width, 1.0)?,
                attention: Attention::new(&token_mixer, width, side)?,
                layer_scale: ChannelScale::new(&path.child("layer_scale_1"), width)?,
                drop_path: DropPath::new(&path.child("1"), rate),
            }
        } else {
            let config = MobileOneConfig::new(ConvConfig::depthwise(width, 3, 1), Activation::Identity);
            TokenMixer::Conv {
                norm: Box::new(MobileOne::new(
                    &token_mixer.child("norm"),
                    config.without_convolutions(),
                    side,
                )?),
                mixer: Box::new(MobileOne::new(&token_mixer.child("mixer"), config, side)?),
                layer_scale: ChannelScale::new(&token_mixer.child("layer_scale"), width)?,
            }
        };
        let layer_scale = if attention { "layer_scale_2" } else { "layer_scale" };
        Ok(Block {
            mixer,
            mlp: ConvMlp::new(&path.child("mlp"), width, mlp_ratio * width, side)?,
            layer_scale: ChannelScale::new(&path.child(layer_scale), width)?,
            drop_path: DropPath::new(path, rate),
        })
    }

    /// Applies the block; the shape stays.
    fn forward(&self, xs: &Tensor) -> Tensor {
        let xs = match &self.mixer {
            TokenMixer::Conv { norm, mixer, layer_scale } => {
                layer_scale.forward(mixer.forward(xs) - norm.forward(xs)) + xs
            }
            TokenMixer::Attention { norm, attention, layer_scale, drop_path } => {
                drop_path.forward(layer_scale.forward(attention.forward(&norm.forward(xs)))) + xs
            }
        };
        self.drop_path.forward(self.layer_scale.forward(self.mlp.forward(&xs))) + xs
    }
}

/// Depthwise convolution with norm, followed by an MLP of two pointwise convolutions.
#[derive(Debug)]
struct ConvMlp {
    conv: ConvNorm,
    fc: [Conv2d; 2],
}

impl ConvMlp {
    fn new(path: &ParamBuilder<'_>, width: i64, inner: i64, side: i64) -> Result<Self> {
        let conv = ConvConfig::depthwise(width, LARGE_KERNEL, 1).with_init(ConvInit::Narrow);
        let layer = |name: &str, input, output| {
            let conv = ConvConfig::new(input, output, 1).with_bias().with_init(ConvInit::Narrow);
            Conv2d::new(&path.child(name), conv, side)
        };
        Ok(ConvMlp {
            conv: ConvNorm::new(&path.child("conv"), ["conv", "bn"], conv, Activation::Identity, side)?,
            fc: [layer("fc1", width, inner)?, layer("fc2", inner, width)?],
        })
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        let xs = self.fc[0].forward(&self.conv.forward(xs));
        self.fc[1].forward(&Activation::Gelu.forward(xs))
    }
}

/// Multi-head self-attention of the pixels of `[batch, channels, height, width]`.
#[derive(Debug)]
struct Attention {
    qkv: Linear,
    proj: Linear,
}

impl Attention {
    fn new(path: &ParamBuilder<'_>, width: i64, side: i64) -> Result<Self> {
        let (tokens, init) = (side * side, Init::Normal(0.02));
        path.count_macs(2 * tokens * tokens * width);
        let layer = |name: &str, output, bias: Option<Init>| {
            Linear::new(&path.child(name).at_positions(tokens), width, output, init, bias)
        };
        Ok(Attention {
            qkv: layer("qkv", 3 * width, None)?,
            proj: layer("proj", width, Some(Init::Constant(0.0)))?,
        })
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        let (batch, channels, height, width) = xs.size4().unwrap_or_default();
        let (tokens, heads) = (height * width, channels / HEAD_WIDTH);
        let qkv = self
            .qkv
            .forward(&xs.flatten(2, 3).transpose(1, 2))
            .view([batch, tokens, 3, heads, HEAD_WIDTH])
            .permute([2, 0, 3, 1, 4]);
        let [query, key, value] = [0, 1, 2].map(|part| qkv.select(0, part));
        let mixed = Tensor::scaled_dot_product_attention(
            &query,
            &key,
            &value,
            None::<&Tensor>,
            0.0,
            false,
            None,
            false,
        );
        let mixed = self.proj.forward(&mixed.transpose(1, 2).reshape([batch, tokens, channels]));
        mixed.transpose(1, 2).reshape([batch, channels, height, width])
    }
}
