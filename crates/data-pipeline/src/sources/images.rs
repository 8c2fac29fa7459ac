//! All images below a folder, without captions.

use std::path::{Path, PathBuf};

use crate::sample::{RawImage, RawSample};
use crate::sources::Source;
use crate::sources::paths::{expand_wildcards, has_wildcard};
use crate::sources::walk::{Unread, Walk};
use crate::{DamageKind, Error, Result};

/// Images without captions, in the order of their paths.
///
/// ```no_run
/// use data_pipeline::Source;
/// let images = data_pipeline::sources::Images::open("photos")?;
/// println!("{} images", images.len());
/// # Ok::<(), data_pipeline::Error>(())
/// ```
pub struct Images {
    name: String,
    paths: Vec<PathBuf>,
}

impl Images {
    /// Lists the images below a folder. A path to a file means this one image.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read, [`Error::Empty`] if it contains no image.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_all([path])
    }

    /// Lists the images of several paths: files, folders with all images below them, and patterns such as `photos/*.jpg`.
    ///
    /// # Errors
    /// The errors of [`Images::open`] for each path, and [`Error::Setting`] for an invalid pattern.
    pub fn open_all(paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Result<Self> {
        let (mut name, mut images) = (String::new(), Vec::new());
        for path in paths {
            let path = path.as_ref();
            let shown = path.display().to_string();
            let found = match expand(path)? {
                Some(matches) => {
                    let listed = matches.iter().map(|path| list(path)).collect::<Result<Vec<_>>>()?;
                    listed.concat()
                }
                None => list(path)?,
            };
            if found.is_empty() {
                return Err(Error::Empty(shown));
            }
            name = if name.is_empty() { shown } else { format!("{name}, ...") };
            images.extend(found);
        }
        if images.is_empty() { Err(Error::Empty(name)) } else { Ok(Images { name, paths: images }) }
    }

    /// Returns the paths of the images.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }
}

/// Lists the images of a folder, or one image.
fn list(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut unread = Unread::default();
    let paths = Walk::default().images(path, &mut unread)?;
    unread.log(&path.display().to_string());
    Ok(paths)
}

/// Returns the paths that match a pattern, sorted; `None` for a path that exists or is not a pattern.
fn expand(path: &Path) -> Result<Option<Vec<PathBuf>>> {
    let is_pattern = has_wildcard(path) && !path.exists();
    is_pattern.then(|| expand_wildcards("images", path)).transpose()
}

impl Source for Images {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.paths.len()
    }

    fn read(&self, index: usize, _draw: u64) -> Result<RawSample> {
        let path = &self.paths[index];
        let key = path.display().to_string();
        match std::fs::read(path) {
            Ok(bytes) => Ok(RawSample::new(key, RawImage::Encoded(bytes))),
            Err(e) => Err(Error::Sample { key, kind: DamageKind::Unreadable, reason: e.to_string() }),
        }
    }
}
