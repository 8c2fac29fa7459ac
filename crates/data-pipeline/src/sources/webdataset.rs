//! WebDataset: tar shards in which the members with one name and several extensions form a sample.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::boxes;
use crate::sample::{RawImage, RawSample};
use crate::sources::caption_problems::CaptionProblems;
use crate::sources::paths::{expand_braces, resolve};
use crate::sources::shard::{Index, Members, Span};
use crate::sources::skipped::SkippedItems;
use crate::sources::{CorruptShards, Source, json};
use crate::{DamageKind, Error, Result, notice, text};

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
    /// Tar files: a path or a pattern such as `cc12m/{00000..01242}.tar` or `{a,b}.tar`; several separated by `::`.
    pub shards: String,
    /// Place of the captions: `"txt"`, or a key of the `.json` file with a text or a list of texts. Default:
    /// `captions` in the `.json` file if present, else the `.txt` file, else `caption` in the `.json` file
    /// (img2dataset's key).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
    /// Key of the `.json` file with object boxes: a list of `[x, y, width, height]` in pixels of the stored image
    /// (COCO's form). If unset, no boxes are read. A sample without the key has no boxes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boxes: Option<String>,
}

impl WebDatasetConfig {
    /// Creates settings for a path or brace pattern of shards.
    pub fn new(shards: impl Into<String>) -> Self {
        WebDatasetConfig { shards: shards.into(), caption: None, boxes: None }
    }

    /// Sets the place of the captions.
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
}

/// Tar shards. Their headers are indexed once; samples are read from their offsets.
pub struct WebDataset {
    name: String,
    caption: Option<String>,
    boxes: Option<String>,
    shards: Vec<PathBuf>,
    samples: Vec<Entry>,
    corrupt_shards: Option<CorruptShards>,
    problems: CaptionProblems,
}

/// A sample and the number of its shard.
struct Entry {
    shard: usize,
    members: Members,
}

impl WebDataset {
    /// Indexes the shards. Only the headers of the tars are read.
    ///
    /// A truncated shard yields the samples before the damage; [`Source::corrupt_shards`] reports the loss. A warning
    /// counts the members without a sample.
    ///
    /// # Errors
    /// [`Error::Io`] if a shard is missing, [`Error::Setting`] if the pattern is invalid.
    pub fn open(config: &WebDatasetConfig, base: impl AsRef<Path>) -> Result<Self> {
        let base = base.as_ref();
        let mut indexed = Vec::new();
        for pattern in config.shards.split("::") {
            for path in expand_braces(pattern)? {
                let path = resolve(base, path);
                let index = Index::read(&path)?;
                indexed.push((path, index));
            }
        }
        let corrupt_shards = CorruptShards::estimate(&indexed);
        let (mut shards, mut samples, mut skipped) = (Vec::new(), Vec::new(), SkippedItems::default());
        for (number, (path, index)) in indexed.into_iter().enumerate() {
            shards.push(path);
            samples.extend(index.samples.into_iter().map(|members| Entry { shard: number, members }));
            skipped.extend(index.skipped);
        }
        let (name, caption, boxes) = (config.shards.clone(), config.caption.clone(), config.boxes.clone());
        if !skipped.is_empty() {
            notice::warn_once(&format!(
                "`{name}`: left out members that belong to no sample: {skipped}; a sample is an image with a .txt or .json file"
            ));
        }
        let problems = CaptionProblems::new(&name);
        Ok(WebDataset { name, caption, boxes, shards, samples, corrupt_shards, problems })
    }

    fn boxes(&self, file: &File, members: &Members) -> Result<Vec<[f32; 4]>, Problem> {
        let (Some(key), Some(span)) = (&self.boxes, members.json) else { return Ok(Vec::new()) };
        let value = json::parse(&bytes(file, span)?)
            .map_err(|broken| Problem { kind: DamageKind::Boxes, ..broken.into() })?;
        let boxes = value.get(key).map_or_else(|| Ok(Vec::new()), boxes::from_json);
        boxes.map_err(|reason| Problem { kind: DamageKind::Boxes, reason })
    }

