//! Interactive contrastive learning: student images against teacher texts, and vice versa.

use tch::Tensor;

use crate::embeddings::{Embeddings, Logits, Targets};
use crate::{Result, contrastive, relation};

/// The logits between the models: c · student rows against all teacher columns.
///
/// `student` holds unit rows in the teacher's width, `teacher` all unit rows, and `scale` the learned factor. The
/// factor is used without an exponential, as in the published results.
///
/// # Errors
/// [`crate::Error::Shapes`] if the widths differ.
pub fn logits(student: &Embeddings, teacher: &Embeddings, scale: &Tensor) -> Result<Logits> {
    Logits::cross(&student.image, &teacher.text, &student.text, &teacher.image, scale)
}

/// [CE(c Ŝ_I T̂'ᵀ) + CE(c Ŝ_T Î'ᵀ)] / 2 towards `targets`.
///
/// Source: CLIP-KD (Yang et al. 2024), ICL.
///
/// # Errors
/// [`crate::Error`] if targets and logits do not fit.
pub fn icl(logits: &Logits, targets: &Targets) -> Result<Tensor> {
    contrastive::task(logits, targets)
}

/// KL(teacher ‖ cross-model) of the similarity distributions, averaged over both directions.
///
/// `logits` come from [`logits`]. `teacher` holds the teacher's logits against itself at its scale. Source: CLIP-KD's
/// published code, cross-KD.
///
/// # Errors
/// [`crate::Error::Shapes`] if the two have different rows or columns.
pub fn cross_kd(logits: &Logits, teacher: &Logits) -> Result<Tensor> {
    relation::crd(logits, teacher)
}
