//! The training objective: a weighted sum of loss terms, which are also reported individually.

use tch::{Device, Tensor};

use crate::embeddings::{Embeddings, Targets};
use crate::evaluation::{PairTerms, StudentTerms};
use crate::learned::LearnedParts;
use crate::loss::{PairValue, Value};
use crate::tokens::{BlockPairs, TokenStates, TokenWidths};
use crate::{Error, Loss, Result, Term};

/// Outputs of one model, student or teacher.
#[derive(Clone, Copy, Debug)]
pub struct ModelOutputs<'a> {
    /// This process's embeddings: the student's are raw (terms normalise them, some after a projection), the teacher's
    /// are unit rows.
    pub local: &'a Embeddings,
    /// The embeddings of all processes; equal to `local` for a single process.
    pub all: &'a Embeddings,
    /// The logit scale, exponentiated: a scalar tensor.
    pub scale: &'a Tensor,
    /// Outputs that only some terms read.
    pub extra: AuxOutputs<'a>,
}

/// Outputs of a model that only some terms read.
#[derive(Clone, Copy, Debug, Default)]
pub struct AuxOutputs<'a> {
    /// The student's raw embeddings `[rows, width]` of images with most patches masked (MFD).
    pub masked_image: Option<&'a Tensor>,
    /// The weights `[classes, width]` of a zero-shot classifier, as unit rows (Hinton).
    pub classes: Option<&'a Tensor>,
    /// Token states (patch tokens, hidden).
    pub tokens: Option<&'a TokenStates>,
    /// The teacher's unit embeddings of pairs beyond the batch (anchors).
    pub anchors: Option<&'a Embeddings>,
    /// The student's own logit bias, a scalar (SigLIP). Without it, a learned bias is used.
    pub logit_bias: Option<&'a Tensor>,
}

impl<'a> ModelOutputs<'a> {
    /// Creates the outputs of a single process, without auxiliary outputs.
    pub fn new(embeddings: &'a Embeddings, scale: &'a Tensor) -> Self {
        ModelOutputs { local: embeddings, all: embeddings, scale, extra: AuxOutputs::default() }
    }
}

/// The weighted sum of the terms, with its learned parts.
///
/// Each teacher has its own learned parts and scale. A term that needs a teacher is averaged over the teachers.
///
/// ```no_run
/// use kd_losses::{Embeddings, Loss, ModelOutputs, Objective, Targets, Term};
/// use tch::{Device, Tensor};
///
/// # fn example(student: Embeddings, teacher: Embeddings, scale: Tensor) -> kd_losses::Result<()> {
/// let terms = [Term::new(Loss::Task, 1.0), Term::new(Loss::Fd, 2000.0)];
/// let objective = Objective::new(&terms, student.width(), &[teacher.width()], Device::Cpu)?;
/// let (student, teacher) = (ModelOutputs::new(&student, &scale), ModelOutputs::new(&teacher, &scale));
/// let report = objective.evaluate(0, &student, &[teacher], &Targets::Diagonal { offset: 0 })?;
/// report.total.backward();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Objective {
    terms: Vec<Term>,
    /// One per teacher, and a single one without teachers.
    parts: Vec<LearnedParts>,
}

/// Loss values of one evaluation of the objective.
#[derive(Debug)]
#[non_exhaustive]
pub struct LossReport {
    /// The weighted sum, with gradient.
    pub total: Tensor,
    /// The active terms.
    pub terms: Vec<TermValue>,
}

/// Value of one term for one batch.
#[derive(Debug)]
#[non_exhaustive]
pub struct TermValue {
    /// The loss.
    pub loss: Loss,
    /// The unweighted value, a scalar without gradient.
    pub value: Tensor,
    /// The weight in the sum.
    pub weight: f64,
}

impl Objective {
    /// Creates an objective with these terms for models with these embed dims.
    ///
    /// # Errors
    /// [`Error::NoTerm`], [`Error::DuplicateTerm`], [`Error::MissingInput`] for a term without its teacher,
    /// [`Error::Torch`] if memory runs out; the errors of [`Term::check`].
    pub fn new(terms: &[Term], student_width: i64, teacher_widths: &[i64], device: Device) -> Result<Self> {
        if terms.is_empty() {
            return Err(Error::NoTerm);
        }
        for (index, term) in terms.iter().enumerate() {
            term.check()?;
            if terms[..index].iter().any(|t| t.loss == term.loss) {
                return Err(Error::DuplicateTerm(term.loss));
            }
            if term.loss.needs_teacher() && teacher_widths.is_empty() {
                return Err(Error::MissingInput { loss: term.loss, input: "a teacher" });
            }
        }
        let widths = if teacher_widths.is_empty() { &[student_width] } else { teacher_widths };
        let parts = widths.iter().enumerate().map(|(index, width)| {
            // Parts of the student exist only once.
            let used = terms.iter().filter(|term| index == 0 || term.loss.needs_teacher());
            LearnedParts::new(used, student_width, *width, device)
        });
        Ok(Objective { terms: terms.to_vec(), parts: parts.collect::<Result<_>>()? })
    }

