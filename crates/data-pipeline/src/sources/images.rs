//! All images below a folder, without captions: for embedding.

use std::path::{Path, PathBuf};

use crate::sample::{RawImage, RawSample};
use crate::sources::Source;
use crate::sources::walk::{Unread, Walk};
use crate::{Error, Result};

/// Images in the order of their paths.
pub struct Images {
    name: String,
    paths: Vec<PathBuf>,
}

impl Images {
    /// Lists the images below a folder; a single file is taken as it is.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::Empty`] where there is no image.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let paths = if path.is_file() {
            vec![path.to_path_buf()]
        } else {
            let mut unread = Unread::default();
            let paths = Walk::default().images(path, &mut unread)?;
            unread.say(&name);
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
            Ok(bytes) => Ok(RawSample {
                key,
                image: RawImage::Encoded(bytes),
                captions: vec![],
                label: None,
                boxes: Vec::new(),
            }),
            Err(e) => Err(Error::Sample { key, kind: "unreadable", reason: e.to_string() }),
        }
    }
}
