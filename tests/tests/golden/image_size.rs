//! Image size: weights whose positional embeddings are resized give the reference's features.

use clip_distill_tests::fill;
use clip_distill_tests::golden::{Coverage, assert_close, files, tensors_of};
use clip_model::{Clip, ClipConfig, resize, weights};
use serde_json::Value;
use tch::Device;

/// Positional embeddings with a class token, and those of an attention pool.
const EXPECTED: [&str; 2] = ["image-size/openai--rn50-at-160", "image-size/openai--vit-b-32-at-160"];

#[test]
fn resized_towers_agree_with_the_reference() {
    let mut coverage = Coverage::new("image-size");
    for file in files("image-size", "json") {
        let name = file.path.display().to_string();
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(&file.path).unwrap()).unwrap();
        let config = ClipConfig::from_json(&name, &golden["config"].to_string()).unwrap();
        let mut original = config.clone();
        original.vision_cfg.image_size = golden["weights_image_size"].as_i64().unwrap();
        let published = Clip::new(&original, Device::Cpu, 0).unwrap();
        let named =
            published.params().state().map(|p| (p.name.clone(), fill::parameter(&p.name, &p.tensor.size())));
        let mut named = named.collect();

        let model = Clip::new(&config, Device::Cpu, 0).unwrap();
        let resized = resize::fit_image_size(model.params(), &mut named).unwrap();
        assert!(!resized.is_empty(), "{name}: nothing was resized");
        weights::load(model.params(), &named, &name).unwrap();
        let shape = serde_json::from_value::<Vec<i64>>(golden["image_input"]["shape"].clone()).unwrap();
        let images = fill::unit("input.image", &shape) * golden["image_input"]["scale"].as_f64().unwrap();
        let features = tch::no_grad(|| model.encode_image(&images)).unwrap();
        let reference = tensors_of(&file.path.with_extension("safetensors"), &["image_features"]);
        assert_close(&features, &reference["image_features"], 1e-4, &name);
        coverage.add(&file, &file.name);
    }
    coverage.assert_exactly(EXPECTED);
}
