//! WebDataset: tar shards whose files with one name and several endings are one sample.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::boxes;
use crate::sample::{RawImage, RawSample};
use crate::sources::paths::{expand_braces, resolve};
use crate::sources::shard::{Index, Members, Span};
use crate::sources::{Damage, Source};
use crate::{Error, Result};

/// Settings of [`WebDataset`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebDatasetConfig {
    /// Path or brace pattern, such as `cc12m/{00000..01242}.tar`; several separated by `::`.
    pub shards: String,
    /// Where captions are: `txt`, or a key of the `.json` file whose value is a text or a list of
    /// texts. Left out: `captions` of the `.json` file if it has them, else the `.txt` file.
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
    damage: Option<Damage>,
}

impl WebDataset {
    /// Indexes the shards: only the headers of the tars are read.
    ///
    /// A shard that is broken gives the samples before that; [`Source::damage`] says what is lost.
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
        let damage = Damage::estimate(&indexed);
        let (mut shards, mut samples) = (Vec::new(), Vec::new());
        for (number, (path, index)) in indexed.into_iter().enumerate() {
            shards.push(path);
            samples.extend(index.samples.into_iter().map(|members| (number, members)));
        }
        let (name, caption, boxes) = (config.shards.clone(), config.caption.clone(), config.boxes.clone());
        Ok(WebDataset { name, caption, boxes, shards, samples, damage })
    }

    fn boxes(&self, file: &File, members: &Members) -> std::result::Result<Vec<[f32; 4]>, String> {
        let (Some(key), Some(span)) = (&self.boxes, members.json) else { return Ok(Vec::new()) };
        let bytes = bytes(file, span).map_err(|e| e.to_string())?;
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| format!("json: {e}"))?;
        value.get(key).map_or_else(|| Ok(Vec::new()), boxes::from_json)
    }

    fn captions(&self, file: &File, members: &Members) -> std::result::Result<Vec<String>, String> {
        let text = |span| bytes(file, span).map_err(|e| e.to_string());
        let wanted = self.caption.as_deref();
        if let (Some(span), true) = (members.json, wanted != Some("txt")) {
            let value: serde_json::Value =
                serde_json::from_slice(&text(span)?).map_err(|e| format!("json: {e}"))?;
            let found = match value.get(wanted.unwrap_or("captions")) {
                Some(serde_json::Value::String(caption)) => vec![caption.clone()],
                Some(serde_json::Value::Array(list)) => {
                    list.iter().filter_map(|c| c.as_str().map(str::to_string)).collect()
                }
                _ => Vec::new(),
            };
            if !found.is_empty() {
                return Ok(found);
            }
        }
        match (members.txt, wanted) {
            (Some(span), None | Some("txt")) => {
                Ok(vec![String::from_utf8_lossy(&text(span)?).trim_end_matches(['\r', '\n']).to_string()])
            }
            (_, Some(key)) => Err(format!("there is no caption under `{key}`")),
            (None, None) => Err("there is neither a .txt file nor `captions` in a .json file".into()),
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
        let captions = self.captions(&file, members).map_err(|reason| damaged("no caption", reason))?;
        let boxes = self.boxes(&file, members).map_err(|reason| damaged("boxes", reason))?;
        let bytes = bytes(&file, image).map_err(|e| damaged("unreadable", e.to_string()))?;
        Ok(RawSample { image: RawImage::Encoded(bytes), captions, label: None, boxes, key })
    }

    fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }
}

fn bytes(file: &File, (offset, length): Span) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}
