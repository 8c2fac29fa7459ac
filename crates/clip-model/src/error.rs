//! The crate's error type.

use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a configuration or a file and a working model.
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
    /// A configuration that is not one, or that this crate cannot build.
    #[error("model configuration `{name}`: {reason}")]
    Config {
        /// Preset name or path.
        name: String,
        /// What is wrong and what would work.
        reason: String,
    },
    /// Neither a preset, nor a model folder, nor a weight file.
    #[error(
        "no model `{name}`: neither a preset{presets} nor a model folder, configuration or weight file on disk"
    )]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// Presets that begin alike, in brackets; empty for a path.
        presets: String,
    },
    /// A weight file whose content is not what its name says.
    #[error("`{path}` is not a usable weight file: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A weight file that asks for more than tensors and plain containers.
    #[error(
        "`{path}` contains {what}, which is not read: only tensors, numbers, texts and plain containers are; \
         where it was made, save the state dict alone or convert it to safetensors"
    )]
    Refused {
        /// The file.
        path: PathBuf,
        /// The opcode, global or entry that was refused.
        what: String,
    },
    /// Weights that do not fit the model; the report lists every difference.
    #[error("weights of `{origin}` do not fit the model: {report}")]
    Mismatch {
        /// Where the weights came from.
        origin: String,
        /// Missing, surplus, wrong shape and wrong kind.
        report: crate::weights::LoadReport,
    },
    /// An input of a shape that the model cannot take.
    #[error("{what} has shape {found:?}, but the model takes {expected}")]
    Shape {
        /// The input.
        what: &'static str,
        /// What came.
        found: Vec<i64>,
        /// What would work.
        expected: String,
    },
    /// An error of the tensor library.
    #[error("tensor library: {0}")]
    Torch(#[from] tch::TchError),
}

impl From<file_ext::Error> for Error {
    fn from(error: file_ext::Error) -> Self {
        Error::Io { path: error.path().into(), source: error.into() }
    }
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }

    pub(crate) fn config(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Config { name: name.into(), reason: reason.into() }
    }
}
