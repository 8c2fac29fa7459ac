//! Where samples come from: every source gives any of its samples by index.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::policy::ErrorPolicy;
use crate::sample::RawSample;

mod cifar;
mod csv;
mod damage;
pub mod emoji;
mod folder;
mod group;
mod images;
mod json;
mod karpathy;
mod left_out;
mod passed_over;
mod paths;
mod pictures;
mod shard;
mod share;
mod walk;
mod webdataset;

pub use cifar::{Cifar, CifarConfig, CifarLabels};
pub use csv::{Csv, CsvConfig};
pub use damage::{BrokenShard, CorruptShards};
pub use emoji::{Emoji, EmojiConfig};
pub use folder::{Folder, FolderConfig, Subset};
pub use images::Images;
pub use karpathy::{Karpathy, KarpathyConfig, KarpathySplit};
pub use paths::expand_braces;
pub use share::Share;
pub use webdataset::{WebDataset, WebDatasetConfig};

/// Samples that can be read in any order.
pub trait Source: Send + Sync {
    /// What it is, for messages.
    fn name(&self) -> &str;

    /// Number of samples.
    fn len(&self) -> usize;

    /// Whether there is no sample.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One sample; `index` is below [`Source::len`]. `draw` is random, new in each epoch, for
    /// sources that render their pictures; others do not use it.
    ///
    /// # Errors
    /// [`crate::Error::Sample`] where this sample is damaged.
    fn read(&self, index: usize, draw: u64) -> Result<RawSample>;

    /// Names of the classes that labels count through, where there are any.
    fn class_names(&self) -> Option<&[String]> {
        None
    }

    /// Broken shards, where the source has shards and some are not whole. Whoever reads the source
    /// judges them by its policy first ([`crate::policy::ErrorPolicy::check_shards`]).
    fn damage(&self) -> Option<&CorruptShards> {
        None
    }
}

/// The plainest caption of a class.
pub(crate) fn default_templates() -> Vec<String> {
    vec!["a photo of a {}.".into()]
}

/// Which half of a split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// For training.
    #[default]
    Train,
    /// For testing.
    Test,
}

/// A source as a recipe names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "lowercase")]
pub enum SourceConfig {
    /// Tar shards.
    WebDataset(WebDatasetConfig),
    /// A table of image paths and captions.
    Csv(CsvConfig),
    /// A folder of images per class.
    Folder(FolderConfig),
    /// Images with captions in A. Karpathy's JSON files.
    Karpathy(KarpathyConfig),
    /// CIFAR-10's binary archive.
    Cifar10(CifarConfig),
    /// CIFAR-100's binary archive.
    Cifar100(CifarConfig),
    /// The embedded emoji.
    Emoji(EmojiConfig),
}

impl SourceConfig {
    /// Whether object boxes are read.
    pub fn names_boxes(&self) -> bool {
        matches!(self, SourceConfig::WebDataset(config) if config.boxes.is_some())
    }

    /// Opens the source; relative paths start at `base`.
    ///
    /// Shards that are broken are judged by the loader's policy, or by the evaluation.
    ///
    /// # Errors
    /// [`crate::Error`] where files are missing, are not what they should be, or hold no sample.
    pub fn open(&self, base: &Path) -> Result<Arc<dyn Source>> {
        let source: Arc<dyn Source> = match self {
            SourceConfig::WebDataset(config) => Arc::new(WebDataset::open(config, base)?),
            SourceConfig::Csv(config) => Arc::new(Csv::open(config, base)?),
            SourceConfig::Folder(config) => Arc::new(Folder::open(config, base)?),
            SourceConfig::Karpathy(config) => Arc::new(Karpathy::open(config, base)?),
            SourceConfig::Cifar10(config) => Arc::new(Cifar::open_10(config, base)?),
            SourceConfig::Cifar100(config) => Arc::new(Cifar::open_100(config, base)?),
            SourceConfig::Emoji(config) => Arc::new(Emoji::open(config)?),
        };
        if source.is_empty() {
            // A source that is broken as a whole is not merely empty.
            ErrorPolicy::Fail.check_shards(source.as_ref())?;
            return Err(crate::Error::Empty(source.name().into()));
        }
        Ok(source)
    }
}

/// Samples that a fingerprint reads.
const FINGERPRINT_SAMPLES: usize = 64;

/// A short name for what a source holds: its length and a hash over samples spread through it.
///
/// # Errors
/// Where a sample cannot be read at all; damaged ones count as they are.
pub fn fingerprint(source: &dyn Source) -> Result<String> {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    let count = source.len().min(FINGERPRINT_SAMPLES);
    for place in 0..count {
        match source.read(place * source.len() / count, 0) {
            Ok(sample) => {
                match &sample.image {
                    crate::sample::RawImage::Encoded(bytes) => hash.update(bytes),
                    crate::sample::RawImage::Rgb(image) => hash.update(&image.pixels),
                }
                sample.captions.iter().for_each(|caption| hash.update(caption));
            }
            Err(crate::Error::Sample { kind, .. }) => hash.update(kind),
            Err(error) => return Err(error),
        }
    }
    Ok(format!("{}-{}", source.len(), file_ext::to_hex(&hash.finalize()[..8])))
}
