//! Manifests of data sets: where they come from, licence, checksums, splits, and how they are evaluated.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::sources::SourceConfig;
use crate::{Error, Result, text};

/// A file of `datasets/`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The name on the command line, and of the data folder.
    pub name: String,
    /// The name for people.
    pub title: String,
    /// Where its authors describe it.
    pub homepage: String,
    /// The terms of use.
    pub license: String,
    /// What to fetch.
    #[serde(default)]
    pub files: Vec<RemoteFile>,
    /// What a person has to do, where the terms need one.
    #[serde(default)]
    pub manual: Option<String>,
    /// Paths below the data folder that are there when it is complete.
    #[serde(default)]
    pub expect: Vec<PathBuf>,
    /// The splits as sources, with paths below the data folder.
    pub splits: BTreeMap<String, SourceConfig>,
    /// How it is evaluated.
    #[serde(default)]
    pub eval: Option<ManifestEval>,
}

/// A file to fetch.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteFile {
    /// Where from.
    pub url: String,
    /// Its name below the data folder.
    pub path: PathBuf,
    /// Its length, where known.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Its checksum.
    #[serde(default)]
    pub sha256: Option<String>,
    /// Its checksum, where the publisher gives only this.
    #[serde(default)]
    pub md5: Option<String>,
    /// Whether to unpack it into the data folder.
    #[serde(default)]
    pub unpack: Option<Packing>,
}

/// Kinds of archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Packing {
    /// A gzipped tar.
    #[serde(rename = "tar.gz")]
    TarGz,
    /// A zip.
    #[serde(rename = "zip")]
    Zip,
}

/// How a data set is evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestEval {
    /// The split.
    pub split: String,
    /// `classification` or `retrieval`.
    pub task: String,
    /// The name of built-in prompt templates.
    #[serde(default)]
    pub prompts: Option<String>,
    /// The name of a built-in class list, in the order of the class folders, that replaces their names.
    #[serde(default)]
    pub classes: Option<String>,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// [`Error::Io`] where it is missing, [`Error::Format`] with the line that is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        let text = text::read(path)?;
        let format = |reason: String| Error::Format { path: path.into(), kind: "manifest", reason };
        let manifest: Manifest = toml::from_str(&text).map_err(|e| format(e.to_string()))?;
        if manifest.files.is_empty() == manifest.manual.is_none() {
            return Err(format("it needs either [[files]] or `manual`".into()));
        }
        if let Some(eval) = &manifest.eval {
            if !manifest.splits.contains_key(&eval.split) {
                return Err(format(format!("eval.split = \"{}\" is none of its splits", eval.split)));
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

    /// The source of a split.
    ///
    /// # Errors
    /// [`Error::Config`] where there is no such split.
    pub fn source(&self, split: &str) -> Result<SourceConfig> {
        self.splits.get(split).cloned().ok_or_else(|| {
            let known = self.splits.keys().cloned().collect::<Vec<_>>().join(", ");
            Error::Config(format!("`{}` has no split `{split}`, but {known}", self.name))
        })
    }
}
