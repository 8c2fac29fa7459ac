//! One download of a file at a time, over all processes of a machine.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Holds the right to write beside a file; a process that dies gives it back.
pub(super) struct Lock {
    path: PathBuf,
    // Closing it gives the lock back.
    _file: File,
}

impl Lock {
    /// Takes the lock `path`.
    ///
    /// # Errors
    /// [`Error::Download`] where someone else has it, [`Error::Io`] where it cannot be made.
    pub(super) fn take(path: PathBuf, url: &str) -> Result<Self> {
        loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .map_err(|e| Error::io(&path, e))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let reason = format!(
                        "another download holds `{}`: wait until it is done, then start again",
                        path.display()
                    );
                    return Err(Error::Download { url: url.into(), reason });
                }
                Err(TryLockError::Error(e)) => return Err(Error::io(&path, e)),
            }
            // Its last holder may have removed the file between opening and locking it.
            if is_at(&file, &path) {
                return Ok(Lock { path, _file: file });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}
