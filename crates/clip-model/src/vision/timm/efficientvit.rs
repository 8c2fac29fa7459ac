//! EfficientViT of MIT (Cai et al. 2023), as in timm: convolutions, and linear attention at two scales.

use tch::{Kind, Tensor};

use super::global_average;
use crate::Result;
use crate::activation::Activation::{self, HardSwish, Identity};
use crate::conv::{BatchNorm2d, Conv2d, ConvConfig, ConvInit};
use crate::layers::{LayerNorm, Linear};
use crate::params::{Init, ParamBuilder};
use crate::tape::Tape;

/// Channels of an inner layer as a multiple of the block's channels.
const EXPANSION: i64 = 4;
/// Kernel size of the second scale of the attention.
const SCALE: i64 = 5;
/// Constant in the denominator of the linear attention.
const ATTENTION_EPS: f64 = 1e-5;
/// Epsilon of the head's norm.
const EPS: f64 = 1e-5;

/// Dimensions of an EfficientViT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EfficientVitSize {
    /// Channels of the stem; each stage has twice as many as the one before.
    width: i64,
    /// Blocks of the stem and of each stage.
    depths: [usize; 5],
    head_width: i64,
    /// Channels of the head's convolution and of its linear layer.
    head: [i64; 2],
}

impl EfficientVitSize {
    /// Parses a timm name such as `efficientvit_b1`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (width, depths, head_width, head) = match name.strip_prefix("efficientvit_")? {
            "b0" => (8, [1, 2, 2, 2, 2], 16, [1024, 1280]),
            "b1" => (16, [1, 2, 3, 3, 4], 16, [1536, 1600]),
            "b2" => (24, [1, 3, 4, 4, 6], 32, [2304, 2560]),
            "b3" => (32, [1, 4, 6, 6, 9], 32, [2304, 2560]),
            _ => return None,
        };
        Some(EfficientVitSize { width, depths, head_width, head })
    }

    /// Returns the number of output features.
    pub(crate) fn features(self) -> i64 {
        self.head[1]
    }
}

/// EfficientViT: maps images to features.
#[derive(Debug)]
pub(super) struct EfficientVit {
    stem: Layer,
    blocks: Vec<Block>,
    head: (Layer, Linear, LayerNorm),
}

impl EfficientVit {
    pub(super) fn new(path: &ParamBuilder<'_>, size: EfficientVitSize, side: i64) -> Result<Self> {
        let (mut width, stem_path) = (size.width, path.child("stem"));
        let conv = ConvConfig::new(3, width, 3).with_stride(2);
        let stem = Layer::new(&stem_path.child("in_conv"), conv, true, HardSwish, side)?;
        let mut side = conv.output_side(side);
        let mut blocks = (0..size.depths[0])
            .map(|index| {
                let path = stem_path.child(format!("res{index}")).child("main");
                Block::separable(&path, width, side)
            })
            .collect::<Result<Vec<_>>>()?;
        for (index, depth) in size.depths[1..].iter().enumerate() {
            let path = path.child("stages").child(index).child("blocks");
            // The last two stages have attention, and fewer norms.
            let attention = index >= 2;
            let first = [width, 2 * width];
            let block = Bottleneck::new(&path.child(0).child("main"), first, 2, !attention, side)?;
            (width, side) = (2 * width, block.side);
            blocks.push(Block::Bottleneck { block, residual: false });
            for index in 1..*depth + usize::from(attention) {
                let path = path.child(index);
                let mut main = path.child("main");
                if attention {
                    let context = path.child("context_module").child("main");
                    blocks.push(Block::Attention(LinearAttention::new(
                        &context,
                        width,
                        size.head_width,
                        side,
                    )?));
                    main = path.child("local_module").child("main");
                }
                let block = Bottleneck::new(&main, [width, width], 1, !attention, side)?;
                blocks.push(Block::Bottleneck { block, residual: true });
            }
        }
        let ([inner, output], path) = (size.head, path.child("head"));
        let conv =
            Layer::new(&path.child("in_conv"), ConvConfig::new(width, inner, 1), true, HardSwish, side)?;
        let classifier = path.child("classifier");
        let linear = Linear::new(&classifier.child(0), inner, output, Init::fan_in(inner), None::<Init>)?;
        let norm = LayerNorm::new(&classifier.child(1), output, EPS)?;
        Ok(EfficientVit { stem, blocks, head: (conv, linear, norm) })
    }

    /// Maps images `[batch, 3, size, size]` to features `[batch, features]`.
    pub(super) fn forward<'a>(&'a self, images: &Tensor, tape: &mut Tape<'a>) -> Tensor {
        let xs = self.stem.forward(images);
        let xs = self.blocks.iter().fold(xs, |xs, block| tape.run(xs, |xs| block.forward(xs)));
        let (conv, linear, norm) = &self.head;
        HardSwish.forward(norm.forward(&linear.forward(&global_average(&conv.forward(&xs)))))
    }
}

/// A convolution with an optional norm and an activation; without norm it has a bias.
#[derive(Debug)]
struct Layer {
    conv: Conv2d,
    norm: Option<BatchNorm2d>,
    activation: Activation,
}

impl Layer {
    fn new(
        path: &ParamBuilder<'_>,
        config: ConvConfig,
        norm: bool,
        activation: Activation,
        side: i64,
    ) -> Result<Self> {
        let config = ConvConfig { bias: !norm, ..config.with_init(ConvInit::FanIn) };
        Self::of(path, config, norm, activation, side)
    }

