//! CLIP's ResNet (Radford et al. 2021): a stem of three convolutions, average pooling before every strided
//! convolution, and attention pooling at the end.

use tch::Tensor;

use crate::activation::Activation;
use crate::config::{Layers, VisionConfig};
use crate::conv::{ConvConfig, ConvInit, ConvNorm};
use crate::params::ParamBuilder;
use crate::tape::Tape;
use crate::vision::attention_pool::AttentionPool2d;
use crate::{Error, Result};

/// CLIP's ResNet: maps images to embeddings.
#[derive(Debug)]
pub(crate) struct ModifiedResNet {
    stem: Vec<ConvNorm>,
    blocks: Vec<Bottleneck>,
    attnpool: AttentionPool2d,
}

impl ModifiedResNet {
    /// Creates a tower under `path` with open_clip's initialisation.
    pub(crate) fn new(path: &ParamBuilder<'_>, config: &VisionConfig, embed_dim: i64) -> Result<Self> {
        let Layers::Stages(stages) = config.layers else {
            return Err(Error::config("vision_cfg", "a ResNet needs the number of layers in four stages"));
        };
        let width = config.width;
        let mut side = config.image_size;
        let mut stem = Vec::new();
        for (index, (input, output, stride)) in
            [(3, width / 2, 2), (width / 2, width / 2, 1), (width / 2, width, 1)].into_iter().enumerate()
        {
            let conv = conv(input, output, 3).with_stride(stride);
            let names = [format!("conv{}", index + 1), format!("bn{}", index + 1)];
            stem.push(ConvNorm::new(path, [&names[0], &names[1]], conv, Activation::Relu, side)?);
            side = conv.output_side(side);
        }
        side /= 2;
        let mut input = width;
        let mut blocks = Vec::new();
        for (stage, layers) in stages.into_iter().enumerate() {
            let stage_path = path.child(format!("layer{}", stage + 1));
            for layer in 0..layers {
                let stride = if stage > 0 && layer == 0 { 2 } else { 1 };
                let planes = width << stage;
                blocks.push(Bottleneck::new(&stage_path.child(layer), input, planes, stride, side)?);
                input = planes * Bottleneck::EXPANSION;
                side /= stride;
            }
        }
        let attnpool = AttentionPool2d::new(&path.child("attnpool"), side, input, config.heads(), embed_dim)?;
        Ok(ModifiedResNet { stem, blocks, attnpool })
    }

    /// Encodes normalised images `[batch, 3, size, size]` to embeddings `[batch, embed]`.
    pub(crate) fn forward<'a>(&'a self, images: &Tensor, tape: &mut Tape<'a>) -> Tensor {
        let xs = self.stem.iter().fold(images.shallow_clone(), |xs, layer| layer.forward(&xs));
        let xs = average(&xs, 2); // [batch, width, size / 4, size / 4]
        let xs = self.blocks.iter().fold(xs, |xs, block| tape.run(xs, |xs| block.forward(xs)));
        self.attnpool.forward(&xs) // xs: [batch, 32 * width, size / 32, size / 32]
    }
}

/// A residual block of three convolutions with a wider output. Average pooling implements its stride.
#[derive(Debug)]
struct Bottleneck {
    layers: [ConvNorm; 3],
    downsample: Option<ConvNorm>,
    stride: i64,
}

impl Bottleneck {
    const EXPANSION: i64 = 4;

    fn new(path: &ParamBuilder<'_>, input: i64, planes: i64, stride: i64, side: i64) -> Result<Self> {
        let output = planes * Self::EXPANSION;
        let last = side / stride;
        let relu = Activation::Relu;
        Ok(Bottleneck {
            layers: [
                ConvNorm::new(path, ["conv1", "bn1"], conv(input, planes, 1), relu, side)?,
                ConvNorm::new(path, ["conv2", "bn2"], conv(planes, planes, 3), relu, side)?,
                // The branch outputs zero at first, as in open_clip.
                ConvNorm::with_norm_weight(
                    path,
                    ["conv3", "bn3"],
                    conv(planes, output, 1),
                    Activation::Identity,
                    last,
                    0.0,
                )?,
            ],
            downsample: (stride > 1 || input != output)
                .then(|| {
                    let conv = conv(input, output, 1);
                    ConvNorm::new(&path.child("downsample"), ["0", "1"], conv, Activation::Identity, last)
                })
                .transpose()?,
            stride,
        })
    }

    /// Maps `[batch, in, side, side]` to `[batch, 4 * planes, side / stride, side / stride]`.
    fn forward(&self, xs: &Tensor) -> Tensor {
        let [first, second, third] = &self.layers;
        let mixed = third.forward(&average(&second.forward(&first.forward(xs)), self.stride));
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward(&average(xs, self.stride)),
            None => xs.shallow_clone(),
        };
        (mixed + shortcut).relu()
    }
}

fn conv(input: i64, output: i64, kernel: i64) -> ConvConfig {
    ConvConfig::new(input, output, kernel).with_init(ConvInit::FanIn)
}

/// Applies average pooling with kernel size and stride `stride`.
fn average(xs: &Tensor, stride: i64) -> Tensor {
    if stride == 1 {
        return xs.shallow_clone();
    }
    xs.avg_pool2d([stride, stride], [stride, stride], [0, 0], false, true, None)
}
