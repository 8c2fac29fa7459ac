//! The training step: forward pass, losses, backward pass and update.

pub mod batch;
mod chunks;
pub(crate) mod objective;
pub mod prune;

pub use batch::{MicroBatch, TeacherInput, ViewTensors};
use clip_model::{Clip, CrossModal, Precision, Tape};
use kd_losses::{AuxOutputs, Embeddings, Loss, LossReport, ModelOutputs, Objective, Targets, TokenStates};
use tch::{Kind, Tensor};

use crate::model::cross_modal;
use crate::model::features::{self, FeatureHooks};
use crate::optim::adamw::{AdamW, OptimizerConfig};
use crate::optim::ema::Ema;
use crate::recipe::TargetRule;
use crate::step::prune::Pruner;
use crate::teacher::classes::StudentClasses;
use crate::teacher::signal::TeacherSignal;
use crate::{Error, Result};

/// The training state: the student, the optimiser and everything else that changes from step to step.
#[derive(Debug)]
pub struct TrainState {
    /// The student.
    pub student: Clip,
    /// A cross-modal head on the student. The student is then frozen.
    pub cross_modal: Option<CrossModal>,
    /// The weighted terms with their learned parts.
    pub objective: Objective,
    /// The optimiser of the student, the head and the learned parts.
    pub optimizer: AdamW,
    /// Averaged student weights, if enabled.
    pub ema: Option<Ema>,
    /// Finished steps.
    pub step: u64,
    /// Samples seen.
    pub samples: u64,
    /// Settings of the step.
    pub settings: StepSettings,
    /// The classes for losses on a class list.
    pub classes: Option<StudentClasses>,
    /// The masks of a student until it is pruned.
    pub pruner: Option<Pruner>,
}

/// Settings of the training step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepSettings {
    /// Seed that, together with the step, determines the random drops of the student's layers.
    pub seed: u64,
    /// Precision of the student's matrix products and convolutions.
    pub precision: Precision,
    /// Whether the student's blocks recompute their activations instead of storing them.
    pub grad_checkpointing: bool,
    /// Fraction of patches that the masked pass leaves out.
    pub masked_share: f64,
    /// The student's features that losses on tokens read.
    pub hooks: FeatureHooks,
    /// Samples per forward and backward pass, if smaller than a contrastive batch.
    pub micro_batch: Option<usize>,
}

/// Shape of a scalar.
const SCALAR: &[i64] = &[];

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
    /// exp(logit scale) used in the step.
    pub logit_scale: f64,
    /// Expected sparsity from the masks, if any.
    pub sparsity: Option<f64>,
}

impl TrainState {
    /// Creates the state for a student and its objective. Locked parameters are not trained.
    ///
    /// # Errors
    /// [`Error::Torch`] if memory runs out; [`Error::Recipe`] for an EMA decay outside 0..1.
    pub fn new(
        student: Clip,
        objective: Objective,
        optimizer: &OptimizerConfig,
        ema: Option<f64>,
    ) -> Result<Self> {
        Self::assemble(student, None, objective, optimizer, ema)
    }

    /// Creates the state for a cross-modal head on a frozen CLIP, like [`TrainState::new`].
    ///
    /// # Errors
    /// The errors of [`TrainState::new`].
    pub fn with_cross_modal(
        clip: Clip,
        head: CrossModal,
        objective: Objective,
        optimizer: &OptimizerConfig,
        ema: Option<f64>,
    ) -> Result<Self> {
        clip.params().set_requires_grad(false);
        Self::assemble(clip, Some(head), objective, optimizer, ema)
    }

    fn assemble(
        student: Clip,
        cross_modal: Option<CrossModal>,
        objective: Objective,
        optimizer: &OptimizerConfig,
        ema: Option<f64>,
    ) -> Result<Self> {
        let head = || cross_modal.iter().flat_map(cross_modal::named);
        let optimizer = AdamW::new(optimizer, head().chain(trained(&student, &objective)))?;
        let ema = ema.map(|decay| Ema::new(decay, trainable(&student).chain(head()))).transpose()?;
        Ok(TrainState {
            optimizer,
            ema,
            objective,
            student,
            cross_modal,
            step: 0,
            samples: 0,
            settings: StepSettings::default(),
            classes: None,
            pruner: None,
        })
    }

