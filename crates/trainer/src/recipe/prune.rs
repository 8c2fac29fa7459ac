//! `[prune]` of a recipe: automatic weight inheritance.

use serde::{Deserialize, Serialize};

use super::Train;

/// Learned masks over both towers of the student, and when they become a cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneConfig {
    /// Share of the parameters of the blocks of both towers that goes.
    pub sparsity: f64,
    /// First step (from 0) with masks.
    #[serde(default)]
    pub start: u64,
    /// Steps over which the wanted sparsity rises from 0 to `sparsity`.
    pub warmup_steps: u64,
    /// The cut is made after so many steps; training goes on without masks.
    pub at_step: u64,
    /// Longest step of the scores behind the masks. They start at 10 and more probably go than stay below −1.6, so
    /// that `lr` times the steps until the cut has to be well above 12.
    #[serde(default = "rate")]
    pub lr: f64,
    /// Longest step of the two factors on the missing sparsity, which rise from 10.
    #[serde(default = "rate")]
    pub multiplier_lr: f64,
}

impl PruneConfig {
    /// The sparsity that is wanted in a step (from 0).
    pub fn target(&self, step: u64) -> f64 {
        let since = (step + 1).saturating_sub(self.start);
        self.sparsity * (since as f64 / self.warmup_steps.max(1) as f64).min(1.0)
    }

    /// What cannot work, if anything.
    pub(super) fn problem(&self, train: &Train) -> Option<String> {
        if !(self.sparsity > 0.0 && self.sparsity < 1.0) {
            return Some(format!("prune.sparsity = {} is not between 0 and 1", self.sparsity));
        }
        for (name, value) in [("lr", self.lr), ("multiplier_lr", self.multiplier_lr)] {
            if !(value.is_finite() && value > 0.0) {
                return Some(format!("prune.{name} = {value} cannot work"));
            }
        }
        if self.start.saturating_add(self.warmup_steps) > self.at_step || self.start >= self.at_step {
            return Some(format!(
                "prune.start + prune.warmup_steps = {} + {} is after the cut (prune.at_step = {})",
                self.start, self.warmup_steps, self.at_step
            ));
        }
        train.steps.and_then(|steps| self.too_late(steps))
    }

    /// Why the cut does not come before the end of a run of so many steps, if so.
    pub(crate) fn too_late(&self, steps: u64) -> Option<String> {
        (self.at_step >= steps).then(|| {
            format!("prune.at_step = {} leaves no step after the cut: the run has {steps}", self.at_step)
        })
    }
}

fn rate() -> f64 {
    0.02
}
