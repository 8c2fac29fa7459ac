//! Folders of images: in the order of their names, without leftovers of other programs and without going in circles.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::sources::paths::is_image;
use crate::{Error, Result};

/// Walks folders, each at most once: a symlink may lead back to where the walk came from.
#[derive(Clone, Default)]
pub(super) struct Walk {
    visited: HashSet<PathBuf>,
}

impl Walk {
    /// Marks a folder as one that must not be entered again; false where it is already.
    pub(super) fn enter(&mut self, folder: &Path) -> Result<bool> {
        let real = folder.canonicalize().map_err(|e| Error::io(folder, e))?;
        Ok(self.visited.insert(real))
    }

    /// All images below a folder.
    pub(super) fn images(&mut self, folder: &Path) -> Result<Vec<PathBuf>> {
        let mut images = Vec::new();
        self.collect(folder, &mut images)?;
        Ok(images)
    }

    fn collect(&mut self, folder: &Path, images: &mut Vec<PathBuf>) -> Result<()> {
        if !self.enter(folder)? {
            tracing::info!("`{}` leads to a folder that was read already and is left out", folder.display());
            return Ok(());
        }
        for path in sorted(folder)? {
            let kind = std::fs::metadata(&path).ok().map(|found| found.file_type());
            if kind.is_some_and(|kind| kind.is_dir()) {
                self.collect(&path, images)?;
            } else if kind.is_some_and(|kind| !kind.is_file()) {
                // Whoever opens a pipe waits for its writer.
                tracing::info!("`{}` is no file and is left out", path.display());
            } else if path.file_name().is_some_and(|name| is_image(&name.to_string_lossy())) {
                images.push(path);
            }
        }
        Ok(())
    }
}

/// What lies in a folder, by name; without what is hidden and what macOS adds to archives.
pub(super) fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut paths = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(|e| Error::io(folder, e))?;
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default();
        let foreign = name.as_encoded_bytes().starts_with(b".") || name == "__MACOSX";
        if foreign {
            tracing::info!("`{}` is no part of the data and is left out", path.display());
        }
        !foreign
    });
    // By the bytes of the names, which need not be text.
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let images = Walk::default().images(folder).unwrap();
        images.iter().map(|path| path.strip_prefix(folder).unwrap().display().to_string()).collect()
    }

    #[test]
    fn names_that_are_no_text_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        for name in [&b"b\xE9.jpg"[..], b"a.png", b"c.JPG", b"c.txt"] {
            std::fs::write(folder.path().join(std::ffi::OsStr::from_bytes(name)), b"x").unwrap();
        }
        assert_eq!(names(folder.path()), ["a.png", "b\u{FFFD}.jpg", "c.JPG"]);
    }

    #[test]
    fn symlinks_are_followed_but_not_in_circles() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join("far.png"), b"x").unwrap();
        std::fs::create_dir_all(folder.path().join("sub")).unwrap();
        std::fs::write(folder.path().join("sub/near.png"), b"x").unwrap();
        let link = |to: &Path, from: &str| std::os::unix::fs::symlink(to, folder.path().join(from)).unwrap();
        link(Path::new("."), "loop");
        link(Path::new(".."), "sub/up");
        link(elsewhere.path(), "there");
        assert_eq!(names(folder.path()), ["sub/near.png", "there/far.png"]);
    }

    #[test]
    fn leftovers_are_no_images() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".git", "__MACOSX", "real"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("x.png"), b"x").unwrap();
        }
        std::fs::write(folder.path().join("._x.png"), b"x").unwrap();
        assert_eq!(names(folder.path()), ["real/x.png"]);
    }
}