    /// Replaces the settings of the step.
    #[must_use]
    pub fn with_settings(self, settings: StepSettings) -> Self {
        TrainState { settings, ..self }
    }

    /// Sets the classes for losses on a class list.
    #[must_use]
    pub fn with_classes(self, classes: Option<StudentClasses>) -> Self {
        TrainState { classes, ..self }
    }

    /// Sets the masks that prune the student.
    #[must_use]
    pub fn with_pruner(self, pruner: Option<Pruner>) -> Self {
        TrainState { pruner, ..self }
    }

    /// Performs one training step on the micro-batches. Each is a separate contrastive batch; their gradients are
    /// averaged.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if the loss or the gradient norm is not finite; no weight changes then. [`Error::Model`]
    /// and [`Error::Loss`] for wrong shapes.
    pub fn step(
        &mut self,
        batches: &[MicroBatch],
        signals: &[TeacherSignal],
        rule: TargetRule,
        lr: f64,
    ) -> Result<StepReport> {
        let mut report = StepReport { lr, ..StepReport::default() };
        let active = self.objective.active(self.step).map(|(term, _)| term.loss).collect::<Vec<_>>();
        // A teacher that no term reads in this step is not run.
        let signals = if active.iter().any(|loss| loss.needs_teacher()) { signals } else { &[] };
        self.optimizer.zero_grad();
        self.pruner.iter_mut().for_each(Pruner::zero_grad);
        let share = 1.0 / batches.len() as f64;
        let mut parts = Vec::new();
        for (index, batch) in batches.iter().enumerate() {
            self.backward(batch, index, share, (&active, signals, rule), &mut parts)?;
            self.samples += batch.student.rows() as u64;
        }
        report.grad_norm = report.read(&parts, self.optimizer.gradient_norm()?)?;
        drop(parts);
        if let Some(pruner) = &self.pruner {
            let penalty = pruner.penalty(self.step)?;
            (report.loss, report.sparsity) = (report.loss + penalty.value, Some(penalty.sparsity));
            report.terms.push(("prune", penalty.value, 1.0));
        }
        finite("the loss", report.loss, self.step)?;
        finite("the gradient norm", report.grad_norm, self.step)?;
        self.update(lr, report.grad_norm)?;
        Ok(report)
    }

    /// Runs the forward and backward pass of a micro-batch, whose loss counts as `share` of the step, and adds its
    /// losses to `parts`.
    fn backward(
        &mut self,
        batch: &MicroBatch,
        index: usize,
        share: f64,
        read: (&[Loss], &[TeacherSignal], TargetRule),
        parts: &mut Vec<Part>,
    ) -> Result<()> {
        let drop_seed = self.drop_seed(index);
        self.student.mode().train(drop_seed);
        self.student.mode().set_precision(self.settings.precision);
        if let Some(pruner) = &mut self.pruner {
            pruner.apply_masks(&mut self.student, self.step)?;
        }
        match self.settings.micro_batch.map(|size| size as i64).filter(|size| *size < batch.student.rows()) {
            Some(size) => self.backward_in_chunks(batch, size, share, read, drop_seed, parts)?,
            None => self.backward_at_once(batch, share, read, drop_seed, parts)?,
        }
        self.student.mode().eval();
        self.student.mode().set_precision(Precision::Float32);
        if let Some(pruner) = &mut self.pruner {
            pruner.remove_masks(&mut self.student)?;
        }
        Ok(())
    }

