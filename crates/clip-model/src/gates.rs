//! Pruning gates: factors in 0..=1 on the parts of a transformer tower, which learn to leave parts out.
//!
//! A gate of 0 has exactly the effect of removing the part: LayerNorm computes its statistics over the hidden
//! channels with a non-zero gate, as in TinyCLIP's pruned models. If all gates are 1, the tower is unchanged.

use std::sync::Arc;

use tch::Tensor;

use crate::config::{Layers, PrunedBlock, TowerKind};
use crate::{ClipConfig, Error, Result};

/// Prunable parts of a tower. Each part has one vector of gates for the whole tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Channels of the residual stream.
    Hidden,
    /// Attention heads of all blocks, in order.
    Heads,
    /// MLP inner channels of all blocks, in order.
    Mlp,
    /// Whole attention layers, for the blocks that have one.
    Attention,
    /// Whole MLPs, for the blocks that have one.
    WholeMlp,
}

impl Part {
    /// All parts, in storage order.
    pub(crate) const ALL: [Part; 5] = [Part::Hidden, Part::Heads, Part::Mlp, Part::Attention, Part::WholeMlp];

    /// Returns the name of the part in files.
    pub(crate) fn name(self) -> &'static str {
        ["hidden", "heads", "mlp", "attention", "whole_mlp"][self as usize]
    }
}

/// Dimensions of a prunable transformer tower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TowerShape {
    /// Channels of the residual stream.
    pub(crate) width: i64,
    /// Channels of one head.
    pub(crate) head_width: i64,
    /// Whether residual branches have layer scale.
    pub(crate) layer_scale: bool,
    /// Number of heads and MLP inner channels of each block.
    pub(crate) blocks: Vec<PrunedBlock>,
}

impl TowerShape {
    /// Returns the shape of the image tower.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the image tower is not a ViT.
    pub(crate) fn image(config: &ClipConfig) -> Result<Self> {
        let vision = &config.vision_cfg;
        let (TowerKind::Vit, Layers::Depth(layers)) = (vision.tower(), vision.layers) else {
            return Err(Error::unsupported("pruning gates of an image tower other than a ViT"));
        };
        let (heads, head_width) = match vision.blocks {
            Some(_) => (0, vision.head_width),
            None => (vision.heads(), vision.width / vision.heads().max(1)),
        };
        let uniform = || vec![PrunedBlock { heads, mlp_width: vision.mlp_width() }; layers as usize];
        Ok(TowerShape {
            width: vision.width,
            head_width,
            layer_scale: vision.ls_init_value.is_some(),
            blocks: vision.blocks.clone().unwrap_or_else(uniform),
        })
    }

    /// Returns the shape of the text tower.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the tower has no projection, so that its width cannot change.
    pub(crate) fn text(config: &ClipConfig) -> Result<Self> {
        let text = &config.text_cfg;
        if !text.has_projection() {
            return Err(Error::unsupported("pruning gates of a text tower without projection"));
        }
        let uniform =
            || vec![PrunedBlock { heads: text.heads, mlp_width: text.mlp_width() }; text.layers as usize];
        Ok(TowerShape {
            width: text.width,
            head_width: text.head_width(),
            layer_scale: text.ls_init_value.is_some(),
            blocks: text.blocks.clone().unwrap_or_else(uniform),
        })
    }

    /// Returns the number of gates of a part.
    pub(crate) fn count(&self, part: Part) -> i64 {
        match part {
            Part::Hidden => self.width,
            Part::Heads => self.blocks.iter().map(|block| block.heads).sum(),
            Part::Mlp => self.blocks.iter().map(|block| block.mlp_width).sum(),
            Part::Attention => self.blocks.iter().filter(|block| block.heads > 0).count() as i64,
            Part::WholeMlp => self.blocks.iter().filter(|block| block.mlp_width > 0).count() as i64,
        }
    }

    /// Returns the gates of a part that belong to one block. Hidden channels belong to no block.
    pub(crate) fn block_gates(&self, part: Part, layer: usize) -> GateRange {
        let count = |block: &PrunedBlock| match part {
            Part::Hidden => 0,
            Part::Heads => block.heads,
            Part::Mlp => block.mlp_width,
            Part::Attention => i64::from(block.heads > 0),
            Part::WholeMlp => i64::from(block.mlp_width > 0),
        };
        let start = self.blocks.iter().take(layer).map(count).sum();
        GateRange { start, count: self.blocks.get(layer).map_or(0, count) }
    }
}

