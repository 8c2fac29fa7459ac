//! Text files that users give, with this crate's errors.

use std::path::Path;

use crate::{Error, Result};

/// Reads a file of UTF-8, without a byte order mark.
///
/// # Errors
/// [`Error::Io`] where it cannot be read, [`Error::Data`] where it is not UTF-8.
pub(crate) fn read(path: &Path) -> Result<String> {
    data_pipeline::text::read(path).map_err(|error| match error {
        data_pipeline::Error::Io { path, source } => Error::Io { path, source },
        other => Error::Data(other),
    })
}
