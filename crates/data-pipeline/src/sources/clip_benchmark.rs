//! CLIP_benchmark's data sets: tar shards of images with a class (`.cls`) or captions (`.txt`), class names and prompt
//! templates, from a folder or the Hugging Face hub.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::FileFormat;
use crate::sample::{RawImage, RawSample};
use crate::sources::classes::{self, CLASS_NAMES};
use crate::sources::group::Members;
use crate::sources::paths::resolve;
use crate::sources::shard::{Index, Span};
use crate::sources::skipped::SkippedItems;
use crate::sources::webdataset::{TARS, bytes};
use crate::sources::{CorruptShards, Source};
use crate::{DamageKind, Error, Result, notice, text};

/// Prompt templates with `{c}` for the class name, one per line.
const TEMPLATES: &str = "zeroshot_classification_templates.txt";
/// The task: `retrieval`, `multilabel`, or a missing file for classification.
const DATASET_TYPE: &str = "dataset_type.txt";
/// Number of shards of a split.
const SHARD_COUNT: &str = "nshards.txt";

/// Settings of [`ClipBenchmark`].
///
/// ```
/// use data_pipeline::sources::ClipBenchmarkConfig;
/// let config = ClipBenchmarkConfig::new("hf-hub:datasets/clip-benchmark/wds_vtab-cifar100");
/// assert_eq!(config.split, "test");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ClipBenchmarkConfig {
    /// Folder of the data set with `classnames.txt` and a folder per split; a folder of shards; tar files, as in a
    /// `webdataset`; or `hf-hub:datasets/OWNER/NAME[@REVISION]`, which is downloaded into the Hugging Face cache.
    pub path: String,
    /// Name of the split, which is the folder of its shards.
    #[serde(default = "test")]
    pub split: String,
}

fn test() -> String {
    "test".into()
}

impl ClipBenchmarkConfig {
    /// Creates settings for the test split.
    pub fn new(path: impl Into<String>) -> Self {
        ClipBenchmarkConfig { path: path.into(), split: test() }
    }

    /// Sets the split.
    #[must_use]
    pub fn with_split(mut self, split: impl Into<String>) -> Self {
        self.split = split.into();
        self
    }
}

/// A split of a data set of CLIP_benchmark. Opening it reads the classes; images are read on demand.
pub struct ClipBenchmark {
    name: String,
    shards: Vec<PathBuf>,
    samples: Vec<Entry>,
    /// Class names, in the order of the labels.
    class_names: Option<Vec<String>>,
    class_count: Option<usize>,
    templates: Option<Vec<String>>,
    corrupt_shards: Option<CorruptShards>,
}

/// A sample, the number of its shard, and its class or the problem of its class.
struct Entry {
    shard: usize,
    members: Members<Span>,
    label: Option<Result<usize, String>>,
}

