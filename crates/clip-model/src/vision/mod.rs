//! Image towers: one enum over the kinds, with the shape check that they share.

pub mod attention_pool;
pub mod resnet;
pub mod timm;
pub mod vit;

use tch::Tensor;

use crate::activation::Activation;
use crate::config::{TowerKind, VisionConfig};
use crate::gates::TowerGates;
use crate::params::Builder;
use crate::states::ImageStates;
use crate::tape::Tape;
use crate::{Error, Result};

/// Image to raw embedding.
#[derive(Debug)]
pub struct ImageTower {
    kind: Kind,
    image_size: i64,
}

#[derive(Debug)]
enum Kind {
    Vit(vit::VisionTransformer),
    ResNet(resnet::ModifiedResNet),
    Timm(timm::TimmTower),
}

impl ImageTower {
    /// A new tower under `path`. `activation` is that of open_clip's own ViT; other towers have theirs.
    pub fn new(
        path: &Builder<'_>,
        config: &VisionConfig,
        embed_dim: i64,
        activation: Activation,
    ) -> Result<Self> {
        let kind = match config.tower() {
            TowerKind::Vit => Kind::Vit(vit::VisionTransformer::new(path, config, embed_dim, activation)?),
            TowerKind::ResNet => Kind::ResNet(resnet::ModifiedResNet::new(path, config, embed_dim)?),
            TowerKind::Timm => Kind::Timm(timm::TimmTower::new(path, config, embed_dim)?),
        };
        Ok(ImageTower { kind, image_size: config.image_size })
    }

    /// Normalised images `[batch, 3, size, size]` to raw embeddings `[batch, embed]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the images have another shape.
    pub fn forward<'a>(&'a self, images: &Tensor, tape: &mut Tape<'a>) -> Result<Tensor> {
        self.check(images)?;
        let embedding = match &self.kind {
            Kind::Vit(tower) => tower.forward(images, tape),
            Kind::ResNet(tower) => tower.forward(images, tape),
            Kind::Timm(tower) => tower.forward(images, tape),
        };
        Ok(embedding.to_kind(tch::Kind::Float))
    }

    /// The same with a share (0..1) of the patches of each image left out.
    ///
    /// # Errors
    /// [`Error::Shape`] where the images have another shape, [`Error::Config`] where the tower has no patches
    /// that could be left out.
    pub fn forward_masked<'a>(&'a self, images: &Tensor, share: f64, tape: &mut Tape<'a>) -> Result<Tensor> {
        self.check(images)?;
        match &self.kind {
            Kind::Vit(tower) => Ok(tower.forward_masked(images, share, tape)),
            _ => Err(Error::config("vision_cfg", "only a ViT has patches that can be left out (masked)")),
        }
    }

    /// Embeddings with patch tokens, and what `blocks` (numbers from 0) give.
    ///
    /// # Errors
    /// [`Error::Shape`] where the images have another shape; [`Error::Config`] where the tower is no ViT, leaves out
    /// patches in this pass or has no such block.
    pub fn states<'a>(
        &'a self,
        images: &Tensor,
        blocks: &[usize],
        tape: &mut Tape<'a>,
    ) -> Result<ImageStates> {
        self.check(images)?;
        match &self.kind {
            Kind::Vit(tower) => tower.states(images, blocks, tape),
            _ => Err(Error::config(
                "vision_cfg",
                "only CLIP's ViT gives patch tokens and the outputs of its blocks",
            )),
        }
    }

    /// Number of the blocks that [`ImageTower::states`] counts; `None` where it gives none.
    pub fn depth(&self) -> Option<usize> {
        match &self.kind {
            Kind::Vit(tower) => Some(tower.depth()),
            _ => None,
        }
    }

    /// Puts gates on, or takes them off.
    ///
    /// # Errors
    /// [`Error::Config`] where the tower is no ViT.
    pub(crate) fn set_gates(&mut self, gates: Option<TowerGates>) -> Result<()> {
        match (&mut self.kind, gates) {
            (Kind::Vit(tower), gates) => tower.gates = gates,
            (_, None) => {}
            (_, Some(_)) => return Err(Error::config("vision_cfg", "only ViT image towers have gates")),
        }
        Ok(())
    }

    fn check(&self, images: &Tensor) -> Result<()> {
        let (size, shape) = (self.image_size, images.size());
        if shape.len() != 4 || shape[1..] != [3, size, size] {
            return Err(Error::Shape {
                what: "the image batch",
                found: shape,
                expected: format!("[batch, 3, {size}, {size}]"),
            });
        }
        Ok(())
    }
}
