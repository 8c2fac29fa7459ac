//! JSON lists and JSON lines of samples, each an object with an image path and one or several captions; and COCO's
//! captions.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::FileFormat;
use crate::sample::RawSample;
use crate::sources::captions::{Problem, is_blank};
use crate::sources::coco;
use crate::sources::file_kind::{is_image, refuse_binary};
use crate::sources::pairs::{CAPTIONS, IMAGES, Pair, PairFile, Pairs, find_column};
use crate::sources::paths::Paths;
use crate::sources::{IN_FILE, Source, json};
use crate::{DamageKind, Error, Result, notice, text};

const IMAGE: &str = "image";
const CAPTION: &str = "caption";

/// Settings of [`Records`].
///
/// ```
/// use data_pipeline::sources::RecordsConfig;
/// let config = RecordsConfig::new("metadata.jsonl").with_image("file_name").with_caption("text");
/// assert_eq!(config.caption, "text");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RecordsConfig {
    /// JSON file with a list of objects, JSON lines with one object per line, or COCO's captions; or a list of such files.
    pub path: Paths,
    /// Folder of the images, or a list with one folder for each file. Default: the folder of each file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Paths>,
    /// Key of the image path. If the objects lack the default key, another common name such as `file_name` is used and
    /// logged.
    #[serde(default = "default_image_key")]
    pub image: String,
    /// Key of the caption, a text or a list of texts. If the objects lack the default key, another common name such as
    /// `text` is used and logged.
    #[serde(default = "default_caption_key")]
    pub caption: String,
    /// Join the captions of objects with the same image into one sample, for retrieval with several captions per image.
    #[cfg_attr(feature = "schema", schemars(extend("default" = false)))]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub group_by_image: bool,
}

impl RecordsConfig {
    /// Creates settings for objects with the keys `image` and `caption`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        RecordsConfig {
            path: Paths::One(path.into()),
            root: None,
            image: default_image_key(),
            caption: default_caption_key(),
            group_by_image: false,
        }
    }

    /// Sets several files.
    #[must_use]
    pub fn with_paths(mut self, paths: Vec<PathBuf>) -> Self {
        self.path = Paths::Many(paths);
        self
    }

    /// Sets the folder of the images, or one folder for each file.
    #[must_use]
    pub fn with_root(mut self, root: impl Into<Paths>) -> Self {
        self.root = Some(root.into());
        self
    }

    /// Sets the key of the image path.
    #[must_use]
    pub fn with_image(mut self, key: impl Into<String>) -> Self {
        self.image = key.into();
        self
    }

    /// Sets the key of the captions.
    #[must_use]
    pub fn with_caption(mut self, key: impl Into<String>) -> Self {
        self.caption = key.into();
        self
    }

    /// Sets whether objects with the same image are one sample.
    #[must_use]
    pub fn with_group_by_image(mut self, group: bool) -> Self {
        self.group_by_image = group;
        self
    }
}

fn default_image_key() -> String {
    IMAGE.into()
}

fn default_caption_key() -> String {
    CAPTION.into()
}

/// Samples of JSON files, one per object.
pub struct Records {
    pairs: Pairs,
}

impl Records {
    /// Reads the files. Images are read with their samples.
    ///
    /// An object without an image or a caption is a damaged sample.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read, [`Error::NotUtf8`] if it is not UTF-8, [`Error::Format`] if it is not a
    /// list of objects, or if no object has the keys.
    pub fn open(config: &RecordsConfig, base: impl AsRef<Path>) -> Result<Self> {
        let files = PairFile::list(base.as_ref(), &config.path, config.root.as_ref())?;
        let mut pairs = Vec::new();
        for (number, file) in files.iter().enumerate() {
            let format =
                |reason| Error::Format { path: file.path.clone(), format: FileFormat::Records, reason };
            refuse_binary(&file.path).map_err(format)?;
            let text = text::read(&file.path)?;
            let (records, note) = parse(&text, config).map_err(format)?;
            if let Some(note) = note {
                notice::warn_once(&format!("`{}`: {note}", file.path.display()));
            }
            let keys = Keys::find(config, &records).map_err(format)?;
            if keys.image != config.image || keys.caption != config.caption {
                let (path, Keys { image, caption }) = (file.path.display(), &keys);
                notice::info_once(&format!(
                    "`{path}`: inferred image = \"{image}\", caption = \"{caption}\""
                ));
            }
            let mut dropped = 0;
            for (row, record) in records.iter().enumerate() {
                let (pair, others) = keys.pair(number as u32, row + 1, record);
                pairs.push(pair);
                dropped += others;
            }
            if dropped > 0 {
                let (path, key) = (file.path.display(), &keys.caption);
                notice::warn_once(&format!(
                    "`{path}`: left out {dropped} entries of `{key}` that are empty or not texts"
                ));
            }
        }
        Ok(Records { pairs: Pairs::new(files, pairs, config.group_by_image) })
    }
}

impl Source for Records {
    fn name(&self) -> &str {
        &self.pairs.name
    }

    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn read(&self, index: usize, _draw: u64) -> Result<RawSample> {
        self.pairs.read(index)
    }
}