    /// Runs the forward and backward pass of a micro-batch without chunks.
    fn backward_at_once(
        &self,
        batch: &MicroBatch,
        share: f64,
        (active, signals, rule): (&[Loss], &[TeacherSignal], TargetRule),
        drop_seed: u64,
        parts: &mut Vec<Part>,
    ) -> Result<()> {
        let input = &batch.student;
        let mut tape = Tape::new(self.settings.grad_checkpointing);
        let student = self.features(input, active, &mut tape)?;
        let drawn = self.drawn_classes(active, drop_seed, &mut tape)?;
        let scale = self.logit_scale().exp();

        let classes = drawn.as_ref().map(|drawn| &drawn.indices);
        let teachers = signals.iter().zip(&batch.teachers);
        let teachers = teachers.map(|(signal, teacher_input)| signal.read(input, teacher_input, classes));
        let teachers = teachers.collect::<Result<Vec<_>>>()?;
        let teachers = signals.iter().zip(&teachers).map(|(signal, outputs)| signal.model_outputs(outputs));

        let targets = targets(rule, input, 0, input.rows())?;
        let extra = AuxOutputs {
            masked_image: student.masked.as_ref(),
            classes: drawn.as_ref().map(|drawn| &drawn.weights),
            logit_bias: self.student.logit_bias.as_ref(),
            tokens: Some(&student.tokens),
            ..AuxOutputs::default()
        };
        let outputs = ModelOutputs { extra, ..ModelOutputs::new(&student.embeddings, &scale) };
        let losses = self.objective.evaluate(self.step, &outputs, &teachers.collect::<Vec<_>>(), &targets)?;
        (&losses.total * share).backward();
        tape.backward(self.student.mode())?;
        parts.push(Part { losses, scale: scale.detach(), share });
        Ok(())
    }

    /// Returns the logit scale of the student or its head, before the exponential.
    fn logit_scale(&self) -> &Tensor {
        self.cross_modal.as_ref().map_or(&self.student.logit_scale, |head| &head.logit_scale)
    }

    /// Updates weights, averages and masks from the gradients, and prunes the student if the step is due.
    fn update(&mut self, lr: f64, grad_norm: f64) -> Result<()> {
        self.optimizer.step(lr, grad_norm)?;
        self.student.clamp_logit_scale();
        self.cross_modal.iter().for_each(CrossModal::clamp_logit_scale);
        if let Some(ema) = &mut self.ema {
            ema.update()?;
        }
        self.pruner.iter_mut().for_each(|pruner| pruner.update(self.step));
        self.step += 1;
        match self.pruner.take_if(|pruner| pruner.is_due(self.step)) {
            Some(pruner) => prune::cut(self, &pruner),
            None => Ok(()),
        }
    }

    /// Returns the parts that are trained and saved with the student: the objective's learned parts, and the head.
    pub(crate) fn learned(&self) -> impl Iterator<Item = (String, Tensor)> {
        let parts = self.objective.parts().map(|(name, tensor)| (name, tensor.shallow_clone()));
        parts.chain(self.cross_modal.iter().flat_map(cross_modal::named))
    }

    /// Runs the student and returns the features that the active losses read.
    fn features<'a>(&'a self, input: &ViewTensors, active: &[Loss], tape: &mut Tape<'a>) -> Result<Features> {
        let (embeddings, tokens) = match &self.cross_modal {
            Some(head) => cross_modal::enriched(&self.student, head, input, &self.settings.hooks)?,
            None => features::read(&self.student, input, &self.settings.hooks, tape)?,
        };
        let masked = active
            .contains(&Loss::Mfd)
            .then(|| self.student.encode_image_masked(&input.images, self.settings.masked_share, tape))
            .transpose()?;
        Ok(Features { embeddings, tokens, masked })
    }

    /// Draws the classes of a micro-batch and encodes them, if an active loss reads them.
    fn drawn_classes<'a>(
        &'a self,
        active: &[Loss],
        drop_seed: u64,
        tape: &mut Tape<'a>,
    ) -> Result<Option<DrawnClasses>> {
        match &self.classes {
            Some(classes) if active.iter().any(|loss| loss.reads_classes()) => {
                let indices = classes.draw(drop_seed, self.student.device())?;
                let weights = classes.encode(&self.student, &indices, tape)?;
                Ok(Some(DrawnClasses { weights, indices }))
            }
            _ => Ok(None),
        }
    }

    /// Returns the seed of the student's random drops (paths, patches, elements) for a micro-batch. It depends only on
    /// the run's seed, the step and the micro-batch, so a resumed run repeats the drops.
    fn drop_seed(&self, micro_batch: usize) -> u64 {
        let position = self.step.wrapping_mul(1 << 20).wrapping_add(micro_batch as u64);
        self.settings.seed.wrapping_mul(file_ext::random::GOLDEN_GAMMA) ^ position
    }
}

