//! Sources of samples: WebDataset shards, tables, folders and archives, each readable by index.

use sha2::{Digest, Sha256};

use crate::sample::{RawImage, RawSample};
use crate::{Error, Result};

mod caption_problems;
mod captions;
mod cifar;
mod classes;
mod clip_benchmark;
mod coco;
mod config;
mod corruption;
mod csv;
#[cfg(feature = "emoji")]
pub mod emoji;
mod file_kind;
mod files;
mod folder;
mod group;
mod images;
mod json;
mod karpathy;
mod pairs;
mod parquet;
mod paths;
mod records;
mod shard;
mod skipped;
mod subset;
mod upright;
mod walk;
mod webdataset;

#[cfg(feature = "formats")]
pub(crate) use file_kind::foreign_format;
pub use file_kind::other_file;
pub(crate) use file_kind::other_image_format;

pub use cifar::{Cifar, CifarConfig, CifarLabels};
pub use clip_benchmark::{ClipBenchmark, ClipBenchmarkConfig};
pub use config::{EmojiConfig, SourceConfig, Split};
pub use corruption::{BrokenShard, CorruptShards};
pub use csv::{Csv, CsvConfig};
#[cfg(feature = "emoji")]
pub use emoji::Emoji;
pub use files::{FilesConfig, ImageFiles};
pub use folder::{Folder, FolderConfig, FolderSubset};
pub use images::Images;
pub use karpathy::{Karpathy, KarpathyConfig, KarpathySplit};
#[cfg(feature = "parquet")]
pub use parquet::Parquet;
pub use parquet::ParquetConfig;
pub use paths::{Paths, expand_braces};
pub use records::{Records, RecordsConfig};
pub use subset::Subset;
pub use upright::Upright;
pub use webdataset::{WebDataset, WebDatasetConfig};

/// The files whose settings name columns and keys; messages of all commands refer to them.
const IN_FILE: &str = "in a recipe or suite file";

/// A data set whose samples can be read in any order.
///
/// ```
/// use data_pipeline::image::RgbImage;
/// use data_pipeline::{RawImage, RawSample, Result, Source};
///
/// /// Grey images of one brightness each.
/// struct Greys;
///
/// impl Source for Greys {
///     fn name(&self) -> &str {
///         "greys"
///     }
///
///     fn len(&self) -> usize {
///         256
///     }
///
///     fn read(&self, index: usize, _draw: u64) -> Result<RawSample> {
///         let image = RgbImage { width: 8, height: 8, pixels: vec![index as u8; 3 * 64] };
///         let caption = format!("grey of brightness {index}");
///         Ok(RawSample::new(format!("grey-{index}"), RawImage::Rgb(image)).with_captions([caption]))
///     }
/// }
///
/// assert_eq!(Greys.read(7, 0)?.captions, ["grey of brightness 7"]);
/// # Ok::<(), data_pipeline::Error>(())
/// ```
pub trait Source: Send + Sync {
    /// Returns the name for messages.
    fn name(&self) -> &str;

    /// Returns the number of samples.
    fn len(&self) -> usize;

    /// Whether the source has no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the sample `index`, which is below [`Source::len`].
    ///
    /// `draw` is a random number, new in each epoch, for sources that render their images. Others ignore it.
    ///
    /// # Errors
    /// [`Error::Sample`] if the sample is damaged.
    fn read(&self, index: usize, draw: u64) -> Result<RawSample>;

    /// Returns the class names to which [`RawSample::label`] is an index, if the source has classes.
    fn class_names(&self) -> Option<&[String]> {
        None
    }

    /// Returns the number of classes, even if the source has no class names.
    fn class_count(&self) -> Option<usize> {
        self.class_names().map(<[String]>::len)
    }

    /// Returns the data set's own prompt templates, if any; `{}` stands for the class name.
    fn templates(&self) -> Option<&[String]> {
        None
    }

    /// Returns the broken shards, if any. Check them by [`crate::policy::ErrorPolicy::check_shards`] before reading.
    fn corrupt_shards(&self) -> Option<&CorruptShards> {
        None
    }
}

/// Returns the default caption template of classes.
pub(crate) fn default_templates() -> Vec<String> {
    vec!["a photo of a {}.".into()]
}

/// Whether templates are the default, which settings omit.
pub(crate) fn are_default_templates(templates: &[String]) -> bool {
    templates == default_templates()
}

/// Checks that all caption templates contain `{}` for the class name.
fn check_templates(templates: &[String]) -> Result<()> {
    if templates.is_empty() || templates.iter().any(|template| !template.contains("{}")) {
        return Err(Error::setting("templates", "every caption template needs `{}` for the class name"));
    }
    Ok(())
}

/// Number of samples that a fingerprint reads.
const FINGERPRINT_SAMPLES: usize = 64;

/// Returns a fingerprint of a source: its length and a hash over samples spread through it.
///
/// ```no_run
/// # let config: data_pipeline::SourceConfig = serde_json::from_str("{}")?;
/// let source = config.open("data")?;
/// println!("{}", data_pipeline::sources::fingerprint(source.as_ref())?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The errors of [`Source::read`] except [`Error::Sample`]: of a damaged sample, the kind of damage is hashed.
pub fn fingerprint(source: &dyn Source) -> Result<String> {
    let mut hash = Sha256::new();
    let count = source.len().min(FINGERPRINT_SAMPLES);
    for place in 0..count {
        match source.read(place * source.len() / count, 0) {
            Ok(sample) => {
                match &sample.image {
                    RawImage::Encoded(bytes) => hash.update(bytes),
                    RawImage::Rgb(image) => hash.update(&image.pixels),
                }
                sample.captions.iter().for_each(|caption| hash.update(caption));
            }
            Err(Error::Sample { kind, .. }) => hash.update(kind.as_str()),
            Err(error) => return Err(error),
        }
    }
    Ok(format!("{}-{}", source.len(), file_ext::to_hex(&hash.finalize()[..8])))
}
