//! Image towers that timm defines (Wightman), under `visual.trunk.`, with a projection in `visual.head.`.

mod inverted;
mod mobilevit;
mod resnet;
mod siglip;
mod swin;

use tch::{Kind, Tensor};

use crate::activation::Activation;
use crate::config::VisionConfig;
use crate::layers::{Dropout, Linear};
use crate::params::{Builder, Init};
use crate::tape::Tape;
use crate::{Error, Result};

pub use mobilevit::MobileVitSize;
pub use siglip::SiglipVit;

/// The trunks that can be built.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trunk {
    /// ResNet-18 (He et al. 2016).
    ResNet18,
    /// EfficientNet-B0 (Tan and Le 2019).
    EfficientNetB0,
    /// MobileNetV3-Small 1.00 (Howard et al. 2019).
    MobileNetV3Small,
    /// MobileViT (Mehta and Rastegari 2022).
    MobileVit(MobileVitSize),
    /// Swin-T with windows of 7 (Liu et al. 2021).
    SwinTiny,
    /// The ViT of SigLIP (Zhai et al. 2023).
    Siglip(SiglipVit),
}

impl Trunk {
    /// The trunk of timm's name.
    ///
    /// # Errors
    /// What names there are, where it is none of them.
    pub fn named(name: &str) -> std::result::Result<Self, String> {
        Ok(match name {
            "resnet18" => Trunk::ResNet18,
            "efficientnet_b0" => Trunk::EfficientNetB0,
            "mobilenetv3_small_100" => Trunk::MobileNetV3Small,
            "mobilevit_s" => Trunk::MobileVit(MobileVitSize::S),
            "mobilevit_xs" => Trunk::MobileVit(MobileVitSize::Xs),
            "mobilevit_xxs" => Trunk::MobileVit(MobileVitSize::Xxs),
            "swin_tiny_patch4_window7_224" => Trunk::SwinTiny,
            _ => match SiglipVit::named(name) {
                Some(vit) => Trunk::Siglip(vit),
                None => {
                    return Err(format!(
                        "timm_model_name `{name}` is not supported; known are resnet18, efficientnet_b0, \
                         mobilenetv3_small_100, mobilevit_s, mobilevit_xs, mobilevit_xxs, \
                         swin_tiny_patch4_window7_224 and vit_SIZE_patchN_siglip_RESOLUTION"
                    ));
                }
            },
        })
    }

    /// Channels that come out of the trunk.
    pub fn features(&self) -> i64 {
        match self {
            Trunk::ResNet18 => 512,
            Trunk::EfficientNetB0 => 1280,
            Trunk::MobileNetV3Small => 1024,
            Trunk::MobileVit(size) => size.features(),
            Trunk::SwinTiny => 768,
            Trunk::Siglip(vit) => vit.width,
        }
    }

    /// Path of the final linear layer of timm's model as a classifier.
    pub(crate) fn classifier(&self) -> &'static str {
        match self {
            Trunk::ResNet18 => "fc",
            Trunk::EfficientNetB0 | Trunk::MobileNetV3Small => "classifier",
            Trunk::MobileVit(_) | Trunk::SwinTiny => "head.fc",
            Trunk::Siglip(_) => "head",
        }
    }

    /// Finds an image size or pooling that this trunk cannot have.
    ///
    /// # Errors
    /// The reason.
    pub fn check(&self, image_size: i64, pool: &str) -> std::result::Result<(), String> {
        let own = if matches!(self, Trunk::Siglip(_)) { "map" } else { "avg" };
        if !["", own].contains(&pool) {
            return Err(format!("timm_pool = `{pool}` is not supported here; this tower has `{own}`"));
        }
        match self {
            Trunk::SwinTiny if image_size % 32 != 0 => Err(format!(
                "Swin halves its grid three times after patches of 4, so image_size {image_size} must be a multiple of 32"
            )),
            Trunk::Siglip(vit) if image_size < vit.patch => {
                Err(format!("patch size {} is larger than image_size {image_size}", vit.patch))
            }
            _ if image_size < 32 => {
                Err(format!("image_size {image_size} is below 32, which this tower shrinks to one pixel"))
            }
            _ => Ok(()),
        }
    }
}

