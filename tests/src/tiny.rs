//! Very small models, data and recipes, for tests that train.

use std::path::{Path, PathBuf};

use clip_model::{Clip, ClipConfig, PreprocessConfig, folder};
use tch::Device;
use trainer::run::metrics::{StepLine, read_steps};

use crate::fill;

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

/// Captions of [`pairs`], without a common word.
const CAPTIONS: [&str; 8] = ["apple", "bridge", "cloud", "drum", "engine", "forest", "guitar", "harbour"];

/// The contrastive loss of 8 pairs if every pair looks alike: ln 8.
pub const CHANCE: f64 = 2.079;

/// Writes 8 pairs that even a tiny student can tell apart, and returns them as a recipe's source.
///
/// Each picture is 16 px wide and holds 2 x 2 random colours, one per patch.
pub fn pairs(parent: &Path) -> String {
    let path = parent.join("pairs.tar");
    let mut shard = tar::Builder::new(std::fs::File::create(&path).unwrap());
    for (number, caption) in CAPTIONS.iter().enumerate() {
        let colors = fill::unit_values(&format!("tiny.pairs.{number}"), 12);
        let picture = image::RgbImage::from_fn(16, 16, |x, y| {
            let patch = (y / 8 * 2 + x / 8) as usize;
            let channel = |k: usize| (127.5 + 127.5 * colors[3 * patch + k]) as u8;
            image::Rgb([channel(0), channel(1), channel(2)])
        });
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        for (ending, bytes) in [("png", bytes.get_ref().as_slice()), ("txt", caption.as_bytes())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            shard.append_data(&mut header, format!("{number}.{ending}"), bytes).unwrap();
        }
    }
    shard.finish().unwrap();
    format!("{{ source = \"webdataset\", shards = \"{}\" }}", path.display())
}

/// A recipe that trains `student` on all of [`pairs`] in every step, so that it can learn them by heart.
pub fn recipe_of_pairs(student: &Path, pairs: &str, steps: u64) -> String {
    recipe(student, steps)
        .replace("{ source = \"emoji\" }", pairs)
        .replace("scale = [0.5, 1.0], flip = 0.5", "scale = [1.0, 1.0], ratio = [1.0, 1.0]")
        .replace("lr = 1e-2, weight_decay = 0.1", "lr = 5e-3, weight_decay = 0.0")
}

/// Returns a run's loss of each step, and fails unless it is the sum of its weighted terms.
pub fn losses(run: &Path) -> Vec<f64> {
    let loss = |line: StepLine| {
        let sum = line.terms.iter().map(|term| term.weighted).sum::<f64>();
        let error = (line.loss - sum).abs();
        assert!(error <= 1e-4 * line.loss.abs() + 1e-6, "the loss is not the sum of its terms: {line:?}");
        line.loss
    };
    read_steps(run).unwrap().into_iter().map(loss).collect()
}

/// Returns a term's value of each step, before it is weighted, and fails if one is negative beyond rounding: no loss is.
pub fn term(run: &Path, name: &str) -> Vec<f64> {
    let raw = read_steps(run).unwrap().iter().map(|line| line.term(name).unwrap().raw).collect::<Vec<_>>();
    assert!(raw.iter().all(|value| *value > -1e-6), "{name} is negative: {raw:?}");
    raw
}
