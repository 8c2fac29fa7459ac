//! Errors of this crate.

use std::path::{Path, PathBuf};

use crate::lock::Tower;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error while configuring, opening, running or saving a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder cannot be read or written.
    #[error("cannot access `{path}`")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// A name that is neither a preset nor a model on disk.
    #[error(
        "unknown model `{name}`: neither a preset{presets} nor a model folder, configuration or weight file on disk{hint}"
    )]
    UnknownModel {
        /// The name.
        name: String,
        /// Similar presets in brackets; empty for a path.
        presets: String,
        /// How to name a model of the Hugging Face hub, if the name looks like one; else empty.
        hint: String,
    },
    /// A path at which there is nothing.
    #[error("no folder or file `{name}`: check the path of the model{hint}")]
    NoSuchPath {
        /// The path.
        name: String,
        /// How to name a model of the Hugging Face hub, if the path looks like one; else empty.
        hint: String,
    },
    /// A folder without a model configuration.
    #[error("`{path}` is not a model folder: {reason}")]
    NotAModelFolder {
        /// The folder.
        path: PathBuf,
        /// Missing files, and a hint.
        reason: String,
    },
    /// A configuration that is not valid JSON, or has a value of the wrong type.
    #[error("model configuration `{name}`: {source}")]
    Json {
        /// Preset name or path.
        name: String,
        /// Cause, with line and column.
        source: serde_json::Error,
    },
    /// A key of a configuration that the format does not define.
    #[error("model configuration `{name}`: {source}")]
    UnknownKey {
        /// Preset name or path.
        name: String,
        /// The key.
        key: String,
        /// Cause, with the known keys, line and column.
        source: serde_json::Error,
    },
    /// A required key that a configuration lacks.
    #[error("model configuration `{name}`: {source}")]
    MissingKey {
        /// Preset name or path.
        name: String,
        /// The key.
        key: String,
        /// Cause, with line and column.
        source: serde_json::Error,
    },
    /// A configuration with an invalid value.
    #[error("model configuration `{name}`: {reason}")]
    Config {
        /// Preset name or path.
        name: String,
        /// The field, its value and the valid values.
        reason: String,
    },
    /// A configuration with a feature that this crate does not implement.
    #[error("model configuration `{name}`: {reason}")]
    UnsupportedConfig {
        /// Preset name or path.
        name: String,
        /// The field and its value.
        reason: String,
    },
    /// A name that is not among the known values of a setting.
    #[error("unknown {kind} `{name}`; use {}", .known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))]
    UnknownName {
        /// The setting.
        kind: &'static str,
        /// The name.
        name: String,
        /// Known names.
        known: &'static [&'static str],
    },
    /// A weight file whose content is damaged or truncated.
    #[error("`{path}` is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The contradiction, and how to repair the file.
        reason: String,
    },
    /// A file that is not a weight file in a supported format.
    #[error("`{path}` is not a supported weight file: {reason}")]
    UnsupportedFormat {
        /// The file.
        path: PathBuf,
        /// The detected format, and how to convert it.
        reason: String,
    },
    /// A weight file that contains more than tensors and plain containers.
    #[error(
        "`{path}` contains {what}, which is not loaded: only tensors, numbers, strings and plain containers are; \
         save the state dict alone, or convert it to safetensors"
    )]
    Refused {
        /// The file.
        path: PathBuf,
        /// The opcode, global or entry.
        what: String,
    },
    /// Weights that do not fit the model.
    #[error("weights of `{origin}` do not fit the model: {report}")]
    Mismatch {
        /// Origin of the weights.
        origin: String,
        /// All missing and unexpected keys, wrong shapes and wrong element types.
        report: crate::weights::LoadReport,
    },
    /// Weights of one tower where both are needed.
    #[error(
        "{} contains only the {tower} tower: use a model with both towers",
        origin.as_ref().map_or("the model".into(), |origin| format!("`{origin}`"))
    )]
    OneTower {
        /// The model's folder or file, if known.
        origin: Option<String>,
        /// The tower that it holds.
        tower: Tower,
    },
    /// Weights with a value that is NaN or infinite.
    #[error(
        "weights of `{origin}`: `{name}` has values that are not finite; the file or its training is broken"
    )]
    NonFinite {
        /// Origin of the weights.
        origin: String,
        /// State-dict name of the tensor.
        name: String,
    },
    /// Models, weights or gates that do not fit each other.
    #[error("{reason}")]
    Incompatible {
        /// The difference.
        reason: String,
    },
    /// An operation that the model's architecture does not support.
    #[error("not supported: {what}")]
    Unsupported {
        /// The operation and the architecture.
        what: String,
    },
    /// A model that an export format cannot represent.
    #[error("{format} cannot represent {what}; keep the open_clip folder")]
    NotRepresentable {
        /// The format.
        format: &'static str,
        /// The part of the model.
        what: String,
    },
    /// The index of a block beyond the last one.
    #[error("the {tower} tower has no block {block}: it has {depth} blocks, counted from 0")]
    UnknownBlock {
        /// The tower.
        tower: Tower,
        /// The index.
        block: usize,
        /// Number of blocks.
        depth: usize,
    },
    /// An input with an unsuitable shape.
    #[error("{input} has shape {found:?}, but the model takes {expected}")]
    Shape {
        /// The input.
        input: &'static str,
        /// Shape of the input.
        found: Vec<i64>,
        /// Suitable shapes.
        expected: String,
    },
    /// An error of the tensor library.
    #[error("tensor library: {0}")]
    Torch(#[from] tch::TchError),
}

impl From<file_ext::Error> for Error {
    fn from(error: file_ext::Error) -> Self {
        Error::Io { path: error.path().into(), source: error.into() }
    }
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }

    pub(crate) fn config(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Config { name: name.into(), reason: reason.into() }
    }

    pub(crate) fn unsupported(what: impl Into<String>) -> Self {
        Error::Unsupported { what: what.into() }
    }

    pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Error::Damaged { path: path.into(), reason: reason.into() }
    }

    /// Classifies an error of a configuration's JSON.
    pub(crate) fn json(name: &str, source: serde_json::Error) -> Self {
        let (name, message) = (name.into(), source.to_string());
        let key = |prefix: &str| Some(message.strip_prefix(prefix)?.split_once('`')?.0.to_string());
        match (key("unknown field `"), key("missing field `")) {
            (Some(key), _) => Error::UnknownKey { name, key, source },
            (_, Some(key)) => Error::MissingKey { name, key, source },
            _ => Error::Json { name, source },
        }
    }
}
