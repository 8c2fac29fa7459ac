//! Rounds of training or distillation steps on batches from a file.

use std::path::{Path, PathBuf};

use anyhow::Context;
use kd_losses::Objective;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde::Deserialize;
use tch::{Device, Kind, Tensor};
use trainer::model::loaded::{LoadOptions, LoadedModel};
use trainer::optim::adamw::OptimizerConfig;
use trainer::recipe::{PrecisionConfig, TargetRule};
use trainer::step::{MicroBatch, StepSettings, TeacherInput, TrainState, ViewTensors};
use trainer::teacher::frozen::Teacher;
use trainer::teacher::signal::TeacherSignal;

use super::Work;
use crate::bench::step::terms;

/// Steps to train.
#[derive(Debug, Deserialize)]
pub(super) struct Case {
    /// Model folder of the student, with its initial weights.
    student: PathBuf,
    /// Model folder of the teacher. With a teacher, the losses are CLIP-KD's, otherwise CLIP's.
    teacher: Option<PathBuf>,
    /// Whether the teacher's embeddings of all batches are computed before the first step.
    stored: bool,
    /// Safetensors file with `images` [samples, 3, side, side] (float32) and `tokens` [samples, context] (int64).
    batches: PathBuf,
    /// Samples per batch.
    batch: i64,
    precision: PrecisionConfig,
    /// Learning rate.
    lr: f64,
    /// Steps whose losses are compared.
    check_steps: usize,
    /// Steps per round.
    round_steps: usize,
}

pub(super) struct Step {
    case: Case,
    state: TrainState,
    signals: Vec<TeacherSignal>,
    /// Batches, used in rotation.
    batches: Vec<[MicroBatch; 1]>,
}

impl Step {
    pub(super) fn open(case: Case) -> anyhow::Result<Self> {
        let precision = case.precision.on(Device::Cpu);
        let open =
            |folder: &Path| LoadedModel::open_trained(&folder.display().to_string(), &LoadOptions::default());
        let student = open(&case.student)?;
        let views = views(&case, &student)?;
        let teacher = case.teacher.as_deref().map(open).transpose()?;
        if let Some(teacher) = &teacher {
            anyhow::ensure!(
                teacher.processor.reads_the_same(&student.processor),
                "student and teacher read different inputs"
            );
            teacher.model.mode().set_precision(precision);
        }
        let mut signals =
            teacher.map(|model| TeacherSignal::live(Teacher::from(model))).into_iter().collect::<Vec<_>>();
        let batches = views
            .into_iter()
            .map(|view| Ok([MicroBatch { teachers: inputs(&case, &signals, &view)?, student: view }]))
            .collect::<anyhow::Result<Vec<_>>>()?;
        if case.stored {
            // As in a run from a store, the teacher's model is not in memory.
            let scales =
                signals.iter().filter_map(TeacherSignal::teacher).map(|t| t.scale().double_value(&[]));
            signals = scales
                .zip(&signals)
                .map(|(scale, signal)| TeacherSignal::stored(scale, signal.width(), Device::Cpu))
                .collect();
        }
        let widths = signals.iter().map(TeacherSignal::width).collect::<Vec<_>>();
        let width = student.model.config().embed_dim;
        let objective = Objective::new(&terms(!signals.is_empty()), width, &widths, Device::Cpu)?;
        let settings = StepSettings { precision, ..StepSettings::default() };
        let state = TrainState::new(student.model, objective, &OptimizerConfig::default(), None)?;
        Ok(Step { case, state: state.with_settings(settings), signals, batches })
    }

    /// Runs one training step and returns the loss before the update.
    fn step(&mut self) -> anyhow::Result<f64> {
        let batch = &self.batches[self.state.step as usize % self.batches.len()];
        Ok(self.state.step(batch, &self.signals, TargetRule::Diagonal, self.case.lr)?.loss)
    }
}

impl Work for Step {
    fn check(&mut self) -> anyhow::Result<Vec<f32>> {
        (0..self.case.check_steps).map(|_| Ok(self.step()? as f32)).collect()
    }

    fn round(&mut self) -> anyhow::Result<usize> {
        for _ in 0..self.case.round_steps {
            self.step()?;
        }
        Ok(self.case.round_steps * self.case.batch as usize)
    }
}

/// Returns the teachers' inputs for a batch.
fn inputs(case: &Case, signals: &[TeacherSignal], view: &ViewTensors) -> anyhow::Result<Vec<TeacherInput>> {
    let inputs = signals.iter().map(|signal| match signal.teacher() {
        Some(teacher) if case.stored => Ok(TeacherInput::Stored(teacher.embed(view, &signal.hooks)?.0)),
        _ => Ok(TeacherInput::AsStudent),
    });
    inputs.collect()
}

/// Reads the batches of the case and prepares them as a run does for the student.
fn views(case: &Case, student: &LoadedModel) -> anyhow::Result<Vec<ViewTensors>> {
    let name = || format!("cannot read the batches in `{}`", case.batches.display());
    let bytes = std::fs::read(&case.batches).with_context(name)?;
    let file = SafeTensors::deserialize(&bytes).with_context(name)?;
    let images = tensor(&file.tensor("images").with_context(name)?, Kind::Float)?;
    let tokens = tensor(&file.tensor("tokens").with_context(name)?, Kind::Int64)?;
    let pairs = images.f_split(case.batch, 0)?.into_iter().zip(tokens.f_split(case.batch, 0)?);
    pairs
        .map(|(images, tokens)| {
            let ids = Vec::<i64>::try_from(tokens.f_reshape([-1])?)?;
            let tokens = student.processor.token_tensor(&ids, Device::Cpu)?;
            Ok(ViewTensors::new(images.f_contiguous()?, tokens))
        })
        .collect()
}

fn tensor(view: &TensorView<'_>, kind: Kind) -> anyhow::Result<Tensor> {
    let shape = view.shape().iter().map(|side| *side as i64).collect::<Vec<_>>();
    Ok(Tensor::f_from_data_size(view.data(), &shape, kind)?)
}
