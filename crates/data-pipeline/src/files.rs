//! Names beside a file, and files that are there as a whole or not at all.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The same place with `.ending` after the whole name.
pub(crate) fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

/// Writes a file as `path.partial`, syncs it and renames it. Of several processes only the one that holds a lock
/// may; what a killed one left is written over.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = with_ending(path, "partial");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().map_err(|e| {
        // On a full disk, what is there of it would only be in the way.
        let _ = std::fs::remove_file(&partial);
        Error::io(path, e)
    })
}

/// A temporary name that no other process takes, where there is no lock.
pub(crate) fn fresh(path: &Path) -> PathBuf {
    with_ending(path, &format!("{}.partial", std::process::id()))
}
