//! One training step, top to bottom.

use clip_model::{Clip, Tape};
use kd_losses::objective::Side;
use kd_losses::{Embeddings, Objective, Targets};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::ema::Ema;
use crate::optimizer::{AdamW, OptimizerConfig};
use crate::teacher::Teacher;
use crate::{Error, Result};

/// What is trained, with everything that changes from step to step.
#[derive(Debug)]
pub struct Trainee {
    /// The student.
    pub student: Clip,
    /// The weighted terms with their learned parts.
    pub objective: Objective,
    /// Moments of student and learned parts.
    pub optimizer: AdamW,
    /// Averaged student weights, where they are wanted.
    pub ema: Option<Ema>,
    /// Finished steps.
    pub step: u64,
    /// Samples seen.
    pub samples: u64,
    /// Names the random drops of the student's layers, together with the step.
    pub seed: u64,
    /// Whether the student's blocks compute their activations again instead of keeping them.
    pub grad_checkpointing: bool,
}

/// Which pairs of a batch count as right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetRule {
    /// Only a sample's own pair, as every published recipe has it.
    #[default]
    Diagonal,
    /// All pairs whose captions have the same tokens.
    EqualCaptions,
}

/// Images `[batch, 3, size, size]` (normalised) and tokens `[batch, length]` of one model.
#[derive(Debug)]
pub struct ViewTensors {
    /// Float32 images.
    pub images: Tensor,
    /// i64 token ids; cut to the longest text.
    pub tokens: Tensor,
}

/// One forward and backward pass' worth of samples.
#[derive(Debug)]
pub struct MicroBatch {
    /// For the student.
    pub student: ViewTensors,
    /// For the teacher, unless it reads the student's.
    pub teacher: Option<ViewTensors>,
}

/// Values of one step, averaged over its micro-batches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// Learning rate.
    pub lr: f64,
    /// The weighted sum.
    pub loss: f64,
    /// Each term: name, raw value, weight.
    pub terms: Vec<(&'static str, f64, f64)>,
    /// L2 norm of all gradients, before clipping.
    pub grad_norm: f64,
    /// exp(logit scale) that the step used.
    pub logit_scale: f64,
}

impl Trainee {
    /// Puts a student, its objective and an optimiser together; locked parameters are not trained.
    ///
    /// # Errors
    /// [`Error::Torch`] where memory runs out; [`Error::Recipe`] for an EMA decay outside 0..1.
    pub fn new(
        student: Clip,
        objective: Objective,
        optimizer: &OptimizerConfig,
        ema: Option<f64>,
    ) -> Result<Self> {
        let trained = || student.params().iter().filter(|p| p.tensor.requires_grad());
        let own = || trained().map(|p| (p.name.clone(), p.tensor.shallow_clone()));
        let learned =
            objective.parts().named().iter().map(|(name, t)| (format!("loss.{name}"), t.shallow_clone()));
        let optimizer = AdamW::new(optimizer, own().chain(learned))?;
        let ema = ema.map(|decay| Ema::new(decay, own())).transpose()?;
        Ok(Trainee {
            optimizer,
            ema,
            objective,
            student,
            step: 0,
            samples: 0,
            seed: 0,
            grad_checkpointing: false,
        })
    }

    /// Trains on the micro-batches as one step: gradients are averaged over them, each is its own contrastive batch.
    ///
    /// # Errors
    /// [`Error::NonFinite`] before any weight is changed; [`Error::Model`] and [`Error::Loss`] for wrong shapes.
    pub fn step(
        &mut self,
        batches: &[MicroBatch],
        teacher: Option<&Teacher>,
        rule: TargetRule,
        lr: f64,
    ) -> Result<StepReport> {
        let mut report = StepReport { lr, ..StepReport::default() };
        let share = 1.0 / batches.len() as f64;
        self.optimizer.zero_grad();
        for (index, batch) in batches.iter().enumerate() {
            let input = &batch.student;
            self.student.mode().train(self.drop_seed(index));
            let mut tape = Tape::new(self.grad_checkpointing);
            let student = Embeddings::new(
                self.student.encode_image_taped(&input.images, &mut tape)?,
                self.student.encode_text_taped(&input.tokens, &mut tape)?,
            )?;
            let scale = self.student.logit_scale.exp();

            let read = batch.teacher.as_ref().unwrap_or(input);
            let target = teacher
                .map(|t| Ok::<_, Error>((t.embed(&read.images, &read.tokens)?, t.scale())))
                .transpose()?;
            let target = target.as_ref().map(|(rows, scale)| Side { local: rows, all: rows, scale });

            let targets = match rule {
                TargetRule::Diagonal => Targets::Diagonal { offset: 0 },
                TargetRule::EqualCaptions => Targets::equal_captions(&input.tokens, &input.tokens)?,
            };
            let side = Side { local: &student, all: &student, scale: &scale };
            let losses = self.objective.evaluate(&side, target.as_ref(), &targets)?;
            (&losses.total * share).backward();
            tape.backward(self.student.mode())?;
            self.student.mode().eval();

            report.add(&losses, scale.double_value(&[]), share);
            self.samples += input.images.size()[0] as u64;
        }
        finite("the loss", report.loss, self.step)?;
        report.grad_norm = self.optimizer.clip_gradients();
        finite("the gradient norm", report.grad_norm, self.step)?;
        self.optimizer.step(lr);
        self.student.clamp_logit_scale();
        if let Some(ema) = &mut self.ema {
            ema.update();
        }
        self.step += 1;
        Ok(report)
    }

    /// What the student drops (paths, patches, elements) is named by seed, step and micro-batch, so a
    /// resumed run drops the same.
    fn drop_seed(&self, micro_batch: usize) -> u64 {
        let place = self.step.wrapping_mul(1 << 20).wrapping_add(micro_batch as u64);
        self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ place
    }
}

impl StepReport {
    fn add(&mut self, losses: &kd_losses::LossReport, logit_scale: f64, share: f64) {
        self.loss += losses.total.double_value(&[]) * share;
        self.logit_scale = logit_scale;
        if self.terms.is_empty() {
            self.terms = losses.terms.iter().map(|(loss, _, weight)| (loss.name(), 0.0, *weight)).collect();
        }
        for ((_, sum, _), (_, value, _)) in self.terms.iter_mut().zip(&losses.terms) {
            *sum += value.double_value(&[]) * share;
        }
    }
}

fn finite(what: &'static str, value: f64, step: u64) -> Result<()> {
    if value.is_finite() { Ok(()) } else { Err(Error::NonFinite { what, value, step }) }
}
