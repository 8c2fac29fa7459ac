//! File names in a run folder, and the options, outcome and results of a run.

use std::sync::atomic::AtomicBool;

use data_pipeline::policy::SkipCounts;
use serde::{Deserialize, Serialize};
use zeroshot_eval::{Evaluation, Report};

/// File name of the resolved recipe in a run folder.
pub const RECIPE_FILE: &str = "recipe.toml";
/// File name of the results in a run folder. The file is written last, so its presence marks a finished run.
pub const REPORT_FILE: &str = "report.json";
/// Folder of the final student in a run folder.
pub const MODEL_FOLDER: &str = "model";
/// Folder of the best student in a run folder, if evaluations during training selected one.
pub const BEST_FOLDER: &str = "best";
pub(crate) const CHECKPOINTS: &str = "checkpoints";

/// The caller's options for a run.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// A flag that stops the run after the current step; a signal handler sets it.
    pub stop: &'a AtomicBool,
    /// The step after which to stop as if by a signal, for time slots of limited length.
    pub stop_after: Option<u64>,
    /// Whether to resume an existing run, or return it if it is finished. Otherwise, an existing run is an error.
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
    /// The run stopped and can be resumed.
    Stopped {
        /// Finished steps.
        step: u64,
    },
}

/// The results of a finished run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Zero-shot scores of the student.
    pub student: Report,
    /// Zero-shot scores of the teacher, unless it is a run of the same recipe file that was not compared with the
    /// student.
    pub teacher: Option<Report>,
    /// All metrics of the student on each set.
    #[serde(default)]
    pub details: Vec<Evaluation>,
    /// Seconds of training.
    pub seconds: f64,
    /// Parameters of the student: image tower, text tower.
    pub parameters: (u64, u64),
    /// Number of training samples read, and number of those skipped as damaged.
    #[serde(default)]
    pub damaged: SkipCounts,
    /// The best student, if evaluations during training selected one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
}

/// The best student of a run, in its folder `best`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The step after which it was evaluated; the last step if the final student is the best.
    pub step: u64,
    /// Mean of the main metrics ([`zeroshot_eval::SetScore::main`]) over the data sets, 0 to 1. A set with a `limit`
    /// contributes the score on its part.
    pub score: f64,
}
