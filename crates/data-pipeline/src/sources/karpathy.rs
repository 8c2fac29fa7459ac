//! Flickr8k, Flickr30k and COCO with A. Karpathy's splits: a JSON file of splits and captions beside the images.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::FileFormat;
use crate::sample::{RawImage, RawSample};
use crate::sources::Source;
use crate::sources::paths::resolve;
use crate::{DamageKind, Error, Result, text};

/// Settings of [`Karpathy`].
///
/// ```
/// use data_pipeline::sources::{KarpathyConfig, KarpathySplit};
/// let config = KarpathyConfig::new("dataset_coco.json", "coco", KarpathySplit::Test);
/// assert_eq!(config.split, KarpathySplit::Test);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct KarpathyConfig {
    /// File of annotations, such as `dataset_coco.json`.
    pub annotations: PathBuf,
    /// Folder of the images (for COCO: the parent of `train2014` and `val2014`).
    pub images: PathBuf,
    /// The split to read.
    pub split: KarpathySplit,
}

impl KarpathyConfig {
    /// Creates settings from the file of annotations, the folder of images and the split.
    pub fn new(annotations: impl Into<PathBuf>, images: impl Into<PathBuf>, split: KarpathySplit) -> Self {
        KarpathyConfig { annotations: annotations.into(), images: images.into(), split }
    }
}

/// A. Karpathy's splits. COCO's `restval` belongs to the training split, as is common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum KarpathySplit {
    /// Training images, with those of `restval`.
    Train,
    /// Validation images.
    Val,
    /// Test images.
    Test,
}

/// Images of one split with all their captions.
pub struct Karpathy {
    name: String,
    entries: Vec<Entry>,
}

/// An image with its captions.
struct Entry {
    path: PathBuf,
    captions: Vec<String>,
}

#[derive(Deserialize)]
struct File {
    images: Vec<Image>,
}

#[derive(Deserialize)]
struct Image {
    split: String,
    filename: PathBuf,
    #[serde(default)]
    filepath: PathBuf,
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    raw: String,
}

impl Karpathy {
    /// Reads the annotations.
    ///
    /// # Errors
    /// [`Error::Io`] if the file is missing, [`Error::Format`] if it is malformed.
    pub fn open(config: &KarpathyConfig, base: impl AsRef<Path>) -> Result<Self> {
        let base = base.as_ref();
        let path = resolve(base, &config.annotations);
        let file: File = serde_json::from_str(&text::read(&path)?).map_err(|e| Error::Format {
            path: path.clone(),
            format: FileFormat::Karpathy,
            reason: e.to_string(),
        })?;
        let images = resolve(base, &config.images);
        let wanted = |split: &str| match config.split {
            KarpathySplit::Train => matches!(split, "train" | "restval"),
            KarpathySplit::Val => split == "val",
            KarpathySplit::Test => split == "test",
        };
        let entries = file.images.into_iter().filter(|image| wanted(&image.split)).map(|image| {
            let captions = image.sentences.into_iter().map(|sentence| sentence.raw.trim().to_string());
            Entry { path: images.join(image.filepath).join(image.filename), captions: captions.collect() }
        });
        Ok(Karpathy { name: path.display().to_string(), entries: entries.collect() })
    }
}

impl Source for Karpathy {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn read(&self, index: usize, _draw: u64) -> Result<RawSample> {
        let Entry { path, captions } = &self.entries[index];
        let key = path.display().to_string();
        match std::fs::read(path) {
            Ok(bytes) => {
                Ok(RawSample::new(key, RawImage::Encoded(bytes)).with_captions(captions.iter().cloned()))
            }
            Err(e) => Err(Error::Sample { key, kind: DamageKind::Unreadable, reason: e.to_string() }),
        }
    }
}
