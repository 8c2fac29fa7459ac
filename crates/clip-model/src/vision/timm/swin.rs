//! Swin (Liu et al. 2021): attention within windows that every other block shifts, and grids that halve.

use tch::{Device, Kind, Tensor};

use super::rising;
use crate::Result;
use crate::activation::Activation;
use crate::attention::{Attention, AttentionConfig};
use crate::layers::{DropPath, LayerNorm, Linear, Mlp, TIMM_MLP};
use crate::mode::Mode;
use crate::params::{Builder, Init};
use crate::tape::Tape;

const EPS: f64 = 1e-5;
const WINDOW: i64 = 7;
const PATCH: i64 = 4;
/// Start of the weight matrices.
const START: Init = Init::Normal(0.02);

/// Image to 768 features.
#[derive(Debug)]
pub(super) struct Swin {
    patch_embed: Tensor, // [96, 3, 4, 4]
    patch_bias: Tensor,  // [96]
    mode: Mode,
    patch_norm: LayerNorm,
    stages: Vec<Stage>,
    norm: LayerNorm,
}

#[derive(Debug)]
struct Stage {
    merging: Option<PatchMerging>,
    blocks: Vec<SwinBlock>,
}

impl Swin {
    pub(super) fn tiny(path: &Builder<'_>, side: i64, drop_path: f64) -> Result<Self> {
        let (width, depths, heads) = (96, [2, 2, 6, 2], [3, 6, 12, 24]);
        let mut grid = side / PATCH;
        let embed = path.child("patch_embed");
        let proj = embed.child("proj");
        let start = Init::fan_in(3 * PATCH * PATCH);
        let patch_embed = proj.at(grid * grid).weight("weight", &[width, 3, PATCH, PATCH], start)?;
        let patch_bias = proj.parameter("bias", &[width], start)?;
        let mut rates = rising(drop_path, depths.iter().sum::<i64>() as usize);
        let mut stages = Vec::new();
        for (stage, (depth, heads)) in depths.into_iter().zip(heads).enumerate() {
            let (path, channels) = (path.child("layers").child(stage), width << stage);
            let merging = if stage > 0 {
                grid /= 2;
                Some(PatchMerging::new(&path.child("downsample").at(grid * grid), channels / 2)?)
            } else {
                None
            };
            let blocks = (0..depth)
                .map(|block| {
                    let shape = BlockShape { channels, heads, grid, shifted: block % 2 == 1 };
                    SwinBlock::new(&path.child("blocks").child(block), shape, rates.next().unwrap_or(0.0))
                })
                .collect::<Result<_>>()?;
            stages.push(Stage { merging, blocks });
        }
        Ok(Swin {
            patch_embed,
            patch_bias,
            mode: path.mode().0,
            patch_norm: LayerNorm::new(&embed.child("norm"), width, EPS)?,
            stages,
            norm: LayerNorm::new(&path.child("norm"), width << 3, EPS)?,
        })
    }

    /// `[batch, 3, size, size]` to `[batch, 768]`.
    pub(super) fn forward<'a>(&'a self, images: &Tensor, tape: &mut Tape<'a>) -> Tensor {
        let [images, weight, bias] =
            [images, &self.patch_embed, &self.patch_bias].map(|tensor| self.mode.operand(tensor));
        let patches =
            images.conv2d(&weight, Some(&bias), [PATCH, PATCH], [0, 0], [1, 1], 1).permute([0, 2, 3, 1]); // [batch, grid, grid, 96]
        let mut xs = self.patch_norm.forward(&patches);
        for stage in &self.stages {
            if let Some(merging) = &stage.merging {
                xs = merging.forward(&xs);
            }
            xs = stage.blocks.iter().fold(xs, |xs, block| tape.run(xs, |xs| block.forward(xs)));
        }
        self.norm.forward(&xs).mean_dim([1i64, 2].as_slice(), false, None::<Kind>)
    }
}

/// Four neighbours into one token of twice the channels.
#[derive(Debug)]
struct PatchMerging {
    norm: LayerNorm,
    reduction: Linear,
}

impl PatchMerging {
    fn new(path: &Builder<'_>, channels: i64) -> Result<Self> {
        Ok(PatchMerging {
            norm: LayerNorm::new(&path.child("norm"), 4 * channels, EPS)?,
            reduction: Linear::new(&path.child("reduction"), 4 * channels, 2 * channels, START, None)?,
        })
    }

    /// `[batch, grid, grid, channels]` to `[batch, grid / 2, grid / 2, 2 * channels]`.
    fn forward(&self, xs: &Tensor) -> Tensor {
        let (batch, height, width, channels) = xs.size4().unwrap_or_default();
        let neighbours = xs
            .reshape([batch, height / 2, 2, width / 2, 2, channels])
            .permute([0, 1, 3, 4, 2, 5]) // a column's two rows stand together, as timm has it
            .flatten(3, 5);
        self.reduction.forward(&self.norm.forward(&neighbours))
    }
}

#[derive(Clone, Copy)]
struct BlockShape {
    channels: i64,
    heads: i64,
    grid: i64,
    shifted: bool,
}

#[derive(Debug)]
struct SwinBlock {
    norm1: LayerNorm,
    attn: Attention,
    relative_position_bias_table: Tensor, // [(2 * window - 1)², heads]
    relative_position_index: Tensor,      // [window⁴], i64
    norm2: LayerNorm,
    mlp: Mlp,
    drop_paths: [DropPath; 2],
    window: i64,
    shift: i64,
    /// Keeps what the shift brought together apart: `[windows, 1, window², window²]`.
    mask: Option<Tensor>,
}

