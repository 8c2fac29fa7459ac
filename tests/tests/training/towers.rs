//! Every kind of tower learns four pairs by heart in float32, and takes the same first step with products of bfloat16.

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

/// Four pairs whose pictures and texts are told apart easily.
fn batch(size: i64) -> MicroBatch {
    // Not from torch's generator, which other tests of this process draw from.
    let images = fill::unit("towers.images", &[4, 3, size, size]) * 2.0;
    let tokens =
        Tensor::from_slice(&(0..32).map(|place| 1 + place * 7 % 60).collect::<Vec<i64>>()).view([4, 8]);
    MicroBatch { student: ViewTensors::new(images, tokens), teachers: Vec::new() }
}

/// Steps on the same batch.
const STEPS: usize = 6;
/// The contrastive loss that they have to reach: half of ln 4, the loss of pairs that all look alike.
const TO_REACH: f64 = 0.69;

/// The task loss of each of `steps` steps.
fn losses(name: &str, json: &str, lr: f64, precision: Precision, steps: usize) -> Vec<f64> {
    let config = ClipConfig::from_json(name, json).unwrap();
    let student = Clip::new(&config, Device::Cpu, 2).unwrap();
    let terms = [Term::new(Loss::Task, 1.0)];
    let objective = Objective::new(&terms, config.embed_dim, &[], Device::Cpu).unwrap();
    let optimizer = OptimizerConfig { weight_decay: 0.0, ..OptimizerConfig::default() };
    let mut trainee = TrainState::new(student, objective, &optimizer, None).unwrap();
    trainee.settings.precision = precision;
    let batch = [batch(config.vision_cfg.image_size)];
    (0..steps).map(|_| trainee.step(&batch, &[], TargetRule::Diagonal, lr).unwrap().loss).collect()
}

fn assert_learns(name: &str, json: &str, lr: f64) {
    let exact = losses(name, json, lr, Precision::Float32, STEPS);
    println!("{name}: {exact:.3?}");
    assert!(exact[STEPS - 1] < TO_REACH, "{name}: {exact:?}");
    let mixed = losses(name, json, lr, Precision::BFloat16, 2);
    println!("{name} in bf16: {mixed:.3?}");
    // Slow on most CPUs, so this sees one step alone: it gets at least half as far as the one in float32.
    let half_way = (exact[0] + exact[1]) / 2.0;
    assert!(exact[1] < exact[0] && mixed[1] < half_way, "{name} in bf16: {mixed:?}, float32: {exact:?}");
    // Another number, since operands have 8 bits of mantissa.
    assert!(mixed[0] != exact[0], "{name}: {exact:?} is the same in bf16");
    // Embeddings are nearly the same. In evaluation, since norms over a batch of four make much of a rounding.
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
fn every_tower_learns_four_pairs_by_heart() {
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
        ("MobileNetV4-Conv-S", timm("mobilenetv4_conv_small", 64)),
        ("ConvNeXt-Atto", timm("convnext_atto", 64)),
        ("RepViT-M0.9", timm("repvit_m0_9", 64)),
        ("FastViT-T8", timm("fastvit_t8", 64)),
        ("FastViT-MCi0", timm("fastvit_mci0", 64)),
        ("EfficientViT-B0", timm("efficientvit_b0", 64)),
        ("Swin-T", timm("swin_tiny_patch4_window7_224", 64)),
    ];
    for (name, vision) in towers {
        let json = format!(r#"{{"embed_dim": 32, "vision_cfg": {vision}, "text_cfg": {TEXT}}}"#);
        assert_learns(name, &json, 1e-3);
    }
    let siglip = format!(
        r#"{{"embed_dim": 768, "custom_text": true, "vision_cfg": {{"timm_model_name": "vit_base_patch16_siglip_224",
            "image_size": 32, "timm_proj": "none", "timm_pool": "map"}}, "text_cfg": {SIGLIP_TEXT}}}"#
    );
    // Of twelve layers, which a larger rate throws off.
    assert_learns("SigLIP", &siglip, 1e-4);
}
