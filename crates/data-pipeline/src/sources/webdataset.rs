//! WebDataset: tar shards whose files with one name and several endings are one sample.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::sample::{RawImage, RawSample};
use crate::sources::Source;
use crate::sources::paths::{expand_braces, is_image, resolve};
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
}

/// Tar shards, indexed once; samples are read where they lie.
pub struct WebDataset {
    name: String,
    caption: Option<String>,
    shards: Vec<(PathBuf, File)>,
    entries: Vec<Entry>,
}

/// Offset and length in a shard.
type Span = (u64, u64);

#[derive(Default)]
struct Entry {
    shard: usize,
    key: String,
    image: Option<Span>,
    txt: Option<Span>,
    json: Option<Span>,
    /// What is wrong with the shard from here on.
    damage: Option<String>,
}

impl WebDataset {
    /// Indexes the shards: only the headers of the tars are read.
    ///
    /// A shard that breaks off gives the samples before that, and one that says so when it is read.
    ///
    /// # Errors
    /// [`Error::Io`] where a shard is missing, [`Error::Config`] where the pattern is wrong.
    pub fn open(config: &WebDatasetConfig, base: &Path) -> Result<Self> {
        let mut dataset = WebDataset {
            name: config.shards.clone(),
            caption: config.caption.clone(),
            shards: Vec::new(),
            entries: Vec::new(),
        };
        for pattern in config.shards.split("::") {
            for path in expand_braces(pattern)? {
                let path = resolve(base, path);
                let file = File::open(&path).map_err(|e| Error::io(&path, e))?;
                dataset.index(&path, &file)?;
                dataset.shards.push((path, file));
            }
        }
        Ok(dataset)
    }

    fn index(&mut self, path: &Path, file: &File) -> Result<()> {
        let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
        let shard = self.shards.len();
        let mut archive = tar::Archive::new(file);
        let mut damage = None;
        let mut current = Entry::default();
        match archive.entries_with_seek() {
            Err(e) => damage = Some(e.to_string()),
            Ok(entries) => {
                for entry in entries {
                    let entry = match entry {
                        Ok(entry) => entry,
                        Err(e) => {
                            damage = Some(e.to_string());
                            break;
                        }
                    };
                    if !entry.header().entry_type().is_file() {
                        continue;
                    }
                    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                    let span = (entry.raw_file_position(), entry.size());
                    if span.0.saturating_add(span.1) > length {
                        damage = Some(format!("`{name}` reaches beyond the end of the shard"));
                        break;
                    }
                    let Some((key, ending)) = split_key(&name) else { continue };
                    let image = !ending.contains('.') && is_image(&name);
                    let slot_taken = |entry: &Entry| match ending {
                        "txt" => entry.txt.is_some(),
                        "json" => entry.json.is_some(),
                        _ => image && entry.image.is_some(),
                    };
                    if current.key != key || slot_taken(&current) {
                        self.push(std::mem::take(&mut current));
                        current = Entry { shard, key: key.to_string(), ..Entry::default() };
                    }
                    match ending {
                        "txt" => current.txt = Some(span),
                        "json" => current.json = Some(span),
                        _ if image => current.image = Some(span),
                        _ => {}
                    }
                }
            }
        }
        self.push(current);
        if damage.is_some() {
            self.entries.push(Entry { shard, key: "(rest of the shard)".into(), damage, ..Entry::default() });
        }
        Ok(())
    }

    fn push(&mut self, entry: Entry) {
        if entry.image.is_some() || entry.txt.is_some() || entry.json.is_some() {
            self.entries.push(entry);
        }
    }

    fn bytes(&self, shard: usize, (offset, length): Span) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        self.shards[shard].1.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn captions(&self, entry: &Entry) -> std::result::Result<Vec<String>, String> {
        let text = |span| self.bytes(entry.shard, span).map_err(|e| e.to_string());
        let wanted = self.caption.as_deref();
        if let (Some(span), true) = (entry.json, wanted != Some("txt")) {
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
        match (entry.txt, wanted) {
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
        self.entries.len()
    }

    fn read(&self, index: usize, _draw: u64) -> Result<RawSample> {
        let entry = &self.entries[index];
        let key = format!("{}:{}", self.shards[entry.shard].0.display(), entry.key);
        let damaged = |kind, reason: String| Error::Sample { key: key.clone(), kind, reason };
        if let Some(damage) = &entry.damage {
            return Err(damaged("damaged shard", damage.clone()));
        }
        let image = entry.image.ok_or_else(|| damaged("no image", "the sample has no image file".into()))?;
        let captions = self.captions(entry).map_err(|reason| damaged("no caption", reason))?;
        let bytes = self.bytes(entry.shard, image).map_err(|e| damaged("unreadable", e.to_string()))?;
        Ok(RawSample { image: RawImage::Encoded(bytes), captions, label: None, key })
    }
}

/// Path up to the first dot of the file name, and the ending behind it (`seg.png` is not an image ending).
fn split_key(name: &str) -> Option<(&str, &str)> {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = file + name[file..].find('.')?;
    // Names that start with a dot are leftovers of file systems.
    (dot > file).then_some((&name[..dot], &name[dot + 1..]))
}

/// Reads a whole small file; used by sources that keep tables.
pub(crate) fn read_to_end(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(|e| Error::io(path, e))?;
    Ok(bytes)
}
