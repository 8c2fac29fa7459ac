//! Names beside a file, and files that are there as a whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The same place with `.ending` after the whole name.
pub(crate) fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

/// Returns the file that [`write_atomic`] writes for `path`: the path itself, or the target of a symbolic link.
fn write_target(path: &Path) -> io::Result<PathBuf> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => {
            if fs::symlink_metadata(path)?.is_symlink() {
                fs::canonicalize(path)
            } else {
                Ok(path.into())
            }
        }
        Ok(_) => {
            let reason = "it is a folder, a device, a pipe or a socket: name a regular file";
            Err(io::Error::new(io::ErrorKind::InvalidInput, reason))
        }
        // The path does not exist, or it is a link to a missing file, which is then created.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let mut target = path.to_path_buf();
            while let Ok(next) = fs::read_link(&target) {
                target = target.parent().unwrap_or(Path::new("")).join(next);
            }
            Ok(target)
        }
        Err(e) => Err(e),
    }
}

/// Writes a file as `path.partial`, syncs it and renames it. A symbolic link stays, and its target is replaced; a
/// replaced file keeps its permissions. If several processes share the file, only the holder of a lock may write. A
/// temporary file from a killed process is replaced.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let target = write_target(path).map_err(|e| Error::io(path, e))?;
    let partial = with_ending(&target, "partial");
    let write = || -> io::Result<()> {
        // Remove it instead of opening it: it could be a link or a pipe.
        match fs::remove_file(&partial) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = File::create_new(&partial)?;
        if let Ok(old) = fs::metadata(&target) {
            // Some file systems do not support permissions.
            let _ = file.set_permissions(old.permissions());
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, &target)
    };
    write().map_err(|e| {
        // On a full disk, what is there of it would only be in the way.
        let _ = fs::remove_file(&partial);
        Error::io(path, e)
    })
}

/// A temporary name that no other process takes, where there is no lock.
pub(crate) fn fresh(path: &Path) -> PathBuf {
    with_ending(path, &format!("{}.partial", std::process::id()))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, symlink};

    #[test]
    fn a_link_stays_and_its_target_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        fs::write(place("target"), "old").unwrap();
        for (link, target) in [("link", "target"), ("dangling", "new")] {
            symlink(target, place(link)).unwrap();
            write_atomic(&place(link), link.as_bytes()).unwrap();
            assert!(fs::symlink_metadata(place(link)).unwrap().is_symlink(), "{link}");
            assert_eq!(fs::read_to_string(place(target)).unwrap(), link);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4, "a temporary file is left");
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(write_atomic(&socket, b"new").is_err());
        assert!(fs::symlink_metadata(&socket).unwrap().file_type().is_socket());
        assert!(write_atomic(folder.path(), b"new").is_err());
        assert!(folder.path().is_dir());
    }
}
