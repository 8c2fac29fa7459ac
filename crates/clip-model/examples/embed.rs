//! Creates a model from a preset, saves it as a model folder, reopens the folder and compares the embeddings.
//!
//! Run with `cargo run -p clip-model --example embed`.

use std::io::Write;

use clip_model::{Clip, PreprocessConfig, presets};
use tch::{Device, Kind, Tensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = Clip::new(&presets::get("ViT-nano-32px")?, Device::Cpu, 7)?;
    let path = std::env::temp_dir().join(format!("clip-model-example-{}", std::process::id()));
    clip_model::save(&path, &model, &PreprocessConfig::default())?;
    let opened = clip_model::open(&path, Device::Cpu, 0)?.model;
    std::fs::remove_dir_all(&path)?;

    let images = Tensor::randn([2, 3, 32, 32], (Kind::Float, Device::Cpu));
    // Start token, "a", "cat", end token.
    let tokens = Tensor::from_slice(&[49406i64, 320, 2368, 49407]).view([1, 4]);
    let (a, b) = tch::no_grad(|| -> Result<_, clip_model::Error> {
        Ok((model.encode_image(&images)?, opened.encode_image(&images)?))
    })?;
    let text = tch::no_grad(|| model.encode_text(&tokens))?;
    let difference = (&a - b).abs().max().double_value(&[]);
    writeln!(
        std::io::stdout(),
        "images {:?}, texts {:?}, logit scale {:.2}; the reopened model differs by {difference}",
        a.size(),
        text.size(),
        model.logit_scale.exp().double_value(&[])
    )?;
    Ok(())
}
