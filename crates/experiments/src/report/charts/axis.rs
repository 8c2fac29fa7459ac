//! Axes of charts: ranges and ticks at round numbers.

/// Maximum number of ticks of an axis.
const MOST: usize = 7;

/// An axis: its range, which begins and ends at a tick, and its ticks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) ticks: Vec<f64>,
    step: f64,
}

impl Axis {
    /// Returns the axis over these values. Values that are not finite are ignored.
    pub(super) fn over(values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        let (low, high) = match (low.is_finite(), high > low) {
            (false, _) => (0.0, 1.0),
            (true, true) => (low, high),
            // One value lies in the middle of its axis.
            (true, false) => {
                let half = if low == 0.0 { 0.5 } else { low.abs() * 0.1 };
                (low - half, low + half)
            }
        };
        let step = step(low, high);
        let (first, last) = enclosing(low, high, step);
        let ticks = (0..=(last - first) as usize).map(|index| (first + index as f64) * step);
        Axis { low: first * step, high: last * step, ticks: ticks.collect(), step }
    }

    /// Returns the position of a value in the range, 0 to 1.
    pub(super) fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Returns the ticks with their labels. All labels have the same unit and number of digits.
    pub(super) fn labels(&self) -> Vec<(f64, String)> {
        let size = self.low.abs().max(self.high.abs());
        let (unit, suffix) = match size {
            size if size >= 1e9 => (1e9, " G"),
            size if size >= 1e6 => (1e6, " M"),
            size if size >= 1e4 => (1e3, " k"),
            _ => (1.0, ""),
        };
        let digits = (-(self.step / unit).log10().floor()).max(0.0);
        let label = |value: f64| match value {
            0.0 => "0".into(),
            value if digits > 4.0 => {
                let significant = (size.log10().floor() - self.step.log10().floor()).max(0.0);
                format!("{value:.*e}", significant as usize)
            }
            value => format!("{:.*}{suffix}", digits as usize, value / unit),
        };
        self.ticks.iter().map(|tick| (*tick, label(*tick))).collect()
    }
}

/// Returns the smallest step of 1, 2 or 5 times a power of ten with which the range has few ticks.
fn step(low: f64, high: f64) -> f64 {
    let power = 10f64.powf(((high - low) / MOST as f64).log10().floor());
    let count = |step: f64| {
        let (first, last) = enclosing(low, high, step);
        last - first + 1.0
    };
    let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0].map(|factor| factor * power);
    steps.into_iter().find(|step| count(*step) <= MOST as f64).unwrap_or(high - low)
}

/// Returns the multiples of the step that enclose the range. Rounding errors do not add a step.
fn enclosing(low: f64, high: f64, step: f64) -> (f64, f64) {
    ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(values: &[f64]) -> Vec<String> {
        Axis::over(values.iter().copied()).labels().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_few_round_numbers_that_enclose_the_values() {
        assert_eq!(labels(&[0.0, 57_600.0]), ["0", "10 k", "20 k", "30 k", "40 k", "50 k", "60 k"]);
        assert_eq!(labels(&[1.01, 5.18]), ["1", "2", "3", "4", "5", "6"]);
        assert_eq!(labels(&[44.3, 1.01]), ["0", "10", "20", "30", "40", "50"]);
        assert_eq!(labels(&[0.0018, 0.0005]), ["0.0005", "0.0010", "0.0015", "0.0020"]);
        assert_eq!(labels(&[7_380_000.0, 7_560_000.0])[0], "7.35 M");
        assert_eq!(labels(&[-0.3, 0.4]), ["-0.4", "-0.2", "0", "0.2", "0.4"]);
        for scale in [1e-9, 0.37, 1.0, 42.0, 1e7, 3e12] {
            for values in [[0.1, 0.9], [-1.0, 7.3], [99.0, 100.0], [5.0, 5.0], [0.0, 0.0]] {
                let values = values.map(|value| value * scale);
                let axis = Axis::over(values.into_iter());
                let rounding = 1e-6 * (axis.high - axis.low);
                assert!(axis.low <= values[0] + rounding && axis.high >= values[1] - rounding, "{axis:?}");
                assert!((2..=MOST).contains(&axis.ticks.len()), "{axis:?}");
                let mut texts = labels(&values);
                texts.dedup();
                assert_eq!(texts.len(), axis.ticks.len(), "{texts:?}");
            }
        }
    }

    #[test]
    fn values_that_are_not_finite_have_no_place() {
        assert_eq!(labels(&[f64::NAN, f64::INFINITY]), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(&[f64::NAN, 2.0, 4.0]), ["2.0", "2.5", "3.0", "3.5", "4.0"]);
    }

    #[test]
    fn the_range_begins_at_0_and_ends_at_1() {
        let axis = Axis::over([3.0, 9.5].into_iter());
        assert_eq!((axis.share(axis.low), axis.share(axis.high)), (0.0, 1.0));
        assert_eq!(axis.share((axis.low + axis.high) / 2.0), 0.5);
    }
}
