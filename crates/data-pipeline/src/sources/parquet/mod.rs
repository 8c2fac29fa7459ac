//! Parquet files with images, captions and classes, as Hugging Face writes them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[cfg(feature = "parquet")]
mod columns;
#[cfg(feature = "parquet")]
mod file;
#[cfg(feature = "parquet")]
mod source;

#[cfg(feature = "parquet")]
pub use source::Parquet;

/// Settings of `Parquet`.
///
/// ```
/// use data_pipeline::sources::ParquetConfig;
/// let config = ParquetConfig::new("flickr/data/train-*.parquet").with_caption("text");
/// assert_eq!(config.image, "image");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ParquetConfig {
    /// Parquet files: a folder with one split, a file, or a pattern such as `data/train-*.parquet`; several separated by
    /// `::`.
    pub path: String,
    /// Column of the images: a struct with `bytes`, or bytes. If the files lack the default column, another common name
    /// such as `jpg` is used and logged.
    #[serde(default = "default_image_column")]
    pub image: String,
    /// Column of the captions: a text or a list of texts. Default: a column with a common name such as `caption` or
    /// `text`, else the class name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
    /// Column of the class labels (integers). Default: a column with a common name such as `label`, if its class names
    /// are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Names of the classes: a text file with one name per line, the first for class 0. Default: the names in the files'
    /// metadata (`ClassLabel` of Hugging Face's datasets).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<PathBuf>,
    /// Caption templates for samples with a class and no caption, with `{}` for the class name.
    #[cfg_attr(feature = "schema", schemars(extend("default" = super::default_templates())))]
    #[serde(default = "super::default_templates", skip_serializing_if = "super::are_default_templates")]
    pub templates: Vec<String>,
}

impl ParquetConfig {
    /// Creates settings for a folder, a file or a pattern.
    pub fn new(path: impl Into<String>) -> Self {
        ParquetConfig {
            path: path.into(),
            image: default_image_column(),
            caption: None,
            label: None,
            classes: None,
            templates: super::default_templates(),
        }
    }

    /// Sets the column of the images.
    #[must_use]
    pub fn with_image(mut self, column: impl Into<String>) -> Self {
        self.image = column.into();
        self
    }

    /// Sets the column of the captions.
    #[must_use]
    pub fn with_caption(mut self, column: impl Into<String>) -> Self {
        self.caption = Some(column.into());
        self
    }

    /// Sets the column of the classes.
    #[must_use]
    pub fn with_label(mut self, column: impl Into<String>) -> Self {
        self.label = Some(column.into());
        self
    }

    /// Sets the file of class names.
    #[must_use]
    pub fn with_classes(mut self, path: impl Into<PathBuf>) -> Self {
        self.classes = Some(path.into());
        self
    }

    /// Sets the caption templates of classes.
    #[must_use]
    pub fn with_templates(mut self, templates: Vec<String>) -> Self {
        self.templates = templates;
        self
    }
}

fn default_image_column() -> String {
    "image".into()
}
