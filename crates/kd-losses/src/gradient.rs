//! Gradient distillation: matches the contrastive loss's gradients at the student's and the teacher's embeddings.

use tch::{Kind, Reduction, Tensor};

use crate::Result;
use crate::embeddings::{Embeddings, check_alike};

/// Gradient distillation: MSE between the gradients of the contrastive loss at the student's and at the teacher's
/// embeddings. It has four terms: anchors and keys, for image to text and for text to image.
///
/// Both hold unit rows of one width (the student's projected if the teacher is wider) of the whole batch; the scales
/// are 1 / temperature. The gradients are computed in closed form, so no graph is differentiated twice. The student's
/// gradient stays differentiable. Source: CLIP-KD (Yang et al. 2024), GD, by the formula of the paper; the published
/// weight is 1e8.
///
/// ```no_run
/// # use kd_losses::{Embeddings, gradient};
/// # fn example(student: &Embeddings, teacher: &Embeddings, scales: [&tch::Tensor; 2]) -> kd_losses::Result<tch::Tensor> {
/// gradient::gd(&student.normalized(), scales[0], teacher, scales[1])
/// # }
/// ```
///
/// # Errors
/// [`crate::Error::Shapes`] if the two differ in rows or width.
pub fn gd(
    student: &Embeddings,
    student_scale: &Tensor,
    teacher: &Embeddings,
    teacher_scale: &Tensor,
) -> Result<Tensor> {
    check_alike(student, teacher)?;
    let direction = |anchors: [&Tensor; 2], keys: [&Tensor; 2]| {
        let student = contrastive_gradient(anchors[0], keys[0], student_scale);
        let teacher = contrastive_gradient(anchors[1], keys[1], teacher_scale);
        student.0.mse_loss(&teacher.0.detach(), Reduction::Mean)
            + student.1.mse_loss(&teacher.1.detach(), Reduction::Mean)
    };
    let (images, texts) = ([&student.image, &teacher.image], [&student.text, &teacher.text]);
    Ok(direction(images, texts) + direction(texts, images))
}

/// Gradients at anchors and keys, `[rows, width]` each, of the mean cross-entropy of s · anchors · keysᵀ towards
/// the diagonal, with the rows taken as free vectors.
fn contrastive_gradient(anchors: &Tensor, keys: &Tensor, scale: &Tensor) -> (Tensor, Tensor) {
    let rows = anchors.size()[0];
    let identity = Tensor::eye(rows, (Kind::Float, anchors.device()));
    let excess = (anchors * scale).matmul(&keys.tr()).softmax(1, Kind::Float) - identity;
    let factor = scale / rows as f64;
    (excess.matmul(keys) * &factor, excess.tr().matmul(anchors) * factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn the_closed_form_agrees_with_autograd() {
        tch::manual_seed(5);
        let leaf = || Tensor::randn([5, 7], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let (anchors, keys, scale) = (leaf(), leaf(), Tensor::from(3.0f32));
        let logits = (&anchors * &scale).matmul(&keys.tr());
        let labels = Tensor::arange(5, (Kind::Int64, Device::Cpu));
        logits.cross_entropy_for_logits(&labels).backward();
        let (of_anchors, of_keys) = contrastive_gradient(&anchors.detach(), &keys.detach(), &scale);
        for (found, expected) in [(of_anchors, anchors.grad()), (of_keys, keys.grad())] {
            assert!((found - expected).abs().max().double_value(&[]) < 1e-6);
        }
    }

    #[test]
    fn equal_pairs_at_equal_scales_have_no_loss() {
        let rows = Tensor::eye(3, (Kind::Float, Device::Cpu));
        let pairs = Embeddings::new(rows.shallow_clone(), rows).unwrap();
        let scale = |value: f32| Tensor::from(value);
        assert_eq!(gd(&pairs, &scale(4.0), &pairs, &scale(4.0)).unwrap().double_value(&[]), 0.0);
        assert!(gd(&pairs, &scale(4.0), &pairs, &scale(9.0)).unwrap().double_value(&[]) > 0.0);
    }
}
