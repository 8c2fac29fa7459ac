//! The crate's error type.

use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a file on disk and a batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot access `{path}`")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A setting that cannot work; says which, and what would.
    #[error("{0}")]
    Config(String),
    /// One sample could not be decoded; `key` names it with its shard or folder.
    #[error("damaged sample `{key}` ({kind}): {reason}")]
    Sample {
        /// Shard or folder and key.
        key: String,
        /// A short kind for counting, such as `no caption`.
        kind: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A file whose content is not what its kind says.
    #[error("`{path}` is not a valid {kind}: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What it should have been.
        kind: &'static str,
        /// What is wrong, with line or offset where known.
        reason: String,
    },
    /// A text file that is not UTF-8.
    #[error("`{path}`: {problem}")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line and the likely encoding.
        problem: crate::text::NotUtf8,
    },
    /// A source that holds no sample.
    #[error("`{0}` holds no sample: check the path, or what the pattern matches")]
    Empty(String),
    /// More samples were damaged than the error policy allows.
    #[error(
        "{skipped} of {seen} samples were damaged, more than the policy allows ({max_fraction}): {summary}; repair them, \
         or allow more by a skip policy with a larger max_fraction"
    )]
    TooManyDamaged {
        /// Damaged samples.
        skipped: u64,
        /// Samples read.
        seen: u64,
        /// The budget.
        max_fraction: f64,
        /// Counts by kind, with the first few names.
        summary: String,
    },
    /// Shards of a source that are broken beyond what the error policy allows.
    #[error(
        "`{name}`: {summary}; about {:.2} % of the bytes are lost and the policy allows {:.2} %: fetch those shards again, \
         or allow the loss by a skip policy with a larger max_fraction",
        100.0 * .lost_fraction,
        100.0 * .max_fraction
    )]
    BrokenShards {
        /// The source.
        name: String,
        /// The first of the broken shards, with byte and reason.
        summary: String,
        /// Estimated share of bytes that is lost.
        lost_fraction: f64,
        /// The budget.
        max_fraction: f64,
    },
    /// An epoch that gave no batch at all: the next ones would not either.
    #[error(
        "epoch {epoch} gave no batch, {skipped} of {seen} samples being damaged: check the data, or take a smaller batch ({summary})"
    )]
    NothingLeft {
        /// The epoch, from 0.
        epoch: u64,
        /// What was left out.
        skipped: u64,
        /// Samples read.
        seen: u64,
        /// Counts by kind, with the first few names.
        summary: String,
    },
    /// A store of teacher embeddings that is damaged, unfinished, or made for something else.
    #[error("the store `{path}` {reason}")]
    Store {
        /// Its folder, or one of its files.
        path: PathBuf,
        /// What is wrong and what to do next.
        reason: String,
    },
    /// A store that another process is writing.
    #[error("the store `{0}` is being written by another process: wait for it")]
    StoreBusy(PathBuf),
    /// A download that did not succeed.
    #[error("download of `{url}` failed: {reason}")]
    Download {
        /// Where from.
        url: String,
        /// What happened and what to do next.
        reason: String,
    },
    /// A download that the server refuses.
    #[error("download of `{url}` failed: the server answers {status}")]
    Refused {
        /// Where from.
        url: String,
        /// The answer, from 400 to 499.
        status: u16,
    },
    /// A model of the Hugging Face hub that cannot be had.
    #[error("model `{model}`: {reason}")]
    Hub {
        /// Its name.
        model: String,
        /// What happened and what to do next.
        reason: String,
    },
}

impl From<file_ext::Error> for Error {
    fn from(error: file_ext::Error) -> Self {
        Error::Io { path: error.path().into(), source: error.into() }
    }
}

impl Error {
    /// An [`Error::Io`] with its path.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }
}
