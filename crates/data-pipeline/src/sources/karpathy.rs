//! Flickr8k, Flickr30k and COCO as A. Karpathy split them: one JSON file with splits and captions, images beside it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::sample::{RawImage, RawSample};
use crate::sources::Source;
use crate::sources::paths::resolve;
use crate::{Error, Result, text};

/// Settings of [`Karpathy`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KarpathyConfig {
    /// Such as `dataset_coco.json`.
    pub annotations: PathBuf,
    /// The folder of images (of COCO: the folder of `train2014` and `val2014`).
    pub images: PathBuf,
    /// Which split.
    pub split: KarpathySplit,
}

/// The splits of those files. COCO's `restval` counts as training, as is usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KarpathySplit {
    /// For training.
    Train,
    /// For tuning.
    Val,
    /// For reporting.
    Test,
}

/// Images of one split with all their captions.
pub struct Karpathy {
    name: String,
    entries: Vec<(PathBuf, Vec<String>)>,
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
    /// [`Error::Io`] where the file is missing, [`Error::Format`] where it is another kind of file.
    pub fn open(config: &KarpathyConfig, base: &Path) -> Result<Self> {
        let path = resolve(base, &config.annotations);
        let file: File = serde_json::from_str(&text::read(&path)?).map_err(|e| Error::Format {
            path: path.clone(),
            kind: "Karpathy split",
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
            (images.join(image.filepath).join(image.filename), captions.collect())
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
        let (path, captions) = &self.entries[index];
        let key = path.display().to_string();
        match std::fs::read(path) {
            Ok(bytes) => Ok(RawSample {
                key,
                image: RawImage::Encoded(bytes),
                captions: captions.clone(),
                label: None,
                boxes: Vec::new(),
            }),
            Err(e) => Err(Error::Sample { key, kind: "unreadable", reason: e.to_string() }),
        }
    }
}
