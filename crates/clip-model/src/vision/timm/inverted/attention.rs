//! Multi-query attention over pixels (Shazeer 2019), as in MobileNetV4.

use tch::Tensor;

use crate::Result;
use crate::conv::{BatchNorm2d, Conv2d, ConvConfig, ConvInit};
use crate::params::ParamBuilder;

/// Channels of one attention head.
const HEAD_WIDTH: i64 = 64;
/// Kernel size of the convolutions that reduce the grid of keys and values.
const KERNEL: i64 = 3;

/// Attention of `heads` queries per pixel to one key and value per pixel of a coarser grid.
#[derive(Debug)]
pub(super) struct MultiQueryAttention {
    query: Conv2d,
    key: Shared,
    value: Shared,
    output: Conv2d,
    heads: i64,
}

/// Keys or values, which all heads share.
#[derive(Debug)]
struct Shared {
    /// Convolution and norm that reduce the grid.
    down: Option<(Conv2d, BatchNorm2d)>,
    proj: Conv2d,
}

impl Shared {
    fn new(path: &ParamBuilder<'_>, width: i64, stride: i64, side: i64) -> Result<(Self, i64)> {
        let (mut down, mut side) = (None, side);
        if stride > 1 {
            let conv = ConvConfig::depthwise(width, KERNEL, stride).with_init(ConvInit::Xavier);
            let norm = BatchNorm2d::new(&path.child("norm"), width, 1.0)?;
            down = Some((Conv2d::new(&path.child("down_conv"), conv, side)?, norm));
            side = conv.output_side(side);
        }
        let conv = ConvConfig::new(width, HEAD_WIDTH, 1).with_init(ConvInit::Xavier);
        Ok((Shared { down, proj: Conv2d::new(&path.child("proj"), conv, side)? }, side))
    }

    /// Maps `[batch, channels, height, width]` to `[batch, 1, tokens, head_width]`.
    fn forward(&self, xs: &Tensor) -> Tensor {
        let xs = match &self.down {
            Some((conv, norm)) => self.proj.forward(&norm.forward(&conv.forward(xs))),
            None => self.proj.forward(xs),
        };
        xs.flatten(2, 3).transpose(1, 2).unsqueeze(1)
    }
}

impl MultiQueryAttention {
    /// Creates a layer under `path` for an input with `width` channels and side `side`.
    pub(super) fn new(
        path: &ParamBuilder<'_>,
        width: i64,
        heads: i64,
        kv_stride: i64,
        side: i64,
    ) -> Result<Self> {
        let conv = |input, output| ConvConfig::new(input, output, 1).with_init(ConvInit::Xavier);
        let inner = heads * HEAD_WIDTH;
        let (key, coarse) = Shared::new(&path.child("key"), width, kv_stride, side)?;
        path.count_macs(2 * side * side * coarse * coarse * inner);
        Ok(MultiQueryAttention {
            query: Conv2d::new(&path.child("query").child("proj"), conv(width, inner), side)?,
            key,
            value: Shared::new(&path.child("value"), width, kv_stride, side)?.0,
            output: Conv2d::new(&path.child("output").child("proj"), conv(inner, width), side)?,
            heads,
        })
    }

    /// Applies the attention; the shape stays.
    pub(super) fn forward(&self, xs: &Tensor) -> Tensor {
        let (batch, _, height, width) = xs.size4().unwrap_or_default();
        let query = self.query.forward(xs).reshape([batch, self.heads, HEAD_WIDTH, height * width]);
        let [key, value] = [&self.key, &self.value].map(|shared| shared.forward(xs));
        let shared = [batch, self.heads, key.size()[2], HEAD_WIDTH];
        let mixed = Tensor::scaled_dot_product_attention(
            &query.transpose(-1, -2),
            &key.expand(shared, false),
            &value.expand(shared, false),
            None::<&Tensor>,
            0.0,
            false,
            None,
            false,
        ); // [batch, heads, tokens, head_width]
        self.output.forward(&mixed.transpose(-1, -2).reshape([batch, -1, height, width]))
    }
}