impl ClipBenchmark {
    /// Opens a split; a relative path starts at `base`. A data set of the hub is downloaded if it is not cached.
    ///
    /// # Errors
    /// [`Error::Io`] if a file is missing; [`Error::Format`] if the number of shards, a class name or a label is invalid;
    /// [`Error::Setting`] if the split does not exist; [`Error::Hub`] and [`Error::Download`] if a data set of the hub is
    /// unavailable.
    pub fn open(config: &ClipBenchmarkConfig, base: impl AsRef<Path>) -> Result<Self> {
        let split = Path::new(&config.split);
        if split.components().count() != 1
            || !split.components().all(|c| matches!(c, std::path::Component::Normal(_)))
        {
            let reason = format!("the split `{}` is not the name of a folder, such as `test`", config.split);
            return Err(Error::setting("split", reason));
        }
        let place = match fetch(config)? {
            Some(folder) => Place::in_folder(&folder, config)?,
            None => Place::find(config, base.as_ref())?,
        };
        let retrieval = place.is_retrieval()?;
        let mut indexed = Vec::new();
        for path in place.shards {
            let index = Index::read(&path, "txt")?;
            indexed.push((path, index));
        }
        let corrupt_shards = CorruptShards::estimate(&indexed);
        let (mut shards, mut samples, mut skipped) = (Vec::new(), Vec::new(), SkippedItems::default());
        for (number, (path, index)) in indexed.into_iter().enumerate() {
            let file = File::open(&path).map_err(|e| Error::io(&path, e))?;
            for members in index.samples {
                let label = members.cls.map(|span| label(&bytes(&file, span).map_err(|e| e.to_string())?));
                samples.push(Entry { shard: number, members, label });
            }
            skipped.extend(index.skipped);
            shards.push(path);
        }
        if !skipped.is_empty() {
            notice::warn_once(&format!(
                "`{}`: left out members that belong to no sample: {skipped}; a sample is an image with a .cls or .txt file",
                config.path
            ));
        }
        let has_labels = samples.iter().any(|sample| sample.label.is_some());
        let largest = samples.iter().filter_map(|sample| sample.label.as_ref()?.as_ref().ok()).max().copied();
        let (mut class_names, mut class_count, mut templates) = (None, None, None);
        if !retrieval.unwrap_or(!has_labels) {
            class_names =
                place.folders.iter().find_map(|folder| class_names_of(folder).transpose()).transpose()?;
            templates =
                place.folders.iter().find_map(|folder| templates_of(folder).transpose()).transpose()?;
            class_count =
                Some(class_names.as_ref().map_or_else(|| largest.map_or(0, |label| label + 1), Vec::len));
            if let (Some(names), Some(label)) =
                (&class_names, largest.filter(|label| Some(*label) >= class_count))
            {
                let reason = format!(
                    "a sample has the class {label}, but there are only {} names: add the missing ones",
                    names.len()
                );
                let path = place.folders[0].join(CLASS_NAMES);
                return Err(Error::Format { path, format: FileFormat::ClipBenchmark, reason });
            }
            // Without its class, a sample of a classification set is damaged.
            for sample in samples.iter_mut().filter(|sample| sample.label.is_none()) {
                sample.label = Some(Err("the sample has no .cls file".into()));
            }
        } else {
            samples.iter_mut().for_each(|sample| sample.label = None);
        }
        let name = config.path.clone();
        Ok(ClipBenchmark { name, shards, samples, class_names, class_count, templates, corrupt_shards })
    }

    /// Whether a folder is a data set of CLIP_benchmark, by the files that it contains.
    pub fn is_here(folder: impl AsRef<Path>) -> bool {
        let folder = folder.as_ref();
        let has = |file: &str| folder.join(file).is_file();
        let in_split =
            |file: &str| ["test", "train"].iter().any(|split| folder.join(split).join(file).is_file());
        [SHARD_COUNT, TEMPLATES, DATASET_TYPE].into_iter().any(has)
            || in_split(SHARD_COUNT)
            || in_split("0.tar")
    }
}

/// The shards of a split, and the folders that may contain class names and templates.
struct Place {
    shards: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

impl Place {
    /// Finds the shards of a path on disk.
    fn find(config: &ClipBenchmarkConfig, base: &Path) -> Result<Self> {
        let path = resolve(base, &config.path);
        if path.is_dir() {
            return Self::in_folder(&path, config);
        }
        let shards = TARS.find(base, &config.path)?;
        let folder = shards.first().and_then(|shard| shard.parent()).unwrap_or(base);
        let folders = [Some(folder), folder.parent()].into_iter().flatten().map(Path::to_path_buf).collect();
        Ok(Place { shards, folders })
    }

    /// Finds the shards of a data set's folder, or of a folder of shards.
    fn in_folder(folder: &Path, config: &ClipBenchmarkConfig) -> Result<Self> {
        let split = folder.join(&config.split);
        if split.is_dir() {
            let shards = present_shards(&split)?;
            if shards.is_empty() {
                let reason = format!(
                    "the split `{}` of `{}` has no tar file: download its shards into `{}`",
                    config.split,
                    config.path,
                    split.display()
                );
                return Err(Error::setting("split", reason));
            }
            return Ok(Place { shards, folders: vec![folder.into()] });
        }
        let shards = present_shards(folder)?;
        if shards.is_empty() {
            let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?.flatten();
            let mut splits = entries
                .filter(|entry| shards_in(&entry.path()).is_ok_and(|shards| !shards.is_empty()))
                .map(|entry| format!("`{}`", entry.file_name().display()))
                .collect::<Vec<_>>();
            splits.sort();
            let found = match splits.is_empty() {
                true => "it has no folder with tar files".to_string(),
                false => format!("it has {}", splits.join(", ")),
            };
            let reason = format!("`{}` has no split `{}`: {found}", config.path, config.split);
            return Err(Error::setting("split", reason));
        }
        let parent = folder.parent().map(Path::to_path_buf);
        Ok(Place { shards, folders: std::iter::once(folder.to_path_buf()).chain(parent).collect() })
    }

