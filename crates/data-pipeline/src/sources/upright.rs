//! A source that rotates images upright by their EXIF orientation.

use std::sync::Arc;

use crate::Result;
use crate::image::orientation::{of_file, upright};
use crate::sample::{RawImage, RawSample};
use crate::sources::{CorruptShards, Source};

/// A source that rotates images by their EXIF orientation, as PIL's `ImageOps.exif_transpose` does.
///
/// open_clip and all other sources ignore the orientation. Annotations are rotated with their images.
///
/// ```no_run
/// use data_pipeline::sources::Upright;
/// # let config: data_pipeline::SourceConfig = serde_json::from_str("{}")?;
/// let source = Upright::new(config.open("photos")?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Upright {
    source: Arc<dyn Source>,
}

impl Upright {
    /// Wraps a source.
    pub fn new(source: Arc<dyn Source>) -> Self {
        Upright { source }
    }
}

impl Source for Upright {
    fn name(&self) -> &str {
        self.source.name()
    }

    fn len(&self) -> usize {
        self.source.len()
    }

    fn read(&self, index: usize, draw: u64) -> Result<RawSample> {
        let mut sample = self.source.read(index, draw)?;
        let RawImage::Encoded(bytes) = &sample.image else { return Ok(sample) };
        let orientation = of_file(bytes);
        if orientation == 1 {
            return Ok(sample);
        }
        let pixels = sample.image.into_pixels(&sample.key)?.to_rgb();
        sample.annotations.rotate(pixels.width, pixels.height, orientation);
        sample.image = RawImage::Rgb(upright(pixels, orientation));
        Ok(sample)
    }

    fn class_names(&self) -> Option<&[String]> {
        self.source.class_names()
    }

    fn corrupt_shards(&self) -> Option<&CorruptShards> {
        self.source.corrupt_shards()
    }
}
