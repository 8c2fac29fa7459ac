//! Folders of images: in the order of their names, without leftovers of other programs and without going in circles.
//! Counts the files that it leaves out.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::notice;
use crate::sources::left_out::LeftOut;
use crate::sources::pictures::{Kind, kind};
use crate::{Error, Result};

/// Files that a walk leaves out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unread {
    /// Images in formats that cannot be decoded.
    pub(super) pictures: LeftOut,
    /// Images beside the class folders, which belong to no class.
    pub(super) outside: LeftOut,
    /// Other files.
    pub(super) others: LeftOut,
}

impl Unread {
    /// Logs one line for each kind: a warning for images, an information line for other files.
    pub(super) fn say(&self, source: &str) {
        let Unread { pictures, outside, others } = self;
        if !pictures.is_empty() {
            notice::warn_once(&format!(
                "`{source}`: left out pictures that cannot be decoded: {pictures}; convert them to JPEG, PNG, WebP, GIF or BMP"
            ));
        }
        if !outside.is_empty() {
            notice::warn_once(&format!(
                "`{source}`: left out images outside the class folders: {outside}; move each into the folder of its class"
            ));
        }
        if !others.is_empty() {
            notice::info_once(&format!("`{source}`: left out files that are not pictures: {others}"));
        }
    }
}

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

    /// Returns all images below a folder, and adds other files to `unread`.
    pub(super) fn images(&mut self, folder: &Path, unread: &mut Unread) -> Result<Vec<PathBuf>> {
        let mut images = Vec::new();
        self.collect(folder, &mut images, unread)?;
        Ok(images)
    }

    fn collect(&mut self, folder: &Path, images: &mut Vec<PathBuf>, unread: &mut Unread) -> Result<()> {
        if !self.enter(folder)? {
            tracing::info!("`{}` leads to a folder that was read already and is left out", folder.display());
            return Ok(());
        }
        for path in sorted(folder)? {
            let found = std::fs::metadata(&path).ok().map(|found| found.file_type());
            if found.is_some_and(|found| found.is_dir()) {
                self.collect(&path, images, unread)?;
            } else if found.is_some_and(|found| !found.is_file()) {
                // Whoever opens a pipe waits for its writer.
                tracing::info!("`{}` is no file and is left out", path.display());
            } else {
                match kind(&path) {
                    Kind::Image => images.push(path),
                    Kind::OtherImage(ending) => unread.pictures.add(ending, || path.display().to_string()),
                    Kind::Other(ending) => unread.others.add(ending, || path.display().to_string()),
                }
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
        let images = Walk::default().images(folder, &mut Unread::default()).unwrap();
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
    fn jpeg_is_read_by_any_name_and_what_is_left_out_is_counted_by_kind() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        for name in ["a.jfif", "b.JPE", "c.jif", "d"] {
            write(name, b"\xFF\xD8\xFF\xE0");
        }
        for name in ["1.tif", "2.tif", "3.avif", "4.heic"] {
            write(name, b"x");
        }
        for name in ["labels.csv", "notes.txt"] {
            write(name, b"x");
        }
        assert_eq!(names(folder.path()), ["a.jfif", "b.JPE", "c.jif", "d"]);
        let mut unread = Unread::default();
        Walk::default().images(folder.path(), &mut unread).unwrap();
        assert!(
            unread.pictures.to_string().starts_with("2 .tif, 1 .avif, 1 .heic (`"),
            "{}",
            unread.pictures
        );
        assert!(unread.pictures.to_string().contains("1.tif"), "{}", unread.pictures);
        assert!(unread.others.to_string().starts_with("1 .csv, 1 .txt"), "{}", unread.others);
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
