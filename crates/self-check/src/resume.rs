//! Resume: a run that stops and resumes gives the weights of an uninterrupted run.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use clip_model::{Precision, folder};
use tch::{Device, Kind};
use trainer::RunModels;
use trainer::recipe::Recipe;
use trainer::run::{Options, run};

use crate::Result;

/// A recipe of a few steps on the embedded emoji.
const RECIPE: &str = r#"
    name = "resume"
    student.model = "ViT-pico-32px"
    losses.task = 1.0
    optimizer.lr = 1e-3
    train = { batch_size = 8, steps = 6, warmup_steps = 2 }
    [[data.train]]
    source = "emoji"
"#;
/// The step after which the run stops.
const STOP: u64 = 3;

/// A CPU repeats a run bit for bit. On a GPU, the order of some sums is not fixed.
pub(crate) fn tolerance(device: Device) -> f64 {
    if device.is_cuda() { 1e-2 } else { 0.0 }
}

/// Returns the distance between the weights of both runs, relative to the norm of the weights.
///
/// # Errors
/// The errors of [`run`].
pub(crate) fn deviation(device: Device, precision: Precision) -> Result<f64> {
    let device = match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".into(),
    };
    let precision = if precision == Precision::BFloat16 { "bf16" } else { "fp32" };
    let settings = [format!("train.device={device}"), format!("train.precision={precision}")];
    let job = trainer::recipe::parse(RECIPE, &settings, "self-check")?;
    let folder = tempfile::tempdir()?;
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    train(&job.runs[0], &whole, None)?;
    train(&job.runs[0], &parts, Some(STOP))?;
    train(&job.runs[0], &parts, None)?;
    let [whole, parts] = [whole, parts].map(|folder| weights(&folder.join("model")));
    let (whole, parts) = (whole?, parts?);
    let (mut distance, mut norm) = (0.0, 0.0);
    for entry in whole.params().iter() {
        let Some(other) = parts.params().get(&entry.name) else { return Ok(f64::INFINITY) };
        let squares = |tensor: tch::Tensor| tensor.f_square()?.f_sum(Kind::Double)?.f_double_value(&[]);
        distance += squares(entry.tensor.f_sub(other)?)?;
        norm += squares(entry.tensor.shallow_clone())?;
    }
    Ok((distance / norm).sqrt())
}

fn train(recipe: &Recipe, folder: &Path, stop_after: Option<u64>) -> Result<()> {
    let stop = AtomicBool::new(false);
    let options = Options { stop: &stop, stop_after, resume: true, progress: false, version: "self-check" };
    run(recipe, folder, &RunModels::default(), &options)?;
    Ok(())
}

fn weights(model: &Path) -> Result<clip_model::Clip> {
    let opened = folder::open(model, Device::Cpu, 0)?;
    opened.model.params().set_requires_grad(false);
    Ok(opened.model)
}
