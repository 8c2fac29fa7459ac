//! CLIP-RD's relations across teacher and student: vertical (VRD) and crossed (XRD). The horizontal relation is
//! [`crate::relation::crd`].

use tch::{Kind, Reduction, Tensor};

use crate::Result;
use crate::embeddings::{Embeddings, check_alike};
use crate::relation::kl;

/// Vertical relational distillation: matches the teacher-student similarities of images to those of texts.
///
/// The loss has two parts, each averaged over both orientations (teacher rows over student columns, and the reverse).
/// The first is KL(texts ‖ images) of the similarities, with the texts as constant target. The second is the sum over
/// modalities of the cross-entropy towards the diagonal. Takes unit rows of one width. The scales are learned logit
/// scales, used without an exponential. Source: CLIP-RD.
///
/// ```no_run
/// # use kd_losses::{Embeddings, clip_rd};
/// # fn example(student: &Embeddings, teacher: &Embeddings, scales: [&tch::Tensor; 2]) -> kd_losses::Result<tch::Tensor> {
/// clip_rd::vrd(&student.normalized(), teacher, scales[0], scales[1])
/// # }
/// ```
///
/// # Errors
/// [`crate::Error::Shapes`] if the two differ in rows or width.
pub fn vrd(
    student: &Embeddings,
    teacher: &Embeddings,
    image_scale: &Tensor,
    text_scale: &Tensor,
) -> Result<Tensor> {
    check_alike(student, teacher)?;
    let image = (&teacher.image * image_scale).matmul(&student.image.tr());
    let text = (&teacher.text * text_scale).matmul(&student.text.tr());
    let (image_back, text_back) = (image.tr(), text.tr());
    let relation = (kl(&image, &text) + kl(&image_back, &text_back)) / 2.0;
    let matched = |logits: &Tensor, back: &Tensor| {
        (diagonal_cross_entropy(logits) + diagonal_cross_entropy(back)) / 2.0
    };
    Ok(relation + matched(&image, &image_back) + matched(&text, &text_back))
}

/// Cross relational distillation: matches the similarities of teacher images and student texts to those of teacher
/// texts and student images.
///
/// The loss is the mean of four KL terms: both directions (each with a constant target) in both orientations (teacher
/// rows over student columns, and the reverse). Takes unit rows of one width. `scale` is a learned logit scale, used
/// without an exponential. Source: CLIP-RD.
///
/// ```no_run
/// # use kd_losses::{Embeddings, clip_rd};
/// # fn example(student: &Embeddings, teacher: &Embeddings, scale: &tch::Tensor) -> kd_losses::Result<tch::Tensor> {
/// clip_rd::xrd(&student.normalized(), teacher, scale)
/// # }
/// ```
///
/// # Errors
/// [`crate::Error::Shapes`] if the two differ in rows or width.
pub fn xrd(student: &Embeddings, teacher: &Embeddings, scale: &Tensor) -> Result<Tensor> {
    check_alike(student, teacher)?;
    let image_to_text = (&teacher.image * scale).matmul(&student.text.tr());
    let text_to_image = (&teacher.text * scale).matmul(&student.image.tr());
    let (text_back, image_back) = (image_to_text.tr(), text_to_image.tr());
    let symmetric = |a: &Tensor, b: &Tensor| kl(a, b) + kl(b, a);
    Ok((symmetric(&image_to_text, &text_to_image) + symmetric(&text_back, &image_back)) / 4.0)
}

fn diagonal_cross_entropy(logits: &Tensor) -> Tensor {
    let labels = Tensor::arange(logits.size()[0], (Kind::Int64, logits.device()));
    logits.cross_entropy_loss(&labels, None::<&Tensor>, Reduction::Mean, -100, 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn equal_modalities_leave_the_cross_entropies() {
        let rows = Tensor::eye(2, (Kind::Float, Device::Cpu));
        let pairs = Embeddings::new(rows.copy(), rows).unwrap();
        let scale = Tensor::from(3.0f32);
        let expected = 2.0 * (1.0 + (-3f64).exp()).ln();
        assert!((vrd(&pairs, &pairs, &scale, &scale).unwrap().double_value(&[]) - expected).abs() < 1e-6);
        assert!(xrd(&pairs, &pairs, &scale).unwrap().double_value(&[]).abs() < 1e-7);
    }

    #[test]
    fn crossed_by_hand() {
        let rows = |values: [f32; 4]| Tensor::from_slice(&values).view([2, 2]);
        let identity = rows([1.0, 0.0, 0.0, 1.0]);
        let teacher = Embeddings::new(identity.copy(), identity.copy()).unwrap();
        // The student's texts are its images in the other order: the two distributions of each row are
        // (p, q) and (q, p), with KL (p - q) ln(p/q) either way.
        let student = Embeddings::new(identity.copy(), identity.flip([0])).unwrap();
        let p = 1.0 / (1.0 + (-1f64).exp());
        let expected = (2.0 * p - 1.0) * (p / (1.0 - p)).ln();
        let loss = xrd(&student, &teacher, &Tensor::from(1.0f32)).unwrap().double_value(&[]);
        assert!((loss - expected).abs() < 1e-6, "{loss} and {expected}");
    }
}
