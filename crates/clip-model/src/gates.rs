//! Gates: factors 0..1 on the parts of a transformer tower, by which parts are learned to be left out.
//!
//! A gate of 0 is as if the part were not there, exactly: LayerNorm takes its statistics over the hidden channels
//! whose gate is not 0, as in TinyCLIP's pruned models. With all gates 1 a tower is the plain one.

use std::sync::Arc;

use tch::{Kind, Tensor};

use crate::config::{Layers, PrunedBlock, TowerKind};
use crate::{ClipConfig, Error, Result};

/// What gates act on. Each is one row of numbers over a whole tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Channels of the residual stream.
    Hidden,
    /// Attention heads, block after block.
    Heads,
    /// MLP inner channels, block after block.
    Mlp,
    /// Whole attentions, of the blocks that have one.
    Attention,
    /// Whole MLPs, of the blocks that have one.
    WholeMlp,
}

impl Part {
    /// In the order in which they are stored.
    pub const ALL: [Part; 5] = [Part::Hidden, Part::Heads, Part::Mlp, Part::Attention, Part::WholeMlp];

    /// Names it in files.
    pub fn name(self) -> &'static str {
        ["hidden", "heads", "mlp", "attention", "whole_mlp"][self as usize]
    }
}

/// What a transformer tower consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TowerShape {
    /// Channels of the residual stream.
    pub width: i64,
    /// Channels of one head.
    pub head_width: i64,
    /// Whether residual branches end in a learned factor per channel.
    pub layer_scale: bool,
    /// Heads and MLP inner channels of each block.
    pub blocks: Vec<PrunedBlock>,
}

impl TowerShape {
    /// The image tower of a configuration.
    ///
    /// # Errors
    /// [`Error::Config`] where it is no ViT.
    pub fn image(config: &ClipConfig) -> Result<Self> {
        let own = &config.vision_cfg;
        let (TowerKind::Vit, Layers::Depth(layers)) = (own.tower(), own.layers) else {
            return Err(Error::config("pruning", "only ViT image towers have gates"));
        };
        let (heads, head_width) = match own.blocks {
            Some(_) => (0, own.head_width),
            None => (own.heads(), own.width / own.heads().max(1)),
        };
        let even = || vec![PrunedBlock { heads, mlp_width: own.mlp_width() }; layers as usize];
        Ok(TowerShape {
            width: own.width,
            head_width,
            layer_scale: own.ls_init_value.is_some(),
            blocks: own.blocks.clone().unwrap_or_else(even),
        })
    }

    /// The text tower of a configuration.
    ///
    /// # Errors
    /// [`Error::Config`] where it has no projection, so that its width cannot change.
    pub fn text(config: &ClipConfig) -> Result<Self> {
        let own = &config.text_cfg;
        if !own.has_projection() {
            return Err(Error::config("pruning", "a text tower without projection has no gates"));
        }
        let even = || vec![PrunedBlock { heads: own.heads, mlp_width: own.mlp_width() }; own.layers as usize];
        Ok(TowerShape {
            width: own.width,
            head_width: own.head_width(),
            layer_scale: own.ls_init_value.is_some(),
            blocks: own.blocks.clone().unwrap_or_else(even),
        })
    }

    /// Number of gates of a part.
    pub fn count(&self, part: Part) -> i64 {
        match part {
            Part::Hidden => self.width,
            Part::Heads => self.blocks.iter().map(|block| block.heads).sum(),
            Part::Mlp => self.blocks.iter().map(|block| block.mlp_width).sum(),
            Part::Attention => self.blocks.iter().filter(|block| block.heads > 0).count() as i64,
            Part::WholeMlp => self.blocks.iter().filter(|block| block.mlp_width > 0).count() as i64,
        }
    }

