//! Manifests of data sets: origin, licence, checksums, splits and evaluation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::FileFormat;
use crate::sources::SourceConfig;
use crate::{Error, Result, text};

/// The manifest of a data set, a file of `datasets/`.
///
/// ```no_run
/// use data_pipeline::manifest::Manifest;
/// let manifest = Manifest::read("datasets/flickr8k.toml")?;
/// let source = manifest.source("test")?.open("data/flickr8k")?;
/// println!("{}: {} samples", manifest.title, source.len());
/// # Ok::<(), data_pipeline::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Manifest {
    /// Name on the command line, and of the data folder.
    pub name: String,
    /// Title for display.
    pub title: String,
    /// Web page of the authors.
    pub homepage: String,
    /// Terms of use.
    pub license: String,
    /// Files to download.
    #[serde(default)]
    pub files: Vec<RemoteFile>,
    /// Instructions for a manual download, if the terms require one.
    #[serde(default)]
    pub manual: Option<String>,
    /// Paths below the data folder that exist after a complete download.
    #[serde(default)]
    pub expect: Vec<PathBuf>,
    /// Splits as sources, with paths below the data folder.
    pub splits: BTreeMap<String, SourceConfig>,
    /// Settings of the evaluation.
    #[serde(default)]
    pub eval: Option<ManifestEval>,
}

/// A file to download.
///
/// ```
/// use data_pipeline::manifest::RemoteFile;
/// let file = RemoteFile::new("https://example.org/images.zip", "images.zip").with_bytes(1_024);
/// assert_eq!(file.bytes, Some(1_024));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RemoteFile {
    /// Address.
    pub url: String,
    /// Path below the data folder.
    pub path: PathBuf,
    /// Length in bytes, if known.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// SHA-256 in hexadecimal.
    #[serde(default)]
    pub sha256: Option<String>,
    /// MD5 in hexadecimal, if the publisher gives no other checksum.
    #[serde(default)]
    pub md5: Option<String>,
    /// Archive format, if the file is to be unpacked into the data folder.
    #[serde(default)]
    pub unpack: Option<Packing>,
}

impl RemoteFile {
    /// Creates a file without length and checksum.
    pub fn new(url: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        RemoteFile { url: url.into(), path: path.into(), bytes: None, sha256: None, md5: None, unpack: None }
    }

    /// Sets the length in bytes.
    #[must_use]
    pub fn with_bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// Sets the SHA-256 in hexadecimal.
    #[must_use]
    pub fn with_sha256(mut self, sha256: impl Into<String>) -> Self {
        self.sha256 = Some(sha256.into());
        self
    }
}

/// Archive formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Packing {
    /// A gzipped tar.
    #[serde(rename = "tar.gz")]
    TarGz,
    /// A zip.
    #[serde(rename = "zip")]
    Zip,
}

/// Settings of a data set's evaluation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ManifestEval {
    /// Name of the split.
    pub split: String,
    /// `classification` or `retrieval`.
    pub task: String,
    /// Name of built-in prompt templates.
    #[serde(default)]
    pub prompts: Option<String>,
    /// Name of a built-in class list that replaces the names of the class folders, in their order.
    #[serde(default)]
    pub classes: Option<String>,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// [`Error::Io`] if the file is missing, [`Error::Format`] with the malformed line.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Manifest::parse(&text::read(path)?, path)
    }

    /// Parses the content of a manifest; errors name `path`.
    ///
    /// # Errors
    /// [`Error::Format`] with the malformed line.
    pub fn parse(text: &str, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let format =
            |reason: String| Error::Format { path: path.into(), format: FileFormat::Manifest, reason };
        let manifest: Manifest = toml::from_str(text).map_err(|e| format(e.to_string()))?;
        if manifest.files.is_empty() == manifest.manual.is_none() {
            return Err(format("it needs either [[files]] or `manual`".into()));
        }
        if let Some(eval) = &manifest.eval {
            if !manifest.splits.contains_key(&eval.split) {
                return Err(format(format!("eval.split = \"{}\" is not one of its splits", eval.split)));
            }
            if !matches!(eval.task.as_str(), "classification" | "retrieval") {
                return Err(format(format!(
                    "eval.task = \"{}\" is not classification or retrieval",
                    eval.task
                )));
            }
        }
        for file in &manifest.files {
            let plain = file.path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
            if !plain || file.path.as_os_str().is_empty() {
                return Err(format(format!("`{}` is not a path below the data folder", file.path.display())));
            }
        }
        Ok(manifest)
    }

    /// Returns the source of a split.
    ///
    /// # Errors
    /// [`Error::Setting`] for an unknown split.
    pub fn source(&self, split: &str) -> Result<SourceConfig> {
        self.splits.get(split).cloned().ok_or_else(|| {
            let known = self.splits.keys().cloned().collect::<Vec<_>>().join(", ");
            Error::setting("split", format!("`{}` has no split `{split}`, but {known}", self.name))
        })
    }
}
