//! Settings of a source, as a recipe contains them.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

#[cfg(feature = "emoji")]
use super::Emoji;
#[cfg(feature = "parquet")]
use super::Parquet;
use super::{
    Cifar, CifarConfig, ClipBenchmark, ClipBenchmarkConfig, Csv, CsvConfig, FilesConfig, Folder,
    FolderConfig, ImageFiles, Karpathy, KarpathyConfig, ParquetConfig, Records, RecordsConfig, Source,
    WebDataset, WebDatasetConfig,
};
use crate::policy::ErrorPolicy;
use crate::{Error, Result};

/// A source and its settings; the key `source` names the variant.
///
/// ```
/// use data_pipeline::SourceConfig;
/// let config: SourceConfig =
///     serde_json::from_str(r#"{"source": "csv", "path": "captions.csv", "caption": "text"}"#)?;
/// assert!(matches!(config, SourceConfig::Csv(_)));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "source", rename_all = "lowercase")]
#[non_exhaustive]
pub enum SourceConfig {
    /// Tar shards (WebDataset).
    WebDataset(WebDatasetConfig),
    /// A table of image paths and captions.
    Csv(CsvConfig),
    /// A JSON list or JSON lines of image paths and captions.
    Json(RecordsConfig),
    /// Image files with captions in files of the same name, such as img2dataset's `files` output.
    Files(FilesConfig),
    /// Parquet files with images, as Hugging Face writes them (feature `parquet`).
    Parquet(ParquetConfig),
    /// A folder of images per class.
    Folder(FolderConfig),
    /// Images with captions in A. Karpathy's JSON files.
    Karpathy(KarpathyConfig),
    /// CIFAR-10, from the archive of its binary version.
    Cifar10(CifarConfig),
    /// CIFAR-100, from the archive of its binary version.
    Cifar100(CifarConfig),
    /// A data set of CLIP_benchmark: tar shards with classes or captions, from a folder or the Hugging Face hub.
    #[serde(rename = "clip-benchmark")]
    ClipBenchmark(ClipBenchmarkConfig),
    /// Emoji with their names, which are part of the program (feature `emoji`).
    Emoji(EmojiConfig),
}

/// Settings of the embedded emoji.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EmojiConfig {
    /// Training concepts, or the held-out tenth of the concepts.
    #[serde(default)]
    pub split: Split,
}

impl EmojiConfig {
    /// Sets the split.
    #[must_use]
    pub fn with_split(mut self, split: Split) -> Self {
        self.split = split;
        self
    }
}

/// Training or test split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Training samples.
    #[default]
    Train,
    /// Test samples.
    Test,
}

impl SourceConfig {
    /// Whether the source reads object boxes.
    pub fn has_boxes(&self) -> bool {
        match self {
            SourceConfig::WebDataset(config) => config.boxes.is_some(),
            SourceConfig::Files(config) => config.boxes.is_some(),
            _ => false,
        }
    }

    /// Opens the source; relative paths start at `base`.
    ///
    /// Broken shards are not an error here: the loader's policy or the evaluation decides about them.
    ///
    /// # Errors
    /// [`Error::Io`] if a file is missing, [`Error::Format`] or [`Error::NotUtf8`] if it is malformed,
    /// [`Error::Setting`] for invalid settings, [`Error::Empty`] for a source without samples, and
    /// [`Error::MissingFeature`] for a source that this build leaves out.
    pub fn open(&self, base: impl AsRef<Path>) -> Result<Arc<dyn Source>> {
        let base = base.as_ref();
        let source: Arc<dyn Source> = match self {
            SourceConfig::WebDataset(config) => Arc::new(WebDataset::open(config, base)?),
            SourceConfig::Csv(config) => Arc::new(Csv::open(config, base)?),
            SourceConfig::Json(config) => Arc::new(Records::open(config, base)?),
            SourceConfig::Files(config) => Arc::new(ImageFiles::open(config, base)?),
            #[cfg(feature = "parquet")]
            SourceConfig::Parquet(config) => Arc::new(Parquet::open(config, base)?),
            #[cfg(not(feature = "parquet"))]
            SourceConfig::Parquet(_) => {
                return Err(Error::MissingFeature { what: "the source `parquet`", feature: "parquet" });
            }
            SourceConfig::Folder(config) => Arc::new(Folder::open(config, base)?),
            SourceConfig::Karpathy(config) => Arc::new(Karpathy::open(config, base)?),
            SourceConfig::Cifar10(config) => Arc::new(Cifar::open_10(config, base)?),
            SourceConfig::Cifar100(config) => Arc::new(Cifar::open_100(config, base)?),
            SourceConfig::ClipBenchmark(config) => Arc::new(ClipBenchmark::open(config, base)?),
            #[cfg(feature = "emoji")]
            SourceConfig::Emoji(config) => Arc::new(Emoji::open(config)?),
            #[cfg(not(feature = "emoji"))]
            SourceConfig::Emoji(_) => {
                return Err(Error::MissingFeature { what: "the source `emoji`", feature: "emoji" });
            }
        };
        if source.is_empty() {
            // If all shards are broken, that error is more useful.
            ErrorPolicy::Fail.check_shards(source.as_ref())?;
            return Err(Error::Empty(source.name().into()));
        }
        Ok(source)
    }
}

#[cfg(all(test, not(feature = "emoji")))]
mod tests {
    use super::*;

    #[test]
    fn recipe_with_emoji_names_the_missing_feature() {
        let config: SourceConfig = serde_json::from_str(r#"{"source": "emoji"}"#).unwrap();
        let error = config.open(".").err().unwrap();
        assert!(matches!(error, Error::MissingFeature { feature: "emoji", .. }), "{error}");
        assert!(error.to_string().contains("feature `emoji`"), "{error}");
    }
}
