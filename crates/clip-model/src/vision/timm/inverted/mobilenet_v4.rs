//! MobileNetV4 (Qin et al. 2024), with the tables of timm.

use super::{BlockKind, Head, InvertedNet, Squeeze, Stage, body};
use crate::Result;
use crate::activation::Activation::{self, Relu};
use crate::conv::{ConvConfig, ConvNorm};
use crate::params::ParamBuilder;

/// Size of a MobileNetV4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MobileNetV4Size {
    /// MobileNetV4-Conv-S.
    Small,
    /// MobileNetV4-Conv-M.
    Medium,
    /// MobileNetV4-Hybrid-M, with attention.
    HybridMedium,
}

/// Initial value of the hybrid models' layer scale.
const LAYER_SCALE: f64 = 1e-5;

/// Channels before the head, and features after it.
const HEAD: [i64; 2] = [960, 1280];

/// Creates universal inverted bottlenecks: kernel sizes before and after the expansion, stride, expansion, channels.
fn universal(repeats: usize, [start, kernel]: [i64; 2], stride: i64, expansion: f64, output: i64) -> Stage {
    Stage::new(BlockKind::Universal { start }, repeats, kernel, stride, expansion, output)
}

/// Creates multi-query attention with four heads.
fn attention(kv_stride: i64, output: i64) -> Stage {
    Stage::new(BlockKind::MultiQuery { heads: 4, kv_stride }, 1, 0, 1, 1.0, output)
}

/// Creates a convolution with norm and activation.
fn plain(kernel: i64, stride: i64, output: i64) -> Stage {
    Stage::new(BlockKind::Plain, 1, kernel, stride, 1.0, output)
}

/// Returns the stages between stem and head.
fn stages(size: MobileNetV4Size) -> Vec<Vec<Stage>> {
    match size {
        MobileNetV4Size::Small => vec![
            vec![plain(3, 2, 32), plain(1, 1, 32)],
            vec![plain(3, 2, 96), plain(1, 1, 64)],
            vec![
                universal(1, [5, 5], 2, 3.0, 96),
                universal(4, [0, 3], 1, 2.0, 96),
                universal(1, [3, 0], 1, 4.0, 96),
            ],
            vec![
                universal(1, [3, 3], 2, 6.0, 128),
                universal(1, [5, 5], 1, 4.0, 128),
                universal(1, [0, 5], 1, 4.0, 128),
                universal(1, [0, 5], 1, 3.0, 128),
                universal(2, [0, 3], 1, 4.0, 128),
            ],
            vec![plain(1, 1, HEAD[0])],
        ],
        MobileNetV4Size::Medium => vec![
            vec![Stage::new(BlockKind::Fused, 1, 3, 2, 4.0, 48)],
            vec![universal(1, [3, 5], 2, 4.0, 80), universal(1, [3, 3], 1, 2.0, 80)],
            vec![
                universal(1, [3, 5], 2, 6.0, 160),
                universal(2, [3, 3], 1, 4.0, 160),
                universal(1, [3, 5], 1, 4.0, 160),
                universal(1, [3, 3], 1, 4.0, 160),
                universal(1, [3, 0], 1, 4.0, 160),
                universal(1, [0, 0], 1, 2.0, 160),
                universal(1, [3, 0], 1, 4.0, 160),
            ],
            vec![
                universal(1, [5, 5], 2, 6.0, 256),
                universal(1, [5, 5], 1, 4.0, 256),
                universal(2, [3, 5], 1, 4.0, 256),
                universal(1, [0, 0], 1, 4.0, 256),
                universal(1, [3, 0], 1, 4.0, 256),
                universal(1, [3, 5], 1, 2.0, 256),
                universal(1, [5, 5], 1, 4.0, 256),
                universal(2, [0, 0], 1, 4.0, 256),
                universal(1, [5, 0], 1, 2.0, 256),
            ],
            vec![plain(1, 1, HEAD[0])],
        ],
        MobileNetV4Size::HybridMedium => vec![
            vec![Stage::new(BlockKind::Fused, 1, 3, 2, 4.0, 48)],
            vec![universal(1, [3, 5], 2, 4.0, 80), universal(1, [3, 3], 1, 2.0, 80)],
            vec![
                universal(1, [3, 5], 2, 6.0, 160),
                universal(1, [0, 0], 1, 2.0, 160),
                universal(1, [3, 3], 1, 4.0, 160),
                universal(1, [3, 5], 1, 4.0, 160),
                attention(2, 160),
                universal(1, [3, 3], 1, 4.0, 160),
                attention(2, 160),
                universal(1, [3, 0], 1, 4.0, 160),
                attention(2, 160),
                universal(1, [3, 3], 1, 4.0, 160),
                attention(2, 160),
                universal(1, [3, 0], 1, 4.0, 160),
            ],
            vec![
                universal(1, [5, 5], 2, 6.0, 256),
                universal(1, [5, 5], 1, 4.0, 256),
                universal(2, [3, 5], 1, 4.0, 256),
                universal(1, [0, 0], 1, 2.0, 256),
                universal(1, [3, 5], 1, 2.0, 256),
                universal(1, [0, 0], 1, 2.0, 256),
                universal(1, [0, 0], 1, 4.0, 256),
                attention(1, 256),
                universal(1, [3, 0], 1, 4.0, 256),
                attention(1, 256),
                universal(1, [5, 5], 1, 4.0, 256),
                attention(1, 256),
                universal(1, [5, 0], 1, 4.0, 256),
                attention(1, 256),
                universal(1, [5, 0], 1, 4.0, 256),
            ],
            vec![plain(1, 1, HEAD[0])],
        ],
    }
}

impl InvertedNet {
    /// Creates a MobileNetV4 under `path`.
    pub(in crate::vision::timm) fn mobilenet_v4(
        path: &ParamBuilder<'_>,
        size: MobileNetV4Size,
        side: i64,
        drop_path: f64,
    ) -> Result<Self> {
        let with_scale = |row: Stage| {
            let scaled = matches!(row.kind, BlockKind::Universal { .. } | BlockKind::MultiQuery { .. });
            let layer_scale = (size == MobileNetV4Size::HybridMedium && scaled).then_some(LAYER_SCALE);
            Stage { layer_scale, ..row.with_activation(Relu).without_squeeze() }
        };
        let stages =
            stages(size).into_iter().map(|rows| rows.into_iter().map(with_scale).collect::<Vec<_>>());
        let stages = stages.collect::<Vec<_>>();
        let stages = stages.iter().map(Vec::as_slice).collect::<Vec<_>>();
        // No stage has squeeze-and-excite.
        let squeeze = Squeeze::new(true, Relu, Activation::Sigmoid);
        let (stem, blocks, _) = body(path, 32, Relu, &stages, squeeze, side, drop_path)?;
        let conv = ConvConfig::new(HEAD[0], HEAD[1], 1);
        let head = ConvNorm::new(path, ["conv_head", "norm_head"], conv, Relu, 1)?;
        Ok(InvertedNet { stem, blocks, head: Head::MobileNetV4(head) })
    }
}
