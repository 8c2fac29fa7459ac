//! Locks against parallel downloads of a file by the processes of a machine.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::DownloadProblem;
use crate::{Error, Result};

/// A held lock file. A process that ends releases it.
pub(super) struct Lock {
    path: PathBuf,
    // Closing the file releases the lock.
    _file: File,
}

impl Lock {
    /// Acquires the lock `path`.
    ///
    /// # Errors
    /// [`Error::Download`] if another process holds it, [`Error::Io`] if the file cannot be created.
    pub(super) fn acquire(path: PathBuf, url: &str) -> Result<Self> {
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
                        "another download holds `{}`: wait until it ends, then start again",
                        path.display()
                    );
                    let problem = DownloadProblem::Busy;
                    return Err(Error::Download { url: url.into(), problem, reason });
                }
                Err(TryLockError::Error(e)) => return Err(Error::io(&path, e)),
            }
            // The previous holder may have removed the file between opening and locking.
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
        (Ok(held), Ok(found)) => (held.dev(), held.ino()) == (found.dev(), found.ino()),
        _ => false,
    }
}
