//! Walks folders of images in the order of their names, follows links without loops, and counts the skipped files.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::notice;
use crate::sources::file_kind::{FileKind, file_kind};
use crate::sources::skipped::SkippedItems;
use crate::{Error, Result};

/// Files that a walk skips.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unread {
    /// Images in formats that cannot be decoded.
    pub(super) pictures: SkippedItems,
    /// Images outside of the class folders.
    pub(super) outside: SkippedItems,
    /// Other files.
    pub(super) others: SkippedItems,
}

impl Unread {
    /// Logs one line for each kind: a warning for images, an information line for other files.
    pub(super) fn log(&self, source: &str) {
        let Unread { pictures, outside, others } = self;
        if !pictures.is_empty() {
            notice::warn_once(&format!(
                "`{source}`: left out images that cannot be decoded: {pictures}; convert them to JPEG, PNG, WebP, GIF, BMP or TIFF"
            ));
        }
        if !outside.is_empty() {
            notice::warn_once(&format!(
                "`{source}`: left out images outside the class folders: {outside}; move each into the folder of its class"
            ));
        }
        if !others.is_empty() {
            notice::info_once(&format!("`{source}`: left out files that are not images: {others}"));
        }
    }
}

/// Walks folders, each at most once, because links may form loops.
#[derive(Clone, Default)]
pub(super) struct Walk {
    visited: HashSet<PathBuf>,
}

impl Walk {
    /// Marks a folder as visited. Returns false if it was visited before.
    pub(super) fn enter(&mut self, folder: &Path) -> Result<bool> {
        let real = folder.canonicalize().map_err(|e| Error::io(folder, e))?;
        Ok(self.visited.insert(real))
    }

    /// Returns all images below a folder, and adds other files to `unread`.
    pub(super) fn images(&mut self, folder: &Path, unread: &mut Unread) -> Result<Vec<PathBuf>> {
        let mut images = Vec::new();
        self.collect(folder, &mut images, unread)?;
        Ok(images)
    }

    /// Passes the files of each folder to `visit`, sorted by name, until it returns false.
    pub(super) fn files(
        &mut self,
        folder: &Path,
        visit: &mut impl FnMut(&[PathBuf]) -> bool,
    ) -> Result<bool> {
        if !self.enter(folder)? {
            crate::log_info!(
                "`{}` leads to a folder that was already read and is left out",
                folder.display()
            );
            return Ok(true);
        }
        let (mut files, mut folders) = (Vec::new(), Vec::new());
        for path in sorted(folder)? {
            match std::fs::metadata(&path).map(|found| found.file_type()) {
                Ok(kind) if kind.is_dir() => folders.push(path),
                Ok(kind) if !kind.is_file() => {
                    crate::log_info!("`{}` is not a file and is left out", path.display());
                }
                // A broken link is reported when it is read.
                _ => files.push(path),
            }
        }
        if !files.is_empty() && !visit(&files) {
            return Ok(false);
        }
        for folder in folders {
            if !self.files(&folder, visit)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn collect(&mut self, folder: &Path, images: &mut Vec<PathBuf>, unread: &mut Unread) -> Result<()> {
        if !self.enter(folder)? {
            crate::log_info!(
                "`{}` leads to a folder that was already read and is left out",
                folder.display()
            );
            return Ok(());
        }
        for path in sorted(folder)? {
            let found = std::fs::metadata(&path).ok().map(|found| found.file_type());
            if found.is_some_and(|found| found.is_dir()) {
                self.collect(&path, images, unread)?;
            } else if found.is_some_and(|found| !found.is_file()) {
                // Opening a pipe would wait for its writer.
                crate::log_info!("`{}` is not a file and is left out", path.display());
            } else {
                match file_kind(&path) {
                    FileKind::Image => images.push(path),
                    FileKind::OtherImage(ending) => {
                        unread.pictures.add(ending, || path.display().to_string())
                    }
                    FileKind::Other(ending) => unread.others.add(ending, || path.display().to_string()),
                }
            }
        }
        Ok(())
    }
}

/// Lists a folder by name, without hidden files and the files that macOS adds to archives.
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
            crate::log_info!("`{}` is not part of the data and is left out", path.display());
        }
        !foreign
    });
    // Names need not be text, so compare their bytes.
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let images = Walk::default().images(folder, &mut Unread::default()).unwrap();
        images.iter().map(|path| path.strip_prefix(folder).unwrap().display().to_string()).collect()
    }

    #[test]
    fn names_that_are_not_utf8_are_accepted() {
        let folder = tempfile::tempdir().unwrap();
        for name in [&b"b\xE9.jpg"[..], b"a.png", b"c.JPG", b"c.txt"] {
            std::fs::write(folder.path().join(std::ffi::OsStr::from_bytes(name)), b"x").unwrap();
        }
        assert_eq!(names(folder.path()), ["a.png", "b\u{FFFD}.jpg", "c.JPG"]);
    }

    #[test]
    fn jpeg_is_found_by_any_name_and_skipped_files_are_counted_by_kind() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        for name in ["a.jfif", "b.JPE", "c.jif", "d"] {
            write(name, b"\xFF\xD8\xFF\xE0");
        }
        for name in ["1.avif", "2.avif", "3.heic", "4.jp2"] {
            write(name, b"x");
        }
        for name in ["labels.csv", "notes.txt"] {
            write(name, b"x");
        }
        assert_eq!(names(folder.path()), ["a.jfif", "b.JPE", "c.jif", "d"]);
        let mut unread = Unread::default();
        Walk::default().images(folder.path(), &mut unread).unwrap();
        assert!(
            unread.pictures.to_string().starts_with("2 .avif, 1 .heic, 1 .jp2 (`"),
            "{}",
            unread.pictures
        );
        assert!(unread.pictures.to_string().contains("1.avif"), "{}", unread.pictures);
        assert!(unread.others.to_string().starts_with("1 .csv, 1 .txt"), "{}", unread.others);
    }

    #[test]
    fn symlinks_are_followed_without_loops() {
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
    fn leftovers_of_other_programs_are_skipped() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".git", "__MACOSX", "real"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("x.png"), b"x").unwrap();
        }
        std::fs::write(folder.path().join("._x.png"), b"x").unwrap();
        assert_eq!(names(folder.path()), ["real/x.png"]);
    }
}
