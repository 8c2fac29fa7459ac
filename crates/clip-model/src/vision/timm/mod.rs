//! Image towers of timm (Wightman) under `visual.trunk.`, with a projection under `visual.head.`.

mod convnext;
mod efficientvit;
mod fastvit;
mod inverted;
mod mobilevit;
mod repvit;
mod resnet;
mod siglip;
mod squeeze;
mod swin;

use tch::{Kind, Tensor};

use crate::activation::Activation;
use crate::config::{Check, VisionConfig, invalid, unsupported};
use crate::layers::{Dropout, Linear};
use crate::params::{Init, ParamBuilder};
use crate::tape::Tape;
use crate::{Error, Result};

pub(crate) use convnext::ConvNextSize;
pub(crate) use efficientvit::EfficientVitSize;
pub(crate) use fastvit::FastVitSize;
pub(crate) use inverted::MobileNetV4Size;
pub(crate) use mobilevit::MobileVitSize;
pub(crate) use repvit::RepVitSize;
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
    /// MobileNetV4 (Qin et al. 2024).
    MobileNetV4(MobileNetV4Size),
    /// ConvNeXt (Liu et al. 2022).
    ConvNext(ConvNextSize),
    /// RepViT (Wang et al. 2024).
    RepVit(RepVitSize),
    /// FastViT (Vasu et al. 2023) and MobileCLIP's MCi towers (Vasu et al. 2024).
    FastVit(FastVitSize),
    /// EfficientViT of MIT (Cai et al. 2023).
    EfficientVit(EfficientVitSize),
    /// MobileViT (Mehta and Rastegari 2022).
    MobileVit(MobileVitSize),
    /// Swin-T with windows of 7 (Liu et al. 2021).
    SwinTiny,
    /// The ViT of SigLIP (Zhai et al. 2023).
    Siglip(SiglipVit),
}