    /// Returns the captions of a sample. Warnings call the sample `name`.
    fn captions(&self, file: &File, members: &Members, name: &str) -> Result<Vec<String>, Problem> {
        let wanted = self.caption.as_deref();
        let json = match members.json.filter(|_| wanted != Some("txt")) {
            Some(span) => Some(json::parse(&bytes(file, span)?).map_err(Problem::from)),
            None => None,
        };
        let under = |key: &str| {
            let Some(Ok(value)) = &json else { return None };
            let (mut texts, mut others) = json::texts(value, key);
            let all = texts.len();
            texts.retain(|text| !is_blank(text));
            others += (all - texts.len()) as u64;
            // A sample without any text counts as damaged instead.
            if others > 0 && !texts.is_empty() {
                self.problems.entries(others, key, name);
            }
            Some(texts).filter(|texts| !texts.is_empty())
        };
        if let Some(texts) = under(wanted.unwrap_or("captions")) {
            return Ok(texts);
        }
        if let (Some(span), None | Some("txt")) = (members.txt, wanted) {
            if let Some(Err(problem)) = &json {
                self.problems.broken_json(&problem.reason, name);
            }
            let bytes = bytes(file, span)?;
            let caption = text::decode(&bytes)
                .map_err(|e| Problem { kind: DamageKind::NotUtf8, reason: format!(".txt: {e}") })?;
            if !is_blank(caption) {
                return Ok(vec![caption.trim_end_matches(['\r', '\n']).to_string()]);
            }
        }
        if let Some(texts) = under("caption").filter(|_| wanted.is_none()) {
            return Ok(texts);
        }
        let has_txt = members.txt.is_some() && matches!(wanted, None | Some("txt"));
        let reason = match (wanted, json) {
            _ if has_txt => "the .txt file is empty".into(),
            (Some("txt"), _) => "the sample has no .txt file".into(),
            (_, Some(Err(problem))) => return Err(problem),
            (None, None) => "the sample has neither a .txt file nor a .json file".into(),
            (Some(key), None) => format!("the sample has no .json file with `{key}`"),
            (wanted, Some(Ok(value))) => {
                let what = wanted.map_or_else(
                    || "the sample has no .txt file, and no text under `captions` or `caption`".into(),
                    |key| format!("the sample has no text under `{key}`"),
                );
                let keys = json::describe(&value);
                format!("{what}; {keys}: name the key of the captions with `caption = \"KEY\"`")
            }
        };
        Err(Problem { kind: DamageKind::NoCaption, reason })
    }
}

/// Whether a caption is empty or white space.
fn is_blank(caption: &str) -> bool {
    caption.trim().is_empty()
}

/// The reason why a sample is damaged.
struct Problem {
    kind: DamageKind,
    reason: String,
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        Problem { kind: DamageKind::Unreadable, reason: error.to_string() }
    }
}

impl From<json::Broken> for Problem {
    fn from(broken: json::Broken) -> Self {
        match broken {
            json::Broken::Encoding(problem) => {
                Problem { kind: DamageKind::NotUtf8, reason: format!(".json: {problem}") }
            }
            json::Broken::Syntax(reason) => {
                Problem { kind: DamageKind::NoCaption, reason: format!(".json: {reason}") }
            }
        }
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
        let damaged = |kind, reason: String| Error::Sample { key: key.clone(), kind, reason };
        let image = members
            .image
            .ok_or_else(|| damaged(DamageKind::NoImage, "the sample has no image file".into()))?;
        // Open the file for each sample: data sets have more shards than a process may hold open, and in a shuffled
        // order the next sample is usually in another shard.
        let file = File::open(path).map_err(|e| damaged(DamageKind::Unreadable, e.to_string()))?;
        let broken = |problem: Problem| damaged(problem.kind, problem.reason);
        let captions = self.captions(&file, members, &key).map_err(broken)?;
        let boxes = self.boxes(&file, members).map_err(broken)?;
        let bytes = bytes(&file, image).map_err(|e| damaged(DamageKind::Unreadable, e.to_string()))?;
        Ok(RawSample::new(key, RawImage::Encoded(bytes)).with_captions(captions).with_boxes(boxes))
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