    /// Creates a layer with exactly this convolution.
    fn of(
        path: &ParamBuilder<'_>,
        config: ConvConfig,
        norm: bool,
        activation: Activation,
        side: i64,
    ) -> Result<Self> {
        Ok(Layer {
            conv: Conv2d::new(&path.child("conv"), config, side)?,
            norm: norm.then(|| BatchNorm2d::new(&path.child("norm"), config.output, 1.0)).transpose()?,
            activation,
        })
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        let xs = self.conv.forward(xs);
        self.activation.forward(match &self.norm {
            Some(norm) => norm.forward(&xs),
            None => xs,
        })
    }
}

#[derive(Debug)]
enum Block {
    /// Depthwise and pointwise convolution with a residual connection (stem).
    Separable([Layer; 2]),
    Bottleneck {
        block: Bottleneck,
        residual: bool,
    },
    /// Linear attention with a residual connection.
    Attention(LinearAttention),
}

impl Block {
    fn separable(path: &ParamBuilder<'_>, width: i64, side: i64) -> Result<Self> {
        let depthwise = ConvConfig::depthwise(width, 3, 1);
        Ok(Block::Separable([
            Layer::new(&path.child("depth_conv"), depthwise, true, HardSwish, side)?,
            Layer::new(&path.child("point_conv"), ConvConfig::new(width, width, 1), true, Identity, side)?,
        ]))
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        match self {
            Block::Separable([depthwise, pointwise]) => pointwise.forward(&depthwise.forward(xs)) + xs,
            Block::Bottleneck { block, residual: true } => block.forward(xs) + xs,
            Block::Bottleneck { block, residual: false } => block.forward(xs),
            Block::Attention(attention) => attention.forward(xs) + xs,
        }
    }
}

/// Inverted residual without its residual connection.
#[derive(Debug)]
struct Bottleneck {
    layers: [Layer; 3],
    side: i64,
}

impl Bottleneck {
    /// Creates a block. Without `norms`, only its last layer has a norm.
    fn new(
        path: &ParamBuilder<'_>,
        [input, output]: [i64; 2],
        stride: i64,
        norms: bool,
        side: i64,
    ) -> Result<Self> {
        let inner = EXPANSION * input;
        let depthwise = ConvConfig::depthwise(inner, 3, stride);
        let (after, layer) = (depthwise.output_side(side), |name: &str| path.child(name));
        let (expand, project) = (ConvConfig::new(input, inner, 1), ConvConfig::new(inner, output, 1));
        Ok(Bottleneck {
            layers: [
                Layer::new(&layer("inverted_conv"), expand, norms, HardSwish, side)?,
                Layer::new(&layer("depth_conv"), depthwise, norms, HardSwish, side)?,
                Layer::new(&layer("point_conv"), project, true, Identity, after)?,
            ],
            side: after,
        })
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        self.layers.iter().fold(xs.shallow_clone(), |xs, layer| layer.forward(&xs))
    }
}

/// Multi-scale linear attention with ReLU kernels.
#[derive(Debug)]
struct LinearAttention {
    qkv: Layer,
    aggregate: [Conv2d; 2],
    proj: Layer,
    head_width: i64,
}

impl LinearAttention {
    fn new(path: &ParamBuilder<'_>, width: i64, head_width: i64, side: i64) -> Result<Self> {
        let heads = width / head_width;
        let total = heads * head_width;
        let conv = |input, output| ConvConfig::new(input, output, 1).with_init(ConvInit::FanIn);
        let depthwise = ConvConfig::depthwise(3 * total, SCALE, 1).with_init(ConvInit::FanIn);
        let scale = path.child("aggreg").child(0);
        // Two products of each token with a matrix of head_width x (head_width + 1), for each head and scale.
        path.count_macs(side * side * 2 * heads * 2 * head_width * (head_width + 1));
        Ok(LinearAttention {
            qkv: Layer::of(&path.child("qkv"), conv(width, 3 * total), false, Identity, side)?,
            aggregate: [
                Conv2d::new(&scale.child(0), depthwise, side)?,
                Conv2d::new(&scale.child(1), conv(3 * total, 3 * total).with_groups(3 * heads), side)?,
            ],
            proj: Layer::of(&path.child("proj"), conv(2 * total, width), true, Identity, side)?,
            head_width,
        })
    }

    /// Applies the attention; the shape stays.
    fn forward(&self, xs: &Tensor) -> Tensor {
        let (batch, _, height, width) = xs.size4().unwrap_or_default();
        let qkv = self.qkv.forward(xs);
        let larger = self.aggregate[1].forward(&self.aggregate[0].forward(&qkv));
        // In float32, because the sums run over all tokens.
        let qkv = Tensor::cat(&[qkv, larger], 1)
            .to_kind(Kind::Float)
            .reshape([batch, -1, 3 * self.head_width, height * width])
            .transpose(-1, -2); // [batch, scales * heads, tokens, 3 * head_width]
        let part = |index: i64| qkv.narrow(-1, index * self.head_width, self.head_width);
        let (query, key) = (part(0).relu(), part(1).relu());
        // A column of ones gives the sum of the weights.
        let value = part(2).pad([0, 1], "constant", 1.0);
        let mixed = query.matmul(&key.transpose(-1, -2).matmul(&value));
        let sums = mixed.narrow(-1, self.head_width, 1) + ATTENTION_EPS;
        let mixed = mixed.narrow(-1, 0, self.head_width) / sums;
        self.proj.forward(&mixed.transpose(-1, -2).reshape([batch, -1, height, width]))
    }
}
