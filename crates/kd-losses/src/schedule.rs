//! The weight of a term over the steps of a run.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The curve of a weight from its start to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Curve {
    /// The weight is constant from `from` on, and 0 from `until` on.
    #[default]
    Constant,
    /// The weight changes linearly from `weight` to `end`, then stays there.
    Linear,
    /// The weight changes along half a cosine from `weight` to `end`, then stays there.
    Cosine,
}

/// The weight of a term as a function of the step.
///
/// ```no_run
/// use kd_losses::WeightSchedule;
///
/// let fading = WeightSchedule::linear(2.0, 0.0).between(10, 20);
/// assert_eq!([9, 10, 15, 20].map(|step| fading.at(step)), [0.0, 2.0, 1.0, 0.0]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct WeightSchedule {
    /// The curve from `start` to `end`.
    pub shape: Curve,
    /// Weight at the first step.
    pub start: f64,
    /// Weight from step `until` on; unused by a constant weight.
    pub end: f64,
    /// First step with a nonzero weight.
    pub from: u64,
    /// The step at which the weight reaches `end`, or a constant weight becomes 0.
    pub until: u64,
}

impl WeightSchedule {
    /// Creates a constant weight.
    pub fn constant(weight: f64) -> Self {
        WeightSchedule { shape: Curve::Constant, start: weight, end: weight, from: 0, until: u64::MAX }
    }

    /// Creates a weight that changes linearly; [`WeightSchedule::between`] sets its steps.
    pub fn linear(start: f64, end: f64) -> Self {
        WeightSchedule { shape: Curve::Linear, start, end, from: 0, until: 1 }
    }

    /// Creates a weight that changes along half a cosine; [`WeightSchedule::between`] sets its steps.
    pub fn cosine(start: f64, end: f64) -> Self {
        WeightSchedule { shape: Curve::Cosine, ..Self::linear(start, end) }
    }

    /// Sets the first step with a weight, and the step at which the schedule ends.
    pub fn between(mut self, from: u64, until: u64) -> Self {
        (self.from, self.until) = (from, until);
        self
    }

    /// Returns the weight at a step, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.from {
            return 0.0;
        }
        let progress =
            ((step - self.from) as f64 / (self.until.saturating_sub(self.from)).max(1) as f64).min(1.0);
        match self.shape {
            Curve::Constant if step < self.until => self.start,
            Curve::Constant => 0.0,
            Curve::Linear => self.start + (self.end - self.start) * progress,
            Curve::Cosine => {
                self.end + (self.start - self.end) * (1.0 + (std::f64::consts::PI * progress).cos()) / 2.0
            }
        }
    }

    /// Checks that the weight is valid, and above 0 at some step.
    pub(crate) fn validate(&self) -> Result<()> {
        let WeightSchedule { shape, start, end, from, until } = *self;
        let fail = |reason: String| Err(Error::Argument(reason));
        if let Some(weight) = [start, end].into_iter().find(|weight| !(weight.is_finite() && *weight >= 0.0))
        {
            return fail(format!("the weight {weight} is not a number of at least 0"));
        }
        if start == 0.0 && (shape == Curve::Constant || end == 0.0) {
            return fail("the weight is 0 in all steps: leave the term out".into());
        }
        if until <= from {
            return fail(format!("the term ends at step {until} but starts only at step {from}"));
        }
        Ok(())
    }
}

/// A point in a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum When {
    /// A number of steps.
    Step(u64),
    /// A fraction of the run, 0..=1, written with a decimal point.
    Share(f64),
}

impl When {
    /// Returns the step in a run of `steps` steps.
    pub fn step(self, steps: u64) -> u64 {
        match self {
            When::Step(step) => step,
            When::Share(share) => (share * steps as f64).round() as u64,
        }
    }

    fn is_start(&self) -> bool {
        *self == When::default()
    }
}

impl Default for When {
    fn default() -> Self {
        When::Step(0)
    }
}

