//! WebDataset: tar shards in which the members with one name and several extensions form a sample.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::annotations::AnnotationKeys;
use crate::error::FileFormat;
use crate::sample::RawSample;
use crate::sources::captions::SampleReader;
use crate::sources::classes::Classes;
use crate::sources::group::Members;
use crate::sources::paths::{Files, resolve};
use crate::sources::shard::{Index, Span};
use crate::sources::skipped::SkippedItems;
use crate::sources::{CorruptShards, IN_FILE, Source, check_templates};
use crate::{DamageKind, Error, Result, notice};

/// Shards that [`WebDataset`] reads.
pub(super) const TARS: Files = Files { setting: "shards", extension: "tar" };

/// Settings of [`WebDataset`].
///
/// ```
/// use data_pipeline::sources::WebDatasetConfig;
/// let config = WebDatasetConfig::new("cc12m/{00000..01242}.tar").with_caption("captions");
/// assert_eq!(config.caption.as_deref(), Some("captions"));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct WebDatasetConfig {
    /// Tar files: a folder, a file, or a pattern such as `cc12m/{00000..01242}.tar`, `{a,b}.tar` or `cc12m/*.tar`;
    /// several separated by `::`.
    pub shards: String,
    /// Source of the captions: `"txt"`, another extension such as `".caption"`, or a key of the `.json` file with a
    /// text or a list of texts. Default: `captions` in the `.json` file if present, else the `.txt` file, else
    /// `caption` in the `.json` file (img2dataset's key).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
    /// Key of the `.json` file with object boxes: a list of `[x, y, width, height]` in pixels of the stored image
    /// (COCO's form). If unset, no boxes are read. A sample without the key has no boxes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boxes: Option<String>,
    /// Names of the classes in `.cls` files: a text file with one name per line, the first for class 0. Default:
    /// `classnames.txt` beside the shards or in the parent folder (CLIP_benchmark's layout).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<PathBuf>,
    /// Caption templates for samples with a class and no caption, with `{}` for the class name.
    #[cfg_attr(feature = "schema", schemars(extend("default" = super::default_templates())))]
    #[serde(default = "super::default_templates", skip_serializing_if = "super::are_default_templates")]
    pub templates: Vec<String>,
}

impl WebDatasetConfig {
    /// Creates settings for a path or brace pattern of shards.
    pub fn new(shards: impl Into<String>) -> Self {
        WebDatasetConfig {
            shards: shards.into(),
            caption: None,
            boxes: None,
            classes: None,
            templates: super::default_templates(),
        }
    }

    /// Sets the source of the captions.
    #[must_use]
    pub fn with_caption(mut self, key: impl Into<String>) -> Self {
        self.caption = Some(key.into());
        self
    }

