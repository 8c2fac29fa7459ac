//! The training objective: a typed list of weighted terms, added up and reported one by one.

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use crate::embeddings::{Embeddings, Logits, Targets};
use crate::learned::LearnedParts;
use crate::{Error, Result, contrastive, feature, interactive, relation};

/// A term of the objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Loss {
    /// CLIP's contrastive loss; the only one that needs no teacher.
    Task,
    /// CLIP-KD's contrastive relational distillation.
    Crd,
    /// CLIP-KD's feature distillation.
    Fd,
    /// CLIP-KD's interactive contrastive learning.
    Icl,
    /// TinyCLIP's affinity mimicking.
    Affinity,
}

impl Loss {
    /// Every term, in the order of reports.
    pub const ALL: [Loss; 5] = [Loss::Task, Loss::Crd, Loss::Fd, Loss::Icl, Loss::Affinity];

    /// The name in recipes, metrics and reports.
    pub fn name(self) -> &'static str {
        match self {
            Loss::Task => "task",
            Loss::Crd => "crd",
            Loss::Fd => "fd",
            Loss::Icl => "icl",
            Loss::Affinity => "affinity",
        }
    }

    /// Whether the term compares with a teacher.
    pub fn needs_teacher(self) -> bool {
        self != Loss::Task
    }

    /// Whether the term works on student embeddings that are projected to the teacher's width.
    pub fn works_in_teacher_width(self) -> bool {
        matches!(self, Loss::Fd | Loss::Icl)
    }
}

/// A term with its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// Which loss.
    pub loss: Loss,
    /// Its factor in the sum.
    pub weight: f64,
}

/// What one side of the objective gives: raw or unit embeddings and its scale.
#[derive(Debug)]
pub struct Side<'a> {
    /// This process's rows. The student's raw (terms normalise, some after a projection), the teacher's unit rows.
    pub local: &'a Embeddings,
    /// All processes' rows; the same as `local` for one process.
    pub all: &'a Embeddings,
    /// exp(logit scale), a scalar tensor.
    pub scale: &'a Tensor,
}

/// The weighted sum of the terms, with its learned parts.
#[derive(Debug)]
pub struct Objective {
    terms: Vec<Term>,
    parts: LearnedParts,
}

/// Values of one evaluation of the objective.
#[derive(Debug)]
pub struct LossReport {
    /// The weighted sum, with gradient.
    pub total: Tensor,
    /// Each term: which, raw value (scalar tensor without gradient), weight.
    pub terms: Vec<(Loss, Tensor, f64)>,
}

impl Objective {
    /// An objective of these terms for models of these embed dims.
    ///
    /// # Errors
    /// [`Error::Setting`] where there is no term, one is given twice, or a weight is not a finite positive number.
    pub fn new(
        terms: &[Term],
        student_width: i64,
        teacher_width: Option<i64>,
        device: Device,
    ) -> Result<Self> {
        if terms.is_empty() {
            return Err(Error::Setting(
                "the objective has no term: give at least one loss a weight, such as task = 1.0".into(),
            ));
        }
        for (index, term) in terms.iter().enumerate() {
            let name = term.loss.name();
            if !(term.weight.is_finite() && term.weight > 0.0) {
                return Err(Error::Setting(format!(
                    "the weight of `{name}` is {}, not a positive number",
                    term.weight
                )));
            }
            if terms[..index].iter().any(|t| t.loss == term.loss) {
                return Err(Error::Setting(format!("the term `{name}` is given twice")));
            }
            if term.loss.needs_teacher() && teacher_width.is_none() {
                return Err(Error::Setting(format!("the term `{name}` needs a teacher, and there is none")));
            }
        }
        let parts = LearnedParts::new(terms, student_width, teacher_width.unwrap_or(student_width), device)?;
        Ok(Objective { terms: terms.to_vec(), parts })
    }

    /// The terms in their order.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// The learned parts, for the optimiser and checkpoints.
    pub fn parts(&self) -> &LearnedParts {
        &self.parts
    }

    /// Adds up all terms for one batch.
    ///
    /// # Errors
    /// [`Error::Setting`] where a term needs a teacher and `teacher` is none; [`Error::Shapes`]
    /// where the batches do not fit together.
    pub fn evaluate(
        &self,
        student: &Side<'_>,
        teacher: Option<&Side<'_>>,
        targets: &Targets,
    ) -> Result<LossReport> {
        let mut shared = Shared {
            objective: self,
            student,
            teacher,
            targets,
            student_logits: None,
            teacher_logits: None,
            projected: None,
        };
        let mut total: Option<Tensor> = None;
        let mut terms = Vec::with_capacity(self.terms.len());
        for term in &self.terms {
            let value = shared.term(term.loss)?;
            terms.push((term.loss, value.detach(), term.weight));
            let weighted = value * term.weight;
            total = Some(match total {
                None => weighted,
                Some(sum) => sum + weighted,
            });
        }
        let total = total.ok_or_else(|| Error::Setting("the objective has no term".into()))?;
        Ok(LossReport { total, terms })
    }
}

/// Intermediate results that several terms need, each computed at most once.
struct Shared<'a> {
    objective: &'a Objective,
    student: &'a Side<'a>,
    teacher: Option<&'a Side<'a>>,
    targets: &'a Targets,
    student_logits: Option<Rc<Logits>>,
    teacher_logits: Option<Rc<Logits>>,
    projected: Option<Rc<Embeddings>>,
}

impl<'a> Shared<'a> {
    fn term(&mut self, loss: Loss) -> Result<Tensor> {
        match loss {
            Loss::Task => contrastive::task(&*self.student_logits()?, self.targets),
            Loss::Crd => relation::crd(&*self.student_logits()?, &*self.teacher_logits()?),
            Loss::Affinity => relation::affinity(&*self.student_logits()?, &*self.teacher_logits()?),
            Loss::Fd => feature::fd(&self.projected(), self.teacher()?.local),
            Loss::Icl => {
                let scale = self.objective.parts.cross_scale()?;
                let logits = interactive::logits(&self.projected(), self.teacher()?.all, scale)?;
                interactive::icl(&logits, self.targets)
            }
        }
    }

    fn teacher(&self) -> Result<&'a Side<'a>> {
        self.teacher
            .ok_or_else(|| Error::Setting("a term needs a teacher's embeddings, and none were given".into()))
    }

    fn student_logits(&mut self) -> Result<Rc<Logits>> {
        if let Some(logits) = &self.student_logits {
            return Ok(logits.clone());
        }
        let Side { local, all, scale } = *self.student;
        let rows = local.normalized();
        let logits = if std::ptr::eq(local, all) {
            Logits::new(&rows, &rows, scale)?
        } else {
            Logits::new(&rows, &all.normalized(), scale)?
        };
        Ok(self.student_logits.insert(Rc::new(logits)).clone())
    }

    fn teacher_logits(&mut self) -> Result<Rc<Logits>> {
        if let Some(logits) = &self.teacher_logits {
            return Ok(logits.clone());
        }
        let Side { local, all, scale } = *self.teacher()?;
        Ok(self.teacher_logits.insert(Rc::new(Logits::new(local, all, scale)?)).clone())
    }

    fn projected(&mut self) -> Rc<Embeddings> {
        let (parts, student) = (&self.objective.parts, self.student);
        self.projected.get_or_insert_with(|| Rc::new(parts.project(student.local))).clone()
    }
}