/// Supported names, for a message.
const NAMES: &str = "resnet18, efficientnet_b0, mobilenetv3_small_100, mobilenetv4_conv_{small,medium}, \
    mobilenetv4_hybrid_medium, \
    mobilevit_{xxs,xs,s}, convnext_{atto,femto,pico,nano,tiny,small,base,large}, repvit_{m0_9,m1_0,m1_1,m1_5,m2_3}, \
    fastvit_{t8,t12,s12,sa12,sa24,mci0,mci1,mci2}, efficientvit_{b0,b1,b2,b3}, swin_tiny_patch4_window7_224 or \
    vit_SIZE_patchN_siglip_RESOLUTION";

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
            "mobilenetv4_conv_small" => Trunk::MobileNetV4(MobileNetV4Size::Small),
            "mobilenetv4_conv_medium" => Trunk::MobileNetV4(MobileNetV4Size::Medium),
            "mobilenetv4_hybrid_medium" => Trunk::MobileNetV4(MobileNetV4Size::HybridMedium),
            _ => {
                let found = ConvNextSize::parse(name).map(Trunk::ConvNext);
                let found = found.or_else(|| RepVitSize::parse(name).map(Trunk::RepVit));
                let found = found.or_else(|| FastVitSize::parse(name).map(Trunk::FastVit));
                let found = found.or_else(|| EfficientVitSize::parse(name).map(Trunk::EfficientVit));
                match found.or_else(|| SiglipVit::parse(name).map(Trunk::Siglip)) {
                    Some(trunk) => trunk,
                    None => {
                        return unsupported(format!(
                            "timm_model_name `{name}` is not supported; use {NAMES}"
                        ));
                    }
                }
            }
        })
    }

    /// Returns the number of output features.
    pub(crate) fn features(&self) -> i64 {
        match self {
            Trunk::ResNet18 => 512,
            Trunk::EfficientNetB0 => 1280,
            Trunk::MobileNetV3Small => 1024,
            Trunk::MobileNetV4(_) => 1280,
            Trunk::ConvNext(size) => size.features(),
            Trunk::RepVit(size) => size.features(),
            Trunk::FastVit(size) => size.features(),
            Trunk::EfficientVit(size) => size.features(),
            Trunk::MobileVit(size) => size.features(),
            Trunk::SwinTiny => 768,
            Trunk::Siglip(vit) => vit.width,
        }
    }

    /// Returns the path of the linear classifier in timm's model; `None` if a norm precedes it, so that it cannot serve
    /// as a projection.
    pub(crate) fn classifier(&self) -> Option<&'static str> {
        Some(match self {
            Trunk::ResNet18 => "fc",
            Trunk::EfficientNetB0 | Trunk::MobileNetV3Small | Trunk::MobileNetV4(_) => "classifier",
            Trunk::MobileVit(_) | Trunk::SwinTiny | Trunk::ConvNext(_) | Trunk::FastVit(_) => "head.fc",
            Trunk::EfficientVit(_) => "head.classifier.4",
            Trunk::Siglip(_) => "head",
            Trunk::RepVit(_) => return None,
        })
    }

    /// Returns the paths of all classifiers in timm's weights, which are not part of the tower.
    pub(crate) fn classifiers(&self) -> &'static [&'static str] {
        match self {
            Trunk::ResNet18 => &["fc"],
            Trunk::EfficientNetB0 | Trunk::MobileNetV3Small | Trunk::MobileNetV4(_) => &["classifier"],
            Trunk::MobileVit(_) | Trunk::SwinTiny | Trunk::ConvNext(_) => &["head.fc"],
            // With a second head for distillation.
            Trunk::FastVit(_) => &["head.fc", "head_dist"],
            Trunk::RepVit(_) => &["head.head", "head.head_dist"],
            Trunk::EfficientVit(_) => &["head.classifier.4"],
            Trunk::Siglip(_) => &["head"],
        }
    }

    /// Whether timm reports the number of features before the last layers of the head, so that Python's open_clip can
    /// only use the classifier as the projection.
    pub(crate) fn needs_classifier(&self) -> bool {
        matches!(self, Trunk::MobileNetV3Small | Trunk::MobileNetV4(_) | Trunk::EfficientVit(_))
    }

    /// Whether the model has drop path.
    pub(crate) fn has_drop_path(&self) -> bool {
        !matches!(self, Trunk::RepVit(_) | Trunk::EfficientVit(_))
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
    ConvNext(convnext::ConvNext),
    RepVit(repvit::RepVit),
    FastVit(Box<fastvit::FastVit>),
    EfficientVit(efficientvit::EfficientVit),
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
            Trunk::MobileNetV4(size) => {
                Model::Inverted(inverted::InvertedNet::mobilenet_v4(&trunk, size, side, drop_path)?)
            }
            Trunk::ConvNext(size) => Model::ConvNext(convnext::ConvNext::new(&trunk, size, side, drop_path)?),
            Trunk::RepVit(size) => Model::RepVit(repvit::RepVit::new(&trunk, size, side)?),
            Trunk::FastVit(size) => {
                Model::FastVit(Box::new(fastvit::FastVit::new(&trunk, size, side, drop_path)?))
            }
            Trunk::EfficientVit(size) => {
                Model::EfficientVit(efficientvit::EfficientVit::new(&trunk, size, side)?)
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

    /// Whether most of the tower's layers are convolutions.
    pub(crate) fn is_convolutional(&self) -> bool {
        !matches!(self.trunk, Model::Swin(_) | Model::Siglip(_))
    }

    /// Encodes normalised images `[batch, 3, size, size]` to embeddings `[batch, embed]`.
    pub(crate) fn forward<'a>(&'a self, images: &Tensor, tape: &mut Tape<'a>) -> Tensor {
        let features = match &self.trunk {
            Model::ResNet(trunk) => trunk.forward(images, tape),
            Model::Inverted(trunk) => trunk.forward(images, tape),
            Model::ConvNext(trunk) => trunk.forward(images, tape),
            Model::RepVit(trunk) => trunk.forward(images, tape),
            Model::FastVit(trunk) => trunk.forward(images, tape),
            Model::EfficientVit(trunk) => trunk.forward(images, tape),
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

#[cfg(test)]
mod tests {
    use crate::params::ParamStore;
    use crate::{VisionConfig, vision::ImageTower};

    /// Number of parameters of a trunk, and FNV-1a digest of the names and shapes of its state dict, as timm 1.0.31
    /// builds it. `tests/python/golden_towers.py --table` prints them.
    const TRUNKS: [(&str, usize, u64); 28] = [
        ("mobilenetv4_conv_small", 2_493_024, 0x8B96_54C5_64E2_53C6),
        ("mobilenetv4_conv_medium", 8_434_512, 0x56D2_7CD7_A322_56BD),
        ("mobilenetv4_hybrid_medium", 9_793_648, 0x685D_E5C4_2A03_9885),
        ("convnext_atto", 3_374_520, 0x680E_F474_C224_6986),
        ("convnext_femto", 4_832_784, 0xDE95_61F9_34D8_D10E),
        ("convnext_pico", 8_532_672, 0xF8D2_81F8_36AA_9E59),
        ("convnext_nano", 14_952_560, 0x5F17_7CBD_41CC_AF76),
        ("convnext_tiny", 27_820_128, 0x177D_522E_DC74_5AC3),
        ("convnext_small", 49_454_688, 0x30BB_795B_FF01_1CC4),
        ("convnext_base", 87_566_464, 0xCCEF_9ED2_0695_1A57),
        ("convnext_large", 196_230_336, 0xEF9C_4189_231A_C28A),
        ("repvit_m0_9", 4_717_792, 0xE6DE_D56C_EA6B_B1D7),
        ("repvit_m1_0", 6_403_004, 0xE414_023E_3C68_352E),
        ("repvit_m1_1", 7_774_864, 0xA395_8ACA_1FD1_8139),
        ("repvit_m1_5", 13_616_384, 0xDD84_1D20_CE65_C436),
        ("repvit_m2_3", 22_404_232, 0x9197_29C4_09F3_3473),
        ("fastvit_t8", 3_257_232, 0x1598_1431_A955_C466),
        ("fastvit_t12", 6_528_704, 0xC81F_FEC3_BFCE_CE00),
        ("fastvit_s12", 8_448_576, 0xD722_04EE_14FA_D5C2),
        ("fastvit_sa12", 10_555_968, 0x68E8_6A79_C18D_A85C),
        ("fastvit_sa24", 20_529_216, 0xC8D8_0EDD_6EAF_F490),
        ("fastvit_mci0", 10_882_176, 0x86AA_D143_6324_A480),
        ("fastvit_mci1", 21_016_832, 0x4CFD_2494_BF16_AD68),
        ("fastvit_mci2", 35_159_360, 0x5510_C51B_BFC1_EBF4),
        ("efficientvit_b0", 2_129_008, 0x417D_9489_FB72_F0F6),
        ("efficientvit_b1", 7_501_024, 0x63E2_CE33_E264_B348),
        ("efficientvit_b2", 21_769_712, 0x1037_724A_DBBC_F71F),
        ("efficientvit_b3", 46_085_056, 0xE3EC_3E66_4F63_F41E),
    ];

    #[test]
    fn state_dicts_have_the_names_and_shapes_of_timm() {
        for (name, count, digest) in TRUNKS {
            let store = ParamStore::counting();
            let config = VisionConfig { timm_model_name: Some(name.into()), ..VisionConfig::default() };
            let config = VisionConfig { timm_proj: Some("linear".into()), ..config };
            let activation = crate::activation::Activation::Gelu;
            ImageTower::new(&store.root().child("visual"), &config, 8, activation).unwrap();
            let params = store.into_params();
            let trunk = |name: &str| name.strip_prefix("visual.trunk.").map(str::to_string);
            let found = params.iter().filter(|p| trunk(&p.name).is_some()).map(|p| p.tensor.numel());
            assert_eq!(found.sum::<usize>(), count, "{name}");
            let mut lines =
                params.state().filter_map(|p| Some((trunk(&p.name)?, p.tensor.size()))).collect::<Vec<_>>();
            lines.sort();
            let lines = lines.iter().map(|(name, shape)| format!("{name} {shape:?}")).collect::<Vec<_>>();
            let found = crate::mode::name_hash(0, &lines.join("\n"));
            assert_eq!(found, digest, "{name}: {lines:#?}");
        }
    }
}
