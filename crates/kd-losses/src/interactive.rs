//! Interactive contrastive learning: student images against teacher texts, and student texts against teacher images.

use tch::Tensor;

use crate::embeddings::{Embeddings, Logits, Targets};
use crate::{Result, contrastive, relation};

/// Computes the logits between the models: scaled cosines of student rows and teacher columns.
///
/// `student` holds unit rows in the teacher's width, and `teacher` the unit rows of all processes. `scale` is a learned
/// logit scale, used without an exponential, as in the published results.
///
/// ```no_run
/// # use kd_losses::{Embeddings, Targets, interactive};
/// # fn example(student: &Embeddings, teacher: &Embeddings, scale: &tch::Tensor) -> kd_losses::Result<tch::Tensor> {
/// let logits = interactive::logits(&student.normalized(), teacher, scale)?;
/// interactive::icl(&logits, &Targets::Diagonal { offset: 0 })
/// # }
/// ```
///
/// # Errors
/// [`crate::Error::Shapes`] if the widths differ.
pub fn logits(student: &Embeddings, teacher: &Embeddings, scale: &Tensor) -> Result<Logits> {
    Logits::cross(&student.image, &teacher.text, &student.text, &teacher.image, scale)
}

/// Interactive contrastive learning: the contrastive loss of the logits between the models, averaged over student
/// images against teacher texts and student texts against teacher images.
///
/// `logits` come from [`logits`]. Source: CLIP-KD (Yang et al. 2024), ICL.
///
/// ```no_run
/// # use kd_losses::{Logits, Targets, interactive};
/// # fn example(logits: &Logits) -> kd_losses::Result<tch::Tensor> {
/// interactive::icl(logits, &Targets::Diagonal { offset: 0 })
/// # }
/// ```
///
/// # Errors
/// [`crate::Error`] if targets and logits do not match.
pub fn icl(logits: &Logits, targets: &Targets) -> Result<Tensor> {
    contrastive::task(logits, targets)
}

/// Cross-model distillation: KL(teacher ‖ cross-model) of the similarity distributions, averaged over both directions.
///
/// `logits` come from [`logits`]. `teacher` holds the teacher's logits against itself at its scale. Source: CLIP-KD's
/// published code, cross-KD.
///
/// ```no_run
/// # use kd_losses::{Logits, interactive};
/// # fn example(logits: &Logits, teacher: &Logits) -> kd_losses::Result<tch::Tensor> {
/// interactive::cross_kd(logits, teacher)
/// # }
/// ```
///
/// # Errors
/// [`crate::Error::Shapes`] if the two have different rows or columns.
pub fn cross_kd(logits: &Logits, teacher: &Logits) -> Result<Tensor> {
    relation::crd(logits, teacher)
}
