//! The crate's error type.

use std::fmt;
use std::path::PathBuf;

use crate::DamageKind;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of reading, decoding, batching, storing or downloading data.
///
/// ```
/// use data_pipeline::{Error, SourceConfig};
/// let config: SourceConfig =
///     serde_json::from_str(r#"{"source": "webdataset", "shards": "missing/{00..09}.tar"}"#)?;
/// match config.open(".").err() {
///     Some(Error::Io { path, source }) if source.kind() == std::io::ErrorKind::NotFound => {
///         assert!(path.ends_with("00.tar"));
///     }
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder that cannot be read or written.
    #[error("cannot access `{path}`")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// An invalid setting.
    #[error("{reason}")]
    Setting {
        /// The setting, such as `workers`.
        name: &'static str,
        /// The problem and a remedy.
        reason: String,
    },
    /// A remote address in place of a local path.
    #[error(
        "`{address}`: {scheme} addresses are not supported yet; download the files and use their local path"
    )]
    Remote {
        /// The address.
        address: String,
        /// Its scheme, such as `https`.
        scheme: String,
    },
    /// A source or format that this build leaves out.
    #[error("{what} is not built in: build data-pipeline with the feature `{feature}`")]
    MissingFeature {
        /// The source or format.
        what: &'static str,
        /// The Cargo feature that adds it.
        feature: &'static str,
    },
    /// A damaged sample.
    #[error("damaged sample `{key}` ({kind}): {reason}")]
    Sample {
        /// Shard or folder, and key.
        key: String,
        /// The kind of damage.
        kind: DamageKind,
        /// The problem.
        reason: String,
    },
    /// A file whose content does not match its format.
    #[error("`{path}` is not a valid {format}: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The expected format.
        format: FileFormat,
        /// The problem, with its line or offset if known.
        reason: String,
    },
    /// A text file that is not UTF-8.
    #[error("`{path}`: {problem}{remedy}")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line and the likely encoding.
        problem: crate::text::NotUtf8,
        /// Another remedy besides converting the file, or an empty text.
        remedy: &'static str,
    },
    /// A source without samples.
    #[error("`{0}` has no samples: check the path, or what the pattern matches")]
    Empty(String),
    /// More damaged samples than the error policy allows.
    #[error(
        "{skipped} of {seen} samples were damaged, more than the policy allows ({max_fraction}): {summary}; repair them, \
         or allow more with `data.damaged = {{ skip = {{ max_fraction = {} }} }}` in a recipe, or --max-damaged in other commands",
        enough(*.skipped as f64 / (*.seen).max(1) as f64)
    )]
    TooManyDamaged {
        /// Damaged samples.
        skipped: u64,
        /// Samples read.
        seen: u64,
        /// Allowed fraction.
        max_fraction: f64,
        /// Counts by kind, with the first few names.
        summary: String,
    },
    /// More damage in the shards of a source than the error policy allows.
    #[error(
        "`{name}`: {summary}; about {:.2} % of the bytes are lost and the policy allows {:.2} %: fetch those shards again, \
         or allow the loss with `data.damaged = {{ skip = {{ max_fraction = {} }} }}` in a recipe, or --max-damaged in other commands",
        100.0 * .lost_fraction,
        100.0 * .max_fraction,
        enough(*.lost_fraction)
    )]
    BrokenShards {
        /// The source.
        name: String,
        /// The first broken shards, with byte and reason.
        summary: String,
        /// Estimated fraction of the bytes that is lost.
        lost_fraction: f64,
        /// Allowed fraction.
        max_fraction: f64,
    },
    /// An epoch without a batch. Later epochs would have none either.
    #[error(
        "epoch {epoch} gave no batch, {skipped} of {seen} samples being damaged: check the data, or take a smaller batch ({summary})"
    )]
    NothingLeft {
        /// The epoch, from 0.
        epoch: u64,
        /// Damaged samples.
        skipped: u64,
        /// Samples read.
        seen: u64,
        /// Counts by kind, with the first few names.
        summary: String,
    },
    /// An array whose size does not match its shape.
    #[error("a batch has the wrong shape")]
    Shape(#[from] ndarray::ShapeError),
    /// A thread of the loader that cannot start or that panicked.
    #[error("{0}")]
    Thread(String),
    /// An unusable store of teacher embeddings.
    #[error("the store `{path}` {reason}")]
    Store {
        /// Its folder, or one of its files.
        path: PathBuf,
        /// The kind of problem.
        problem: StoreProblem,
        /// The problem in words, and the next step.
        reason: String,
    },
    /// A store that another process is writing.
    #[error("the store `{0}` is being written by another process: wait for it")]
    StoreBusy(PathBuf),
    /// A failed download.
    #[error("{}{reason}", failed_download(.url, *.problem))]
    Download {
        /// The address.
        url: String,
        /// The kind of problem.
        problem: DownloadProblem,
        /// The problem in words, and the next step.
        reason: String,
    },
    /// A download that the server refuses.
    #[error("download of `{url}` failed: the server answers {status}")]
    Refused {
        /// The address.
        url: String,
        /// The HTTP status, from 400 to 499.
        status: u16,
    },
    /// An unavailable model or data set of the Hugging Face hub.
    #[error("`{name}`: {reason}")]
    Hub {
        /// Its name.
        name: String,
        /// The kind of problem.
        problem: HubProblem,
        /// The problem in words, and the next step.
        reason: String,
    },
}

