//! `[prune]` of a recipe: automatic weight inheritance.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Train;

/// Pruning by learned masks over both towers of the student.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PruneConfig {
    /// Fraction of the parameters of both towers' blocks to remove, between 0 and 1.
    pub sparsity: f64,
    /// First step with masks, counted from 0.
    #[serde(default)]
    pub start: u64,
    /// Steps over which the target sparsity rises from 0; `start + warmup_steps` is at most `at_step`.
    pub warmup_steps: u64,
    /// Number of steps with the whole model. The parts with low scores are then removed (the cut), and the smaller model
    /// trains for the rest of the run. More than `start`, and fewer than the steps of the run.
    pub at_step: u64,
    /// Maximum change of a mask score per step. Scores start at 10; below −1.6, a part is more likely to be removed than
    /// kept. `lr` × (`at_step` − `start`) therefore has to be well above 12.
    #[serde(default = "rate")]
    pub lr: f64,
    /// Maximum change per step of the two multipliers λ of the sparsity constraint, which start at 10.
    #[serde(default = "rate")]
    pub multiplier_lr: f64,
}

impl PruneConfig {
    /// Returns the target sparsity of a step (from 0).
    pub fn target(&self, step: u64) -> f64 {
        let since = (step + 1).saturating_sub(self.start);
        self.sparsity * (since as f64 / self.warmup_steps.max(1) as f64).min(1.0)
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// The invalid setting, and the reason.
    pub(super) fn validate(&self, train: &Train) -> Result<(), String> {
        if !(self.sparsity > 0.0 && self.sparsity < 1.0) {
            return Err(format!("prune.sparsity = {} is not between 0 and 1", self.sparsity));
        }
        for (name, value) in [("lr", self.lr), ("multiplier_lr", self.multiplier_lr)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(format!("prune.{name} = {value} is not a number above 0"));
            }
        }
        if self.start.saturating_add(self.warmup_steps) > self.at_step || self.start >= self.at_step {
            return Err(format!(
                "prune.start + prune.warmup_steps = {} + {} is after the cut (prune.at_step = {})",
                self.start, self.warmup_steps, self.at_step
            ));
        }
        train.steps.map_or(Ok(()), |steps| self.check_end(steps))
    }

    /// Checks that a run of `steps` steps continues after the cut.
    ///
    /// # Errors
    /// The reason, if it does not.
    pub(crate) fn check_end(&self, steps: u64) -> Result<(), String> {
        match self.at_step < steps {
            true => Ok(()),
            false => Err(format!(
                "prune.at_step = {} leaves no step after the cut: the run has {steps}",
                self.at_step
            )),
        }
    }
}

fn rate() -> f64 {
    0.02
}
