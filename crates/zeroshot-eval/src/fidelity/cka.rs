//! Linear centred kernel alignment of two sets of rows.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

use crate::{Error, Result, rows};

/// Columns of a Gram matrix that one task works on. Fixed, so that the sum does not depend on the threads.
const COLUMNS: usize = 64;
/// Rows that are held in double precision at once.
const ROWS: usize = 1024;
/// Variance, as a share of the second moment, up to which single precision's rounding explains it.
const ROUNDING: f64 = 1e-12;

/// Linear CKA of rows `[n, Dt]` and `[n, Ds]` of the same things, 0 to 1 (Kornblith et al. 2019, equation 3).
///
/// Rows are taken as they are. Turning or scaling all rows of a side changes nothing, and neither does
/// moving them. The Gram matrices are those of the columns, so time grows with n and memory does not.
/// None where a side does not vary: one row, or rows that are all equal.
///
/// # Errors
/// [`Error::Shape`] where the rows differ in number, [`Error::Input`] where there are none or one is not finite.
pub fn linear_cka(teacher: ArrayView2<'_, f32>, student: ArrayView2<'_, f32>) -> Result<Option<f64>> {
    if teacher.nrows() != student.nrows() {
        return Err(Error::shape("rows of the student", teacher.nrows(), student.nrows()));
    }
    rows::check("the teacher's row", teacher)?;
    rows::check("the student's row", student)?;
    let (Some(teacher), Some(student)) = (Centered::new(teacher), Centered::new(student)) else {
        return Ok(None);
    };
    let own = teacher.gram(&teacher).sqrt() * student.gram(&student).sqrt();
    // Rounding alone can pass one.
    Ok(Some((teacher.gram(&student) / own).min(1.0)))
}

/// Rows less their mean, divided by the length of them all, which keeps large values from overflowing.
struct Centered<'a> {
    rows: ArrayView2<'a, f32>,
    mean: Array1<f64>,
    norm: f64,
}

impl<'a> Centered<'a> {
    /// None where the rows do not vary.
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

    fn part(&self, rows: (usize, usize), columns: (usize, usize)) -> Array2<f64> {
        let part = self.rows.slice(s![rows.0..rows.1, columns.0..columns.1]);
        let mut part = part.mapv(f64::from);
        part -= &self.mean.slice(s![columns.0..columns.1]);
        part /= self.norm;
        part
    }

    /// Squared Frobenius norm of the product of this, transposed, with another.
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
    fn what_does_not_vary_has_none() {
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
    fn bad_rows_are_errors() {
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
        fn turning_moving_and_scaling_change_nothing(
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
            let exchanged = linear_cka(student.view(), teacher.view()).unwrap().unwrap();
            prop_assert!((found - exchanged).abs() < 1e-12);
            prop_assert!((linear_cka(student.view(), moved.view()).unwrap().unwrap() - 1.0).abs() < 1e-5);
        }

        #[test]
        fn columns_and_rows_give_the_same(n in 2usize..30, seed in 0u64..1000) {
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
