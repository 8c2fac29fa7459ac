//! The crate's error type.

use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a recipe and a trained model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot access `{path}`")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A recipe that is not one, or whose settings cannot work together.
    #[error("recipe `{origin}`: {reason}")]
    Recipe {
        /// The file, or where else the setting came from.
        origin: String,
        /// What is wrong and what would work.
        reason: String,
    },
    /// A checkpoint that cannot be used.
    #[error("checkpoint `{path}`: {reason}")]
    Checkpoint {
        /// Its folder.
        path: PathBuf,
        /// What is wrong and what to do next.
        reason: String,
    },
    /// A stop that was asked for before the first step, while a store was made.
    #[error("stopped while the store of the teacher's embeddings was made; the same command goes on")]
    Interrupted,
    /// The loss or a gradient is not a finite number.
    #[error(
        "{what} is {value} at step {step}: check the data, or start again by --restart with a lower optimizer.lr or with optimizer.clip_norm"
    )]
    NonFinite {
        /// Loss or gradient norm.
        what: &'static str,
        /// What it is.
        value: f64,
        /// The step (from 0).
        step: u64,
    },
    /// An error of the data pipeline.
    #[error(transparent)]
    Data(#[from] data_pipeline::Error),
    /// An error of the model crate.
    #[error(transparent)]
    Model(#[from] clip_model::Error),
    /// An error of a loss.
    #[error(transparent)]
    Loss(#[from] kd_losses::Error),
    /// An error of the evaluation.
    #[error(transparent)]
    Eval(#[from] zeroshot_eval::Error),
    /// An error of the tensor library.
    #[error("tensor library: {0}")]
    Torch(#[from] tch::TchError),
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }

    pub(crate) fn recipe(origin: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Recipe { origin: origin.into(), reason: reason.into() }
    }

    pub(crate) fn checkpoint(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Error::Checkpoint { path: path.into(), reason: reason.into() }
    }
}
