//! ResNet with basic blocks (He et al. 2016), as in timm.

use tch::Tensor;

use super::{drop_path_rates, global_average};
use crate::Result;
use crate::activation::Activation;
use crate::conv::{ConvConfig, ConvNorm};
use crate::layers::DropPath;
use crate::params::ParamBuilder;
use crate::tape::Tape;

/// ResNet with basic blocks: maps images to 512 features.
#[derive(Debug)]
pub(super) struct ResNet {
    stem: ConvNorm,
    blocks: Vec<BasicBlock>,
}

impl ResNet {
    pub(super) fn new(
        path: &ParamBuilder<'_>,
        stages: [usize; 4],
        side: i64,
        drop_path: f64,
    ) -> Result<Self> {
        let conv = ConvConfig::new(3, 64, 7).with_stride(2);
        let stem = ConvNorm::new(path, ["conv1", "bn1"], conv, Activation::Relu, side)?;
        // Max pooling after the stem, with kernel size 3 and stride 2.
        let mut side = (conv.output_side(side) - 1) / 2 + 1;
        let mut rates = drop_path_rates(drop_path, stages.iter().sum());
        let (mut blocks, mut input) = (Vec::new(), 64);
        for (stage, layers) in stages.into_iter().enumerate() {
            let stage_path = path.child(format!("layer{}", stage + 1));
            for layer in 0..layers {
                let stride = if stage > 0 && layer == 0 { 2 } else { 1 };
                let (output, rate) = (64 << stage, rates.next().unwrap_or(0.0));
                let block = BasicBlock::new(&stage_path.child(layer), input, output, stride, side, rate)?;
                (input, side) = (output, block.side);
                blocks.push(block);
            }
        }
        Ok(ResNet { stem, blocks })
    }

    /// Maps images `[batch, 3, size, size]` to features `[batch, 512]`.
    pub(super) fn forward<'a>(&'a self, images: &Tensor, tape: &mut Tape<'a>) -> Tensor {
        let xs = self.stem.forward(images).max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false);
        let xs = self.blocks.iter().fold(xs, |xs, block| tape.run(xs, |xs| block.forward(xs)));
        global_average(&xs)
    }
}

#[derive(Debug)]
struct BasicBlock {
    first: ConvNorm,
    second: ConvNorm,
    downsample: Option<ConvNorm>,
    drop_path: DropPath,
    side: i64,
}

impl BasicBlock {
    fn new(
        path: &ParamBuilder<'_>,
        input: i64,
        output: i64,
        stride: i64,
        side: i64,
        rate: f64,
    ) -> Result<Self> {
        let first = ConvConfig::new(input, output, 3).with_stride(stride);
        let after = first.output_side(side);
        let second = ConvConfig::new(output, output, 3);
        let identity = Activation::Identity;
        Ok(BasicBlock {
            first: ConvNorm::new(path, ["conv1", "bn1"], first, Activation::Relu, side)?,
            // The branch outputs zero at first, as in timm.
            second: ConvNorm::with_norm_weight(path, ["conv2", "bn2"], second, identity, after, 0.0)?,
            downsample: (stride > 1 || input != output)
                .then(|| {
                    let conv = ConvConfig::new(input, output, 1).with_stride(stride);
                    ConvNorm::new(&path.child("downsample"), ["0", "1"], conv, identity, side)
                })
                .transpose()?,
            drop_path: DropPath::new(path, rate),
            side: after,
        })
    }

    fn forward(&self, xs: &Tensor) -> Tensor {
        let mixed = self.drop_path.forward(self.second.forward(&self.first.forward(xs)));
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward(xs),
            None => xs.shallow_clone(),
        };
        (mixed + shortcut).relu()
    }
}