/// Outputs of the student.
struct Features {
    /// Raw embeddings.
    embeddings: Embeddings,
    tokens: TokenStates,
    /// Raw image embeddings of the masked pass.
    masked: Option<Tensor>,
}

/// The classes of a micro-batch.
struct DrawnClasses {
    /// Unit class weights `[classes, width]`.
    weights: Tensor,
    /// Indices of the classes in the list.
    indices: Tensor,
}

/// The losses of a part of a step, with values on the device.
struct Part {
    losses: LossReport,
    /// exp(logit scale).
    scale: Tensor,
    /// The part's share of the step.
    share: f64,
}

impl Part {
    /// Returns the scalars of the part: total loss, exp(logit scale) and the terms.
    fn scalars(&self) -> impl Iterator<Item = Tensor> {
        let terms = self.losses.terms.iter().map(|term| &term.value);
        [&self.losses.total, &self.scale].into_iter().chain(terms).map(|scalar| scalar.detach().view(SCALAR))
    }
}

impl StepReport {
    /// Adds the values of all parts and returns the value of `last`. All values are copied from the device in one
    /// transfer, because each transfer waits for the device.
    fn read(&mut self, parts: &[Part], last: Tensor) -> Result<f64> {
        let scalars = parts.iter().flat_map(Part::scalars).chain([last.view(SCALAR)]).collect::<Vec<_>>();
        let values = Vec::<f64>::try_from(Tensor::f_stack(&scalars, 0)?.f_to_kind(Kind::Double)?)?;
        let mut values = values.into_iter();
        for Part { losses, share, .. } in parts {
            if self.terms.is_empty() {
                self.terms = losses.terms.iter().map(|term| (term.loss.name(), 0.0, term.weight)).collect();
            }
            self.loss += values.next().unwrap_or(f64::NAN) * share;
            self.logit_scale = values.next().unwrap_or(f64::NAN);
            for ((_, sum, _), value) in self.terms.iter_mut().zip(values.by_ref().take(losses.terms.len())) {
                *sum += value * share;
            }
        }
        Ok(values.next().unwrap_or(f64::NAN))
    }
}

/// Returns the targets of the rows `start..start + count` with respect to the whole batch.
fn targets(rule: TargetRule, input: &ViewTensors, start: i64, count: i64) -> Result<Targets> {
    Ok(match rule {
        TargetRule::Diagonal => Targets::Diagonal { offset: start },
        TargetRule::EqualCaptions => {
            Targets::equal_captions(&input.tokens.narrow(0, start, count), &input.tokens)?
        }
    })
}

/// Returns the student's trainable parameters.
pub(crate) fn trainable(student: &Clip) -> impl Iterator<Item = (String, Tensor)> {
    let trained = student.params().iter().filter(|p| p.tensor.requires_grad());
    trained.map(|p| (p.name.clone(), p.tensor.shallow_clone()))
}

/// Returns all trainable parameters: the student's, and those of the losses with the prefix `loss.`.
pub(crate) fn trained(student: &Clip, objective: &Objective) -> Vec<(String, Tensor)> {
    let learned = objective.parts().map(|(name, t)| (format!("loss.{name}"), t.shallow_clone()));
    trainable(student).chain(learned).collect()
}

fn finite(what: &'static str, value: f64, step: u64) -> Result<()> {
    if value.is_finite() { Ok(()) } else { Err(Error::NonFinite { what, value, step }) }
}
