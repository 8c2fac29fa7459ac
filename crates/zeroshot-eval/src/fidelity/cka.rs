//! Linear centred kernel alignment (CKA) of two sets of embeddings.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

use crate::{Error, Result, rows};

/// Number of columns of a Gram matrix per parallel task; constant, so that the sum does not depend on the number of
/// threads.
const COLUMNS: usize = 64;
/// Number of rows to convert to double precision at once.
const ROWS: usize = 1024;
/// Variance relative to the second moment, below which it is rounding error of single precision.
const ROUNDING: f64 = 1e-12;

/// Computes the linear CKA, 0 to 1, of embeddings `[n, Dt]` and `[n, Ds]` of the same items (Kornblith et al. 2019,
/// equation 3).
///
/// The embeddings are not normalised. CKA is invariant to rotations, shifts and a common factor. It is computed from
/// the Gram matrices of the columns, so memory does not grow with n. `None` if the embeddings of a model are all equal.
///
/// ```
/// use ndarray::array;
/// use zeroshot_eval::fidelity::linear_cka;
///
/// let rows = array![[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]];
/// let cka = linear_cka(rows.view(), (&rows * 2.0).view())?;
/// assert!(cka.is_some_and(|cka| cka > 0.999));
/// # Ok::<_, zeroshot_eval::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the numbers of embeddings differ, [`Error::Input`] for an empty array or a value that is not finite.
pub fn linear_cka(teacher: ArrayView2<'_, f32>, student: ArrayView2<'_, f32>) -> Result<Option<f64>> {
    if teacher.nrows() != student.nrows() {
        return Err(Error::shape("embeddings of the student", teacher.nrows(), student.nrows()));
    }
    rows::check("the teacher's row", teacher)?;
    rows::check("the student's row", student)?;
    let (Some(teacher), Some(student)) = (Centered::new(teacher), Centered::new(student)) else {
        return Ok(None);
    };
    let norms = teacher.gram(&teacher).sqrt() * student.gram(&student).sqrt();
    // Rounding can exceed 1.
    Ok(Some((teacher.gram(&student) / norms).min(1.0)))
}

/// Rows minus their mean, divided by their total norm, which prevents overflow.
struct Centered<'a> {
    rows: ArrayView2<'a, f32>,
    mean: Array1<f64>,
    norm: f64,
}

impl<'a> Centered<'a> {
    /// Returns `None` if the rows do not vary.
    fn new(rows: ArrayView2<'a, f32>) -> Option<Self> {
        let mut mean = Array1::zeros(rows.ncols());
        for row in rows.axis_iter(Axis(0)) {
            mean.zip_mut_with(&row, |sum, &value| *sum += f64::from(value));
        }
        mean /= rows.nrows() as f64;
        let (mut variation, mut moment) = (0.0, 0.0);
        for row in rows.axis_iter(Axis(0)) {
            for (&value, mean) in row.iter().zip(&mean) {
                variation += (f64::from(value) - mean).powi(2);
                moment += f64::from(value).powi(2);
            }
        }
        (variation > ROUNDING * moment).then(|| Centered { rows, mean, norm: variation.sqrt() })
    }

    /// Returns a centred and scaled block in double precision.
    fn part(&self, rows: (usize, usize), columns: (usize, usize)) -> Array2<f64> {
        let part = self.rows.slice(s![rows.0..rows.1, columns.0..columns.1]);
        let mut part = part.mapv(f64::from);
        part -= &self.mean.slice(s![columns.0..columns.1]);
        part /= self.norm;
        part
    }