impl SwinBlock {
    fn new(path: &Builder<'_>, shape: BlockShape, rate: f64) -> Result<Self> {
        let BlockShape { channels, heads, grid, shifted } = shape;
        // A grid that one window covers has nothing to shift.
        let window = WINDOW.min(grid);
        let shift = if shifted && grid > WINDOW { WINDOW / 2 } else { 0 };
        let windows = (grid + window - 1) / window;
        let config = AttentionConfig {
            width: channels,
            heads,
            head_width: channels / heads,
            causal: false,
            in_proj: START,
            out_proj: START,
        };
        let attn = path.child("attn");
        let side = 2 * window - 1;
        Ok(SwinBlock {
            norm1: LayerNorm::new(&path.child("norm1"), channels, EPS)?,
            relative_position_bias_table: attn.parameter(
                "relative_position_bias_table",
                &[side * side, heads],
                START,
            )?,
            relative_position_index: attn.constant(&relative_positions(window))?,
            attn: Attention::timm(&attn.at(window * window).times(windows * windows), config)?,
            norm2: LayerNorm::new(&path.child("norm2"), channels, EPS)?,
            mlp: Mlp::new(
                &path.child("mlp").at(grid * grid),
                TIMM_MLP,
                channels,
                4 * channels,
                Activation::Gelu,
                [START, START],
            )?,
            drop_paths: [DropPath::new(&attn, rate), DropPath::new(&path.child("mlp"), rate)],
            window,
            shift,
            mask: (shift > 0).then(|| attn.constant(&shift_mask(grid, window, shift))).transpose()?,
        })
    }

    /// `[batch, grid, grid, channels]` in and out.
    fn forward(&self, xs: &Tensor) -> Tensor {
        let mixed = self.attend(&self.norm1.forward(xs));
        let xs = xs + self.drop_paths[0].forward(mixed);
        let mixed = self.mlp.forward(&self.norm2.forward(&xs));
        xs + self.drop_paths[1].forward(mixed)
    }

    fn attend(&self, xs: &Tensor) -> Tensor {
        let (batch, grid, _, channels) = xs.size4().unwrap_or_default();
        let (window, shift) = (self.window, self.shift);
        let shifted = if shift > 0 { xs.roll([-shift, -shift], [1, 2]) } else { xs.shallow_clone() };
        // Zeros fill the last windows of a grid that windows do not divide.
        let windows = (grid + window - 1) / window;
        let padding = windows * window - grid;
        let padded =
            if padding > 0 { shifted.constant_pad_nd([0, 0, 0, padding, 0, padding]) } else { shifted };
        let parts = padded
            .view([batch, windows, window, windows, window, channels])
            .permute([0, 1, 3, 2, 4, 5])
            .reshape([batch * windows * windows, window * window, channels]);
        let mixed = self.attn.masked(&parts, Some(&self.bias(batch)));
        let whole = mixed
            .view([batch, windows, windows, window, window, channels])
            .permute([0, 1, 3, 2, 4, 5])
            .reshape([batch, windows * window, windows * window, channels])
            .narrow(1, 0, grid)
            .narrow(2, 0, grid);
        if shift > 0 { whole.roll([shift, shift], [1, 2]) } else { whole }
    }

    /// Relative position bias, and the mask of shifted windows: `[1 or batch * windows, heads, window², window²]`.
    fn bias(&self, batch: i64) -> Tensor {
        let area = self.window * self.window;
        let bias = self
            .relative_position_bias_table
            .index_select(0, &self.relative_position_index)
            .view([area, area, -1])
            .permute([2, 0, 1])
            .unsqueeze(0); // [1, heads, window², window²]
        match &self.mask {
            Some(mask) => (bias + mask).repeat([batch, 1, 1, 1]),
            None => bias,
        }
    }
}

/// Row of the bias table for each pair of places in a window.
fn relative_positions(window: i64) -> Tensor {
    let side = 2 * window - 1;
    let mut rows = Vec::new();
    for (row, column) in places(window) {
        for (other_row, other_column) in places(window) {
            rows.push((row - other_row + window - 1) * side + column - other_column + window - 1);
        }
    }
    Tensor::from_slice(&rows)
}

fn places(side: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..side * side).map(move |place| (place / side, place % side))
}

/// −100 between places of a shifted window that were not neighbours before the shift.
fn shift_mask(grid: i64, window: i64, shift: i64) -> Tensor {
    let windows = (grid + window - 1) / window;
    let padded = windows * window;
    // The regions that the shift keeps together, along one axis.
    let region = |place: i64| {
        if place < padded - window {
            0
        } else if place < padded - shift {
            1
        } else {
            2
        }
    };
    let mut mask = Vec::new();
    for (window_row, window_column) in places(windows) {
        let regions = places(window)
            .map(|(row, column)| (region(window_row * window + row), region(window_column * window + column)))
            .collect::<Vec<_>>();
        for one in &regions {
            mask.extend(regions.iter().map(|other| if one == other { 0.0f32 } else { -100.0 }));
        }
    }
    let area = window * window;
    Tensor::from_slice(&mask).view([windows * windows, 1, area, area]).to_device(Device::Cpu)
}
