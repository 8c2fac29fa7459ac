//! The official binary archives of CIFAR-10 and CIFAR-100, packed or unpacked.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::FileFormat;
use crate::image::RgbImage;
use crate::sample::{RawImage, RawSample};
use crate::sources::paths::resolve;
use crate::sources::{Source, Split};
use crate::{Error, Result, text};

const SIDE: usize = 32;
const PIXELS: usize = SIDE * SIDE;

/// Settings of [`Cifar`].
///
/// ```
/// use data_pipeline::sources::{CifarConfig, Split};
/// let config = CifarConfig::new("cifar-100-binary").with_split(Split::Test);
/// assert_eq!(config.split, Split::Test);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CifarConfig {
    /// Unpacked folder of the binary version (`cifar-10-batches-bin`, `cifar-100-binary`), or its `.tar.gz` archive.
    pub path: PathBuf,
    /// Training or test split.
    #[serde(default)]
    pub split: Split,
    /// Classes of CIFAR-100; `cifar10` ignores this setting.
    #[serde(default)]
    pub labels: CifarLabels,
    /// Caption templates, with `{}` for the class name.
    #[serde(default = "super::default_templates")]
    pub templates: Vec<String>,
}

impl CifarConfig {
    /// Creates settings for the training split at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        CifarConfig {
            path: path.into(),
            split: Split::default(),
            labels: CifarLabels::default(),
            templates: super::default_templates(),
        }
    }

    /// Sets the split.
    #[must_use]
    pub fn with_split(mut self, split: Split) -> Self {
        self.split = split;
        self
    }

    /// Sets the labels of CIFAR-100.
    #[must_use]
    pub fn with_labels(mut self, labels: CifarLabels) -> Self {
        self.labels = labels;
        self
    }

    /// Sets the caption templates.
    #[must_use]
    pub fn with_templates(mut self, templates: Vec<String>) -> Self {
        self.templates = templates;
        self
    }
}

/// Labels of CIFAR-100. CIFAR-10 has one kind of labels and ignores this setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum CifarLabels {
    /// The 100 classes.
    #[default]
    Fine,
    /// The 20 superclasses.
    Coarse,
}

/// All images of a split, in memory (at most 184 MB).
pub struct Cifar {
    name: String,
    records: Vec<u8>,
    /// Number of label bytes before the pixels of each record.
    label_bytes: usize,
    /// Position of the label among them.
    label_at: usize,
    class_names: Vec<String>,
    templates: Vec<String>,
}

impl Cifar {
    /// Opens CIFAR-10: records of one label and 3,072 pixel bytes.
    ///
    /// # Errors
    /// [`Error::Io`] if the archive is missing, [`Error::Format`] if it is truncated or not CIFAR-10's.
    pub fn open_10(config: &CifarConfig, base: impl AsRef<Path>) -> Result<Self> {
        let files: &[&str] = match config.split {
            Split::Train => &[
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
            ],
            Split::Test => &["test_batch.bin"],
        };
        Self::open(config, base.as_ref(), files, "batches.meta.txt", 1, 0)
    }

    /// Opens CIFAR-100: records of a coarse and a fine label and 3,072 pixel bytes.
    ///
    /// # Errors
    /// The errors of [`Cifar::open_10`].
    pub fn open_100(config: &CifarConfig, base: impl AsRef<Path>) -> Result<Self> {
        let file = match config.split {
            Split::Train => "train.bin",
            Split::Test => "test.bin",
        };
        let (names, label_at) = match config.labels {
            CifarLabels::Fine => ("fine_label_names.txt", 1),
            CifarLabels::Coarse => ("coarse_label_names.txt", 0),
        };
        Self::open(config, base.as_ref(), &[file], names, 2, label_at)
    }

