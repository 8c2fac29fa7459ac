//! Geometry of embeddings: common neighbours, the modality gap, and equal predictions.

use ndarray::{Array1, ArrayView2, Axis, s};

use crate::names::Firsts;
use crate::neighbors::nearest;
use crate::{Error, Result, rows};

/// Number of images whose class scores are in memory at once.
const BLOCK: usize = 1024;

/// Computes the k-NN overlap of embeddings `[n, Dt]` and `[n, Ds]`: the mean fraction of an item's k nearest other
/// items, by cosine, that both models have in common.
///
/// This is mutual k-NN alignment (Huh et al. 2024, The Platonic Representation Hypothesis). Chance gives k / (n - 1).
/// Among equally near items, the first one is taken.
///
/// ```
/// use ndarray::array;
/// use zeroshot_eval::fidelity::neighbor_overlap;
///
/// let rows = array![[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]];
/// assert_eq!(neighbor_overlap(rows.view(), rows.view(), 1)?, 1.0);
/// # Ok::<_, zeroshot_eval::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the numbers of embeddings differ, [`Error::Input`] for a value that is not finite, `k` = 0, or at
/// most `k` embeddings.
pub fn neighbor_overlap(teacher: ArrayView2<'_, f32>, student: ArrayView2<'_, f32>, k: usize) -> Result<f64> {
    if teacher.nrows() != student.nrows() {
        return Err(Error::shape("embeddings of the student", teacher.nrows(), student.nrows()));
    }
    let teacher = rows::unit("the teacher's row", teacher)?;
    let student = rows::unit("the student's row", student)?;
    if k == 0 || k >= teacher.nrows() {
        return Err(Error::Input(format!(
            "{} embeddings are too few for {k} neighbours: give more than {k}, or another number of neighbours above 0",
            teacher.nrows()
        )));
    }
    Ok(unit_neighbor_overlap(teacher.view(), student.view(), k))
}

/// Computes [`neighbor_overlap`] of checked unit rows.
pub(super) fn unit_neighbor_overlap(
    teacher: ArrayView2<'_, f32>,
    student: ArrayView2<'_, f32>,
    k: usize,
) -> f64 {
    shared(&nearest(teacher, teacher, k, true), &nearest(student, student, k, true), k)
}

