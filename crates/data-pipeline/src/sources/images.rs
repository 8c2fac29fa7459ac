//! All images below a folder, without captions.

use std::path::{Path, PathBuf};

use crate::sample::{RawImage, RawSample};
use crate::sources::Source;
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
        let path = path.as_ref();
        let name = path.display().to_string();
        let paths = if path.is_file() {
            vec![path.to_path_buf()]
        } else {
            let mut unread = Unread::default();
            let paths = Walk::default().images(path, &mut unread)?;
            unread.log(&name);
            paths
        };
        if paths.is_empty() { Err(Error::Empty(name)) } else { Ok(Images { name, paths }) }
    }
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
