//! Very small models and recipes, for tests that train.

use std::path::{Path, PathBuf};

use clip_model::{Clip, ClipConfig, PreprocessConfig, folder};
use tch::Device;

/// Returns the configuration of a dual encoder with a few thousand weights, except for CLIP's large vocabulary.
pub fn config(image_size: i64, width: i64) -> ClipConfig {
    let json = format!(
        r#"{{"embed_dim": {width}, "vision_cfg": {{"image_size": {image_size}, "layers": 1, "width": {width}, "patch_size": 8, "head_width": 8}},
            "text_cfg": {{"context_length": 12, "vocab_size": 49408, "width": {width}, "heads": 1, "layers": 1}}}}"#
    );
    ClipConfig::from_json("tiny", &json).unwrap()
}

/// Writes a tiny model folder and returns its path.
pub fn model(parent: &Path, name: &str, config: &ClipConfig, seed: u64) -> PathBuf {
    let path = parent.join(name);
    let model = Clip::new(config, Device::Cpu, seed).unwrap();
    folder::save(&path, &model, &PreprocessConfig::default()).unwrap();
    path
}

/// Returns a recipe that trains `student` on the emoji for `steps` steps of 8 samples.
pub fn recipe(student: &Path, steps: u64) -> String {
    format!(
        r#"
        name = "tiny"
        seed = 5
        student.model = "{}"
        losses.task = 1.0
        optimizer = {{ lr = 1e-2, weight_decay = 0.1, clip_norm = 1.0 }}
        train = {{ batch_size = 8, steps = {steps}, warmup_steps = 2, threads = 1 }}
        metrics.every_steps = 1
        data = {{ workers = 2, prefetch = 2, augment = {{ scale = [0.5, 1.0], flip = 0.5 }}, train = [{{ source = "emoji" }}] }}
        "#,
        student.display()
    )
}
