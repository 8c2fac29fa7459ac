//! Augmented feature distillation: student and teacher fused into one embedding, which is trained contrastively.

use tch::Tensor;

use crate::embeddings::{Embeddings, Logits, Targets, check_alike};
use crate::{Result, contrastive};

/// An affine map.
#[derive(Debug)]
pub struct Affine {
    /// Weight `[output, input]`.
    pub weight: Tensor,
    /// Bias `[output]`.
    pub bias: Tensor,
}

impl Affine {
    /// Maps the last dimension.
    pub fn apply(&self, xs: &Tensor) -> Tensor {
        xs.linear(&self.weight, Some(&self.bias))
    }
}

/// Learned affine maps of images and of texts, from `[rows, 2 width]` to `[rows, width]`.
#[derive(Debug)]
pub struct Fusion {
    /// Weight and bias for images.
    pub visual: Affine,
    /// Weight and bias for texts.
    pub text: Affine,
}

/// Augmented feature distillation: the contrastive loss of the fused pairs. `scale` is a learned logit scale, used
/// without an exponential.
///
/// Student and teacher hold unit rows of one width. `fusion` maps the concatenated rows, the student's first, and
/// passes gradients to the student. Source: CLIP-KD (Yang et al. 2024), AFD.
///
/// ```no_run
/// # use kd_losses::{Embeddings, Targets, fusion::{self, Fusion}};
/// # fn example(student: &Embeddings, teacher: &Embeddings, fusion: &Fusion, scale: &tch::Tensor) -> kd_losses::Result<tch::Tensor> {
/// fusion::afd(&student.normalized(), teacher, fusion, scale, &Targets::Diagonal { offset: 0 })
/// # }
/// ```
///
/// # Errors
/// [`crate::Error::Shapes`] if the two differ in rows or width.
pub fn afd(
    student: &Embeddings,
    teacher: &Embeddings,
    fusion: &Fusion,
    scale: &Tensor,
    targets: &Targets,
) -> Result<Tensor> {
    check_alike(student, teacher)?;
    let fuse =
        |student: &Tensor, teacher: &Tensor, map: &Affine| map.apply(&Tensor::cat(&[student, teacher], 1));
    let fused = Embeddings {
        image: fuse(&student.image, &teacher.image, &fusion.visual),
        text: fuse(&student.text, &teacher.text, &fusion.text),
    }
    .normalized();
    contrastive::task(&Logits::new(&fused, &fused, scale)?, targets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    /// A fusion that copies one half: 0 for the student's, 1 for the teacher's.
    fn selects(half: i64) -> Fusion {
        let options = (Kind::Float, Device::Cpu);
        let map = || {
            let weight = Tensor::zeros([2, 4], options);
            weight.narrow(1, 2 * half, 2).copy_(&Tensor::eye(2, options));
            Affine { weight, bias: Tensor::zeros([2], options) }
        };
        Fusion { visual: map(), text: map() }
    }

    #[test]
    fn a_fusion_of_one_side_gives_its_contrastive_loss() {
        let matched = Tensor::eye(2, (Kind::Float, Device::Cpu));
        let pairs = |text: &Tensor| Embeddings::new(matched.copy(), text.copy()).unwrap();
        let (right, wrong) = (pairs(&matched), pairs(&matched.flip([0])));
        let scale = Tensor::from(2.0f32);
        let value = |half| {
            let targets = Targets::Diagonal { offset: 0 };
            afd(&wrong, &right, &selects(half), &scale, &targets).unwrap().double_value(&[])
        };
        // Rows (2, 0) and (0, 2): ln(1 + e^-2) for matching pairs, ln(1 + e^2) for crossed pairs.
        assert!((value(0) - (1.0 + 2f64.exp()).ln()).abs() < 1e-6);
        assert!((value(1) - (1.0 + (-2f64).exp()).ln()).abs() < 1e-6);
    }
}
