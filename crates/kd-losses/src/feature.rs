//! Feature distillation: the student's unit embeddings onto the teacher's.

use tch::{Reduction, Tensor};

use crate::embeddings::Embeddings;
use crate::{Error, Result};

/// MSE(image) + MSE(text), each the mean over all elements; rows are unit vectors of one width.
///
/// Source: CLIP-KD (Yang et al. 2024), FD; its published weight is 2000.
///
/// # Errors
/// [`Error::Shapes`] where the two differ in rows or width.
pub fn fd(student: &Embeddings, teacher: &Embeddings) -> Result<Tensor> {
    if student.image.size() != teacher.image.size() {
        return Err(Error::Shapes {
            left: "the student's embeddings",
            left_shape: student.image.size(),
            right: "the teacher's embeddings",
            right_shape: teacher.image.size(),
            rule: "features are compared row by row in one width",
        });
    }
    let image = student.image.mse_loss(&teacher.image, Reduction::Mean);
    Ok(image + student.text.mse_loss(&teacher.text, Reduction::Mean))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let pair = |image: [f32; 2], text: [f32; 2]| {
            Embeddings::new(Tensor::from_slice(&image).view([1, 2]), Tensor::from_slice(&text).view([1, 2]))
                .unwrap()
        };
        let loss =
            fd(&pair([1.0, 0.0], [0.0, 1.0]), &pair([0.0, 1.0], [0.0, 1.0])).unwrap().double_value(&[]);
        assert_eq!(loss, 1.0);
    }
}
