//! The results of a row: whether both sides agree, and the ratios of their rounds.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::rows::{Bar, Row, Tolerance};
use super::sides::{Side, Worker};

/// A round of one side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Round {
    pub seconds: f64,
    pub items: f64,
    /// Peak of the resident memory in bytes, if known.
    pub memory: Option<f64>,
}

/// Largest and mean deviation of the program's results from the peer's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Deviation {
    pub largest: f64,
    pub mean: f64,
}

/// Median and range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Spread { median, low, high })
    }
}

/// The measured rounds of a row, and the deviation of its results.
pub(super) struct Outcome {
    tolerance: Tolerance,
    is_memory: bool,
    is_command: bool,
    /// Largest deviation of all comparisons.
    pub deviation: Deviation,
    /// Rounds of the peer, then of the program.
    rounds: [Vec<Round>; 2],
}

impl Outcome {
    pub(super) fn new(row: &Row) -> Self {
        Outcome {
            tolerance: row.tolerance,
            is_memory: row.is_memory(),
            is_command: row.unit() == "s",
            deviation: Deviation::default(),
            rounds: [Vec::new(), Vec::new()],
        }
    }

    /// Compares the results of both workers. An error names the deviation if it exceeds the tolerance.
    pub(super) fn check(&mut self, [peer, here]: &[Worker; 2]) -> Result<()> {
        self.compare(&peer.results, &here.results)
    }

    /// Compares results. An error names the deviation if it exceeds the tolerance.
    pub(super) fn compare(&mut self, peer: &[f32], here: &[f32]) -> Result<()> {
        let found = compare(peer, here, self.tolerance)?;
        if found.largest >= self.deviation.largest {
            self.deviation = found;
        }
        Ok(())
    }

    pub(super) fn add(&mut self, side: Side, round: &Round) {
        self.rounds[side as usize].push(*round);
    }

    /// Returns the values of a side in the unit of the row.
    pub(super) fn values(&self, side: Side) -> Option<Spread> {
        let value = |round: &Round| match (self.is_memory, self.is_command) {
            (true, _) => round.memory.map(|bytes| bytes / f64::from(1 << 20)),
            (_, true) => Some(round.seconds),
            _ => Some(round.items / round.seconds),
        };
        Spread::of(self.rounds[side as usize].iter().map(value).collect::<Option<_>>()?)
    }

    /// Returns median and range of the ratios program / peer of speed or memory, one per round.
    pub(super) fn ratio(&self) -> Option<Spread> {
        let [peer, here] = &self.rounds;
        let ratio = |(peer, here): (&Round, &Round)| match self.is_memory {
            true => Some(here.memory? / peer.memory?),
            false => Some((here.items / here.seconds) / (peer.items / peer.seconds)),
        };
        Spread::of(peer.iter().zip(here).map(ratio).collect::<Option<_>>()?)
    }
}

impl Bar {
    /// Whether a ratio reaches the bar.
    pub(super) fn is_met(self, ratio: f64) -> bool {
        match self {
            Bar::AtLeast(bar) => ratio >= bar,
            Bar::AtMost(bar) => ratio <= bar,
        }
    }
}

/// Returns the deviation of the program's results, or an error if it exceeds the tolerance.
fn compare(peer: &[f32], here: &[f32], tolerance: Tolerance) -> Result<Deviation> {
    if peer.len() != here.len() || peer.is_empty() {
        bail!("the peer has {} results and the program {}", peer.len(), here.len());
    }
    let deviations = peer.iter().zip(here).map(|(peer, here)| {
        let difference = (f64::from(*here) - f64::from(*peer)).abs();
        if tolerance.is_relative {
            difference / f64::from(peer.abs()).max(f64::MIN_POSITIVE)
        } else {
            difference
        }
    });
    let deviations = deviations.collect::<Vec<_>>();
    // NaN exceeds every tolerance.
    let is_bad = |value: f64| value.is_nan();
    let largest =
        deviations.iter().fold(0.0, |a: f64, b| if is_bad(*b) || is_bad(a) { f64::NAN } else { a.max(*b) });
    let mean = deviations.iter().sum::<f64>() / deviations.len() as f64;
    let is_close = largest <= tolerance.largest && mean <= tolerance.mean;
    if !is_close {
        let examples = peer.iter().zip(here).take(4).map(|(peer, here)| format!("{peer} and {here}"));
        bail!(
            "the results differ by up to {largest:.2e} (tolerance {:.2e}) and by {mean:.2e} on average (tolerance {:.2e}); \
             peer and program: {}",
            tolerance.largest,
            tolerance.mean,
            examples.collect::<Vec<_>>().join(", ")
        );
    }
    Ok(Deviation { largest, mean })
}