/// A file format that a source or tool reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileFormat {
    /// CSV or TSV with images and captions.
    Table,
    /// JSON list or JSON lines with images and captions.
    Records,
    /// Folder of images.
    ImageFolder,
    /// Tar shard of a WebDataset.
    Shard,
    /// Parquet file.
    Parquet,
    /// Names of class folders.
    ClassTable,
    /// List of images with their class folders.
    LabelList,
    /// Annotations with A. Karpathy's splits.
    Karpathy,
    /// Binary archive of CIFAR-10 or CIFAR-100.
    Cifar,
    /// Data set in the layout of CLIP_benchmark.
    ClipBenchmark,
    /// Class list, or prompts of each class.
    Names,
    /// Prompt templates.
    Templates,
    /// List of class names, one per line.
    ClassNames,
    /// Manifest of a data set.
    Manifest,
    /// Gzipped tar.
    TarGz,
    /// Zip.
    Zip,
    /// Index of sharded weights.
    WeightIndex,
    /// `tokenizer.json`.
    Tokenizer,
    /// Settings beside a `tokenizer.json`.
    TokenizerSettings,
}

impl fmt::Display for FileFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileFormat::Table => "table",
            FileFormat::Records => "JSON list of samples",
            FileFormat::ImageFolder => "folder of images",
            FileFormat::Shard => "tar shard",
            FileFormat::Parquet => "Parquet file",
            FileFormat::ClassTable => "class table",
            FileFormat::ClassNames => "list of class names",
            FileFormat::LabelList => "list of labels",
            FileFormat::Karpathy => "Karpathy split",
            FileFormat::Cifar => "CIFAR binary archive",
            FileFormat::ClipBenchmark => "CLIP_benchmark data set",
            FileFormat::Names => "list of names or prompts",
            FileFormat::Templates => "list of prompt templates",
            FileFormat::Manifest => "manifest",
            FileFormat::TarGz => "gzipped tar",
            FileFormat::Zip => "zip",
            FileFormat::WeightIndex => "index of weights",
            FileFormat::Tokenizer => "tokenizer.json",
            FileFormat::TokenizerSettings => "tokenizer settings",
        })
    }
}

/// The kind of problem of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreProblem {
    /// A folder that is not a store.
    Missing,
    /// Shards that are still missing.
    Unfinished,
    /// A damaged manifest or shard.
    Damaged,
    /// A store of other data, teachers or settings.
    Mismatch,
    /// Embeddings of the wrong number, width or length.
    Shape,
    /// A sample, text or teacher that the store lacks.
    Lacking,
}

/// Returns the start of the message of a download; nothing failed if a person must download the files.
fn failed_download(url: &str, problem: DownloadProblem) -> String {
    match problem {
        DownloadProblem::Manual => String::new(),
        _ => format!("download of `{url}` failed: "),
    }
}

/// The kind of problem of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DownloadProblem {
    /// A server that cannot be reached, or a broken connection.
    Network,
    /// A file with an unexpected length or checksum.
    Checksum,
    /// A file that another process downloads.
    Busy,
    /// Files that a person must download because of their terms of use.
    Manual,
    /// A download that lacks an expected file.
    Incomplete,
}

/// The kind of problem of a model or data set on the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HubProblem {
    /// A model, data set or revision that does not exist.
    NotFound,
    /// A gated or private model or data set.
    Restricted,
    /// A model or data set that is not cached while offline mode is on.
    Offline,
    /// An answer of the hub that cannot be used.
    BadAnswer,
    /// A model without weight files.
    NoWeights,
    /// A data set that lacks a file.
    MissingFile,
}

/// Returns the smallest whole percentage above `fraction`, at most 100 %, as a fraction: a limit that allows it.
fn enough(fraction: f64) -> f64 {
    ((fraction * 100.0).floor() + 1.0).min(100.0) / 100.0
}

impl From<file_ext::Error> for Error {
    fn from(error: file_ext::Error) -> Self {
        Error::Io { path: error.path().into(), source: error.into() }
    }
}

impl Error {
    /// Returns an [`Error::Io`] for a path.
    ///
    /// ```
    /// let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
    /// let error = data_pipeline::Error::io("captions.csv", missing);
    /// assert_eq!(error.to_string(), "cannot access `captions.csv`");
    /// ```
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }

    pub(crate) fn setting(name: &'static str, reason: impl Into<String>) -> Self {
        Error::Setting { name, reason: reason.into() }
    }
}
