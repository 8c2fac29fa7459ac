//! Image towers: the type that wraps all architectures and checks the input shape.

pub(crate) mod attention_pool;
pub(crate) mod resnet;
pub(crate) mod timm;
pub(crate) mod vit;

use tch::Tensor;
use torch_ext::layout::channels_last;

use crate::activation::Activation;
use crate::config::{TowerKind, VisionConfig};
use crate::gates::TowerGates;
use crate::params::ParamBuilder;
use crate::states::ImageStates;
use crate::tape::Tape;
use crate::{Error, Result};

/// Image tower of any architecture: maps images to embeddings.
#[derive(Debug)]
pub(crate) struct ImageTower {
    architecture: Architecture,
    image_size: i64,
}

/// Architecture of the tower.
#[derive(Debug)]
enum Architecture {
    Vit(vit::VisionTransformer),
    ResNet(resnet::ModifiedResNet),
    Timm(Box<timm::TimmTower>),
}

impl ImageTower {
    /// Creates a tower under `path`. `activation` applies to open_clip's ViT; other towers use their own.
    pub(crate) fn new(
        path: &ParamBuilder<'_>,
        config: &VisionConfig,
        embed_dim: i64,
        activation: Activation,
    ) -> Result<Self> {
        let architecture = match config.tower() {
            TowerKind::Vit => {
                Architecture::Vit(vit::VisionTransformer::new(path, config, embed_dim, activation)?)
            }
            TowerKind::ResNet => Architecture::ResNet(resnet::ModifiedResNet::new(path, config, embed_dim)?),
            TowerKind::Timm => Architecture::Timm(Box::new(timm::TimmTower::new(path, config, embed_dim)?)),
        };
        Ok(ImageTower { architecture, image_size: config.image_size })
    }

    /// Encodes normalised images `[batch, 3, size, size]` to embeddings `[batch, embed]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the images have another shape.
    pub(crate) fn forward<'a>(&'a self, images: &Tensor, tape: &mut Tape<'a>) -> Result<Tensor> {
        self.check_shape(images)?;
        let images = match self.is_convolutional() && images.device().is_cuda() {
            // cuDNN's tensor-core kernels read this layout; otherwise cuDNN converts the operands of each convolution.
            true => channels_last(images),
            false => images.shallow_clone(),
        };
        let embedding = match &self.architecture {
            Architecture::Vit(tower) => tower.forward(&images, tape),
            Architecture::ResNet(tower) => tower.forward(&images, tape),
            Architecture::Timm(tower) => tower.forward(&images, tape),
        };
        Ok(embedding.to_kind(tch::Kind::Float))
    }

    /// Encodes images with a fraction (0..1) of the patches left out.
    ///
    /// # Errors
    /// [`Error::Shape`] if the images have another shape, [`Error::Unsupported`] if the tower is not a ViT.
    pub(crate) fn forward_masked<'a>(
        &'a self,
        images: &Tensor,
        fraction: f64,
        tape: &mut Tape<'a>,
    ) -> Result<Tensor> {
        self.check_shape(images)?;
        match &self.architecture {
            Architecture::Vit(tower) => Ok(tower.forward_masked(images, fraction, tape)),
            _ => Err(Error::unsupported("masked patches of an image tower other than a ViT")),
        }
    }

    /// Returns embeddings, patch tokens and the outputs of `blocks` (indices from 0).
    ///
    /// # Errors
    /// [`Error::Shape`] if the images have another shape; [`Error::Unsupported`] if the tower is not a ViT or leaves
    /// out patches in this pass; [`Error::UnknownBlock`] for an index beyond the last block.
    pub(crate) fn states<'a>(
        &'a self,
        images: &Tensor,
        blocks: &[usize],
        tape: &mut Tape<'a>,
    ) -> Result<ImageStates> {
        self.check_shape(images)?;
        match &self.architecture {
            Architecture::Vit(tower) => tower.states(images, blocks, tape),
            _ => Err(Error::unsupported("patch tokens and block outputs of an image tower other than a ViT")),
        }
    }

    /// Returns the number of blocks that [`ImageTower::states`] can select; `None` if the tower is not a ViT.
    pub(crate) fn depth(&self) -> Option<usize> {
        match &self.architecture {
            Architecture::Vit(tower) => Some(tower.depth()),
            _ => None,
        }
    }

    /// Sets the pruning gates; `None` removes them.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the tower is not a ViT.
    pub(crate) fn set_gates(&mut self, gates: Option<TowerGates>) -> Result<()> {
        match (&mut self.architecture, gates) {
            (Architecture::Vit(tower), gates) => tower.gates = gates,
            (_, None) => {}
            (_, Some(_)) => {
                return Err(Error::unsupported("pruning gates of an image tower other than a ViT"));
            }
        }
        Ok(())
    }

    /// Whether most layers are convolutions.
    fn is_convolutional(&self) -> bool {
        match &self.architecture {
            Architecture::Vit(_) => false,
            Architecture::ResNet(_) => true,
            Architecture::Timm(tower) => tower.is_convolutional(),
        }
    }

    fn check_shape(&self, images: &Tensor) -> Result<()> {
        let (size, shape) = (self.image_size, images.size());
        if shape.len() != 4 || shape[1..] != [3, size, size] {
            return Err(Error::Shape {
                input: "the image batch",
                found: shape,
                expected: format!("[batch, 3, {size}, {size}]"),
            });
        }
        Ok(())
    }
}
