//! Feature distillation: distances between the unit embeddings of student and teacher.

use tch::{Reduction, Tensor};

use crate::Result;
use crate::embeddings::{Embeddings, check_alike};

/// Feature distillation: MSE(image) + MSE(text), each averaged over all elements. Rows are unit vectors of one width.
///
/// Source: CLIP-KD (Yang et al. 2024), FD; its published weight is 2000.
///
/// ```no_run
/// # use kd_losses::{Embeddings, feature};
/// # fn example(student: &Embeddings, teacher: &Embeddings) -> kd_losses::Result<tch::Tensor> {
/// feature::fd(&student.normalized(), teacher)
/// # }
/// ```
///
/// # Errors
/// [`crate::Error::Shapes`] if the two differ in rows or width.
pub fn fd(student: &Embeddings, teacher: &Embeddings) -> Result<Tensor> {
    check_alike(student, teacher)?;
    let image = student.image.mse_loss(&teacher.image, Reduction::Mean);
    Ok(image + student.text.mse_loss(&teacher.text, Reduction::Mean))
}

/// Cosine distance: mean over rows of 1 − cosine of student and teacher, summed over images and texts.
///
/// For unit rows u and v, |u − v|² = 2 (1 − u·v). Therefore this loss is width / 2 times [`fd`]. Source: DCLIP.
///
/// ```no_run
/// # use kd_losses::{Embeddings, feature};
/// # fn example(student: &Embeddings, teacher: &Embeddings) -> kd_losses::Result<tch::Tensor> {
/// feature::cosine(&student.normalized(), teacher)
/// # }
/// ```
///
/// # Errors
/// [`crate::Error::Shapes`] if the two differ in rows or width.
pub fn cosine(student: &Embeddings, teacher: &Embeddings) -> Result<Tensor> {
    check_alike(student, teacher)?;
    let distance = |student: &Tensor, teacher: &Tensor| {
        1.0 - (student * teacher).sum(tch::Kind::Float) / student.size()[0] as f64
    };
    Ok(distance(&student.image, &teacher.image) + distance(&student.text, &teacher.text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_distance_is_half_the_squared_distance() {
        tch::manual_seed(3);
        let randn = || Tensor::randn([5, 7], (tch::Kind::Float, tch::Device::Cpu));
        let pairs = || Embeddings::new(randn(), randn()).unwrap().normalized();
        let (student, teacher) = (pairs(), pairs());
        let squared = fd(&student, &teacher).unwrap().double_value(&[]) * 7.0;
        let cosine = cosine(&student, &teacher).unwrap().double_value(&[]);
        assert!((cosine - squared / 2.0).abs() < 1e-5 && cosine > 0.1, "{cosine} and {squared}");
    }

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
