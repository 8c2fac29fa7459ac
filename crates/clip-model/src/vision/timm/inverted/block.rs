//! Blocks of a network of inverted residuals.

use tch::Tensor;

use super::attention::MultiQueryAttention;
use super::{BlockKind, Squeeze, Stage, round_channels};
use crate::Result;
use crate::activation::Activation;
use crate::conv::{BatchNorm2d, ConvConfig, ConvNorm};
use crate::layers::DropPath;
use crate::params::{Init, ParamBuilder};
use crate::vision::timm::squeeze::SqueezeExcite;

/// A block of any [`BlockKind`].
#[derive(Debug, Default)]
pub(super) struct Block {
    attention: Option<(BatchNorm2d, MultiQueryAttention)>,
    start: Option<ConvNorm>,
    expand: Option<ConvNorm>,
    depthwise: Option<ConvNorm>,
    squeeze: Option<SqueezeExcite>,
    project: Option<ConvNorm>,
    layer_scale: Option<Tensor>, // [out]
    /// Residual connection, if input and output have the same shape.
    shortcut: Option<DropPath>,
    /// Side of the output.
    pub(super) side: i64,
}

impl Block {
    /// Creates a block under `path` for an input with `input` channels and side `side`.
    pub(super) fn new(
        path: &ParamBuilder<'_>,
        input: i64,
        stage: Stage,
        squeeze: Squeeze,
        side: i64,
        rate: f64,
    ) -> Result<Self> {
        let mut block = match stage.kind {
            BlockKind::Plain => Self::plain(path, input, stage, side)?,
            BlockKind::Fused => Self::fused(path, input, stage, side)?,
            BlockKind::Universal { start } => Self::universal(path, input, stage, start, side)?,
            BlockKind::MultiQuery { heads, kv_stride } => {
                let norm = BatchNorm2d::new(&path.child("norm"), input, 1.0)?;
                let attention = MultiQueryAttention::new(&path.child("attn"), input, heads, kv_stride, side)?;
                Block { attention: Some((norm, attention)), side, ..Block::default() }
            }
            BlockKind::Separable | BlockKind::Inverted => Self::inverted(path, input, stage, squeeze, side)?,
        };
        if let Some(value) = stage.layer_scale {
            let path = path.child("layer_scale");
            block.layer_scale = Some(path.parameter("gamma", &[stage.output], Init::Constant(value))?);
        }
        if stage.stride == 1 && input == stage.output && stage.kind != BlockKind::Plain {
            block.shortcut = Some(DropPath::new(path, rate));
        }
        Ok(block)
    }

    fn plain(path: &ParamBuilder<'_>, input: i64, stage: Stage, side: i64) -> Result<Self> {
        let conv = ConvConfig::new(input, stage.output, stage.kernel).with_stride(stage.stride);
        let expand = ConvNorm::new(path, ["conv", "bn1"], conv, stage.activation, side)?;
        Ok(Block { expand: Some(expand), side: conv.output_side(side), ..Block::default() })
    }

    fn fused(path: &ParamBuilder<'_>, input: i64, stage: Stage, side: i64) -> Result<Self> {
        let inner = round_channels(input as f64 * stage.expansion);
        let conv = ConvConfig::new(input, inner, stage.kernel).with_stride(stage.stride);
        let after = conv.output_side(side);
        let project = ConvConfig::new(inner, stage.output, 1);
        Ok(Block {
            expand: Some(ConvNorm::new(path, ["conv_exp", "bn1"], conv, stage.activation, side)?),
            project: Some(ConvNorm::new(path, ["conv_pwl", "bn2"], project, Activation::Identity, after)?),
            side: after,
            ..Block::default()
        })
    }

    fn universal(path: &ParamBuilder<'_>, input: i64, stage: Stage, start: i64, side: i64) -> Result<Self> {
        let layer = |name: &str, config, activation, side| {
            ConvNorm::new(&path.child(name), ["conv", "bn"], config, activation, side)
        };
        let inner = round_channels(input as f64 * stage.expansion);
        let mut block = Block { side, ..Block::default() };
        if start > 0 {
            // Only the last depthwise convolution has the stride.
            let stride = if stage.kernel > 0 { 1 } else { stage.stride };
            let conv = ConvConfig::depthwise(input, start, stride);
            block.start = Some(layer("dw_start", conv, Activation::Identity, side)?);
            block.side = conv.output_side(side);
        }
        let expand = ConvConfig::new(input, inner, 1);
        block.expand = Some(layer("pw_exp", expand, stage.activation, block.side)?);
        if stage.kernel > 0 {
            let conv = ConvConfig::depthwise(inner, stage.kernel, stage.stride);
            block.depthwise = Some(layer("dw_mid", conv, stage.activation, block.side)?);
            block.side = conv.output_side(block.side);
        }
        let project = ConvConfig::new(inner, stage.output, 1);
        block.project = Some(layer("pw_proj", project, Activation::Identity, block.side)?);
        Ok(block)
    }

    fn inverted(
        path: &ParamBuilder<'_>,
        input: i64,
        stage: Stage,
        squeeze: Squeeze,
        side: i64,
    ) -> Result<Self> {
        let Stage { kernel, stride, output, activation, .. } = stage;
        let inverted = stage.kind == BlockKind::Inverted;
        let inner = if inverted { round_channels(input as f64 * stage.expansion) } else { input };
        let depthwise = ConvConfig::depthwise(inner, kernel, stride);
        let after = depthwise.output_side(side);
        let (depthwise_norm, project, project_norm) =
            if inverted { ("bn2", "conv_pwl", "bn3") } else { ("bn1", "conv_pw", "bn2") };
        let reduced = if squeeze.of_inner { round_channels(inner as f64 / 4.0) } else { input / 4 };
        Ok(Block {
            expand: inverted
                .then(|| {
                    let conv = ConvConfig::new(input, inner, 1);
                    ConvNorm::new(path, ["conv_pw", "bn1"], conv, activation, side)
                })
                .transpose()?,
            depthwise: Some(ConvNorm::new(path, ["conv_dw", depthwise_norm], depthwise, activation, side)?),
            squeeze: stage
                .squeeze
                .then(|| SqueezeExcite::new(&path.child("se"), inner, reduced, squeeze.config))
                .transpose()?,
            project: Some(ConvNorm::new(
                path,
                [project, project_norm],
                ConvConfig::new(inner, output, 1),
                Activation::Identity,
                after,
            )?),
            side: after,
            ..Block::default()
        })
    }

    /// Maps `[batch, in, height, width]` to `[batch, out, height / stride, width / stride]`.
    pub(super) fn forward(&self, input: &Tensor) -> Tensor {
        let mut xs = match &self.attention {
            Some((norm, attention)) => attention.forward(&norm.forward(input)),
            None => input.shallow_clone(),
        };
        for layer in [&self.start, &self.expand, &self.depthwise].into_iter().flatten() {
            xs = layer.forward(&xs);
        }
        if let Some(squeeze) = &self.squeeze {
            xs = squeeze.forward(&xs);
        }
        if let Some(project) = &self.project {
            xs = project.forward(&xs);
        }
        if let Some(gamma) = &self.layer_scale {
            xs = gamma.view([1, -1, 1, 1]) * xs;
        }
        match &self.shortcut {
            Some(drop_path) => drop_path.forward(xs) + input,
            None => xs,
        }
    }
}