    /// First gate and number of gates of a part that belong to a block (hidden channels belong to none).
    pub fn range(&self, part: Part, layer: usize) -> (i64, i64) {
        let own = |block: &PrunedBlock| match part {
            Part::Hidden => 0,
            Part::Heads => block.heads,
            Part::Mlp => block.mlp_width,
            Part::Attention => i64::from(block.heads > 0),
            Part::WholeMlp => i64::from(block.mlp_width > 0),
        };
        let before = self.blocks.iter().take(layer).map(own).sum();
        (before, self.blocks.get(layer).map_or(0, own))
    }
}

/// The gates of one tower.
#[derive(Debug)]
pub struct TowerGates {
    shape: Arc<TowerShape>,
    values: [Tensor; 5],
    /// Places of the hidden channels whose gate is not 0; none where that is all of them.
    kept: Option<Tensor>,
}

impl TowerGates {
    /// Gates of these values, in the order of [`Part::ALL`], each `[count]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where one has another length; [`Error::Config`] where no hidden channel is left.
    pub fn new(shape: Arc<TowerShape>, values: [Tensor; 5]) -> Result<Self> {
        for (part, value) in Part::ALL.into_iter().zip(&values) {
            let count = shape.count(part);
            if value.size() != [count] {
                let expected = format!("[{count}] for `{}`", part.name());
                return Err(Error::Shape { what: "a row of gates", found: value.size(), expected });
            }
        }
        // Waits for the device: how many channels are left shapes what follows.
        let kept = values[Part::Hidden as usize].detach().f_nonzero()?.f_view([-1])?;
        if kept.numel() == 0 {
            return Err(Error::config("pruning", "no hidden channel is left"));
        }
        let kept = (kept.numel() as i64 != shape.width).then_some(kept);
        Ok(TowerGates { shape, values, kept })
    }

    /// The gates of a part.
    pub fn values(&self, part: Part) -> &Tensor {
        &self.values[part as usize]
    }

    /// Lets the residual stream start: `[.., width]` times the hidden gates.
    pub(crate) fn start(&self, xs: Tensor) -> Tensor {
        xs * self.values(Part::Hidden)
    }

    /// Places of the hidden channels that norms see; none where that is all of them.
    pub(crate) fn kept(&self) -> Option<&Tensor> {
        self.kept.as_ref()
    }

    /// The gates of a part in a block.
    pub(crate) fn of(&self, part: Part, layer: usize) -> Tensor {
        let (start, count) = self.shape.range(part, layer);
        self.values(part).narrow(0, start, count)
    }

    /// Factors per channel on the attention (or MLP) branch of a block.
    pub(crate) fn branch(&self, whole: Part, layer: usize) -> Tensor {
        self.values(Part::Hidden) * self.of(whole, layer)
    }
}

/// The gates of a model.
#[derive(Debug)]
pub struct Gates {
    /// The image tower's.
    pub image: TowerGates,
    /// The text tower's.
    pub text: TowerGates,
}

impl Gates {
    /// Gates for a model of this configuration: the image tower's values, and the text tower's.
    ///
    /// # Errors
    /// As [`TowerShape::image`], [`TowerShape::text`] and [`TowerGates::new`].
    pub fn new(config: &ClipConfig, image: [Tensor; 5], text: [Tensor; 5]) -> Result<Self> {
        Ok(Gates {
            image: TowerGates::new(Arc::new(TowerShape::image(config)?), image)?,
            text: TowerGates::new(Arc::new(TowerShape::text(config)?), text)?,
        })
    }

    pub(crate) fn check(&self, config: &ClipConfig) -> Result<()> {
        if *self.image.shape == TowerShape::image(config)? && *self.text.shape == TowerShape::text(config)? {
            return Ok(());
        }
        Err(Error::config("pruning", "these gates are those of a model of another shape"))
    }
}

/// Rows of ones: gates that change nothing.
pub fn open(shape: &TowerShape, device: tch::Device) -> Result<[Tensor; 5]> {
    let rows = Part::ALL.map(|part| Tensor::f_ones([shape.count(part)], (Kind::Float, device)));
    let [hidden, heads, mlp, attention, whole_mlp] = rows;
    Ok([hidden?, heads?, mlp?, attention?, whole_mlp?])
}
