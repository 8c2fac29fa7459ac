//! WebDataset: tar shards whose files with one name and several endings are one sample.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::boxes;
use crate::sample::{RawImage, RawSample};
use crate::sources::left_out::LeftOut;
use crate::sources::passed_over::PassedOver;
use crate::sources::paths::{expand_braces, resolve};
use crate::sources::shard::{Index, Members, Span};
use crate::sources::{CorruptShards, Source, json};
use crate::{Error, Result, notice, text};

/// Settings of [`WebDataset`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebDatasetConfig {
    /// Path or brace pattern, such as `cc12m/{00000..01242}.tar`; several separated by `::`.
    pub shards: String,
    /// Where captions are: `txt`, or a key of the `.json` file whose value is a text or a list of texts. If unset:
    /// `captions` in the `.json` file if present, else the `.txt` file, else `caption` in the `.json` file
    /// (img2dataset's key).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
    /// Where object boxes are: a key of the `.json` file, whose value is a list of `[x, y, width, height]` in pixels
    /// of the stored image (COCO's form). Left out, none are read; a sample without the key has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boxes: Option<String>,
}

/// Tar shards, indexed once; samples are read where they lie.
pub struct WebDataset {
    name: String,
    caption: Option<String>,
    boxes: Option<String>,
    shards: Vec<PathBuf>,
    /// Samples with the number of their shard.
    samples: Vec<(usize, Members)>,
    damage: Option<CorruptShards>,
    passed_over: PassedOver,
}

impl WebDataset {
    /// Indexes the shards: only the headers of the tars are read.
    ///
    /// A truncated shard yields the samples before the break; [`Source::damage`] reports the loss. A warning counts the
    /// members that belong to no sample.
    ///
    /// # Errors
    /// [`Error::Io`] where a shard is missing, [`Error::Config`] where the pattern is wrong.
    pub fn open(config: &WebDatasetConfig, base: &Path) -> Result<Self> {
        let mut indexed = Vec::new();
        for pattern in config.shards.split("::") {
            for path in expand_braces(pattern)? {
                let path = resolve(base, path);
                let index = Index::read(&path)?;
                indexed.push((path, index));
            }
        }
        let damage = CorruptShards::estimate(&indexed);
        let (mut shards, mut samples, mut left_out) = (Vec::new(), Vec::new(), LeftOut::default());
        for (number, (path, index)) in indexed.into_iter().enumerate() {
            shards.push(path);
            samples.extend(index.samples.into_iter().map(|members| (number, members)));
            left_out.extend(index.left_out);
        }
        let (name, caption, boxes) = (config.shards.clone(), config.caption.clone(), config.boxes.clone());
        if !left_out.is_empty() {
            notice::warn_once(&format!(
                "`{name}`: left out members that belong to no sample: {left_out}; a sample is an image with a .txt or .json file"
            ));
        }
        let passed_over = PassedOver::new(&name);
        Ok(WebDataset { name, caption, boxes, shards, samples, damage, passed_over })
    }

    fn boxes(&self, file: &File, members: &Members) -> Result<Vec<[f32; 4]>, Problem> {
        let (Some(key), Some(span)) = (&self.boxes, members.json) else { return Ok(Vec::new()) };
        let value =
            json::parse(&bytes(file, span)?).map_err(|broken| Problem { kind: "boxes", ..broken.into() })?;
        let boxes = value.get(key).map_or_else(|| Ok(Vec::new()), boxes::from_json);
        boxes.map_err(|reason| Problem { kind: "boxes", reason })
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
            // Without any text the sample is damaged, and counted as such.
            if others > 0 && !texts.is_empty() {
                self.passed_over.entries(others, key, name);
            }
            Some(texts).filter(|texts| !texts.is_empty())
        };
        if let Some(texts) = under(wanted.unwrap_or("captions")) {
            return Ok(texts);
        }
        if let (Some(span), None | Some("txt")) = (members.txt, wanted) {
            if let Some(Err(problem)) = &json {
                self.passed_over.broken_json(&problem.reason, name);
            }
            let bytes = bytes(file, span)?;
            let caption = text::decode(&bytes)
                .map_err(|e| Problem { kind: "not UTF-8", reason: format!(".txt: {e}") })?;
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
            (Some("txt"), _) => "there is no .txt file".into(),
            (_, Some(Err(problem))) => return Err(problem),
            (None, None) => "there is neither a .txt file nor a .json file".into(),
            (Some(key), None) => format!("there is no .json file that has `{key}`"),
            (wanted, Some(Ok(value))) => {
                let what = wanted.map_or_else(
                    || "there is no .txt file, and no text under `captions` or `caption`".into(),
                    |key| format!("there is no text under `{key}`"),
                );
                let keys = json::describe(&value);
                format!("{what}; {keys}: name the key of the captions with `caption = \"KEY\"`")
            }
        };
        Err(Problem { kind: "no caption", reason })
    }
}

/// Whether a caption says nothing.
fn is_blank(caption: &str) -> bool {
    caption.trim().is_empty()
}

/// The reason why a sample is damaged.
struct Problem {
    kind: &'static str,
    reason: String,
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        Problem { kind: "unreadable", reason: error.to_string() }
    }
}

impl From<json::Broken> for Problem {
    fn from(broken: json::Broken) -> Self {
        match broken {
            json::Broken::Encoding(problem) => {
                Problem { kind: "not UTF-8", reason: format!(".json: {problem}") }
            }
            json::Broken::Syntax(reason) => {
                Problem { kind: "no caption", reason: format!(".json: {reason}") }
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
        let (shard, members) = &self.samples[index];
        let path = &self.shards[*shard];
        let key = format!("{}:{}", path.display(), members.key);
        let damaged = |kind, reason: String| Error::Sample { key: key.clone(), kind, reason };
        let image =
            members.image.ok_or_else(|| damaged("no image", "the sample has no image file".into()))?;
        // Opened anew for each sample: data sets have more shards than a process may hold open, and
        // in a shuffled order the next sample is almost always in another one.
        let file = File::open(path).map_err(|e| damaged("unreadable", e.to_string()))?;
        let broken = |problem: Problem| damaged(problem.kind, problem.reason);
        let captions = self.captions(&file, members, &key).map_err(broken)?;
        let boxes = self.boxes(&file, members).map_err(broken)?;
        let bytes = bytes(&file, image).map_err(|e| damaged("unreadable", e.to_string()))?;
        Ok(RawSample { image: RawImage::Encoded(bytes), captions, label: None, boxes, key })
    }

    fn damage(&self) -> Option<&CorruptShards> {
        self.damage.as_ref()
    }
}

fn bytes(file: &File, (offset, length): Span) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}
