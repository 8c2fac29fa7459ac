//! The files of a run folder by name, and what a run takes and gives: options, outcome, results.

use std::sync::atomic::AtomicBool;

use data_pipeline::policy::SkipCounts;
use serde::{Deserialize, Serialize};
use zeroshot_eval::{Evaluation, Report};

/// The resolved recipe in a run folder.
pub const RECIPE_FILE: &str = "recipe.toml";
/// The results in a run folder; written last, so its presence says that the run is finished.
pub const REPORT_FILE: &str = "report.json";
/// The final student in a run folder.
pub const MODEL_FOLDER: &str = "model";
/// The best student in a run folder, where evaluations during training chose one.
pub const BEST_FOLDER: &str = "best";
pub(crate) const CHECKPOINTS: &str = "checkpoints";

/// What the caller decides about a run.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Set from outside (a signal) to stop after the current step.
    pub stop: &'a AtomicBool,
    /// The step after which to stop as a signal would; for slots of limited length.
    pub stop_after: Option<u64>,
    /// Whether a run that is there already continues, or is returned as it is where it is finished; else it is an
    /// error.
    pub resume: bool,
    /// Whether to draw a progress bar (on a terminal only).
    pub progress: bool,
    /// The program's version and commit, for `run.json`.
    pub version: &'a str,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one per run, and it is matched once")]
pub enum Outcome {
    /// All steps are done.
    Finished(Results),
    /// It was stopped, and can be resumed.
    Stopped {
        /// Finished steps.
        step: u64,
    },
}

/// What a finished run measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The student.
    pub student: Report,
    /// The teacher, where it is no run of the same recipe file, or the student was compared with it.
    pub teacher: Option<Report>,
    /// Everything that was measured on each set.
    #[serde(default)]
    pub details: Vec<Evaluation>,
    /// Seconds of training.
    pub seconds: f64,
    /// Parameters of the student: image tower, text tower.
    pub parameters: (u64, u64),
    /// Training samples that were read, and those of them that were left out because they were damaged.
    #[serde(default)]
    pub damaged: SkipCounts,
    /// The best student, where evaluations during training chose one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
}

/// The best student of a run, in its folder `best`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The step after which it was measured; the last one where the final student is the best.
    pub step: u64,
    /// Mean over the data sets of the main figure ([`zeroshot_eval::Score::main`]), 0 to 1.
    pub score: f64,
}
