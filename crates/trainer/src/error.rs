//! The crate's error type.

use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of reading a recipe or of training a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot access `{path}`")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// An invalid recipe, or settings that cannot be combined.
    #[error("`{origin}`: {reason}")]
    Recipe {
        /// The file, or another origin of the setting.
        origin: String,
        /// The problem and the remedy.
        reason: String,
    },
    /// Several evaluation sets that cannot be opened.
    #[error("{} data sets cannot be opened: {}", .0.len(), .0.iter().map(|(name, reason)| format!("{name} ({reason})")).collect::<Vec<_>>().join("; "))]
    Sets(
        /// Name of each set, and its problem.
        Vec<(String, String)>,
    ),
    /// An evaluation set with more damaged images than the recipe allows.
    #[error("the evaluation set `{set}` has too many damaged images")]
    Images {
        /// Name of the set.
        set: String,
        /// The damaged images.
        #[source]
        source: data_pipeline::Error,
    },
    /// A run folder that another process uses.
    #[error("another process uses `{folder}`: wait until it ends, or choose another folder with --out")]
    Locked {
        /// The run folder.
        folder: PathBuf,
    },
    /// A run folder with a run, although an existing run must not be resumed.
    #[error(
        "`{folder}` already contains a run: set `Options::resume` to resume it, or choose another folder"
    )]
    RunExists {
        /// The run folder.
        folder: PathBuf,
    },
    /// A run folder with a run of another experiment.
    #[error(
        "`{folder}` contains a run of another recipe ({}): choose another folder with --out, or replace the run with --restart",
        changes.join("; ")
    )]
    OtherRun {
        /// The run folder.
        folder: PathBuf,
        /// The settings that differ, as `key: new, was old`.
        changes: Vec<String>,
    },
    /// A run folder with a file that a run would replace, but that does not belong to a run.
    #[error(
        "`{folder}` contains `{file}`, which is not part of a run and would be replaced: choose another folder with --out"
    )]
    UnrelatedFile {
        /// The run folder.
        folder: PathBuf,
        /// Name of the file.
        file: String,
    },
    /// A file of a run that cannot be parsed.
    #[error(
        "`{path}` is damaged ({reason}): remove it and run the same command again, or start again with --restart"
    )]
    DamagedFile {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        reason: String,
    },
    /// A model of a run that has not finished.
    #[error("the run `{run}` has no model yet{}", folder.as_ref().map(|f| format!(": `{}` does not exist", f.display())).unwrap_or_default())]
    NoModelYet {
        /// Name of the run.
        run: String,
        /// Its model folder, if known.
        folder: Option<PathBuf>,
    },
    /// A device that is not available.
    #[error("the device `{name}` is not available: {cause}")]
    NoDevice {
        /// Name of the device.
        name: String,
        /// The cause and the remedy.
        cause: String,
    },
    /// A tokenizer that is missing or does not fit the model.
    #[error("tokenizer: {reason}")]
    Tokenizer {
        /// The problem and the remedy.
        reason: String,
    },
    /// A store of teacher embeddings that does not match the recipe.
    #[error("teacher.store: {reason}")]
    StoreMismatch {
        /// The problem and the remedy.
        reason: String,
    },
    /// A tensor of a checkpoint that is missing or has another shape.
    #[error("the {part} of the checkpoint do not match: `{name}` is missing or has another shape")]
    StateShape {
        /// The part of the checkpoint.
        part: &'static str,
        /// Name of the tensor.
        name: String,
    },
    /// An unusable checkpoint.
    #[error("checkpoint `{path}`: {reason}")]
    Checkpoint {
        /// Its folder.
        path: PathBuf,
        /// The problem and the next step.
        reason: String,
    },
    /// A preset or a configuration file where a trained model is needed.
    #[error(
        "`{name}` has no weights: name a model folder, such as runs/NAME/model, a checkpoint{}",
        published_as(.name)
    )]
    NoWeights {
        /// The name of the model.
        name: String,
    },
    /// A model of a recipe that is neither a name that is known nor a folder or file on this machine.
    #[error("{key} = \"{name}\": {}{}", no_model(.cause), without_it(.key))]
    NoModel {
        /// The setting, such as `teacher.model`.
        key: String,
        /// The name or path.
        name: String,
        /// The reason, and similar names.
        cause: Box<clip_model::Error>,
    },
    /// An architecture of open_clip without published weights under this tag.
    #[error("no published weights are known as `{name}`: use one of the architecture's tags, {}", .tags.join(", "))]
    UnknownTag {
        /// The name, as `ARCHITECTURE:TAG`.
        name: String,
        /// Tags of the architecture.
        tags: Vec<&'static str>,
    },
    /// An architecture preset for a model that states its own architecture.
    #[error(
        "the architecture `{arch}` applies only to a bare weight file, and `{name}` is not one: leave it out"
    )]
    NotAWeightFile {
        /// The preset.
        arch: String,
        /// The name of the model.
        name: String,
    },
    /// A stop was requested while a store of teacher embeddings was being written, before the first step.
    #[error("stopped while writing the store of the teacher's embeddings; the same command resumes")]
    Interrupted,
    /// The loss or a gradient is not a finite number.
    #[error(
        "{what} is {value} at step {step}: check the data, or start again with --restart and a lower optimizer.lr, or with optimizer.clip_norm"
    )]
    NonFinite {
        /// The quantity: the loss or the gradient norm.
        what: &'static str,
        /// The value.
        value: f64,
        /// The step (from 0).
        step: u64,
    },
    /// An error of the data pipeline.
    #[error(transparent)]
    Data(#[from] data_pipeline::Error),
    /// An error of the model crate.
    #[error(transparent)]
    Model(#[from] clip_model::Error),
    /// An error of a loss.
    #[error(transparent)]
    Loss(#[from] kd_losses::Error),
    /// An error of the evaluation.
    #[error(transparent)]
    Eval(#[from] zeroshot_eval::Error),
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

    pub(crate) fn recipe(origin: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Recipe { origin: origin.into(), reason: reason.into() }
    }

    /// Names the setting in the error of a model that does not exist.
    pub(crate) fn of_model(self, key: &str) -> Self {
        use clip_model::Error::{NoSuchPath, UnknownModel};
        match self {
            Error::Model(cause @ (NoSuchPath { .. } | UnknownModel { .. })) => {
                let name = match &cause {
                    NoSuchPath { name, .. } | UnknownModel { name, .. } => name.clone(),
                    _ => String::new(),
                };
                Error::NoModel { key: key.into(), name, cause: Box::new(cause) }
            }
            other => other,
        }
    }

    pub(crate) fn checkpoint(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Error::Checkpoint { path: path.into(), reason: reason.into() }
    }
}

/// Describes a model that does not exist, without its name.
fn no_model(error: &clip_model::Error) -> String {
    match error {
        clip_model::Error::NoSuchPath { hint, .. } => format!("no folder or file has this path{hint}"),
        other => other.to_string(),
    }
}

/// Says how to plan without a model, for a message.
fn without_it(key: &str) -> String {
    match key.strip_suffix("teacher.model") {
        Some(table) => {
            format!("; to plan (--dry-run) without it, set {table}teacher.arch to its preset")
        }
        _ => String::new(),
    }
}

/// Suggests published weights of a preset, for a message.
fn published_as(preset: &str) -> String {
    let tags = crate::model::published::tags(preset);
    // Tags of the largest data sets come last.
    match tags.iter().find(|tag| tag.starts_with("laion2b")).or(tags.last()) {
        Some(tag) => format!(", or published weights, such as {preset}:{tag}"),
        None => " or a model of the hub, as hf-hub:owner/name".into(),
    }
}
