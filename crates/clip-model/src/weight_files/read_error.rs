//! Errors of the container readers, without the file's path, which the caller adds.

use std::path::Path;

use crate::Error;

/// An error while reading a file.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The content contradicts itself or is truncated.
    Damaged(String),
    /// The file is not in a supported format.
    Unsupported(String),
    /// The content needs an operation that is never executed.
    Refused(String),
    /// The file cannot be read.
    Io(std::io::Error),
    /// An error of the tensor library.
    Torch(tch::TchError),
}

/// Result of the container readers.
pub(crate) type ReadResult<T> = Result<T, ReadError>;

impl ReadError {
    /// Adds the file's path.
    pub(crate) fn at(self, path: &Path) -> Error {
        match self {
            ReadError::Damaged(reason) => Error::damaged(path, reason),
            ReadError::Unsupported(reason) => Error::UnsupportedFormat { path: path.into(), reason },
            ReadError::Refused(what) => Error::Refused { path: path.into(), what },
            ReadError::Io(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
                Error::damaged(path, truncated())
            }
            ReadError::Io(source) => Error::io(path, source),
            ReadError::Torch(source) => Error::Torch(source),
        }
    }
}

impl From<std::io::Error> for ReadError {
    fn from(source: std::io::Error) -> Self {
        ReadError::Io(source)
    }
}

impl From<tch::TchError> for ReadError {
    fn from(source: tch::TchError) -> Self {
        ReadError::Torch(source)
    }
}

/// For `return damaged(..)`.
pub(crate) fn damaged<T>(reason: impl Into<String>) -> ReadResult<T> {
    Err(ReadError::Damaged(reason.into()))
}

/// Returns the reason for a truncated file.
pub(crate) fn truncated() -> String {
    "it is truncated: fetch or copy it again".into()
}
