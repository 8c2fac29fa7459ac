//! Interactive contrastive learning: student images against teacher texts, and the reverse.

use tch::Tensor;

use crate::embeddings::{Embeddings, Logits, Targets};
use crate::{Result, contrastive, relation};

/// The logits between the models: c · student rows against all teacher columns.
///
/// `student` holds unit rows in the teacher's width, `teacher` all unit rows, `scale` the
/// learned factor, multiplied in as it is (no exponential: that is how the published results were made).
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

/// KL of the teacher's own similarity distributions to those between the models, both directions averaged.
///
/// `logits` are those of [`logits`], `teacher` the teacher's against itself at its scale. Source: CLIP-KD's
/// published code, cross-KD.
///
/// # Errors
/// [`crate::Error::Shapes`] if the two have different rows or columns.
pub fn cross_kd(logits: &Logits, teacher: &Logits) -> Result<Tensor> {
    relation::crd(logits, teacher)
}
