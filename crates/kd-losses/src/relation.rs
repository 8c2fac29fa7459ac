//! Losses on image-text similarities, with the teacher's distribution over the batch as the target.

use tch::{Kind, Tensor};

use crate::Result;
use crate::embeddings::Logits;

/// Contrastive relational distillation: KL(softmax(L') ‖ softmax(L)), averaged over both directions and over rows. The
/// teacher's L' is the constant target.
///
/// Source: CLIP-KD (Yang et al. 2024), CRD.
///
/// ```no_run
/// # use kd_losses::{Logits, relation};
/// # fn example(student: &Logits, teacher: &Logits) -> kd_losses::Result<tch::Tensor> {
/// relation::crd(student, teacher)
/// # }
/// ```
///
/// # Errors
/// [`crate::Error::Shapes`] if the two have different rows or columns.
pub fn crd(student: &Logits, teacher: &Logits) -> Result<Tensor> {
    student.check_same(teacher)?;
    Ok((kl(&student.image_to_text, &teacher.image_to_text)
        + kl(&student.text_to_image, &teacher.text_to_image))
        / 2.0)
}

/// Affinity mimicking: soft cross-entropy towards the teacher's distributions. It equals [`crd`] plus the teacher's
/// entropy, and has the same gradient.
///
/// Source: TinyCLIP (Wu et al. 2023), equation 2.
///
/// ```no_run
/// # use kd_losses::{Logits, relation};
/// # fn example(student: &Logits, teacher: &Logits) -> kd_losses::Result<tch::Tensor> {
/// relation::affinity(student, teacher)
/// # }
/// ```
///
/// # Errors
/// [`crate::Error::Shapes`] if the two have different rows or columns.
pub fn affinity(student: &Logits, teacher: &Logits) -> Result<Tensor> {
    student.check_same(teacher)?;
    Ok((soft_cross_entropy(&student.image_to_text, &teacher.image_to_text)
        + soft_cross_entropy(&student.text_to_image, &teacher.text_to_image))
        / 2.0)
}

/// KL(softmax(target) ‖ softmax(logits)), averaged over rows. The target has no gradient.
pub(crate) fn kl(logits: &Tensor, target: &Tensor) -> Tensor {
    let target = target.detach().log_softmax(1, Kind::Float);
    let log_ratio = &target - logits.log_softmax(1, Kind::Float);
    (target.exp() * log_ratio).sum(Kind::Float) / logits.size()[0] as f64
}

fn soft_cross_entropy(logits: &Tensor, target: &Tensor) -> Tensor {
    let target = target.detach().softmax(1, Kind::Float);
    -(target * logits.log_softmax(1, Kind::Float)).sum(Kind::Float) / logits.size()[0] as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(values: [f32; 4]) -> Logits {
        let matrix = Tensor::from_slice(&values).view([2, 2]);
        Logits { text_to_image: matrix.tr(), image_to_text: matrix }
    }

    #[test]
    fn equal_logits_have_no_divergence() {
        let even = logits([0.0; 4]);
        assert!(crd(&even, &even).unwrap().double_value(&[]).abs() < 1e-7);
        let entropy = affinity(&even, &even).unwrap().double_value(&[]);
        assert!((entropy - 2.0f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn by_hand() {
        // Teacher certain of 3/4 against 1/4, student even: KL = ln 2 - H(3/4).
        let teacher = logits([3.0f32.ln(), 0.0, 0.0, 3.0f32.ln()]);
        let expected = 0.75 * (0.75f64 / 0.5).ln() + 0.25 * (0.25f64 / 0.5).ln();
        let loss = crd(&logits([0.0; 4]), &teacher).unwrap().double_value(&[]);
        assert!((loss - expected).abs() < 1e-6, "{loss}");
    }
}