    /// Whether `dataset_type.txt` declares captions instead of classes; `None` without this file.
    fn is_retrieval(&self) -> Result<Option<bool>> {
        for path in self.folders.iter().map(|folder| folder.join(DATASET_TYPE)) {
            if !path.is_file() {
                continue;
            }
            return match text::read(&path)?.trim().to_ascii_lowercase().as_str() {
                "retrieval" => Ok(Some(true)),
                "classification" => Ok(Some(false)),
                other => {
                    let reason = match other {
                        "multilabel" => {
                            "images with several classes (multilabel) are not supported: choose another data set".to_string()
                        }
                        other => {
                            format!("`{}` is neither classification nor retrieval", other.escape_debug())
                        }
                    };
                    Err(Error::Format { path, format: FileFormat::ClipBenchmark, reason })
                }
            };
        }
        Ok(None)
    }
}

/// Lists the shards of a folder: those that `nshards.txt` counts, or all tar files by number.
fn shards_in(folder: &Path) -> Result<Vec<PathBuf>> {
    if folder.join(SHARD_COUNT).is_file() {
        return Ok((0..shard_count(folder)?).map(|number| folder.join(format!("{number}.tar"))).collect());
    }
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut shards = entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    shards.retain(|path| path.extension().is_some_and(|ending| ending == "tar"));
    let number = |path: &PathBuf| path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
    shards.sort_by_key(|path| (number(path), path.clone()));
    Ok(shards)
}

/// Lists the shards of a folder like [`shards_in`], and checks that they exist.
fn present_shards(folder: &Path) -> Result<Vec<PathBuf>> {
    let shards = shards_in(folder)?;
    let missing = shards.iter().filter(|path| !path.is_file()).collect::<Vec<_>>();
    let Some(first) = missing.first() else { return Ok(shards) };
    let reason = format!(
        "it counts {} shards, but {} of them are missing, the first one is `{}`: download them, or correct the number",
        shards.len(),
        missing.len(),
        first.display()
    );
    Err(Error::Format { path: folder.join(SHARD_COUNT), format: FileFormat::ClipBenchmark, reason })
}

/// Reads `nshards.txt`.
fn shard_count(folder: &Path) -> Result<usize> {
    /// Larger numbers are errors of the file.
    const MAX_SHARDS: usize = 1_000_000;
    let path = folder.join(SHARD_COUNT);
    let text = text::read(&path)?;
    match text.trim().parse::<usize>() {
        Ok(count) if (1..=MAX_SHARDS).contains(&count) => Ok(count),
        _ => {
            let reason = format!("`{}` is not a number of shards (1 or more)", text.trim().escape_debug());
            Err(Error::Format { path, format: FileFormat::ClipBenchmark, reason })
        }
    }
}

/// Reads the class names of a data set, if it has any.
fn class_names_of(folder: &Path) -> Result<Option<Vec<String>>> {
    let path = folder.join(CLASS_NAMES);
    path.is_file().then(|| classes::read_names(&path)).transpose()
}

/// Reads the prompt templates of a data set, if it has any. `{c}` becomes `{}`.
fn templates_of(folder: &Path) -> Result<Option<Vec<String>>> {
    let path = folder.join(TEMPLATES);
    if !path.is_file() {
        return Ok(None);
    }
    let mut templates = Vec::new();
    for (place, line) in text::read(&path)?.lines().enumerate() {
        let template = line.trim().replace("{c}", "{}");
        if template.is_empty() {
            continue;
        }
        if !template.contains("{}") {
            let reason = format!("line {}: `{template}` has no {{c}} for the class name", place + 1);
            return Err(Error::Format { path, format: FileFormat::ClipBenchmark, reason });
        }
        templates.push(template);
    }
    Ok(Some(templates).filter(|templates| !templates.is_empty()))
}

/// Parses the content of a `.cls` file as a class index.
fn label(content: &[u8]) -> Result<usize, String> {
    let class = classes::parse(content)?;
    usize::try_from(class).map_err(|_| format!("its .cls file contains the class {class}"))
}

/// Downloads a data set of the hub. Returns `None` for a path.
#[cfg(feature = "hub")]
fn fetch(config: &ClipBenchmarkConfig) -> Result<Option<PathBuf>> {
    use crate::hub::{DatasetName, Hub};

    let Some(name) = DatasetName::parse(&config.path)? else { return Ok(None) };
    fetch_from(&Hub::from_env()?, &name, &config.split).map(Some)
}

#[cfg(not(feature = "hub"))]
fn fetch(config: &ClipBenchmarkConfig) -> Result<Option<PathBuf>> {
    match config.path.starts_with("hf-hub:") || config.path.starts_with("hf:") {
        true => Err(Error::MissingFeature { what: "the download of data sets", feature: "hub" }),
        false => Ok(None),
    }
}

/// Downloads the files of a split, and logs the progress.
#[cfg(feature = "hub")]
fn fetch_from(hub: &crate::hub::Hub, name: &crate::hub::DatasetName, split: &str) -> Result<PathBuf> {
    use std::time::{Duration, Instant};

    const INTERVAL: Duration = Duration::from_secs(10);
    let (mut file, mut logged) = (String::new(), Instant::now());
    let folder = format!("{split}/");
    let wants = |name: &str| match name.strip_prefix(&folder) {
        Some(name) => !name.contains('/') && (name.ends_with(".tar") || name == SHARD_COUNT),
        None => [CLASS_NAMES, TEMPLATES, DATASET_TYPE].contains(&name),
    };
    let check = |snapshot: &Path| {
        let folder = snapshot.join(split);
        if !folder.is_dir() {
            return Err(format!("it has no split `{split}`"));
        }
        let shards = shards_in(&folder).map_err(|e| e.to_string())?;
        if shards.is_empty() {
            return Err(format!("its split `{split}` has no tar file"));
        }
        match shards.iter().find(|path| !path.is_file()) {
            Some(path) => {
                let missing = path.file_name().unwrap_or_default().display();
                Err(format!("it lacks `{split}/{missing}`, which `{split}/{SHARD_COUNT}` counts"))
            }
            None => Ok(()),
        }
    };
    hub.fetch_dataset(name, &wants, &check, &mut |progress| {
        let is_new = progress.file != file;
        if is_new || logged.elapsed() >= INTERVAL {
            let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            let total =
                progress.total.map_or_else(String::new, |total| format!(" of {:.0}", mebibytes(total)));
            crate::log_info!("download of {}: {:.0}{total} MiB", progress.file, mebibytes(progress.done));
            (file, logged) = (progress.file.to_string(), Instant::now());
        }
    })
}

impl Source for ClipBenchmark {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.samples.len()
    }

