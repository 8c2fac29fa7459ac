//! Relational knowledge distillation: distances of pairs and angles of triplets within one modality.

use tch::{Reduction, Tensor};

use crate::Result;
use crate::embeddings::{Embeddings, check_relations, normalize};

/// Distance-wise RKD: Huber loss (delta 1) between all pairwise distances, each divided by its model's mean distance;
/// sum of images and texts.
///
/// Unit rows; the widths may differ. Source: RKD (Park et al. 2019), distance-wise.
///
/// ```no_run
/// # use kd_losses::{Embeddings, rkd};
/// # fn example(student: &Embeddings, teacher: &Embeddings) -> kd_losses::Result<tch::Tensor> {
/// rkd::distance(&student.normalized(), teacher)
/// # }
/// ```
///
/// # Errors
/// [`crate::Error::Shapes`] if the two have different numbers of rows, or fewer than two.
pub fn distance(student: &Embeddings, teacher: &Embeddings) -> Result<Tensor> {
    image_and_text(student, teacher, distances)
}

/// Angle-wise RKD: Huber loss (delta 1) between the cosines of all triplets' angles; sum of images and texts.
///
/// Unit rows; the widths may differ. Time and memory grow with rows³. Source: RKD (Park et al. 2019), angle-wise.
///
/// ```no_run
/// # use kd_losses::{Embeddings, rkd};
/// # fn example(student: &Embeddings, teacher: &Embeddings) -> kd_losses::Result<tch::Tensor> {
/// rkd::angle(&student.normalized(), teacher)
/// # }
/// ```
///
/// # Errors
/// [`crate::Error::Shapes`] if the two have different numbers of rows, or fewer than two.
pub fn angle(student: &Embeddings, teacher: &Embeddings) -> Result<Tensor> {
    image_and_text(student, teacher, angles)
}

fn image_and_text(
    student: &Embeddings,
    teacher: &Embeddings,
    relations: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    check_relations(student, teacher)?;
    let loss = |student: &Tensor, teacher: &Tensor| -> Result<Tensor> {
        Ok(relations(student)?.smooth_l1_loss(&relations(teacher)?.detach(), Reduction::Mean, 1.0))
    };
    Ok(loss(&student.image, &teacher.image)? + loss(&student.text, &teacher.text)?)
}

/// Pairwise distances `[rows, rows]`, divided by their mean off the diagonal.
fn distances(rows: &Tensor) -> Result<Tensor> {
    /// Uses differences of rows, because the expanded square loses small distances.
    const EXACT: i64 = 2;
    let distances = Tensor::f_cdist(rows, rows, 2.0, EXACT)?;
    let count = rows.size()[0] * (rows.size()[0] - 1);
    // The diagonal is zero and adds nothing to the sum. If all rows are equal, the mean distance is zero, so do not
    // divide by it.
    let mean = (distances.sum(tch::Kind::Float) / count as f64).clamp_min(1e-12);
    Ok(distances / mean)
}

/// Cosines `[rows, rows, rows]` of the angle at row i between rows j and k.
fn angles(rows: &Tensor) -> Result<Tensor> {
    let directions = normalize(&(rows.unsqueeze(0) - rows.unsqueeze(1)));
    Ok(directions.f_bmm(&directions.transpose(1, 2))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(values: &[f32], width: i64) -> Embeddings {
        let rows = Tensor::from_slice(values).view([-1, width]);
        Embeddings::new(rows.copy(), rows).unwrap()
    }

    #[test]
    fn by_hand() {
        // A right angle at the origin with sides 3 and 4, and three points on a line.
        let (triangle, line) = (both(&[0.0, 0.0, 3.0, 0.0, 0.0, 4.0], 2), both(&[0.0, 1.0, 3.0], 1));
        let relative = |[a, b, c]: [f64; 3]| {
            let mean = (a + b + c) / 3.0;
            [a / mean, b / mean, c / mean]
        };
        let (t, l) = (relative([3.0, 4.0, 5.0]), relative([1.0, 3.0, 2.0]));
        let huber = t.iter().zip(l).map(|(t, l)| (t - l).powi(2) / 2.0).sum::<f64>() * 2.0 / 9.0;
        let loss = distance(&line, &triangle).unwrap().double_value(&[]);
        assert!((loss - 2.0 * huber).abs() < 1e-6, "{loss}");

        // Cosines at the corners: 0, 3/5, 4/5 against 1, -1, 1 on the line.
        let huber = |d: f64| if d < 1.0 { d * d / 2.0 } else { d - 0.5 };
        let expected = (huber(1.0) + huber(1.6) + huber(0.2)) * 2.0 / 27.0;
        let loss = angle(&line, &triangle).unwrap().double_value(&[]);
        assert!((loss - 2.0 * expected).abs() < 1e-6, "{loss} and {}", 2.0 * expected);
    }

    #[test]
    fn equal_rows_have_finite_gradients_and_single_rows_are_refused() {
        let other = both(&[1.0, 0.0, 0.6, 0.8, 0.0, 1.0], 2);
        for loss in [distance, angle] {
            let same = both(&[1.0, 0.0, 1.0, 0.0, 1.0, 0.0], 2);
            let image = same.image.set_requires_grad(true);
            let same = Embeddings::new(image.shallow_clone(), same.text).unwrap();
            assert_eq!(loss(&same, &same).unwrap().double_value(&[]), 0.0);
            loss(&same, &other).unwrap().backward();
            assert!(image.grad().isfinite().all().int64_value(&[]) == 1);
        }
        assert!(distance(&both(&[1.0], 1), &both(&[1.0], 1)).is_err());
    }
}
