//! Measurement of the training step.

use std::time::{Duration, Instant};

use anyhow::Context;
use clip_model::{Clip, ClipConfig, Precision, presets};
use kd_losses::{Loss, Objective, Term};
use tch::{Device, Kind, Tensor};
use trainer::model::device;
use trainer::optim::adamw::OptimizerConfig;
use trainer::recipe::TargetRule;
use trainer::run::plan::ModelCost;
use trainer::step::{MicroBatch, StepSettings, TeacherInput, TrainState, ViewTensors};
use trainer::teacher::frozen::Teacher;
use trainer::teacher::signal::TeacherSignal;

use super::{Case, Measured, memory};

/// Steps before the measurement, which allocate memory and choose algorithms.
const WARM_UP: usize = 2;
/// Time after which no further step is measured.
const BUDGET: Duration = Duration::from_secs(60);
/// Sizes of the square matrices whose product measures the peak, on a CPU and on a GPU.
const SIDES: [i64; 2] = [2048, 8192];

/// Measures a case in this process.
///
/// # Errors
/// If a preset does not exist, the device is not visible or memory runs out.
pub(crate) fn measure(case: &Case) -> anyhow::Result<Measured> {
    let device = device::resolve(case.device)?;
    let used_before = memory::used_on(device);
    let precision = case.precision.on(device);
    let peak_flops = peak(device, precision)?;
    tch::manual_seed(0);
    let mut config = presets::get(&case.student)?;
    config.vision_cfg.image_size = case.image_size.unwrap_or(config.vision_cfg.image_size);
    let teacher_config = case.teacher.as_deref().map(presets::get).transpose()?;
    let student_input = input(&config, case.batch, device)?;
    let mut signals = Vec::new();
    let mut inputs = Vec::new();
    if let Some(config) = &teacher_config {
        let model = Clip::new(config, device, 1)?;
        model.mode().set_precision(precision);
        signals.push(TeacherSignal::live(Teacher::new(model)));
        inputs.push(TeacherInput::Own(input(config, case.batch, device)?));
    }
    let widths = signals.iter().map(TeacherSignal::width).collect::<Vec<_>>();
    let objective = Objective::new(&terms(!signals.is_empty()), config.embed_dim, &widths, device)?;
    let settings = StepSettings { precision, micro_batch: case.micro_batch, ..StepSettings::default() };
    let student = Clip::new(&config, device, 0)?;
    let mut state =
        TrainState::new(student, objective, &OptimizerConfig::default(), None)?.with_settings(settings);
    let batches = [MicroBatch { student: student_input, teachers: inputs }];

    let mut seconds = Vec::new();
    let begin = Instant::now();
    for index in 0..WARM_UP + case.steps.max(1) {
        let start = Instant::now();
        state.step(&batches, &signals, TargetRule::Diagonal, 1e-5)?;
        synchronize(device);
        if index >= WARM_UP {
            seconds.push(start.elapsed().as_secs_f64());
            if begin.elapsed() > BUDGET {
                break;
            }
        }
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let mut macs = 3.0 * ModelCost::new(&case.student, &config)?.macs();
    if let (Some(name), Some(config)) = (&case.teacher, &teacher_config) {
        macs += ModelCost::new(name, config)?.macs();
    }
    let used = memory::used_on(device).zip(used_before).map(|(after, before)| after.saturating_sub(before));
    Ok(Measured {
        step_seconds: median,
        step_range: [seconds[0], seconds[seconds.len() - 1]],
        samples_per_second: case.batch as f64 / median,
        flops: 2.0 * macs * case.batch as f64 / median,
        peak_flops,
        memory: if device.is_cuda() { used } else { memory::peak_resident() },
    })
}

/// Returns CLIP's loss, and with a teacher also CLIP-KD's losses.
pub(super) fn terms(with_teacher: bool) -> Vec<Term> {
    let mut terms = vec![Term::new(Loss::Task, 1.0)];
    if with_teacher {
        terms.extend([Term::new(Loss::Crd, 1.0), Term::new(Loss::Fd, 2000.0), Term::new(Loss::Icl, 1.0)]);
    }
    terms
}

/// Creates random images, and random texts of full context.
fn input(config: &ClipConfig, batch: u64, device: Device) -> anyhow::Result<ViewTensors> {
    let batch = i64::try_from(batch).context("the batch is too large")?;
    let size = config.vision_cfg.image_size;
    let (context, vocabulary) = (config.text_cfg.context_length, config.text_cfg.vocab_size);
    let images = Tensor::f_randn([batch, 3, size, size], (Kind::Float, Device::Cpu))?;
    let tokens = Tensor::f_randint(vocabulary - 1, [batch, context], (Kind::Int64, Device::Cpu))?;
    // The text tower reads the position of the largest id, the end token.
    let _ = tokens.f_select(1, context - 1)?.f_fill_(vocabulary - 1)?;
    let (images, tokens) = (images.f_to_device(device)?, tokens.f_to_device(device)?);
    Ok(ViewTensors::new(images, tokens))
}

/// Returns the operations per second of the fastest of five products of two large square matrices.
fn peak(device: Device, precision: Precision) -> anyhow::Result<f64> {
    let side = SIDES[usize::from(device.is_cuda())];
    let kind = if precision == Precision::BFloat16 { Kind::BFloat16 } else { Kind::Float };
    let matrix = Tensor::f_rand([side, side], (Kind::Float, device))?.f_to_kind(kind)?;
    let mut fastest = f64::INFINITY;
    for _ in 0..5 {
        synchronize(device);
        let start = Instant::now();
        let _ = matrix.f_matmul(&matrix)?;
        synchronize(device);
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * (side as f64).powi(3) / fastest)
}

/// Waits for the device to finish its work.
fn synchronize(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}
