//! Means over seeds, and differences paired by seed.

use serde::{Deserialize, Serialize};

/// Two-sided 95 % critical values of Student's t for 1 to 30 degrees of freedom.
const T95: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// A mean with its standard deviation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Summary {
    /// Number of values.
    pub count: usize,
    /// Mean of the values.
    pub mean: f64,
    /// Sample standard deviation; `None` for a single value.
    pub deviation: Option<f64>,
}

/// A mean difference with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Difference {
    /// Number of pairs.
    pub count: usize,
    /// The mean difference.
    pub mean: f64,
    /// Half the width of the interval, from Student's t over the pairs; `None` for a single pair.
    pub half_width: Option<f64>,
}

impl Summary {
    /// Computes mean and standard deviation; `None` for an empty list.
    ///
    /// ```no_run
    /// let summary = experiments::Summary::of(&[1.0, 2.0, 3.0]).unwrap();
    /// assert_eq!((summary.mean, summary.deviation), (2.0, Some(1.0)));
    /// ```
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        if count == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        let deviation = (count > 1).then(|| (squares / (count - 1) as f64).sqrt());
        Some(Summary { count, mean, deviation })
    }

    /// Computes mean and standard deviation over seeds; `None` without seeds.
    pub fn by_seed(values: &std::collections::BTreeMap<u64, f64>) -> Option<Self> {
        Self::of(&values.values().copied().collect::<Vec<_>>())
    }
}

impl Difference {
    /// Computes the mean of first minus second over pairs, with its confidence interval; `None` for an empty list.
    pub(super) fn of(pairs: &[(f64, f64)]) -> Option<Self> {
        let differences = pairs.iter().map(|(first, second)| first - second).collect::<Vec<_>>();
        let Summary { count, mean, deviation } = Summary::of(&differences)?;
        let half_width = deviation.map(|deviation| t95(count - 1) * deviation / (count as f64).sqrt());
        Some(Difference { count, mean, half_width })
    }

    /// Whether the interval excludes 0.
    pub fn is_clear(&self) -> bool {
        self.half_width.is_some_and(|half| self.mean.abs() > half)
    }
}

/// Returns the two-sided 95 % critical value of Student's t.
fn t95(degrees_of_freedom: usize) -> f64 {
    match degrees_of_freedom {
        0 => f64::INFINITY,
        1..=30 => T95[degrees_of_freedom - 1],
        // An approximation, within 0.003 of the exact value.
        _ => 1.96 + 2.5 / degrees_of_freedom as f64,
    }
}

/// Computes Pearson's correlation; `None` for fewer than three pairs or constant values.
pub(super) fn correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    if pairs.len() < 3 {
        return None;
    }
    let count = pairs.len() as f64;
    let (x, y) =
        (pairs.iter().map(|p| p.0).sum::<f64>() / count, pairs.iter().map(|p| p.1).sum::<f64>() / count);
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (a, b) in pairs {
        xy += (a - x) * (b - y);
        xx += (a - x).powi(2);
        yy += (b - y).powi(2);
    }
    (xx > 0.0 && yy > 0.0).then(|| xy / (xx * yy).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let summary = Summary::of(&[1.0, 2.0, 3.0]).unwrap();
        assert_eq!((summary.mean, summary.deviation), (2.0, Some(1.0)));
        assert_eq!(Summary::of(&[5.0]).unwrap().deviation, None);
        assert!(Summary::of(&[]).is_none());
        // Differences 1, 2, 3: mean 2, deviation 1, t(2) = 4.303.
        let difference = Difference::of(&[(2.0, 1.0), (4.0, 2.0), (6.0, 3.0)]).unwrap();
        assert!((difference.half_width.unwrap() - 4.303 / 3f64.sqrt()).abs() < 1e-12);
        assert!(!difference.is_clear());
        assert!(Difference::of(&[(2.0, 1.0), (3.0, 2.0), (4.01, 3.0)]).unwrap().is_clear());
        assert!(!Difference::of(&[(2.0, 1.0)]).unwrap().is_clear(), "one seed shows nothing");
        assert!((t95(31) - 2.040).abs() < 2e-3 && (t95(100) - 1.984).abs() < 2e-3);
        assert!((correlation(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(correlation(&[(0.0, 1.0), (0.0, 3.0), (0.0, 5.0)]), None);
    }
}