    /// Returns the squared Frobenius norm of the product of this matrix, transposed, with another.
    fn gram(&self, other: &Centered<'_>) -> f64 {
        let (count, width) = self.rows.dim();
        let blocks = (0..width.div_ceil(COLUMNS)).into_par_iter().map(|block| {
            let columns = (block * COLUMNS, ((block + 1) * COLUMNS).min(width));
            let mut product = Array2::<f64>::zeros((columns.1 - columns.0, other.rows.ncols()));
            for start in (0..count).step_by(ROWS) {
                let rows = (start, (start + ROWS).min(count));
                product += &self.part(rows, columns).t().dot(&other.part(rows, (0, other.rows.ncols())));
            }
            product.iter().map(|value| value * value).sum::<f64>()
        });
        blocks.collect::<Vec<_>>().iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::made_up;
    use ndarray::array;
    use proptest::prelude::*;

    #[test]
    fn by_hand() {
        // Centred columns x = (-1, 0, 1) and y = (-1, 2, -1): x is orthogonal to y.
        let x = array![[0.0], [1.0], [2.0]];
        let y = array![[0.0], [3.0], [0.0]];
        assert!(linear_cka(x.view(), y.view()).unwrap().unwrap() < 1e-12);
        // z = (-1, 1, 0): (x·z)² / (x·x z·z) = 1 / (2 · 2).
        let z = array![[4.0], [6.0], [5.0]];
        assert!((linear_cka(x.view(), z.view()).unwrap().unwrap() - 0.25).abs() < 1e-12);
        // x against the columns (x, y): |xᵀ(x y)|² = 4; |xᵀx| = 2; |diag(2, 6)| = sqrt 40.
        let both = array![[0.0, 0.0], [1.0, 3.0], [2.0, 0.0]];
        let found = linear_cka(x.view(), both.view()).unwrap().unwrap();
        assert!((found - 4.0 / (2.0 * 40f64.sqrt())).abs() < 1e-12);
    }

    #[test]
    fn constant_embeddings_have_no_cka() {
        let rows = made_up(5, 3, 0);
        assert_eq!(linear_cka(rows.view(), Array2::from_elem((5, 2), 0.1).view()).unwrap(), None);
        assert_eq!(linear_cka(array![[1.0]].view(), array![[2.0, 3.0]].view()).unwrap(), None);
    }

    #[test]
    fn large_values_do_not_overflow() {
        let rows = made_up(6, 3, 0) * 1e37;
        assert!((linear_cka(rows.view(), rows.view()).unwrap().unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn invalid_embeddings_are_errors() {
        let rows = made_up(5, 3, 0);
        let mut broken = rows.clone();
        broken[[2, 1]] = f32::NAN;
        assert!(matches!(linear_cka(rows.view(), made_up(4, 3, 0).view()), Err(Error::Shape { .. })));
        assert!(matches!(linear_cka(rows.view(), broken.view()), Err(Error::Input(_))));
        assert!(matches!(linear_cka(broken.view(), rows.view()), Err(Error::Input(_))));
        let empty = Array2::zeros((0, 3));
        assert!(matches!(linear_cka(empty.view(), empty.view()), Err(Error::Input(_))));
        assert!(matches!(linear_cka(rows.view(), Array2::zeros((5, 0)).view()), Err(Error::Input(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn cka_is_invariant_to_rotation_shift_and_scale(
            n in 3usize..40, width in 2usize..6, seed in 0u64..1000, angle in 0.0f32..6.0, scale in 0.1f32..9.0,
        ) {
            let (teacher, student) = (made_up(n, 7, seed), made_up(n, width, seed + 1));
            let found = linear_cka(teacher.view(), student.view()).unwrap().unwrap();
            prop_assert!((0.0..=1.0).contains(&found));
            let mut turned = student.clone();
            for mut row in turned.axis_iter_mut(Axis(0)) {
                let (x, y) = (row[0], row[1]);
                row[0] = angle.cos() * x - angle.sin() * y;
                row[1] = angle.sin() * x + angle.cos() * y;
            }
            let moved = turned * scale + 3.0;
            let other = linear_cka(teacher.view(), moved.view()).unwrap().unwrap();
            prop_assert!((found - other).abs() < 1e-4, "{found} {other}");
            let swapped = linear_cka(student.view(), teacher.view()).unwrap().unwrap();
            prop_assert!((found - swapped).abs() < 1e-12);
            prop_assert!((linear_cka(student.view(), moved.view()).unwrap().unwrap() - 1.0).abs() < 1e-5);
        }

        #[test]
        fn cka_agrees_with_its_definition_by_rows(n in 2usize..30, seed in 0u64..1000) {
            // The definition by centred n x n matrices, over several blocks of columns.
            let (a, b) = (made_up(n, 150, seed), made_up(n, 3, seed + 1));
            let kernel = |rows: &Array2<f32>| {
                let rows = rows.mapv(f64::from);
                let rows = &rows - &rows.mean_axis(Axis(0)).unwrap();
                rows.dot(&rows.t())
            };
            let (k, l) = (kernel(&a), kernel(&b));
            let inner = |k: &Array2<f64>, l: &Array2<f64>| (k * l).sum();
            let expected = inner(&k, &l) / (inner(&k, &k) * inner(&l, &l)).sqrt();
            let found = linear_cka(a.view(), b.view()).unwrap().unwrap();
            prop_assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        }
    }
}
