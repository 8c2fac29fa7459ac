//! Models: towers with named weights and inputs give the reference's embeddings (within 1e-4 of the largest value).

use std::collections::BTreeSet;

use clip_distill_tests::fill;
use clip_distill_tests::golden::{Coverage, assert_close, files, tensors_of};
use clip_model::config::TowerKind;
use clip_model::{Clip, ClipConfig, presets, weights};
use tch::{Device, Kind};

/// The models with reference outputs in the project's own folder.
const EXPECTED: [&str; 22] = [
    "models/clip-kd/efficientnet-b0",
    "models/clip-kd/mobilenetv3-small-100",
    "models/clip-kd/mobilevit-s",
    "models/clip-kd/resnet18",
    "models/clip-kd/swin-tiny",
    "models/clip-kd/vit-t-16",
    "models/open-clip/vit-b-16",
    "models/openai/rn50",
    "models/openai/vit-b-32",
    "models/siglip/vit-b-16",
    "models/timm/convnext-atto",
    "models/timm/convnext-tiny",
    "models/timm/efficientvit-b0",
    "models/timm/fastvit-mci0",
    "models/timm/fastvit-t8",
    "models/timm/mobilenetv4-conv-medium",
    "models/timm/mobilenetv4-conv-small",
    "models/timm/mobilenetv4-hybrid-medium",
    "models/timm/repvit-m1-0",
    "models/tiny/vit-32px",
    "models/tinyclip/resnet-19m-text-19m",
    "models/tinyclip/vit-8m-16-text-3m",
];

/// Families of timm models, by a part of their names.
const TIMM_FAMILIES: [(&str, &str); 11] = [
    ("resnet18", "ResNet18"),
    ("efficientnet_b0", "EfficientNetB0"),
    ("mobilenetv3_small", "MobileNetV3Small"),
    ("mobilenetv4", "MobileNetV4"),
    ("convnext", "ConvNext"),
    ("repvit", "RepVit"),
    ("fastvit", "FastVit"),
    ("efficientvit", "EfficientVit"),
    ("mobilevit", "MobileVit"),
    ("swin_tiny", "SwinTiny"),
    ("siglip", "Siglip"),
];

/// Returns the families of a model's towers and its activation. Models of one family share their code.
fn families(config: &ClipConfig) -> [String; 3] {
    let vision = &config.vision_cfg;
    let image = match vision.tower() {
        TowerKind::Timm => {
            let name = vision.timm_model_name.as_deref().unwrap();
            let family = TIMM_FAMILIES.iter().find(|(part, _)| name.contains(part));
            family.unwrap_or_else(|| panic!("{name} does not belong to a family")).1.to_string()
        }
        kind => format!("{kind:?}"),
    };
    let text = if config.text_cfg.can_trim() { "causal" } else { "without causal mask" };
    let activation = if config.quick_gelu { "QuickGELU" } else { "GELU" };
    [format!("image tower {image}"), format!("text tower {text}"), activation.into()]
}

#[test]
fn towers_agree_with_the_reference() {
    let (mut coverage, mut compared) = (Coverage::new("models"), BTreeSet::new());
    for file in files("models", "json") {
        let name = file.path.display().to_string();
        let golden: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&file.path).unwrap()).unwrap();
        let config = &golden["config"];
        let config = ClipConfig::from_json(&name, &config.to_string()).unwrap();
        let model = Clip::new(&config, Device::Cpu, 0).unwrap();
        let expected_dict = golden["state_dict"].as_array().unwrap();
        assert_eq!(
            model.params().count() as u64,
            golden["parameters"].as_u64().unwrap(),
            "{name}: parameters"
        );
        let of_images = model.params().iter().filter(|p| p.name.starts_with("visual."));
        assert_eq!(
            of_images.map(|p| p.tensor.numel() as u64).sum::<u64>(),
            golden["vision_parameters"].as_u64().unwrap(),
            "{name}: parameters of the image tower"
        );
        let mut ours = model.params().state().map(|p| (p.name.clone(), p.tensor.size())).collect::<Vec<_>>();
        let mut theirs = expected_dict
            .iter()
            .map(|row| {
                (
                    row[0].as_str().unwrap().to_string(),
                    serde_json::from_value::<Vec<i64>>(row[1].clone()).unwrap(),
                )
            })
            .collect::<Vec<_>>();
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs, "{name}: state dict");
        let named = ours.iter().map(|(name, shape)| (name.clone(), fill::parameter(name, shape))).collect();
        weights::load(model.params(), &named, &name).unwrap();

        let keys = ["tokens", "image_features", "text_features", "logits_per_image"];
        let reference = tensors_of(&file.path.with_extension("safetensors"), &keys);
        let shape = serde_json::from_value::<Vec<i64>>(golden["image_input"]["shape"].clone()).unwrap();
        let scale = golden["image_input"]["scale"].as_f64().unwrap();
        let images = fill::unit(golden["image_input"]["name"].as_str().unwrap(), &shape) * scale;
        tch::no_grad(|| {
            let image = model.encode_image(&images).unwrap();
            let tokens = reference["tokens"].to_kind(Kind::Int64);
            let text = model.encode_text(&tokens).unwrap();
            assert_close(&image, &reference["image_features"], 1e-4, &format!("{name}: image features"));
            assert_close(&text, &reference["text_features"], 1e-4, &format!("{name}: text features"));
            let pairs = |x| kd_losses::embeddings::normalize(x);
            let logits = (pairs(&image) * model.logit_scale.exp()).matmul(&pairs(&text).tr());
            let logits = match &model.logit_bias {
                Some(bias) => logits + bias,
                None => logits,
            };
            assert_close(&logits, &reference["logits_per_image"], 1e-4, &format!("{name}: logits"));
            if model.config().text_cfg.can_trim() {
                // Trimming to the longest text does not change the embeddings.
                let longest = tokens.argmax(1, false).max().int64_value(&[]) + 1;
                let trimmed = model.encode_text(&tokens.narrow(1, 0, longest)).unwrap();
                let what = format!("{name}: text features of trimmed tokens");
                assert_close(&trimmed, &reference["text_features"], 1e-4, &what);
            }
        });
        coverage.add(&file, &file.name);
        if file.own {
            compared.extend(families(&config));
        }
    }
    coverage.assert_exactly(EXPECTED);
    let presets = presets::names().flat_map(|name| families(&presets::get(name).unwrap()));
    assert_eq!(compared, presets.collect(), "compared families, and families of the presets");
}
