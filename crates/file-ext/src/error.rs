//! The crate's error type.

use std::io;
use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of reading or writing a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A failed system call.
    #[error("cannot access `{path}`")]
    Io {
        /// The file that the caller named.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A folder in place of a file.
    #[error("`{path}` is a folder: name a file")]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// A device, a pipe or a socket in place of a file.
    #[error("`{path}` is a device, a pipe or a socket: name a regular file")]
    NotRegular {
        /// Its path.
        path: PathBuf,
    },
}

impl Error {
    /// Returns the path that the caller named.
    ///
    /// ```
    /// let error = file_ext::write_atomic(std::env::temp_dir(), b"").unwrap_err();
    /// assert_eq!(error.path(), std::env::temp_dir());
    /// assert!(matches!(error, file_ext::Error::Folder { .. }));
    /// ```
    pub fn path(&self) -> &Path {
        match self {
            Error::Io { path, .. } | Error::Folder { path } | Error::NotRegular { path } => path,
        }
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }
}

/// Drops the path, for errors that hold a path themselves.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let reason = match error {
            Error::Io { source, .. } => return source,
            Error::Folder { .. } => "it is a folder: name a file",
            Error::NotRegular { .. } => "it is a device, a pipe or a socket: name a regular file",
        };
        io::Error::new(io::ErrorKind::InvalidInput, reason)
    }
}
