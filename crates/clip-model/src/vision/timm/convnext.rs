//! ConvNeXt (Liu et al. 2022), as in timm.

use tch::{Kind, Tensor};

use super::drop_path_rates;
use crate::Result;
use crate::activation::Activation;
use crate::conv::{Conv2d, ConvConfig, ConvInit};
use crate::layers::{DropPath, LayerNorm, Mlp, TIMM_MLP};
use crate::params::{Init, ParamBuilder};
use crate::tape::Tape;

const EPS: f64 = 1e-6;
/// Patch size of the stem.
const PATCH: i64 = 4;
/// MLP inner channels as a multiple of the channels.
const MLP_RATIO: i64 = 4;
/// Initial value of layer scale.
const LAYER_SCALE: f64 = 1e-6;

/// Dimensions of a ConvNeXt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConvNextSize {
    /// Blocks of each stage.
    depths: [usize; 4],
    /// Channels of the first stage; each later stage has twice as many.
    width: i64,
    /// Whether the MLPs are stored as pointwise convolutions, as in timm's small models.
    conv_mlp: bool,
}

impl ConvNextSize {
    /// Parses a timm name such as `convnext_tiny`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (depths, width, conv_mlp) = match name.strip_prefix("convnext_")? {
            "atto" => ([2, 2, 6, 2], 40, true),
            "femto" => ([2, 2, 6, 2], 48, true),
            "pico" => ([2, 2, 6, 2], 64, true),
            "nano" => ([2, 2, 8, 2], 80, true),
            "tiny" => ([3, 3, 9, 3], 96, false),
            "small" => ([3, 3, 27, 3], 96, false),
            "base" => ([3, 3, 27, 3], 128, false),
            "large" => ([3, 3, 27, 3], 192, false),
            _ => return None,
        };
        Some(ConvNextSize { depths, width, conv_mlp })
    }

    /// Returns the number of output features.
    pub(crate) fn features(self) -> i64 {
        self.width * 8
    }
}

/// ConvNeXt: maps images to features.
#[derive(Debug)]
pub(super) struct ConvNext {
    stem: (Conv2d, LayerNorm),
    stages: Vec<Stage>,
    norm: LayerNorm,
}

#[derive(Debug)]
struct Stage {
    /// Norm and convolution that halve the grid; the first stage has none.
    downsample: Option<(LayerNorm, Conv2d)>,
    blocks: Vec<Block>,
}

impl ConvNext {
    pub(super) fn new(
        path: &ParamBuilder<'_>,
        size: ConvNextSize,
        side: i64,
        drop_path: f64,
    ) -> Result<Self> {
        let patches = |input, output, size| {
            ConvConfig::patches(input, output, size).with_bias().with_init(ConvInit::Narrow)
        };
        let (mut width, stem, stem_path) = (size.width, patches(3, size.width, PATCH), path.child("stem"));
        let conv = Conv2d::new(&stem_path.child(0), stem, side)?;
        let norm = LayerNorm::new(&stem_path.child(1), width, EPS)?;
        let mut side = stem.output_side(side);
        let mut rates = drop_path_rates(drop_path, size.depths.iter().sum());
        let mut stages = Vec::new();
        for (index, depth) in size.depths.into_iter().enumerate() {
            let path = path.child("stages").child(index);
            let mut downsample = None;
            if index > 0 {
                let (path, conv) = (path.child("downsample"), patches(width, 2 * width, 2));
                let norm = LayerNorm::new(&path.child(0), width, EPS)?;
                downsample = Some((norm, Conv2d::new(&path.child(1), conv, side)?));
                (width, side) = (2 * width, conv.output_side(side));
            }
            let blocks = (0..depth)
                .map(|block| {
                    let (path, rate) = (path.child("blocks").child(block), rates.next().unwrap_or(0.0));
                    Block::new(&path, width, size.conv_mlp, side, rate)
                })
                .collect::<Result<_>>()?;
            stages.push(Stage { downsample, blocks });
        }
        let norm_after = LayerNorm::new(&path.child("head").child("norm"), width, EPS)?;
        Ok(ConvNext { stem: (conv, norm), stages, norm: norm_after })
    }

    /// Maps images `[batch, 3, size, size]` to features `[batch, features]`.
    pub(super) fn forward<'a>(&'a self, images: &Tensor, tape: &mut Tape<'a>) -> Tensor {
        let mut xs = norm_channels(&self.stem.1, &self.stem.0.forward(images));
        for stage in &self.stages {
            if let Some((norm, conv)) = &stage.downsample {
                xs = conv.forward(&norm_channels(norm, &xs));
            }
            xs = stage.blocks.iter().fold(xs, |xs, block| tape.run(xs, |xs| block.forward(xs)));
        }
        self.norm.forward(&xs.mean_dim([2i64, 3].as_slice(), false, None::<Kind>))
    }
}

/// Normalises the channels of `[batch, channels, height, width]`.
fn norm_channels(norm: &LayerNorm, xs: &Tensor) -> Tensor {
    norm.forward(&xs.permute([0, 2, 3, 1])).permute([0, 3, 1, 2])
}

#[derive(Debug)]
struct Block {
    conv_dw: Conv2d,
    norm: LayerNorm,
    mlp: BlockMlp,
    gamma: Tensor, // [width]
    drop_path: DropPath,
}

/// The MLP of a block, in the two forms in which timm stores it.
#[derive(Debug)]
enum BlockMlp {
    Linear(Mlp),
    Conv([Conv2d; 2]),
}

impl Block {
    fn new(path: &ParamBuilder<'_>, width: i64, conv_mlp: bool, side: i64, rate: f64) -> Result<Self> {
        let conv_dw = ConvConfig::depthwise(width, 7, 1).with_bias().with_init(ConvInit::Narrow);
        let (mlp, inner) = (path.child("mlp"), MLP_RATIO * width);
        let layer = |name: &str, input, output| {
            let conv = ConvConfig::new(input, output, 1).with_bias().with_init(ConvInit::Narrow);
            Conv2d::new(&mlp.child(name), conv, side)
        };
        Ok(Block {
            conv_dw: Conv2d::new(&path.child("conv_dw"), conv_dw, side)?,
            norm: LayerNorm::new(&path.child("norm"), width, EPS)?,
            mlp: if conv_mlp {
                BlockMlp::Conv([layer("fc1", width, inner)?, layer("fc2", inner, width)?])
            } else {
                let (mlp, init) = (mlp.at_positions(side * side), Init::Normal(0.02));
                BlockMlp::Linear(Mlp::new(&mlp, TIMM_MLP, width, inner, Activation::Gelu, [init, init])?)
            },
            gamma: path.parameter("gamma", &[width], Init::Constant(LAYER_SCALE))?,
            drop_path: DropPath::new(path, rate),
        })
    }

    /// Applies the block; the shape stays.
    fn forward(&self, input: &Tensor) -> Tensor {
        let xs = self.conv_dw.forward(input).permute([0, 2, 3, 1]);
        let xs = self.norm.forward(&xs); // [batch, height, width, channels]
        let xs = match &self.mlp {
            BlockMlp::Linear(mlp) => mlp.forward(&xs).permute([0, 3, 1, 2]),
            BlockMlp::Conv([fc1, fc2]) => {
                fc2.forward(&Activation::Gelu.forward(fc1.forward(&xs.permute([0, 3, 1, 2]))))
            }
        };
        self.drop_path.forward(xs * self.gamma.view([1, -1, 1, 1])) + input
    }
}
