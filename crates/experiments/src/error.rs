//! The crate's error type.

use std::path::PathBuf;

use zeroshot_eval::Metric;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a sweep or its report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot access `{path}`")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A sweep file with an invalid setting.
    #[error("sweep `{origin}`: {reason}")]
    Sweep {
        /// The sweep file, or one of its cells.
        origin: String,
        /// The problem and the remedy.
        reason: String,
    },
    /// A damaged results file.
    #[error("`{path}` is damaged: {reason}")]
    Results {
        /// The file.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// A run without a metric that the sweep's mean needs.
    #[error("`{cell}` has no metric `{}` of `{}`, which the sweep's mean needs", metric.name, metric.set)]
    MissingMetric {
        /// Name and seed of the cell.
        cell: String,
        /// The metric.
        metric: Metric,
    },
    /// A sweep without a finished run, which has nothing to report.
    #[error("no finished run of the sweep `{sweep}`, so no report is written")]
    NoFinishedRun {
        /// Name of the sweep.
        sweep: String,
    },
    /// A report that cannot be written as JSON.
    #[error("cannot write the report as JSON")]
    Json(#[from] serde_json::Error),
    /// A worker of [`crate::run_cells`] panicked.
    #[error("a worker that runs cells panicked")]
    Worker,
    /// A page whose reference of settings is missing or out of date.
    #[error("{reason}")]
    Reference {
        /// The problem and the remedy.
        reason: String,
    },
    /// An error of a recipe, a plan or a run.
    #[error(transparent)]
    Trainer(#[from] trainer::Error),
    /// An error in a model's configuration.
    #[error(transparent)]
    Model(#[from] clip_model::Error),
    /// A sweep file that cannot be read or is not UTF-8.
    #[error(transparent)]
    Data(#[from] data_pipeline::Error),
}

impl From<file_ext::Error> for Error {
    fn from(error: file_ext::Error) -> Self {
        Error::Io { path: error.path().into(), source: error.into() }
    }
}

impl Error {
    /// Returns an [`Error::Io`] for a path.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }

    pub(crate) fn sweep(origin: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Sweep { origin: origin.into(), reason: reason.into() }
    }
}
