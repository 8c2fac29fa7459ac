//! The crate's error type.

use std::path::PathBuf;

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
    /// A sweep that cannot run, or results that do not match it.
    #[error("sweep `{origin}`: {reason}")]
    Sweep {
        /// The sweep file, one of its cells, or a file of results.
        origin: String,
        /// The problem and the remedy.
        reason: String,
    },
    /// An error of a recipe, a plan or a run.
    #[error(transparent)]
    Trainer(#[from] trainer::Error),
    /// An error in a model's configuration or in writing a file.
    #[error(transparent)]
    Model(#[from] clip_model::Error),
    /// A sweep file that is not UTF-8.
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
