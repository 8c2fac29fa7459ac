//! Swin Transformer (Liu et al. 2021): attention within shifted windows, and patch merging between stages.

use tch::{Device, Kind, Tensor};

use super::drop_path_rates;
use crate::Result;
use crate::activation::Activation;
use crate::attention::{Attention, AttentionConfig};
use crate::layers::{DropPath, LayerNorm, Linear, Mlp, TIMM_MLP};
use crate::mode::Mode;
use crate::params::{Init, ParamBuilder};
use crate::tape::Tape;

const EPS: f64 = 1e-5;
const WINDOW: i64 = 7;
const PATCH: i64 = 4;
/// Initialisation of the weight matrices.
const INIT: Init = Init::Normal(0.02);

/// Swin-T: maps images to 768 features.
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
    pub(super) fn tiny(path: &ParamBuilder<'_>, side: i64, drop_path: f64) -> Result<Self> {
        let (width, depths, heads) = (96, [2, 2, 6, 2], [3, 6, 12, 24]);
        let mut grid = side / PATCH;
        let embed = path.child("patch_embed");
        let proj = embed.child("proj");
        let init = Init::fan_in(3 * PATCH * PATCH);
        let patch_embed = proj.at_positions(grid * grid).weight("weight", &[width, 3, PATCH, PATCH], init)?;
        let patch_bias = proj.parameter("bias", &[width], init)?;
        let mut rates = drop_path_rates(drop_path, depths.iter().sum::<i64>() as usize);
        let mut stages = Vec::new();
        for (stage, (depth, heads)) in depths.into_iter().zip(heads).enumerate() {
            let (path, channels) = (path.child("layers").child(stage), width << stage);
            let merging = if stage > 0 {
                grid /= 2;
                Some(PatchMerging::new(&path.child("downsample").at_positions(grid * grid), channels / 2)?)
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

    /// Maps images `[batch, 3, size, size]` to features `[batch, 768]`.
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

/// Patch merging: combines four neighbouring tokens into one with twice the channels.
#[derive(Debug)]
struct PatchMerging {
    norm: LayerNorm,
    reduction: Linear,
}

impl PatchMerging {
    fn new(path: &ParamBuilder<'_>, channels: i64) -> Result<Self> {
        Ok(PatchMerging {
            norm: LayerNorm::new(&path.child("norm"), 4 * channels, EPS)?,
            reduction: Linear::new(&path.child("reduction"), 4 * channels, 2 * channels, INIT, None)?,
        })
    }

    /// Maps `[batch, grid, grid, channels]` to `[batch, grid / 2, grid / 2, 2 * channels]`.
    fn forward(&self, xs: &Tensor) -> Tensor {
        let (batch, height, width, channels) = xs.size4().unwrap_or_default();
        let neighbours = xs
            .reshape([batch, height / 2, 2, width / 2, 2, channels])
            .permute([0, 1, 3, 4, 2, 5]) // the two rows of a column are adjacent, as in timm
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
    /// Attention mask `[windows, 1, window², window²]` that separates regions which the shift joined.
    mask: Option<Tensor>,
}

impl SwinBlock {
    fn new(path: &ParamBuilder<'_>, shape: BlockShape, rate: f64) -> Result<Self> {
        let BlockShape { channels, heads, grid, shifted } = shape;
        // A single window cannot be shifted.
        let window = WINDOW.min(grid);
        let shift = if shifted && grid > WINDOW { WINDOW / 2 } else { 0 };
        let windows = (grid + window - 1) / window;
        let config = AttentionConfig {
            width: channels,
            heads,
            head_width: channels / heads,
            causal: false,
            in_proj: INIT,
            out_proj: INIT,
        };
        let attn = path.child("attn");
        let side = 2 * window - 1;
        Ok(SwinBlock {
            norm1: LayerNorm::new(&path.child("norm1"), channels, EPS)?,
            relative_position_bias_table: attn.parameter(
                "relative_position_bias_table",
                &[side * side, heads],
                INIT,
            )?,
            relative_position_index: attn.constant(&relative_positions(window))?,
            attn: Attention::timm(
                &attn.at_positions(window * window).with_sequences(windows * windows),
                config,
            )?,
            norm2: LayerNorm::new(&path.child("norm2"), channels, EPS)?,
            mlp: Mlp::new(
                &path.child("mlp").at_positions(grid * grid),
                TIMM_MLP,
                channels,
                4 * channels,
                Activation::Gelu,
                [INIT, INIT],
            )?,
            drop_paths: [DropPath::new(&attn, rate), DropPath::new(&path.child("mlp"), rate)],
            window,
            shift,
            mask: (shift > 0).then(|| attn.constant(&shift_mask(grid, window, shift))).transpose()?,
        })
    }

    /// Applies the block; input and output are `[batch, grid, grid, channels]`.
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
        // Zeros pad the last windows if the window size does not divide the grid.
        let windows = (grid + window - 1) / window;
        let padding = windows * window - grid;
        let padded =
            if padding > 0 { shifted.constant_pad_nd([0, 0, 0, padding, 0, padding]) } else { shifted };
        let parts = padded
            .view([batch, windows, window, windows, window, channels])
            .permute([0, 1, 3, 2, 4, 5])
            .reshape([batch * windows * windows, window * window, channels]);
        let mixed = self.attn.forward_with_bias(&parts, Some(&self.bias(batch)));
        let whole = mixed
            .view([batch, windows, windows, window, window, channels])
            .permute([0, 1, 3, 2, 4, 5])
            .reshape([batch, windows * window, windows * window, channels])
            .narrow(1, 0, grid)
            .narrow(2, 0, grid);
        if shift > 0 { whole.roll([shift, shift], [1, 2]) } else { whole }
    }

    /// Returns the relative position bias plus the mask of shifted windows, `[1 or batch * windows, heads, window²,
    /// window²]`.
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

/// Returns the row of the bias table for each pair of positions in a window.
fn relative_positions(window: i64) -> Tensor {
    let side = 2 * window - 1;
    let mut rows = Vec::new();
    for (row, column) in coordinates(window) {
        for (other_row, other_column) in coordinates(window) {
            rows.push((row - other_row + window - 1) * side + column - other_column + window - 1);
        }
    }
    Tensor::from_slice(&rows)
}

fn coordinates(side: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..side * side).map(move |index| (index / side, index % side))
}

/// Returns −100 for pairs of positions in a shifted window that were not neighbours before the shift, 0 otherwise.
fn shift_mask(grid: i64, window: i64, shift: i64) -> Tensor {
    let windows = (grid + window - 1) / window;
    let padded = windows * window;
    // Regions along one axis that the shift keeps together.
    let region = |position: i64| {
        if position < padded - window {
            0
        } else if position < padded - shift {
            1
        } else {
            2
        }
    };
    let mut mask = Vec::new();
    for (window_row, window_column) in coordinates(windows) {
        let regions = coordinates(window)
            .map(|(row, column)| (region(window_row * window + row), region(window_column * window + column)))
            .collect::<Vec<_>>();
        for region in &regions {
            mask.extend(regions.iter().map(|other| if region == other { 0.0f32 } else { -100.0 }));
        }
    }
    let area = window * window;
    Tensor::from_slice(&mask).view([windows * windows, 1, area, area]).to_device(Device::Cpu)
}
