//! Image towers of timm (Wightman) under `visual.trunk.`, with a projection under `visual.head.`.

mod inverted;
mod mobilevit;
mod resnet;
mod siglip;
mod swin;

use tch::{Kind, Tensor};

use crate::activation::Activation;
use crate::config::{Check, VisionConfig, invalid, unsupported};
use crate::layers::{Dropout, Linear};
use crate::params::{Init, ParamBuilder};
use crate::tape::Tape;
use crate::{Error, Result};

pub(crate) use mobilevit::MobileVitSize;
pub(crate) use siglip::SiglipVit;

/// Supported models of timm, without their classifier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Trunk {
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
    /// Parses timm's name of a model.
    pub(crate) fn parse(name: &str) -> Check<Self> {
        Ok(match name {
            "resnet18" => Trunk::ResNet18,
            "efficientnet_b0" => Trunk::EfficientNetB0,
            "mobilenetv3_small_100" => Trunk::MobileNetV3Small,
            "mobilevit_s" => Trunk::MobileVit(MobileVitSize::S),
            "mobilevit_xs" => Trunk::MobileVit(MobileVitSize::Xs),
            "mobilevit_xxs" => Trunk::MobileVit(MobileVitSize::Xxs),
            "swin_tiny_patch4_window7_224" => Trunk::SwinTiny,
            _ => match SiglipVit::parse(name) {
                Some(vit) => Trunk::Siglip(vit),
                None => {
                    return unsupported(format!(
                        "timm_model_name `{name}` is not supported; use resnet18, efficientnet_b0, \
                         mobilenetv3_small_100, mobilevit_s, mobilevit_xs, mobilevit_xxs, \
                         swin_tiny_patch4_window7_224 or vit_SIZE_patchN_siglip_RESOLUTION"
                    ));
                }
            },
        })
    }

    /// Returns the number of output features.
    pub(crate) fn features(&self) -> i64 {
        match self {
            Trunk::ResNet18 => 512,
            Trunk::EfficientNetB0 => 1280,
            Trunk::MobileNetV3Small => 1024,
            Trunk::MobileVit(size) => size.features(),
            Trunk::SwinTiny => 768,
            Trunk::Siglip(vit) => vit.width,
        }
    }

    /// Returns the path of the linear classifier in timm's model.
    pub(crate) fn classifier(&self) -> &'static str {
        match self {
            Trunk::ResNet18 => "fc",
            Trunk::EfficientNetB0 | Trunk::MobileNetV3Small => "classifier",
            Trunk::MobileVit(_) | Trunk::SwinTiny => "head.fc",
            Trunk::Siglip(_) => "head",
        }
    }

    /// Checks the image size and the pooling.
    pub(crate) fn check(&self, image_size: i64, pool: &str) -> Check {
        let default = if matches!(self, Trunk::Siglip(_)) { "map" } else { "avg" };
        if !["", default].contains(&pool) {
            return unsupported(format!(
                "timm_pool = `{pool}` is not supported here; this tower uses `{default}`"
            ));
        }
        match self {
            Trunk::SwinTiny if image_size % 32 != 0 => invalid(format!(
                "Swin halves its grid three times after patches of 4, so image_size {image_size} must be a multiple of 32"
            )),
            Trunk::Siglip(vit) if image_size < vit.patch => {
                invalid(format!("patch size {} is larger than image_size {image_size}", vit.patch))
            }
            _ if image_size < 32 => {
                invalid(format!("image_size {image_size} is below 32, the total stride of this tower"))
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

/// Image tower of timm: a trunk, dropout and a projection.
#[derive(Debug)]
pub(crate) struct TimmTower {
    trunk: Model,
    drop: Dropout,
    proj: Option<Linear>,
}

impl TimmTower {
    /// Creates a tower under `path` with timm's initialisation.
    pub(crate) fn new(path: &ParamBuilder<'_>, config: &VisionConfig, embed_dim: i64) -> Result<Self> {
        let fail = |problem: crate::config::Problem| -> Error { problem.of("vision_cfg") };
        let (kind, trunk, side) = (config.trunk().map_err(fail)?, path.child("trunk"), config.image_size);
        // Swin's published training recipe is the only one with drop path.
        let default = if kind == Trunk::SwinTiny { 0.1 } else { 0.0 };
        let drop_path = config.timm_drop_path.unwrap_or(default);
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
                // Hugging Face's configurations state the activation, which timm's names imply.
                let approximate = config.act_kwargs.as_ref().and_then(|kwargs| kwargs.approximate.as_deref());
                let activation = match approximate {
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
                let init = Init::fan_in(input);
                Some(Linear::new(&path, input, embed_dim, init, bias.then_some(init))?)
            }
            None => None,
        };
        Ok(TimmTower { trunk: model, drop: Dropout::new(path, config.timm_drop), proj })
    }

    /// Encodes normalised images `[batch, 3, size, size]` to embeddings `[batch, embed]`.
    pub(crate) fn forward<'a>(&'a self, images: &Tensor, tape: &mut Tape<'a>) -> Tensor {
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

/// Applies global average pooling: `[batch, channels, height, width]` to `[batch, channels]`.
fn global_average(xs: &Tensor) -> Tensor {
    xs.mean_dim([2i64, 3].as_slice(), false, None::<Kind>)
}

/// Returns drop path rates that rise linearly from 0 to `largest` over `blocks` blocks.
fn drop_path_rates(largest: f64, blocks: usize) -> impl Iterator<Item = f64> {
    let last = blocks.saturating_sub(1).max(1) as f64;
    (0..blocks).map(move |block| largest * block as f64 / last)
}