/// Computes the mean fraction of an image's k nearest texts that both models have in common, from checked unit rows
/// `[images, texts]` of each model, with at least k texts.
pub(super) fn unit_cross_overlap(
    [teacher_images, teacher_texts]: [ArrayView2<'_, f32>; 2],
    [student_images, student_texts]: [ArrayView2<'_, f32>; 2],
    k: usize,
) -> f64 {
    let teacher = nearest(teacher_images, teacher_texts, k, false);
    shared(&teacher, &nearest(student_images, student_texts, k, false), k)
}

/// Returns the mean fraction of the k neighbours of a query that both lists contain.
fn shared(teacher: &[Vec<(usize, f32)>], student: &[Vec<(usize, f32)>], k: usize) -> f64 {
    let mut count = 0;
    for (teacher, student) in teacher.iter().zip(student) {
        count += teacher.iter().filter(|(index, _)| student.iter().any(|(other, _)| other == index)).count();
    }
    count as f64 / (k * teacher.len()) as f64
}

/// Computes the modality gap: the distance, 0 to 2, between the centroids of the normalised images `[n, D]` and texts
/// `[m, D]` (Liang et al. 2022, Mind the Gap).
///
/// ```
/// use ndarray::array;
/// use zeroshot_eval::fidelity::modality_gap;
///
/// assert_eq!(modality_gap(array![[1.0, 0.0]].view(), array![[-1.0, 0.0]].view())?, 2.0);
/// # Ok::<_, zeroshot_eval::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the widths differ, [`Error::Input`] for an empty array or a value that is not finite.
pub fn modality_gap(images: ArrayView2<'_, f32>, texts: ArrayView2<'_, f32>) -> Result<f64> {
    if images.ncols() != texts.ncols() {
        return Err(Error::shape("width of the text embeddings", images.ncols(), texts.ncols()));
    }
    Ok(unit_modality_gap(rows::unit("image", images)?.view(), rows::unit("text", texts)?.view()))
}

/// Computes [`modality_gap`] of checked unit rows.
pub(super) fn unit_modality_gap(images: ArrayView2<'_, f32>, texts: ArrayView2<'_, f32>) -> f64 {
    let centroid = |rows: ArrayView2<'_, f32>| {
        let mut sum = Array1::<f64>::zeros(rows.ncols());
        for row in rows.axis_iter(Axis(0)) {
            sum.zip_mut_with(&row, |sum, &value| *sum += f64::from(value));
        }
        sum / rows.nrows() as f64
    };
    (centroid(images) - centroid(texts)).mapv(|value| value * value).sum().sqrt()
}

/// Computes the agreement of two models: the fraction of equal predictions. Predictions are class indices, or options
/// of them; `None` (a tie) agrees with nothing.
///
/// ```
/// use zeroshot_eval::fidelity::agreement;
///
/// assert_eq!(agreement(&[0usize, 1], &[0, 2])?, 0.5);
/// # Ok::<_, zeroshot_eval::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the lengths differ, [`Error::Input`] without predictions.
pub fn agreement<P: Copy + Into<Option<usize>>>(teacher: &[P], student: &[P]) -> Result<f64> {
    if teacher.len() != student.len() {
        return Err(Error::shape("predictions of the student", teacher.len(), student.len()));
    }
    if teacher.is_empty() {
        return Err(Error::Input("no prediction to compare".into()));
    }
    let same = teacher.iter().zip(student).filter(|(teacher, student)| {
        let teacher: Option<usize> = (**teacher).into();
        teacher.is_some() && teacher == (**student).into()
    });
    Ok(same.count() as f64 / teacher.len() as f64)
}

/// Returns the class of each image with the highest cosine similarity between unit rows `[n, D]` and `[classes, D]`, or
/// `None` if several different classes tie.
pub(super) fn predictions(
    images: ArrayView2<'_, f32>,
    classes: ArrayView2<'_, f32>,
    firsts: &Firsts,
) -> Vec<Option<usize>> {
    let mut found = Vec::with_capacity(images.nrows());
    for start in (0..images.nrows()).step_by(BLOCK) {
        let end = (start + BLOCK).min(images.nrows());
        let scores = images.slice(s![start..end, ..]).dot(&classes.t());
        found.extend(scores.axis_iter(Axis(0)).map(|scores| firsts.single_best(scores)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::made_up;
    use ndarray::{Array2, array};
    use proptest::prelude::*;

    #[test]
    fn overlap_by_hand() {
        // On a quarter circle: the teacher's neighbours are 0-1 and 2-3, the student's 0-1 and 2-1, 3-2.
        let at = |degrees: [f32; 4]| {
            Array2::from_shape_fn((4, 2), |(i, j)| {
                let angle = degrees[i].to_radians();
                if j == 0 { angle.cos() } else { angle.sin() }
            })
        };
        let teacher = at([0.0, 10.0, 60.0, 70.0]);
        let student = at([0.0, 10.0, 30.0, 80.0]);
        assert_eq!(neighbor_overlap(teacher.view(), student.view(), 1).unwrap(), 0.75);
        // With k = n - 1 every other row is a neighbour.
        assert_eq!(neighbor_overlap(teacher.view(), student.view(), 3).unwrap(), 1.0);
    }

    #[test]
    fn cross_overlap_by_hand() {
        // The teacher's order of texts for the image is 0, 1, 2; the student's 2, 1, 0 and 0, 2, 1.
        let image = array![[1.0, 0.0]];
        let teacher = array![[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]];
        let student = array![[0.0, 1.0], [0.8, 0.6], [1.0, 0.0]];
        let found = |student: &Array2<f32>, k| {
            unit_cross_overlap([image.view(), teacher.view()], [image.view(), student.view()], k)
        };
        assert_eq!([found(&student, 1), found(&student, 2), found(&student, 3)], [0.0, 0.5, 1.0]);
        let student = array![[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]];
        assert_eq!([found(&student, 1), found(&student, 2)], [1.0, 0.5]);
    }

    #[test]
    fn gap_by_hand() {
        // Centroids (0.5, 0.5) and (-1, 0); norms do not matter.
        let images = array![[3.0, 0.0], [0.0, 2.0]];
        let texts = array![[-1.0, 0.0], [-9.0, 0.0]];
        let found = modality_gap(images.view(), texts.view()).unwrap();
        assert!((found - (1.5f64.powi(2) + 0.25).sqrt()).abs() < 1e-12);
        assert_eq!(modality_gap(images.view(), images.view()).unwrap(), 0.0);
    }

    #[test]
    fn agreement_by_hand() {
        assert_eq!(agreement(&[0, 1, 2, 3], &[0, 2, 2, 3]).unwrap(), 0.75);
        assert_eq!(agreement(&[Some(0), None], &[Some(0), None]).unwrap(), 0.5);
        let classes = Array2::<f32>::eye(2);
        let images = array![[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]];
        let found = |firsts| predictions(images.view(), classes.view(), &firsts);
        assert_eq!(found(Firsts::distinct(2)), [Some(0), None, Some(1)]);
        assert_eq!(found(Firsts::of(&["a".into(), "a".into()])), [Some(0); 3]);
    }

    #[test]
    fn bad_input_is_an_error() {
        let rows = made_up(5, 3, 0);
        let empty = Array2::<f32>::zeros((0, 3));
        let broken = Array2::from_elem((5, 3), f32::NAN);
        assert!(matches!(
            neighbor_overlap(rows.view(), made_up(4, 3, 0).view(), 2),
            Err(Error::Shape { .. })
        ));
        for k in [0, 5, usize::MAX] {
            assert!(matches!(neighbor_overlap(rows.view(), rows.view(), k), Err(Error::Input(_))));
        }
        assert!(neighbor_overlap(rows.view(), broken.view(), 2).is_err());
        assert!(neighbor_overlap(empty.view(), empty.view(), 2).is_err());
        assert!(neighbor_overlap(array![[1.0]].view(), array![[1.0]].view(), 1).is_err());
        assert!(matches!(modality_gap(rows.view(), made_up(5, 2, 0).view()), Err(Error::Shape { .. })));
        assert!(modality_gap(rows.view(), broken.view()).is_err());
        assert!(modality_gap(empty.view(), rows.view()).is_err());
        assert!(matches!(agreement(&[1], &[1, 2]), Err(Error::Shape { .. })));
        assert!(matches!(agreement::<usize>(&[], &[]), Err(Error::Input(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn order_and_norms_of_embeddings_do_not_matter(n in 4usize..40, k in 1usize..4, seed in 0u64..1000) {
            let (teacher, student) = (made_up(n, 5, seed), made_up(n, 6, seed + 1));
            let found = neighbor_overlap(teacher.view(), student.view(), k).unwrap();
            prop_assert!((0.0..=1.0).contains(&found));
            prop_assert_eq!(neighbor_overlap(student.view(), teacher.view(), k).unwrap(), found);
            prop_assert_eq!(neighbor_overlap(teacher.view(), teacher.view(), k).unwrap(), 1.0);
            let order = crate::seeded::Seeded::new(seed).order(n);
            let (a, b) = (teacher.select(Axis(0), &order), student.select(Axis(0), &order) * 4.0);
            prop_assert_eq!(neighbor_overlap(a.view(), b.view(), k).unwrap(), found);
            let gap = modality_gap(teacher.view(), a.view()).unwrap();
            prop_assert!(gap < 1e-6, "{gap}");
        }
    }
}