/// A contiguous range of the gates of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GateRange {
    /// Index of the first gate.
    pub(crate) start: i64,
    /// Number of gates.
    pub(crate) count: i64,
}

impl GateRange {
    /// Returns the gates as a slice of all gates of the part.
    pub(crate) fn slice(self, gates: &[f32]) -> &[f32] {
        &gates[self.start as usize..(self.start + self.count) as usize]
    }

    /// Returns the gates as a view of all gates of the part.
    pub(crate) fn narrow(self, gates: &Tensor) -> Tensor {
        gates.narrow(0, self.start, self.count)
    }
}

/// Gates of one tower.
#[derive(Debug)]
pub(crate) struct TowerGates {
    shape: Arc<TowerShape>,
    values: [Tensor; 5],
    /// Indices of the hidden channels with a non-zero gate; `None` if all gates are non-zero.
    kept: Option<Tensor>,
}

impl TowerGates {
    /// Creates gates from their values, in the order of [`Part::ALL`], each of shape `[count]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if a vector has another length; [`Error::Incompatible`] if no hidden channel is left.
    pub(crate) fn new(shape: Arc<TowerShape>, values: [Tensor; 5]) -> Result<Self> {
        for (part, value) in Part::ALL.into_iter().zip(&values) {
            let count = shape.count(part);
            if value.size() != [count] {
                let expected = format!("[{count}] for `{}`", part.name());
                return Err(Error::Shape { input: "a vector of gates", found: value.size(), expected });
            }
        }
        // This waits for the device, since the number of remaining channels determines the shapes that follow.
        let kept = values[Part::Hidden as usize].detach().f_nonzero()?.f_view([-1])?;
        if kept.numel() == 0 {
            return Err(Error::Incompatible { reason: "the pruning gates keep no hidden channel".into() });
        }
        let kept = (kept.numel() as i64 != shape.width).then_some(kept);
        Ok(TowerGates { shape, values, kept })
    }

    /// Returns the gates of a part.
    pub(crate) fn values(&self, part: Part) -> &Tensor {
        &self.values[part as usize]
    }

    /// Applies the hidden gates to the start of the residual stream, `[.., width]`.
    pub(crate) fn apply_hidden(&self, xs: Tensor) -> Tensor {
        xs * self.values(Part::Hidden)
    }

    /// Returns the indices of the hidden channels over which norms compute their statistics; `None` for all channels.
    pub(crate) fn kept_channels(&self) -> Option<&Tensor> {
        self.kept.as_ref()
    }

    /// Returns the gates of a part in one block.
    pub(crate) fn block(&self, part: Part, layer: usize) -> Tensor {
        self.shape.block_gates(part, layer).narrow(self.values(part))
    }

    /// Returns the factors per channel on the attention or MLP branch of a block.
    pub(crate) fn branch(&self, whole: Part, layer: usize) -> Tensor {
        self.values(Part::Hidden) * self.block(whole, layer)
    }
}

/// Gates of both towers of a model.
#[derive(Debug)]
pub struct Gates {
    /// Gates of the image tower.
    pub(crate) image: TowerGates,
    /// Gates of the text tower.
    pub(crate) text: TowerGates,
}

impl Gates {
    /// Creates gates for a model from the values of the image and the text tower.
    ///
    /// # Errors
    /// The errors of [`TowerShape::image`], [`TowerShape::text`] and [`TowerGates::new`].
    pub(crate) fn new(config: &ClipConfig, image: [Tensor; 5], text: [Tensor; 5]) -> Result<Self> {
        Ok(Gates {
            image: TowerGates::new(Arc::new(TowerShape::image(config)?), image)?,
            text: TowerGates::new(Arc::new(TowerShape::text(config)?), text)?,
        })
    }

    pub(crate) fn validate(&self, config: &ClipConfig) -> Result<()> {
        if *self.image.shape == TowerShape::image(config)? && *self.text.shape == TowerShape::text(config)? {
            return Ok(());
        }
        Err(Error::Incompatible { reason: "the pruning gates belong to a model of another shape".into() })
    }
}

/// Creates vectors of ones: gates that change nothing.
#[cfg(test)]
pub(crate) fn ones(shape: &TowerShape, device: tch::Device) -> Result<[Tensor; 5]> {
    let ones = Part::ALL.map(|part| Tensor::f_ones([shape.count(part)], (tch::Kind::Float, device)));
    let [hidden, heads, mlp, attention, whole_mlp] = ones;
    Ok([hidden?, heads?, mlp?, attention?, whole_mlp?])
}