    /// Adds the projections of token states, for terms that read them: from the student's widths to those of each
    /// teacher, if they differ.
    ///
    /// # Errors
    /// [`Error::TeacherCount`] if the number of teachers differs from that in [`Objective::new`], [`Error::Torch`] if
    /// memory runs out.
    pub fn with_tokens(
        mut self,
        student: TokenWidths,
        teachers: &[TokenWidths],
        pairs: BlockPairs,
        device: Device,
    ) -> Result<Self> {
        if teachers.len() != self.parts.len() {
            return Err(Error::TeacherCount { expected: self.parts.len(), given: teachers.len() });
        }
        for (parts, teacher) in self.parts.iter_mut().zip(teachers) {
            parts.add_tokens(&self.terms, student, *teacher, pairs, device)?;
        }
        Ok(self)
    }

    /// Returns the terms in order.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// Returns the learned parts, for the optimiser and checkpoints, with CLIP-KD's published names. From the second
    /// teacher on, the names have the teacher's number as prefix (`1.visual_proj.weight`).
    pub fn parts(&self) -> impl Iterator<Item = (String, &Tensor)> {
        self.parts.iter().enumerate().flat_map(|(index, parts)| {
            parts.named().iter().map(move |(name, tensor)| match index {
                0 => (name.clone(), tensor),
                _ => (format!("{index}.{name}"), tensor),
            })
        })
    }

    /// Returns the terms with a nonzero weight at a step (from 0), with their weights.
    pub fn active(&self, step: u64) -> impl Iterator<Item = (&Term, f64)> {
        self.terms.iter().map(move |term| (term, term.weight.at(step))).filter(|(_, weight)| *weight > 0.0)
    }

    /// Whether every term with a nonzero weight at this step is a mean over rows ([`Loss::is_mean_over_rows`]).
    pub fn is_mean_over_rows(&self, step: u64) -> bool {
        self.active(step).all(|(term, _)| term.loss.is_mean_over_rows())
    }

    /// Computes the weighted sum of the terms with a nonzero weight at this step (from 0), for one batch. `teachers`
    /// may be empty if none of these terms needs one.
    ///
    /// # Errors
    /// [`Error::NoWeight`] if no term has a weight at this step, [`Error::TeacherCount`] for another number of
    /// teachers, [`Error::MissingInput`] if a term lacks an input of the student or a teacher, [`Error::Shapes`] if the
    /// batches do not match.
    pub fn evaluate(
        &self,
        step: u64,
        student: &ModelOutputs<'_>,
        teachers: &[ModelOutputs<'_>],
        targets: &Targets,
    ) -> Result<LossReport> {
        if !teachers.is_empty() && teachers.len() != self.parts.len() {
            return Err(Error::TeacherCount { expected: self.parts.len(), given: teachers.len() });
        }
        let student = StudentTerms::new(student, targets);
        let pairs = teachers
            .iter()
            .zip(&self.parts)
            .map(|(teacher, parts)| PairTerms::new(&student, teacher, parts))
            .collect::<Vec<_>>();
        let mut total: Option<Tensor> = None;
        let mut terms = Vec::with_capacity(self.terms.len());
        for (term, weight) in self.active(step) {
            let value = match term.loss.value() {
                Value::Student(value) => value(&student, &self.parts[0])?,
                Value::Pair(value) => mean(&pairs, term, value)?,
            };
            terms.push(TermValue { loss: term.loss, value: value.detach(), weight });
            let weighted = value * weight;
            total = Some(match total {
                None => weighted,
                Some(sum) => sum + weighted,
            });
        }
        let total = total.ok_or(Error::NoWeight(step))?;
        Ok(LossReport { total, terms })
    }
}

/// Averages a term over all teachers.
fn mean(pairs: &[PairTerms<'_>], term: &Term, value: PairValue) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for pair in pairs {
        let value = value(pair, &term.settings)?;
        sum = Some(sum.map_or_else(|| value.shallow_clone(), |sum| sum + &value));
    }
    let sum = sum.ok_or(Error::MissingInput { loss: term.loss, input: "a teacher's embeddings" })?;
    Ok(if pairs.len() == 1 { sum } else { sum / pairs.len() as f64 })
}