    /// Sets the key of the object boxes.
    #[must_use]
    pub fn with_boxes(mut self, key: impl Into<String>) -> Self {
        self.boxes = Some(key.into());
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

    /// Whether the samples of the first shard have classes (`.cls` files) and no captions.
    ///
    /// ```no_run
    /// use data_pipeline::sources::WebDatasetConfig;
    /// let has_classes = WebDatasetConfig::new("imagenet/{0..9}.tar").has_only_classes(".")?;
    /// # Ok::<(), data_pipeline::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`WebDataset::open`].
    pub fn has_only_classes(&self, base: impl AsRef<Path>) -> Result<bool> {
        let paths = TARS.find(base.as_ref(), &self.shards)?;
        let text = SampleReader::text_extension(self.caption.as_deref());
        let Some(first) = paths.first() else { return Ok(false) };
        let samples = Index::read(first, &text)?.samples;
        let has_class = |members: &Members<Span>| members.cls.is_some();
        let has_caption = |members: &Members<Span>| members.txt.is_some() || members.json.is_some();
        Ok(samples.iter().any(has_class) && !samples.iter().any(has_caption))
    }
}

/// Tar shards. Their headers are indexed once; samples are read from their offsets.
pub struct WebDataset {
    name: String,
    reader: SampleReader,
    shards: Vec<PathBuf>,
    samples: Vec<Entry>,
    corrupt_shards: Option<CorruptShards>,
}

/// A sample and the number of its shard.
struct Entry {
    shard: usize,
    members: Members<Span>,
}

impl WebDataset {
    /// Indexes the shards. Only the headers of the tars are read.
    ///
    /// A truncated shard yields the samples before the damage; [`Source::corrupt_shards`] reports the loss. A warning
    /// counts the members without a sample.
    ///
    /// # Errors
    /// [`Error::Io`] if a shard is missing, [`Error::Setting`] if the pattern is invalid or matches no file,
    /// [`Error::Remote`] for a remote address, [`Error::Format`] for a shard in another known format.
    pub fn open(config: &WebDatasetConfig, base: impl AsRef<Path>) -> Result<Self> {
        let base = base.as_ref();
        check_templates(&config.templates)?;
        let text = SampleReader::text_extension(config.caption.as_deref());
        let mut indexed = Vec::new();
        for path in TARS.find(base, &config.shards)? {
            let index = Index::read(&path, &text)?;
            indexed.push((path, index));
        }
        if let Some((path, index)) = indexed.first()
            && let Some(found) = index.corruption.as_ref().and_then(|corruption| corruption.foreign.as_ref())
            && indexed.iter().all(|(_, index)| index.corruption.as_ref().is_some_and(|c| c.foreign.is_some()))
        {
            let reason = format!("{found}: name the tar files of the samples");
            return Err(Error::Format { path: path.clone(), format: FileFormat::Shard, reason });
        }
        let corrupt_shards = CorruptShards::estimate(&indexed);
        let (mut shards, mut samples, mut skipped) = (Vec::new(), Vec::new(), SkippedItems::default());
        for (number, (path, index)) in indexed.into_iter().enumerate() {
            shards.push(path);
            samples.extend(index.samples.into_iter().map(|members| Entry { shard: number, members }));
            skipped.extend(index.skipped);
        }
        let name = config.shards.clone();
        if !skipped.is_empty() {
            notice::warn_once(&format!(
                "`{name}`: left out members that belong to no sample: {skipped}; a sample is an image with a .txt, .json or \
                 .cls file, and `caption = \".EXTENSION\"` names another extension of captions {IN_FILE}"
            ));
        }
        let mut reader = SampleReader::new(
            &name,
            config.caption.as_deref(),
            AnnotationKeys { boxes: config.boxes.clone() },
        );
        let labelled = samples.iter().find(|entry: &&Entry| entry.members.cls.is_some());
        let beside = labelled.and_then(|entry| Classes::beside(&shards[entry.shard]));
        if let Some(path) = config.classes.as_ref().map(|path| resolve(base, path)).or(beside) {
            reader.classes = Some(Classes::read(&path, &config.templates)?);
        }
        Ok(WebDataset { name, reader, shards, samples, corrupt_shards })
    }
}

impl Source for WebDataset {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.samples.len()
    }

    fn read(&self, index: usize, _draw: u64) -> Result<RawSample> {
        let Entry { shard, members } = &self.samples[index];
        let path = &self.shards[*shard];
        let key = format!("{}:{}", path.display(), members.key);
        // Open the file for each sample: data sets have more shards than a process may hold open, and in a shuffled
        // order the next sample is usually in another shard.
        match File::open(path) {
            Ok(file) => self.reader.sample(&key, members, |span| bytes(&file, span)),
            Err(e) => Err(Error::Sample { key, kind: DamageKind::Unreadable, reason: e.to_string() }),
        }
    }

    fn class_names(&self) -> Option<&[String]> {
        self.reader.classes.as_ref().map(|classes| &classes.names[..])
    }

    fn corrupt_shards(&self) -> Option<&CorruptShards> {
        self.corrupt_shards.as_ref()
    }
}

/// Reads a member of a shard.
pub(super) fn bytes(file: &File, Span { offset, length }: Span) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}