    fn read(&self, index: usize, _draw: u64) -> Result<RawSample> {
        let Entry { shard, members, label } = &self.samples[index];
        let path = &self.shards[*shard];
        let key = format!("{}:{}", path.display(), members.key);
        let damaged = |kind, reason: String| Error::Sample { key: key.clone(), kind, reason };
        let image = members
            .image
            .ok_or_else(|| damaged(DamageKind::NoImage, "the sample has no image file".into()))?;
        let unreadable = |e: std::io::Error| damaged(DamageKind::Unreadable, e.to_string());
        let file = File::open(path).map_err(unreadable)?;
        let (label, captions) = match label {
            Some(Ok(label)) => (Some(*label), self.class_captions(*label)),
            Some(Err(reason)) => return Err(damaged(DamageKind::NoLabel, reason.clone())),
            None => {
                let text = members
                    .txt
                    .ok_or_else(|| damaged(DamageKind::NoCaption, "the sample has no .txt file".into()))?;
                let text = bytes(&file, text).map_err(unreadable)?;
                let text =
                    text::decode(&text).map_err(|e| damaged(DamageKind::NotUtf8, format!(".txt: {e}")))?;
                let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
                (None, lines.map(str::to_string).collect::<Vec<_>>())
            }
        };
        if label.is_none() && captions.is_empty() {
            return Err(damaged(DamageKind::NoCaption, "the .txt file is empty".into()));
        }
        let image = RawImage::Encoded(bytes(&file, image).map_err(unreadable)?);
        let sample = RawSample::new(key, image).with_captions(captions);
        Ok(match label {
            Some(label) => sample.with_label(label),
            None => sample,
        })
    }

    fn class_names(&self) -> Option<&[String]> {
        self.class_names.as_deref()
    }

    fn class_count(&self) -> Option<usize> {
        self.class_count
    }

    fn templates(&self) -> Option<&[String]> {
        self.templates.as_deref()
    }

    fn corrupt_shards(&self) -> Option<&CorruptShards> {
        self.corrupt_shards.as_ref()
    }
}

impl ClipBenchmark {
    /// Returns the captions of a class: its name in each template.
    fn class_captions(&self, label: usize) -> Vec<String> {
        let Some(name) = self.class_names.as_ref().and_then(|names| names.get(label)) else {
            return Vec::new();
        };
        match &self.templates {
            Some(templates) => templates.iter().map(|template| template.replace("{}", name)).collect(),
            None => super::default_templates().iter().map(|template| template.replace("{}", name)).collect(),
        }
    }
}
