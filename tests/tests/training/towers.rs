//! Every kind of tower trains, in float32 and in bfloat16: the second step on a batch has a lower loss than the first.

use clip_distill_tests::fill;
use clip_model::{Clip, ClipConfig, Precision};
use kd_losses::{Loss, Objective, Term};
use tch::{Device, Tensor};
use trainer::optim::adamw::OptimizerConfig;
use trainer::recipe::TargetRule;
use trainer::step::{MicroBatch, TrainState, ViewTensors};

const TEXT: &str = r#"{"layers": 1, "width": 32, "heads": 2, "vocab_size": 64, "context_length": 8}"#;
const SIGLIP_TEXT: &str = r#"{"layers": 1, "width": 768, "heads": 12, "vocab_size": 64, "context_length": 8,
    "no_causal_mask": true, "proj_bias": true, "pool_type": "last"}"#;

/// Returns a batch of four pairs with clearly different images and texts.
fn batch(size: i64) -> MicroBatch {
    // Do not draw from torch's generator, which other tests of this process also use.
    let images = fill::unit("towers.images", &[4, 3, size, size]) * 2.0;
    let tokens =
        Tensor::from_slice(&(0..32).map(|index| 1 + index * 7 % 60).collect::<Vec<i64>>()).view([4, 8]);
    MicroBatch { student: ViewTensors { images, tokens, boxes: Vec::new() }, teachers: Vec::new() }
}

/// Returns the task losses of two successive steps on one batch.
fn losses(name: &str, json: &str, precision: Precision) -> Vec<f64> {
    let config = ClipConfig::from_json(name, json).unwrap();
    let student = Clip::new(&config, Device::Cpu, 2).unwrap();
    let terms = [Term::new(Loss::Task, 1.0)];
    let objective = Objective::new(&terms, config.embed_dim, &[], Device::Cpu).unwrap();
    let optimizer = OptimizerConfig { weight_decay: 0.0, ..OptimizerConfig::default() };
    let mut state = TrainState::new(student, objective, &optimizer, None).unwrap();
    state.settings.precision = precision;
    let batch = [batch(config.vision_cfg.image_size)];
    (0..2).map(|_| state.step(&batch, &[], TargetRule::Diagonal, 1e-4).unwrap().loss).collect()
}

fn assert_loss_decreases(name: &str, json: &str) {
    let exact = losses(name, json, Precision::Float32);
    assert!(exact[1] < exact[0], "{name}: {exact:?}");
    let mixed = losses(name, json, Precision::BFloat16);
    assert!(mixed[1] < mixed[0], "{name} in bf16: {mixed:?}");
    // The losses differ, because bfloat16 operands have a mantissa of 8 bits.
    assert!(mixed[0] != exact[0], "{name}: {exact:?} is the same in bf16");
    // Embeddings are nearly equal. Compare them in evaluation mode, because batch norms over four images amplify
    // rounding.
    let config = ClipConfig::from_json(name, json).unwrap();
    let model = Clip::new(&config, Device::Cpu, 2).unwrap();
    let images = batch(config.vision_cfg.image_size).student.images;
    let plain = model.encode_image(&images).unwrap();
    model.mode().set_precision(Precision::BFloat16);
    let rounded = model.encode_image(&images).unwrap();
    let cosine = Tensor::cosine_similarity(&plain, &rounded, 1, 1e-12).min().double_value(&[]);
    assert!(cosine > 0.99, "{name}: cosine {cosine} between float32 and bf16");
}

#[test]
fn the_loss_of_every_tower_decreases() {
    let timm = |tower: &str, size: i64| {
        format!(r#"{{"timm_model_name": "{tower}", "image_size": {size}, "timm_drop_path": 0.0}}"#)
    };
    let towers = [
        ("ViT", r#"{"layers": 2, "width": 64, "patch_size": 8, "image_size": 32}"#.to_string()),
        (
            "ViT without norm before its blocks, patches pooled",
            r#"{"layers": 2, "width": 64, "patch_size": 8, "image_size": 32, "no_ln_pre": true, "pool_type": "avg",
                "final_ln_after_pool": true}"#
                .to_string(),
        ),
        (
            "pruned ViT",
            r#"{"layers": 2, "width": 48, "head_width": 16, "patch_size": 8, "image_size": 32,
                "blocks": [{"heads": 1, "mlp_width": 40}, {"heads": 0, "mlp_width": 24}]}"#
                .to_string(),
        ),
        ("ResNet", r#"{"layers": [1, 1, 1, 1], "width": 16, "patch_size": null, "image_size": 64}"#.to_string()),
        ("ResNet-18", timm("resnet18", 32)),
        ("MobileNetV3-Small", timm("mobilenetv3_small_100", 64)),
        ("EfficientNet-B0", timm("efficientnet_b0", 64)),
        ("MobileViT-S", timm("mobilevit_s", 64)),
        ("MobileViT-XS", timm("mobilevit_xs", 64)),
        ("MobileViT-XXS", timm("mobilevit_xxs", 64)),
        ("Swin-T", timm("swin_tiny_patch4_window7_224", 64)),
    ];
    for (name, vision) in towers {
        let json = format!(r#"{{"embed_dim": 32, "vision_cfg": {vision}, "text_cfg": {TEXT}}}"#);
        assert_loss_decreases(name, &json);
    }
    let siglip = format!(
        r#"{{"embed_dim": 768, "custom_text": true, "vision_cfg": {{"timm_model_name": "vit_base_patch16_siglip_224",
            "image_size": 32, "timm_proj": "none", "timm_pool": "map"}}, "text_cfg": {SIGLIP_TEXT}}}"#
    );
    assert_loss_decreases("SigLIP", &siglip);
}
