//! Atomic file writes: a reader sees the old file or the new one, never a part.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Appends `.suffix` to the file name of a path.
///
/// ```
/// let path = file_ext::with_suffix("shards/00.tar", "partial");
/// assert_eq!(path, std::path::Path::new("shards/00.tar.partial"));
/// ```
pub fn with_suffix(path: impl AsRef<Path>, suffix: &str) -> PathBuf {
    let path = path.as_ref();
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".");
    name.push(suffix);
    path.with_file_name(name)
}

/// Returns the file that [`write_atomic`] writes for `path`: the path itself, or the target of a symbolic link.
///
/// ```
/// assert_eq!(file_ext::write_target("new.json")?, std::path::Path::new("new.json"));
/// # Ok::<(), file_ext::Error>(())
/// ```
///
/// # Errors
/// [`Error::Folder`] or [`Error::NotRegular`] if `path` is not a regular file, [`Error::Io`] if its links form a loop.
pub fn write_target(path: impl AsRef<Path>) -> Result<PathBuf> {
    let path = path.as_ref();
    let io = |e| Error::io(path, e);
    match fs::metadata(path) {
        Ok(found) if found.is_file() => {
            if fs::symlink_metadata(path).map_err(io)?.is_symlink() {
                fs::canonicalize(path).map_err(io)
            } else {
                Ok(path.into())
            }
        }
        Ok(found) if found.is_dir() => Err(Error::Folder { path: path.into() }),
        Ok(_) => Err(Error::NotRegular { path: path.into() }),
        // The path does not exist, or it is a link to a missing file, which is then created.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let mut target = path.to_path_buf();
            while let Ok(next) = fs::read_link(&target) {
                target = target.parent().unwrap_or(Path::new("")).join(next);
            }
            Ok(target)
        }
        Err(e) => Err(io(e)),
    }
}

/// Writes a file as `path.partial`, syncs it and renames it.
///
/// A symbolic link stays, and its target is replaced. A replaced file keeps its permissions. A temporary file from a
/// killed process is replaced. If several processes write the same file, they need a lock.
///
/// ```
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("report.json");
/// file_ext::write_atomic(&path, b"{}")?;
/// assert_eq!(std::fs::read(&path)?, b"{}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Io`] if writing fails, and the errors of [`write_target`]. An existing file then stays unchanged.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    let target = write_target(path)?;
    let partial = with_suffix(&target, "partial");
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
        // An incomplete file would take space on a full disk.
        let _ = fs::remove_file(&partial);
        Error::io(path, e)
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

    #[test]
    fn link_stays_and_its_target_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        fs::create_dir(place("below")).unwrap();
        fs::write(place("below/target"), "old").unwrap();
        symlink("below/target", place("link")).unwrap();
        symlink("link", place("second")).unwrap();
        symlink("below/new", place("dangling")).unwrap();
        for (link, target) in
            [("link", "below/target"), ("second", "below/target"), ("dangling", "below/new")]
        {
            write_atomic(place(link), link.as_bytes()).unwrap();
            assert!(fs::symlink_metadata(place(link)).unwrap().is_symlink(), "{link}");
            assert!(fs::symlink_metadata(place(target)).unwrap().is_file(), "{target}");
            assert_eq!(fs::read_to_string(place(target)).unwrap(), link);
        }
        assert_eq!(fs::read_dir(place("below")).unwrap().count(), 2, "a temporary file is left");
    }

    #[test]
    fn link_in_the_same_folder_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        fs::write(place("target"), "old").unwrap();
        for (link, target) in [("link", "target"), ("dangling", "new")] {
            symlink(target, place(link)).unwrap();
            write_atomic(place(link), link.as_bytes()).unwrap();
            assert!(fs::symlink_metadata(place(link)).unwrap().is_symlink(), "{link}");
            assert_eq!(fs::read_to_string(place(target)).unwrap(), link);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4, "a temporary file is left");
    }

    #[test]
    fn links_that_lead_nowhere_are_refused_and_stay() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        symlink("nowhere/file", place("dangling")).unwrap();
        symlink("loop", place("loop")).unwrap();
        for link in ["dangling", "loop"] {
            let error = write_atomic(place(link), b"new").unwrap_err();
            assert!(matches!(error, Error::Io { .. }), "{error:?}");
            assert!(error.to_string().contains(link), "{error}");
            assert!(fs::symlink_metadata(place(link)).unwrap().is_symlink());
        }
    }

    #[test]
    fn folders_sockets_and_devices_are_refused_and_stay() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        fs::create_dir(place("folder")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(place("socket")).unwrap();
        symlink("/dev/full", place("device")).unwrap();
        for (name, reason) in [("folder", "folder"), ("socket", "regular file"), ("device", "regular file")] {
            let error = write_atomic(place(name), b"new").unwrap_err();
            assert_eq!(matches!(error, Error::Folder { .. }), name == "folder", "{error:?}");
            assert_eq!(matches!(error, Error::NotRegular { .. }), name != "folder", "{error:?}");
            assert!(error.to_string().contains(reason) && error.to_string().contains(name), "{error}");
            let source = io::Error::from(error);
            assert_eq!(source.kind(), io::ErrorKind::InvalidInput);
            assert!(source.to_string().contains(reason), "{name}: {source}");
        }
        assert!(place("folder").is_dir());
        assert!(fs::symlink_metadata(place("socket")).unwrap().file_type().is_socket());
        assert!(fs::metadata("/dev/full").unwrap().file_type().is_char_device());
    }

    #[test]
    fn failed_write_leaves_the_existing_file_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "old").unwrap();
        // A folder under the temporary name cannot be removed as a file.
        fs::create_dir(folder.path().join("file.partial")).unwrap();
        assert!(matches!(write_atomic(&file, b"new"), Err(Error::Io { path, .. }) if path == file));
        assert_eq!(fs::read(&file).unwrap(), b"old");
    }

    #[test]
    fn replaced_file_keeps_its_permissions() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        write_atomic(&file, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn link_under_the_temporary_name_is_not_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        fs::write(place("other"), "other").unwrap();
        symlink("other", place("file.partial")).unwrap();
        write_atomic(place("file"), b"new").unwrap();
        assert_eq!(fs::read(place("file")).unwrap(), b"new");
        assert_eq!(fs::read(place("other")).unwrap(), b"other");
    }
}
