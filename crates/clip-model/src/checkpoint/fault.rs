//! What a reader of one container finds; the file's path is added where the file is opened.

use std::path::Path;

use crate::Error;

/// A failure inside a file.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The content contradicts itself or ends early.
    Damaged(String),
    /// The content asks for something that is never done, named here.
    Refused(String),
    /// The file could not be read.
    Io(std::io::Error),
    /// The tensor library failed.
    Torch(tch::TchError),
}

/// Result of the readers.
pub(crate) type Found<T> = Result<T, Fault>;

impl Fault {
    pub(crate) fn at(self, path: &Path) -> Error {
        match self {
            Fault::Damaged(reason) => Error::Format { path: path.into(), reason },
            Fault::Refused(what) => Error::Refused { path: path.into(), what },
            Fault::Io(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
                Error::Format { path: path.into(), reason: truncated() }
            }
            Fault::Io(source) => Error::io(path, source),
            Fault::Torch(source) => Error::Torch(source),
        }
    }
}

impl From<std::io::Error> for Fault {
    fn from(source: std::io::Error) -> Self {
        Fault::Io(source)
    }
}

impl From<tch::TchError> for Fault {
    fn from(source: tch::TchError) -> Self {
        Fault::Torch(source)
    }
}

/// For `return damaged(..)`.
pub(crate) fn damaged<T>(reason: impl Into<String>) -> Found<T> {
    Err(Fault::Damaged(reason.into()))
}

/// The reason for an early end.
pub(crate) fn truncated() -> String {
    "it ends early: fetch or copy it again".into()
}