/// Reads the results of a side: little-endian f32.
pub(super) fn read_results(file: &Path) -> Result<Vec<f32>> {
    let bytes =
        std::fs::read(file).with_context(|| format!("cannot read the results `{}`", file.display()))?;
    let (values, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        bail!("the results `{}` are truncated", file.display());
    }
    Ok(values.iter().map(|value| f32::from_le_bytes(*value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::rows;

    const ABSOLUTE: Tolerance = Tolerance { largest: 0.5, mean: 0.25, is_relative: false };

    #[test]
    fn results_agree_only_within_both_tolerances() {
        let deviation = compare(&[1.0, 2.0], &[1.0, 2.5], ABSOLUTE).unwrap();
        assert_eq!(deviation, Deviation { largest: 0.5, mean: 0.25 });
        for (peer, here) in [
            (&[1.0, 2.0][..], &[1.0, 2.6][..]),
            (&[1.0, 2.0], &[1.4, 2.4]),
            (&[1.0], &[1.0, 2.0]),
            (&[], &[]),
            (&[1.0, 2.0], &[f32::NAN, 2.0]),
            (&[f32::NAN, 2.0], &[1.0, 2.0]),
        ] {
            assert!(compare(peer, here, ABSOLUTE).is_err(), "{peer:?} and {here:?}");
        }
        let relative = Tolerance { largest: 0.1, mean: 0.1, is_relative: true };
        assert!(compare(&[100.0], &[109.0], relative).is_ok() && compare(&[1.0], &[1.2], relative).is_err());
        let exact = Tolerance { largest: 0.0, mean: 0.0, is_relative: false };
        assert!(compare(&[5.0], &[5.0], exact).is_ok() && compare(&[5.0], &[6.0], exact).is_err());
    }

    fn row(name: &str) -> Row {
        rows::all().into_iter().find(|row| row.name == name).unwrap()
    }

    fn outcome(name: &str, rounds: [[(f64, f64); 3]; 2]) -> Outcome {
        let mut outcome = Outcome::new(&row(name));
        for (side, rounds) in [Side::Peer, Side::Here].into_iter().zip(rounds) {
            for (seconds, mebibytes) in rounds {
                let memory = Some(mebibytes * f64::from(1 << 20));
                outcome.add(side, &Round { seconds, items: 8.0, memory });
            }
        }
        outcome
    }

    #[test]
    fn ratios_are_computed_per_round() {
        let rounds = [[(4.0, 100.0), (8.0, 100.0), (2.0, 100.0)], [(2.0, 50.0), (2.0, 60.0), (2.0, 40.0)]];
        let speed = outcome("train", rounds);
        assert_eq!(speed.ratio(), Some(Spread { median: 2.0, low: 1.0, high: 4.0 }));
        assert_eq!(speed.values(Side::Peer), Some(Spread { median: 2.0, low: 1.0, high: 4.0 }));
        let memory = outcome("memory-train", rounds);
        assert_eq!(memory.ratio(), Some(Spread { median: 0.5, low: 0.4, high: 0.6 }));
        assert_eq!(memory.values(Side::Here).unwrap().median, 50.0);
        assert_eq!(outcome("zero-shot", rounds).values(Side::Here).unwrap().median, 2.0);
        assert_eq!(Spread::of(vec![3.0, 1.0]).unwrap().median, 2.0);
        assert!(Outcome::new(&row("train")).ratio().is_none());
    }

    #[test]
    fn speed_bars_are_lower_bounds_and_memory_bars_upper_bounds() {
        assert!(Bar::AtLeast(2.0).is_met(2.0) && !Bar::AtLeast(2.0).is_met(1.9));
        assert!(Bar::AtMost(0.6).is_met(0.6) && !Bar::AtMost(0.6).is_met(0.7));
    }
}
