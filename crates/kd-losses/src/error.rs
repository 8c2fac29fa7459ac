//! The crate's error type.

use crate::Loss;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error in the inputs or the settings of a loss.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The shapes of two tensors do not match.
    #[error("{left} has shape {left_shape:?}, but {right} has shape {right_shape:?}: {rule}")]
    Shapes {
        /// The first tensor.
        left: &'static str,
        /// Its shape.
        left_shape: Vec<i64>,
        /// The second tensor.
        right: &'static str,
        /// Its shape.
        right_shape: Vec<i64>,
        /// The rule that they violate.
        rule: &'static str,
    },
    /// An argument of a function, or a setting, is out of range.
    #[error("{0}")]
    Argument(String),
    /// A term of an objective cannot work with these settings.
    #[error("`{loss}`: {reason}")]
    Setting {
        /// The loss of the term.
        loss: Loss,
        /// The problem, and the valid range.
        reason: String,
    },
    /// A loss does not have this setting.
    #[error("{}", unknown_setting(*loss, key, owners))]
    UnknownSetting {
        /// The loss.
        loss: Loss,
        /// The key of the setting.
        key: String,
        /// The losses that do have it.
        owners: Vec<Loss>,
    },
    /// An unknown name of a loss.
    #[error("unknown loss `{0}`")]
    UnknownLoss(String),
    /// A term reads an input that the student or the teacher does not have.
    #[error("`{loss}` needs {input}")]
    MissingInput {
        /// The loss of the term.
        loss: Loss,
        /// The input.
        input: &'static str,
    },
    /// An objective without terms.
    #[error("the objective has no term: give at least one loss a weight, such as task = 1.0")]
    NoTerm,
    /// Two terms of an objective with the same loss.
    #[error("the term `{0}` is given twice")]
    DuplicateTerm(Loss),
    /// No term has a weight at this step.
    #[error("no term has a weight at step {0}")]
    NoWeight(u64),
    /// A number of teachers that differs from the objective's.
    #[error("the objective is for {expected} teachers, but {given} are given")]
    TeacherCount {
        /// Number of teachers of the objective.
        expected: usize,
        /// Number of teachers given.
        given: usize,
    },
    /// An error of the tensor library.
    #[error("tensor library: {0}")]
    Torch(#[from] tch::TchError),
}

fn unknown_setting(loss: Loss, key: &str, owners: &[Loss]) -> String {
    match owners {
        [] => format!("unknown setting `{key}` of `{loss}`"),
        owners => format!("`{key}` belongs to {}; `{loss}` has no such setting", list(owners)),
    }
}

/// Lists losses in a sentence: "`a`, `b` and `c`".
fn list(losses: &[Loss]) -> String {
    let names = losses.iter().map(|loss| format!("`{loss}`")).collect::<Vec<_>>();
    match names.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