    fn open(
        config: &CifarConfig,
        base: &Path,
        files: &[&str],
        names: &str,
        label_bytes: usize,
        label_at: usize,
    ) -> Result<Self> {
        let path = resolve(base, &config.path);
        if is_python_version(&path) {
            let reason = "it is the Python version: download the binary version (`cifar-10-binary.tar.gz`, `cifar-100-binary.tar.gz`)";
            return Err(Error::Format { path, format: FileFormat::Cifar, reason: reason.into() });
        }
        let wanted = [files, &[names]].concat();
        let mut found =
            if path.is_dir() { from_folder(&path, &wanted)? } else { from_archive(&path, &wanted)? };
        let format = |reason: String| Error::Format { path: path.clone(), format: FileFormat::Cifar, reason };
        let name_list = found.pop().unwrap_or_default();
        let list = text::decode(&name_list).map_err(|e| format(format!("`{names}`: {e}")))?;
        let class_names = list
            .lines()
            .map(|line| line.trim().replace('_', " "))
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>();
        let record = label_bytes + 3 * PIXELS;
        for (file, bytes) in files.iter().zip(&found) {
            if bytes.is_empty() || bytes.len() % record != 0 {
                return Err(format(format!(
                    "`{file}` has {} bytes, not a multiple of {record}: unpack it again",
                    bytes.len()
                )));
            }
        }
        let records = found.concat();
        if let Some(label) =
            records.chunks_exact(record).map(|r| r[label_at]).find(|l| usize::from(*l) >= class_names.len())
        {
            return Err(format(format!(
                "a label is {label}, but `{names}` names {} classes",
                class_names.len()
            )));
        }
        let templates = config.templates.clone();
        Ok(Cifar { name: path.display().to_string(), records, label_bytes, label_at, class_names, templates })
    }

    fn record(&self, index: usize) -> &[u8] {
        let length = self.label_bytes + 3 * PIXELS;
        &self.records[index * length..][..length]
    }
}

impl Source for Cifar {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.records.len() / (self.label_bytes + 3 * PIXELS)
    }

    fn read(&self, index: usize, _draw: u64) -> Result<RawSample> {
        let record = self.record(index);
        let label = usize::from(record[self.label_at]);
        let planes = &record[self.label_bytes..];
        // Interleaves the red, green and blue planes.
        let pixels =
            (0..PIXELS).flat_map(|i| [planes[i], planes[PIXELS + i], planes[2 * PIXELS + i]]).collect();
        let image = RawImage::Rgb(RgbImage { width: SIDE, height: SIDE, pixels });
        Ok(RawSample::new(format!("{}:{index}", self.name), image)
            .with_captions(self.templates.iter().map(|t| t.replace("{}", &self.class_names[label])))
            .with_label(label))
    }

    fn class_names(&self) -> Option<&[String]> {
        Some(&self.class_names)
    }
}

/// Whether a folder or archive holds the version for Python: pickles without an extension.
fn is_python_version(path: &Path) -> bool {
    const PICKLES: [&str; 5] = ["batches.meta", "data_batch_1", "test_batch", "meta", "train"];
    if path.is_dir() {
        let has = |name: &&str| path.join(name).is_file();
        return PICKLES.iter().filter(|name| has(name)).count() >= 2;
    }
    let Ok(file) = std::fs::File::open(path) else { return false };
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::io::BufReader::new(file)));
    // A damaged archive is reported when it is read.
    let Ok(entries) = archive.entries() else { return false };
    let names = entries
        .map_while(std::result::Result::ok)
        .filter_map(|entry| Some(entry.path().ok()?.file_name()?.to_str()?.to_string()));
    let is_binary = |name: &String| name.ends_with(".bin");
    names.take_while(|name| !is_binary(name)).any(|name| PICKLES.contains(&name.as_str()))
}

fn from_folder(folder: &Path, wanted: &[&str]) -> Result<Vec<Vec<u8>>> {
    wanted.iter().map(|name| super::paths::read_to_end(&folder.join(name))).collect()
}

fn from_archive(path: &Path, wanted: &[&str]) -> Result<Vec<Vec<u8>>> {
    let format = |reason: String| Error::Format { path: path.into(), format: FileFormat::Cifar, reason };
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::io::BufReader::new(file)));
    let mut found = vec![None; wanted.len()];
    for entry in archive.entries().map_err(|e| format(e.to_string()))? {
        let mut entry = entry.map_err(|e| format(e.to_string()))?;
        let name =
            entry.path().map_err(|e| format(e.to_string()))?.file_name().unwrap_or_default().to_os_string();
        if let Some(slot) = wanted.iter().position(|w| name == *w) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(|e| format(e.to_string()))?;
            found[slot] = Some(bytes);
        }
    }
    let missing = |name: &&str| format(format!("it lacks `{name}`"));
    wanted.iter().zip(found).map(|(name, bytes)| bytes.ok_or_else(|| missing(name))).collect()
}