/// The weight of a term as a file sets it, before the number of steps is known. All losses have these settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct WeightSettings {
    /// Weight at the first step, at least 0.
    #[serde(rename = "weight")]
    pub start: f64,
    /// Curve of the weight over the run.
    #[serde(rename = "schedule", default)]
    pub shape: Curve,
    /// Weight at the end; not with `schedule = "constant"`.
    #[cfg_attr(feature = "schema", schemars(extend("default" = 0.0)))]
    #[serde(default, skip_serializing_if = "is_zero")]
    pub end: f64,
    /// First step with a weight: a number of steps, or with a decimal point a fraction of the run (1.0 is its end).
    #[cfg_attr(feature = "schema", schemars(extend("default" = 0)))]
    #[serde(default, skip_serializing_if = "When::is_start")]
    pub from: When,
    /// Step that reaches `end`, as in `from`; a constant weight is 0 from here on. Default: the end of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<When>,
}

impl WeightSettings {
    /// The keys of these settings in a file.
    pub const KEYS: [&str; 5] = ["weight", "schedule", "end", "from", "until"];

    /// Creates a constant weight.
    pub fn constant(weight: f64) -> Self {
        let (shape, from) = Default::default();
        WeightSettings { start: weight, shape, end: 0.0, from, until: None }
    }

    /// Whether the weight has the same value in all steps from its first to its last.
    pub fn is_constant(&self) -> bool {
        self.shape == Curve::Constant
    }

    /// Whether the weight is above 0 at some step.
    pub fn is_on(&self) -> bool {
        self.start != 0.0 || (self.shape != Curve::Constant && self.end != 0.0)
    }

    /// Returns the weight over a run of `steps` steps.
    ///
    /// ```no_run
    /// let mut settings = kd_losses::WeightSettings::constant(2.0);
    /// settings.until = Some(kd_losses::When::Share(0.5));
    /// assert_eq!([49, 50].map(|step| settings.schedule(100).at(step)), [2.0, 0.0]);
    /// ```
    pub fn schedule(&self, steps: u64) -> WeightSchedule {
        let until = match (self.until, self.shape) {
            (Some(when), _) => when.step(steps),
            (None, Curve::Constant) => u64::MAX,
            (None, _) => steps,
        };
        let end = if self.shape == Curve::Constant { self.start } else { self.end };
        WeightSchedule { shape: self.shape, start: self.start, end, from: self.from.step(steps), until }
    }

    /// Checks the settings that do not depend on the number of steps.
    ///
    /// # Errors
    /// [`Error::Argument`] for a fraction of the run outside 0..=1, and for a constant weight with an end.
    pub fn validate(&self) -> Result<()> {
        let outside = |when: When| matches!(when, When::Share(share) if !(0.0..=1.0).contains(&share));
        if [Some(self.from), self.until].into_iter().flatten().any(outside) {
            return Err(Error::Argument(
                "a fraction of the run is between 0.0 and 1.0; write steps without a decimal point".into(),
            ));
        }
        if self.shape == Curve::Constant && self.end != 0.0 {
            return Err(Error::Argument("`end` needs schedule = \"linear\" or \"cosine\"".into()));
        }
        Ok(())
    }
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_over_the_steps() {
        let schedule = |shape| WeightSchedule { shape, start: 2.0, end: 1.0, from: 10, until: 20 };
        let at = |shape, step| schedule(shape).at(step);
        for shape in [Curve::Constant, Curve::Linear, Curve::Cosine] {
            assert_eq!([at(shape, 9), at(shape, 10)], [0.0, 2.0]);
        }
        assert_eq!([at(Curve::Constant, 19), at(Curve::Constant, 20)], [2.0, 0.0]);
        assert_eq!([at(Curve::Linear, 15), at(Curve::Linear, 20), at(Curve::Linear, 99)], [1.5, 1.0, 1.0]);
        assert!((at(Curve::Cosine, 15) - 1.5).abs() < 1e-12 && at(Curve::Cosine, 12) > at(Curve::Linear, 12));
        assert_eq!(WeightSchedule::constant(3.0).at(u64::MAX - 1), 3.0);
    }

    #[test]
    fn settings_have_the_keys_of_their_list() {
        let all =
            serde_json::json!({ "weight": 1.0, "schedule": "linear", "end": 2.0, "from": 3, "until": 0.5 });
        let settings: WeightSettings = serde_json::from_value(all.clone()).unwrap();
        assert_eq!(serde_json::to_value(settings).unwrap(), all);
        assert_eq!(all.as_object().unwrap().len(), WeightSettings::KEYS.len());
        assert!(WeightSettings::KEYS.iter().all(|key| all.get(key).is_some()));
    }
}
