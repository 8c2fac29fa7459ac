//! Reads text files that users supply, with this crate's errors.

use std::path::Path;

use crate::{Error, Result};

/// Reads a UTF-8 file, without a byte order mark.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Data`] if it is not UTF-8.
pub(crate) fn read(path: &Path) -> Result<String> {
    data_pipeline::text::read(path).map_err(own_error)
}

/// Converts an error of reading a file.
pub(crate) fn own_error(error: data_pipeline::Error) -> Error {
    match error {
        data_pipeline::Error::Io { path, source } => Error::Io { path, source },
        other => Error::Data(other),
    }
}