/// Parses a list of objects, one object per line, or COCO's captions. Also returns a warning, if any.
fn parse(text: &str, config: &RecordsConfig) -> Result<(Vec<Value>, Option<String>), String> {
    let syntax = |broken| match broken {
        json::Broken::Encoding(problem) => problem.to_string(),
        json::Broken::Syntax(reason) => reason,
    };
    let trimmed = text.trim_start();
    if trimmed.is_empty() {
        return Err("the file is empty".into());
    }
    if trimmed.starts_with('[') {
        return match json::parse(text.as_bytes()).map_err(syntax)? {
            Value::Array(records) => Ok((records, None)),
            _ => Err("it is not a list".into()),
        };
    }
    let object = |object: &Value| match coco::captions(object, &config.image, &config.caption) {
        Some(found) => found,
        None => Err(not_a_list(object)),
    };
    if !trimmed.starts_with('{') {
        return Err("it is neither a JSON list `[...]` nor JSON lines `{...}`".into());
    }
    let mut records = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match json::parse(line.as_bytes()) {
            Ok(record) => records.push(record),
            // The whole file may be one object, such as COCO's annotations.
            Err(broken) => match json::parse(text.as_bytes()) {
                Ok(whole) => return object(&whole),
                Err(_) => return Err(in_line(number + 1, &syntax(broken))),
            },
        }
    }
    match &records[..] {
        // One line with one sample has texts, and texts in its lists.
        [Value::Object(keys)] if keys.values().any(|value| value.get(0).is_some_and(Value::is_object)) => {
            object(&records[0])
        }
        [Value::Object(keys)] if by_column(keys) || by_path(keys) => Err(not_a_list(&records[0])),
        _ => Ok((records, None)),
    }
}

/// Adds the line to an error of serde_json, which states the place within the line.
fn in_line(line: usize, reason: &str) -> String {
    match reason.rsplit_once(" at line 1 column ") {
        Some((reason, column)) => format!("line {line}, column {column}: {reason}"),
        None => format!("line {line}: {reason}"),
    }
}

/// Whether an object holds the images of all samples under one key, as pandas' `to_json` writes them.
fn by_column(object: &serde_json::Map<String, Value>) -> bool {
    IMAGES.iter().filter_map(|key| object.get(*key)).any(|value| value.is_array() || value.is_object())
}

/// Whether the keys of an object are image paths.
fn by_path(object: &serde_json::Map<String, Value>) -> bool {
    !object.is_empty() && object.keys().all(|key| is_image(key))
}

fn not_a_list(object: &Value) -> String {
    let keys = json::describe(object).replace("the .json file", "it");
    let karpathy = object
        .get("images")
        .and_then(|images| images.get(0))
        .is_some_and(|image| image.get("sentences").is_some());
    let list = object.as_object().and_then(|object| {
        let is_list = |value: &Value| value.get(0).is_some_and(Value::is_object);
        object.iter().find(|(_, value)| is_list(value)).map(|(key, _)| key)
    });
    let hint = match (object.as_object(), list) {
        _ if karpathy => format!(": read it with `source = \"karpathy\"` {IN_FILE}"),
        (Some(keys), _) if by_column(keys) => {
            ": it is stored by column; write one object per sample, in pandas with `to_json(FILE, orient=\"records\")`".into()
        }
        (Some(keys), _) if by_path(keys) => {
            ": write a list of objects such as `{\"image\": \"a.jpg\", \"caption\": \"a dog\"}`".into()
        }
        (_, Some(key)) => format!(": write the list under `{}` as a file of its own", key.escape_debug()),
        _ => String::new(),
    };
    format!("it is one object, not a list of samples; {keys}{hint}")
}

/// The keys of image and caption.
struct Keys {
    image: String,
    caption: String,
}

impl Keys {
    /// Finds the keys in the first object.
    fn find(config: &RecordsConfig, records: &[Value]) -> Result<Self, String> {
        let Some(first) = records.first() else {
            return Ok(Keys { image: config.image.clone(), caption: config.caption.clone() });
        };
        let Some(object) = first.as_object() else {
            return Err(
                "its entries are not objects such as `{\"image\": \"a.jpg\", \"caption\": \"a dog\"}`".into(),
            );
        };
        let names = object.keys().map(String::as_str).collect::<Vec<_>>();
        let find = |setting: &str, wanted: &str, default, common: &[&str]| {
            // Only some objects may have the key.
            if records.iter().any(|record| record.get(wanted).is_some()) {
                return Ok(wanted.to_string());
            }
            find_column(&names, wanted, default, common).map(|at| names[at].to_string()).ok_or_else(|| {
                let keys = json::describe(first).replace("the .json file", "the first sample");
                format!("no sample has the key `{wanted}`; {keys}: set `{setting} = \"KEY\"` {IN_FILE}")
            })
        };
        Ok(Keys {
            image: find("image", &config.image, IMAGE, &IMAGES)?,
            caption: find("caption", &config.caption, CAPTION, &CAPTIONS)?,
        })
    }

    /// Returns a sample, and the number of captions that it leaves out. A sample without any caption is damaged instead.
    fn pair(&self, file: u32, row: usize, record: &Value) -> (Pair, u64) {
        let image = record.get(&self.image).and_then(Value::as_str).unwrap_or_default().to_string();
        let (mut captions, mut others) = json::texts(record, &self.caption);
        let texts = captions.len();
        captions.retain(|caption| !is_blank(caption));
        others += (texts - captions.len()) as u64;
        let keys = || json::describe(record).replace("the .json file", "the sample");
        let missing = |kind, key: &str| {
            let what = json::other_value(record, key);
            let what = what.unwrap_or_else(|| format!("the sample has no text under `{key}`"));
            Some(Box::new(Problem::new(kind, format!("{what}; {}", keys()))))
        };
        let problem = match (image.is_empty(), captions.is_empty()) {
            (true, _) => missing(DamageKind::NoImage, &self.image),
            (_, true) => missing(DamageKind::NoCaption, &self.caption),
            _ => None,
        };
        let others = if captions.is_empty() { 0 } else { others };
        (Pair { file, row, image, captions, problem }, others)
    }
}
