//! Hinton's soft targets on class logits.

use tch::Tensor;

use crate::relation::kl;
use crate::{Error, Result};

/// Hinton's soft-target loss: T² KL(softmax(teacher/T) ‖ softmax(student/T)), averaged over rows.
///
/// Both are class logits `[rows, classes]`. For CLIP, they come from a zero-shot classifier over any class list.
/// Source: Hinton et al. 2015.
///
/// ```no_run
/// # use kd_losses::logit;
/// # fn example(student: &tch::Tensor, teacher: &tch::Tensor) -> kd_losses::Result<tch::Tensor> {
/// logit::hinton(student, teacher, 4.0)
/// # }
/// ```
///
/// # Errors
/// [`Error::Shapes`] unless both are matrices of one shape; [`Error::Argument`] if the temperature is not positive.
pub fn hinton(student: &Tensor, teacher: &Tensor, temperature: f64) -> Result<Tensor> {
    if student.dim() != 2 || student.size() != teacher.size() {
        return Err(Error::Shapes {
            left: "the student's class logits",
            left_shape: student.size(),
            right: "the teacher's class logits",
            right_shape: teacher.size(),
            rule: "both are [rows, classes] of the same classes",
        });
    }
    if !(temperature.is_finite() && temperature > 0.0) {
        return Err(Error::Argument(format!("temperature {temperature} is not a positive number")));
    }
    Ok(kl(&(student / temperature), &(teacher / temperature)) * (temperature * temperature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_squared_temperature_keeps_the_size_of_gradients() {
        let teacher = Tensor::from_slice(&[1.0f32, 0.0, -1.0]).view([1, 3]);
        let gradient = |temperature: f64| {
            let student = Tensor::zeros([1, 3], (tch::Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
            hinton(&student, &teacher, temperature).unwrap().backward();
            student.grad().norm().double_value(&[])
        };
        // At high temperatures the gradient tends to (student - teacher) / classes, for any T.
        assert!((gradient(50.0) / gradient(100.0) - 1.0).abs() < 0.02);
        assert!(hinton(&teacher, &teacher, 0.0).is_err());
    }
}