#[derive(Debug)]
enum Model {
    ResNet(resnet::ResNet),
    Inverted(inverted::InvertedNet),
    MobileVit(mobilevit::MobileVit),
    Swin(swin::Swin),
    Siglip(siglip::SiglipTower),
}

/// A trunk, dropout and the projection.
#[derive(Debug)]
pub struct TimmTower {
    trunk: Model,
    drop: Dropout,
    proj: Option<Linear>,
}

impl TimmTower {
    /// A new tower under `path`; starts as timm's does.
    pub fn new(path: &Builder<'_>, config: &VisionConfig, embed_dim: i64) -> Result<Self> {
        let fail = |reason| Error::config("vision_cfg", reason);
        let (kind, trunk, side) = (config.trunk().map_err(fail)?, path.child("trunk"), config.image_size);
        // Swin is the only one whose published recipe drops paths.
        let own = if kind == Trunk::SwinTiny { 0.1 } else { 0.0 };
        let drop_path = config.timm_drop_path.unwrap_or(own);
        let model = match kind {
            Trunk::ResNet18 => Model::ResNet(resnet::ResNet::new(&trunk, [2, 2, 2, 2], side, drop_path)?),
            Trunk::EfficientNetB0 => {
                Model::Inverted(inverted::InvertedNet::efficientnet_b0(&trunk, side, drop_path)?)
            }
            Trunk::MobileNetV3Small => {
                Model::Inverted(inverted::InvertedNet::mobilenet_v3_small(&trunk, side, drop_path)?)
            }
            Trunk::MobileVit(size) => {
                Model::MobileVit(mobilevit::MobileVit::new(&trunk, size, side, drop_path)?)
            }
            Trunk::SwinTiny => Model::Swin(swin::Swin::tiny(&trunk, side, drop_path)?),
            Trunk::Siglip(vit) => {
                // Hugging Face's copies say it themselves, where timm's names imply it.
                let own = config.act_kwargs.as_ref().and_then(|kwargs| kwargs.approximate.as_deref());
                let activation = match own {
                    Some("tanh") => Activation::GeluTanh,
                    Some(_) => Activation::Gelu,
                    None => vit.activation,
                };
                let vit = SiglipVit { activation, ..vit };
                Model::Siglip(siglip::SiglipTower::new(&trunk, vit, side, drop_path)?)
            }
        };
        let proj = match config.timm_projection().map_err(fail)? {
            Some(bias) => {
                let (input, path) = (kind.features(), path.child("head").child("proj"));
                let start = Init::fan_in(input);
                Some(Linear::new(&path, input, embed_dim, start, bias.then_some(start))?)
            }
            None => None,
        };
        Ok(TimmTower { trunk: model, drop: Dropout::new(path, config.timm_drop), proj })
    }

    /// Normalised images `[batch, 3, size, size]` to raw embeddings `[batch, embed]`.
    pub fn forward<'a>(&'a self, images: &Tensor, tape: &mut Tape<'a>) -> Tensor {
        let features = match &self.trunk {
            Model::ResNet(trunk) => trunk.forward(images, tape),
            Model::Inverted(trunk) => trunk.forward(images, tape),
            Model::MobileVit(trunk) => trunk.forward(images, tape),
            Model::Swin(trunk) => trunk.forward(images, tape),
            Model::Siglip(trunk) => trunk.forward(images, tape),
        }; // [batch, features]
        let features = self.drop.forward(features);
        match &self.proj {
            Some(proj) => proj.forward(&features),
            None => features,
        }
    }
}

/// The mean over the pixels: `[batch, channels, height, width]` to `[batch, channels]`.
fn global_average(xs: &Tensor) -> Tensor {
    xs.mean_dim([2i64, 3].as_slice(), false, None::<Kind>)
}

/// Drop path rates rising from 0 to `largest` over `blocks` (stochastic depth's linear rule).
fn rising(largest: f64, blocks: usize) -> impl Iterator<Item = f64> {
    let last = blocks.saturating_sub(1).max(1) as f64;
    (0..blocks).map(move |block| largest * block as f64 / last)
}
