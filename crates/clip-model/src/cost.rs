//! Cost of a model, computed from its configuration: parameters and multiply-accumulates of one forward pass.

use crate::clip::Clip;
use crate::params::ParamStore;
use crate::vision::ImageTower;
use crate::{ClipConfig, Result};

/// Cost of one tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TowerCost {
    /// Number of trainable parameters.
    pub parameters: u64,
    /// Multiply-accumulates of matrix products and convolutions, for one image or one text of full context length.
    /// Norms, softmax and activations are not counted, as is usual.
    pub macs: u64,
    /// Output elements of matrix products and convolutions, for one sample. A forward pass keeps about twice as many
    /// for the backward pass.
    pub outputs: u64,
}

/// Cost of both towers. The logit scale and the optional logit bias are not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// The image tower.
    pub image: TowerCost,
    /// The text tower.
    pub text: TowerCost,
}

/// Computes the cost of a model from its configuration, without allocating its weights.
///
/// ```no_run
/// let config = clip_model::presets::get("ViT-B-32")?;
/// let cost = clip_model::cost::cost(&config)?;
/// println!("{} parameters in the image tower", cost.image.parameters);
/// # Ok::<(), clip_model::Error>(())
/// ```
///
/// # Errors
/// [`crate::Error::Config`] if the model cannot be built.
pub fn cost(config: &ClipConfig) -> Result<Cost> {
    config.validate("model")?;
    let store = ParamStore::counting();
    let root = store.root();
    ImageTower::new(&root.child("visual"), &config.vision_cfg, config.embed_dim, config.vision_activation())?;
    let image = TowerCost { parameters: store.count(), macs: store.macs(), outputs: store.outputs() };
    Clip::text_tower(&root, config)?;
    let text = TowerCost {
        parameters: store.count() - image.parameters,
        macs: store.macs() - image.macs,
        outputs: store.outputs() - image.outputs,
    };
    Ok(Cost { image, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_match_the_built_model() {
        for name in ["ViT-B-32", "ViT-T-16", "ViT-nano-32px", "TinyCLIP-ViT-8M-16-Text-3M"] {
            let config = crate::presets::get(name).unwrap();
            let built = crate::Clip::new(&config, tch::Device::Cpu, 0).unwrap();
            let cost = cost(&config).unwrap();
            assert_eq!(
                cost.image.parameters + cost.text.parameters + 1,
                built.params().count() as u64,
                "{name}"
            );
        }
    }

    #[test]
    fn tower_costs_match_published_values() {
        // Published giga multiply-accumulates (papers and timm's tables) at 224 px, MobileViT at 256 px, without the
        // classifier of 1000 classes.
        for (tower, size, published) in [
            ("resnet18", 224, 1.82),
            ("efficientnet_b0", 224, 0.39),
            ("mobilenetv3_small_100", 224, 0.057),
            ("mobilenetv4_conv_small", 224, 0.19),
            ("mobilenetv4_conv_medium", 224, 0.84),
            ("mobilenetv4_hybrid_medium", 224, 0.98),
            ("convnext_atto", 224, 0.55),
            ("convnext_tiny", 224, 4.47),
            ("repvit_m1_0", 224, 1.13),
            ("fastvit_t8", 256, 0.70),
            ("fastvit_mci0", 256, 2.42),
            ("efficientvit_b0", 224, 0.10),
            ("efficientvit_b1", 224, 0.53),
            ("mobilevit_s", 256, 2.03),
            ("mobilevit_xxs", 256, 0.42),
            ("swin_tiny_patch4_window7_224", 224, 4.5),
            ("vit_base_patch16_siglip_224", 224, 17.7),
        ] {
            let json = format!(
                r#"{{"embed_dim": 768, "vision_cfg": {{"timm_model_name": "{tower}", "timm_pool": "", "timm_proj": "linear", "image_size": {size}}}, "text_cfg": {{}}}}"#
            );
            let found = cost(&ClipConfig::from_json(tower, &json).unwrap()).unwrap().image.macs as f64 / 1e9;
            assert!((found / published - 1.0).abs() < 0.04, "{tower}: {found} instead of {published}");
        }
        let vit = cost(&crate::presets::get("ViT-B-16").unwrap()).unwrap();
        assert!((17.4e9..17.7e9).contains(&(vit.image.macs as f64)), "{vit:?}");
    }
}
