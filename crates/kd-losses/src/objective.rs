//! The training objective: a typed list of weighted terms, added up and reported one by one.

use tch::{Device, Tensor};

use crate::embeddings::{Embeddings, Targets};
use crate::evaluation::{PairTerms, StudentTerms};
use crate::learned::LearnedParts;
use crate::term::{Loss, Term};
use crate::tokens::{BlockPairs, TokenStates, TokenWidths};
use crate::{Error, Result};

/// What one side of the objective gives: raw or unit embeddings and its scale.
#[derive(Clone, Copy, Debug)]
pub struct ModelOutputs<'a> {
    /// This process's rows. The student's raw (terms normalise, some after a projection), the teacher's unit rows.
    pub local: &'a Embeddings,
    /// All processes' rows; the same as `local` for one process.
    pub all: &'a Embeddings,
    /// exp(logit scale), a scalar tensor.
    pub scale: &'a Tensor,
    /// What only some terms read.
    pub extra: AuxOutputs<'a>,
}

/// What only some terms read of a side.
#[derive(Clone, Copy, Debug, Default)]
pub struct AuxOutputs<'a> {
    /// The student's raw embeddings `[rows, width]` of images with most patches left out (MFD).
    pub masked_image: Option<&'a Tensor>,
    /// The weights `[classes, width]` of a zero-shot classifier, unit rows (Hinton).
    pub classes: Option<&'a Tensor>,
    /// States of tokens (patch tokens, hidden).
    pub tokens: Option<&'a TokenStates>,
    /// The teacher's unit embeddings of pairs beyond the batch (anchors).
    pub anchors: Option<&'a Embeddings>,
    /// The student's own summand on the logits, a scalar (SigLIP); a learned part stands in where it has none.
    pub logit_bias: Option<&'a Tensor>,
}

impl<'a> ModelOutputs<'a> {
    /// A side of one process, with nothing extra.
    pub fn new(embeddings: &'a Embeddings, scale: &'a Tensor) -> Self {
        ModelOutputs { local: embeddings, all: embeddings, scale, extra: AuxOutputs::default() }
    }
}

/// The weighted sum of the terms, with its learned parts.
///
/// Several teachers each have their own learned parts and scale; a term that needs a teacher is the mean over them.
#[derive(Debug)]
pub struct Objective {
    terms: Vec<Term>,
    /// One per teacher, and one where there is none.
    parts: Vec<LearnedParts>,
}

/// Values of one evaluation of the objective.
#[derive(Debug)]
pub struct LossReport {
    /// The weighted sum, with gradient.
    pub total: Tensor,
    /// Each term that had a weight: which, raw value (scalar tensor without gradient), weight.
    pub terms: Vec<(Loss, Tensor, f64)>,
}

impl Objective {
    /// An objective of these terms for models of these embed dims.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no term, one is given twice or needs a teacher that is not there, and as
    /// [`Term::check`].
    pub fn new(terms: &[Term], student_width: i64, teacher_widths: &[i64], device: Device) -> Result<Self> {
        if terms.is_empty() {
            return Err(Error::Setting(
                "the objective has no term: give at least one loss a weight, such as task = 1.0".into(),
            ));
        }
        for (index, term) in terms.iter().enumerate() {
            let name = term.loss.name();
            term.check()?;
            if terms[..index].iter().any(|t| t.loss == term.loss) {
                return Err(Error::Setting(format!("the term `{name}` is given twice")));
            }
            if term.loss.needs_teacher() && teacher_widths.is_empty() {
                return Err(Error::Setting(format!("the term `{name}` needs a teacher, and there is none")));
            }
        }
        let widths = if teacher_widths.is_empty() { &[student_width] } else { teacher_widths };
        let parts = widths.iter().enumerate().map(|(place, width)| {
            // What belongs to the student is there once.
            let own = terms.iter().filter(|term| place == 0 || term.loss.needs_teacher());
            LearnedParts::new(own, student_width, *width, device)
        });
        Ok(Objective { terms: terms.to_vec(), parts: parts.collect::<Result<_>>()? })
    }

    /// Adds the maps that terms on tokens need, from the student's widths to those of each teacher where they differ.
    ///
    /// # Errors
    /// [`Error::Setting`] if there are other teachers than the objective was made for, [`Error::Torch`] where
    /// memory runs out.
    pub fn with_tokens(
        mut self,
        student: TokenWidths,
        teachers: &[TokenWidths],
        pairs: BlockPairs,
        device: Device,
    ) -> Result<Self> {
        if teachers.len() != self.parts.len() {
            let (given, made) = (teachers.len(), self.parts.len());
            let reason = format!("the objective is for {made} teachers, and widths of {given} are given");
            return Err(Error::Setting(reason));
        }
        for (parts, teacher) in self.parts.iter_mut().zip(teachers) {
            parts.add_tokens(&self.terms, student, *teacher, pairs, device)?;
        }
        Ok(self)
    }

    /// The terms in their order.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// The learned parts, for the optimiser and checkpoints: CLIP-KD's published names, after the number of
    /// the teacher from the second one on (`1.visual_proj.weight`).
    pub fn parts(&self) -> impl Iterator<Item = (String, &Tensor)> {
        self.parts.iter().enumerate().flat_map(|(place, parts)| {
            parts.named().iter().map(move |(name, tensor)| match place {
                0 => (name.clone(), tensor),
                _ => (format!("{place}.{name}"), tensor),
            })
        })
    }

    /// The terms that have a weight at a step, counted from 0, with it.
    pub fn active(&self, step: u64) -> impl Iterator<Item = (&Term, f64)> {
        self.terms.iter().map(move |term| (term, term.weight.at(step))).filter(|(_, weight)| *weight > 0.0)
    }

    /// Adds up all terms that have a weight at this step, counted from 0, for one batch; `teachers` may be empty
    /// where none of them needs one.
    ///
    /// # Errors
    /// [`Error::Setting`] if no term has a weight, or one lacks what it needs of a side; [`Error::Shapes`]
    /// where the batches do not fit together.
    pub fn evaluate(
        &self,
        step: u64,
        student: &ModelOutputs<'_>,
        teachers: &[ModelOutputs<'_>],
        targets: &Targets,
    ) -> Result<LossReport> {
        if !teachers.is_empty() && teachers.len() != self.parts.len() {
            let (given, made) = (teachers.len(), self.parts.len());
            return Err(Error::Setting(format!(
                "the objective is for {made} teachers, and {given} are given"
            )));
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
            let value = match term.loss {
                Loss::Task => student.task()?,
                Loss::Siglip => student.siglip(&self.parts[0])?,
                _ => mean(&pairs, term)?,
            };
            terms.push((term.loss, value.detach(), weight));
            let weighted = value * weight;
            total = Some(match total {
                None => weighted,
                Some(sum) => sum + weighted,
            });
        }
        let total = total.ok_or_else(|| Error::Setting(format!("no term has a weight at step {step}")))?;
        Ok(LossReport { total, terms })
    }
}

/// A term's mean over all teachers.
fn mean(pairs: &[PairTerms<'_>], term: &Term) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for pair in pairs {
        let value = pair.term(term)?;
        sum = Some(sum.map_or_else(|| value.shallow_clone(), |sum| sum + &value));
    }
    let sum = sum.ok_or_else(|| {
        Error::Setting(format!("`{}` needs a teacher's embeddings, and none were given", term.loss.name()))
    })?;
    Ok(if pairs.len() == 1 { sum } else { sum / pairs.len() as f64 })
}
