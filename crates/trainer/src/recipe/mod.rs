//! Recipe files: their settings with defaults, validation and resolution into runs. Tables that another crate or module
//! uses are declared there: sources, augmentation, optimiser, cross-modal head.

mod classes;
mod device;
mod eval_set;
mod experiment;
pub(crate) mod faults;
mod load;
mod losses;
mod model_ref;
mod overrides;
mod precision;
mod prune;
mod schema;
pub(crate) mod sources;
mod stages;
mod student;
mod targets;
mod teachers;
mod validate;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clip_model::CrossModalConfig;
use data_pipeline::image::AugmentConfig;
use data_pipeline::loader::CaptionChoice;
use data_pipeline::policy::ErrorPolicy;
use data_pipeline::sources::SourceConfig;
use kd_losses::{AnchorSettings, Loss, LossSettings, Term};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use classes::Classes;
pub(crate) use classes::{ClassList, warn_of_repeated};
pub use device::DeviceSetting;
pub use eval_set::{DATASET_TEMPLATES, EvalSet, EvalTask, Templates};
pub use experiment::{Experiment, Runtime};
pub use faults::{Places, Step};
pub use load::{Job, check_name, load, load_one, merge, parse};
pub use losses::{LossConfig, When};
pub use model_ref::{ModelRef, SharedPath, StoreRef};
pub use overrides::settings_table;
pub use precision::PrecisionConfig;
pub use prune::PruneConfig;
pub(crate) use student::INHERIT;
pub use student::{Student, TowerLock};
pub use targets::TargetRule;
pub use teachers::TeacherConfig;
pub(crate) use validate::check_sets;

use crate::optim::adamw::OptimizerConfig;
use crate::{Error, Result};

/// A resolved run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run in reports and folders: letters, digits and `- _ . +`, no dot first.
    pub name: String,
    /// Seed of initial weights, sample order, augmentation and dropout.
    #[serde(default)]
    pub seed: u64,
    /// The model that is trained.
    pub student: Student,
    /// The frozen teacher: `[teacher]`, or `[[teacher]]` for several.
    #[schemars(schema_with = "schema::teachers")]
    #[serde(default, rename = "teacher", with = "teachers::written", skip_serializing_if = "Vec::is_empty")]
    pub teachers: Vec<TeacherConfig>,
    /// A cross-modal head to train instead of the student, which stays frozen (DCLIP's teacher).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cross_modal: Option<CrossModalConfig>,
    /// Training data.
    pub data: Data,
    /// Losses by name: the weight, or a table; 0 disables a loss.
    #[schemars(with = "schema::Losses")]
    #[serde(with = "losses::written")]
    pub losses: BTreeMap<Loss, LossConfig>,
    /// Pairs of a batch that are positives of `task`, `icl` and `afd`.
    #[serde(default)]
    pub targets: TargetRule,
    /// The optimiser, AdamW.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// Pruning of the student by learned masks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<PruneConfig>,
    /// Length and batches of the run.
    pub train: Train,
    /// When to write checkpoints.
    #[serde(default)]
    pub checkpoint: Checkpoints,
    /// Logging of metrics.
    #[serde(default)]
    pub metrics: Metrics,
    /// What to evaluate, and when.
    #[serde(default)]
    pub eval: Eval,
}

/// Training data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Folder for relative paths of sources.
    #[serde(default = "here")]
    pub root: PathBuf,
    /// Sources, mixed by weight; at least one.
    pub train: Vec<TrainSource>,
    /// Random crops, flips, jitter and erasing.
    #[serde(default)]
    pub augment: AugmentConfig,
    /// Choice among the captions of a sample.
    #[serde(default)]
    pub caption: CaptionChoice,
    /// Number of fixed augmentations per image, up to 10,000; 0 draws a new one every time, or uses those of the store.
    #[schemars(extend("default" = 0))]
    #[serde(default, skip_serializing_if = "is_zero")]
    pub variants: usize,
    /// Seed of the fixed augmentations, so that runs with different seeds share a store.
    #[schemars(extend("default" = 0))]
    #[serde(default, skip_serializing_if = "is_zero_seed")]
    pub variants_seed: u64,
    /// Policy for damaged samples and broken shards.
    #[serde(default)]
    pub damaged: ErrorPolicy,
    /// Decoding threads, up to 1024; 0: one per core.
    #[serde(default)]
    pub workers: usize,
    /// Number of batches prepared in advance, up to 4096.
    #[serde(default = "four")]
    pub prefetch: usize,
}

/// A source with its weight in an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "toml::Table", into = "toml::Table")]
#[schemars(!try_from, !into, transform = schema::merge_source)]
pub struct TrainSource {
    /// The source.
    #[schemars(flatten)]
    pub source: SourceConfig,
    /// Visits per sample and epoch, up to 1e6; 0.5 visits a different random half in each epoch.
    #[schemars(default = "schema::whole")]
    pub weight: f64,
    /// Fixed fraction of the samples, the same in every run; above 0, up to 1.
    #[schemars(default = "schema::whole")]
    pub share: f64,
    /// Number of samples, for `--dry-run` without the data.
    pub samples: Option<usize>,
    /// Rotate images upright by their EXIF orientation, which open_clip ignores.
    #[schemars(default)]
    pub exif_orientation: bool,
}

/// Length and batches of the run. Exactly one of `epochs` and `steps` is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Samples per contrastive batch, at least 2.
    pub batch_size: usize,
    /// Number of batches whose gradients are averaged per step; each remains a separate contrastive batch.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Samples per forward and backward pass, for batches whose activations do not fit into memory. The loss still compares
    /// all samples of a batch; the student encodes each sample twice. BatchNorm computes its statistics per pass. Default:
    /// the whole batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Length in epochs, such as 0.5; this or `steps` is required. The one set later (in a run, a stage or by `--set`)
    /// replaces the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Length in steps; this or `epochs` is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Steps of linear warm-up, at most those of the run.
    #[serde(default)]
    pub warmup_steps: u64,
    /// Decay of averaged weights (EMA), between 0 and 1; the averaged model is evaluated and written. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Recompute the activations of the student's blocks in the backward pass: a third more time for a fraction of the
    /// memory.
    #[schemars(extend("default" = false))]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub grad_checkpointing: bool,
    /// Precision of matrix products and convolutions, including the teachers'. Weights, losses and evaluation always use
    /// float32.
    #[schemars(extend("default" = PrecisionConfig::default()))]
    #[serde(default, skip_serializing_if = "precision::is_fp32")]
    pub precision: PrecisionConfig,
    /// Threads of libtorch; 0: libtorch's default. A repeatable run needs a fixed number.
    #[serde(default)]
    pub threads: i32,
    /// `"auto"` (the first GPU, or the CPU if none is visible), `"cpu"`, `"cuda"` or `"cuda:N"`; CUDA needs a libtorch
    /// with CUDA (`cargo xtask setup --cuda`) and NVIDIA driver 580 or newer.
    #[serde(default)]
    pub device: DeviceSetting,
}

/// When to write checkpoints. The last step always writes one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoints {
    /// Interval of checkpoints in steps; 0: none.
    pub every_steps: u64,
    /// Interval of checkpoints in minutes; 0: none.
    pub every_minutes: f64,
    /// Number of last checkpoints to keep, at least 1; the best one is kept, too.
    pub keep: usize,
}

/// Logging of metrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Steps per line of `metrics.jsonl` and, without a terminal, of the log.
    pub every_steps: u64,
    /// Also write an event file for TensorBoard.
    pub tensorboard: bool,
}

/// What to evaluate, and when. The end of the run is always evaluated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Eval {
    /// Steps between evaluations; 0: none. With `every_steps` or `every_epochs`, `best` keeps the model with the
    /// highest score of all evaluations, including the last; the score is the mean of the main metrics of the sets.
    pub every_steps: u64,
    /// Epochs between evaluations, such as 0.5; 0: none. May be combined with `every_steps`.
    #[schemars(extend("default" = 0.0))]
    #[serde(skip_serializing_if = "is_zero_number")]
    pub every_epochs: f64,
    /// Data sets to evaluate.
    pub sets: Vec<EvalSet>,
    /// Compare the finished student with a teacher (CKA, rank correlations, neighbours, agreement); needs one with
    /// `model` or `run`.
    pub fidelity: bool,
    /// Teacher for `fidelity`; its `store` and `logit_scale` have no effect. Default: the first teacher with a model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherConfig>,
    /// Folder with the teacher's embeddings of the sets, reused by the next run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
}

impl Eval {
    /// Whether the student is evaluated during training.
    pub(crate) fn is_repeated(&self) -> bool {
        self.every_steps > 0 || self.every_epochs > 0.0
    }

    /// Whether an evaluation is due after a step.
    pub(crate) fn is_due(&self, step: u64, steps_per_epoch: f64) -> bool {
        // The small number keeps rounding errors from delaying an evaluation by a step.
        let periods = |step: u64| (step as f64 / (steps_per_epoch * self.every_epochs) + 1e-9).floor();
        self.every_steps > 0 && step.is_multiple_of(self.every_steps)
            || self.every_epochs > 0.0 && step > 0 && periods(step) > periods(step - 1)
    }
}

impl Default for Checkpoints {
    fn default() -> Self {
        Checkpoints { every_steps: 0, every_minutes: 10.0, keep: 2 }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics { every_steps: 10, tensorboard: false }
    }
}

impl Recipe {
    /// Returns the terms with a nonzero weight at some step of a run of `steps` steps, in report order.
    pub fn terms(&self, steps: u64) -> Vec<Term> {
        let weighted = self.losses.iter().filter(|(_, config)| config.is_on());
        weighted.map(|(&loss, config)| config.term(loss, steps)).collect()
    }

    /// Returns the settings of a loss with a nonzero weight.
    pub fn loss(&self, loss: Loss) -> Option<&LossConfig> {
        self.losses.get(&loss).filter(|config| config.is_on())
    }

    /// Returns the losses with their weights, such as `1 × task + 2 × crd`. A weight that changes is written with its
    /// start and end.
    pub fn losses_text(&self) -> String {
        let on = self.losses.iter().filter(|(_, config)| config.is_on());
        let terms = on.map(|(loss, LossConfig { weight, .. })| match weight.is_constant() {
            true => format!("{} × {loss}", weight.start),
            false => format!("{} to {} × {loss}", weight.start, weight.end),
        });
        terms.collect::<Vec<_>>().join(" + ")
    }

    /// Returns the settings of the loss that reads a class list, if any.
    pub fn reads_classes(&self) -> Option<&LossConfig> {
        Loss::all().filter(|loss| loss.reads_classes()).find_map(|loss| self.loss(loss))
    }

    /// Iterates over the models to which the recipe refers, each with the setting that names it, such as
    /// `student.inherit`.
    pub fn models_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut ModelRef)> {
        let Recipe { student, teachers, eval, .. } = self;
        let students = [("student.model", Some(&mut student.model)), (INHERIT, student.inherit.as_mut())];
        let teachers = teachers.iter_mut().map(|teacher| ("teacher.model", teacher.model.as_mut()));
        let compared = eval.teacher.iter_mut().map(|teacher| ("eval.teacher.model", teacher.model.as_mut()));
        students.into_iter().chain(teachers).chain(compared).filter_map(|(key, model)| Some((key, model?)))
    }

    /// Iterates over the models to which the recipe refers, like [`Recipe::models_mut`].
    pub fn models(&self) -> impl Iterator<Item = (&'static str, &ModelRef)> {
        let Recipe { student, teachers, eval, .. } = self;
        let students = [("student.model", Some(&student.model)), (INHERIT, student.inherit.as_ref())];
        let teachers = teachers.iter().map(|teacher| ("teacher.model", teacher.model.as_ref()));
        let compared = eval.teacher.iter().map(|teacher| ("eval.teacher.model", teacher.model.as_ref()));
        students.into_iter().chain(teachers).chain(compared).filter_map(|(key, model)| Some((key, model?)))
    }

    /// Iterates over the stores to which the recipe refers.
    pub fn stores_mut(&mut self) -> impl Iterator<Item = &mut StoreRef> {
        self.teachers.iter_mut().chain(&mut self.eval.teacher).filter_map(|teacher| teacher.store.as_mut())
    }

    /// Returns the teacher that is evaluated with the student: for fidelity if enabled, else for its scores only.
    pub(crate) fn compared_teacher(&self) -> Option<&TeacherConfig> {
        let named = |teacher: &&TeacherConfig| teacher.model.is_some();
        match self.eval.fidelity {
            true => self.eval.teacher.iter().chain(&self.teachers).find(named),
            // A teacher that is a run of the recipe file has its own report.
            false => self.teachers.iter().filter(named).find(|t| !matches!(t.model, Some(ModelRef::Run(_)))),
        }
    }

    /// Returns the number of pairs in the anchor bank, if a loss reads one: the largest `count` of these losses, or
    /// [`AnchorSettings::COUNT`] if none sets it.
    pub fn anchor_count(&self) -> Option<usize> {
        let counts = Loss::all().filter_map(|loss| match &self.loss(loss)?.settings {
            LossSettings::Anchors(settings) => Some(settings.count),
            _ => None,
        });
        Some(counts.max()?.unwrap_or(AnchorSettings::COUNT))
    }

    /// Returns the recipe as written to the run folder.
    ///
    /// # Errors
    /// [`Error::Recipe`] if TOML cannot represent a number.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|e| Error::recipe(&self.name, e.to_string()))
    }
}

fn here() -> PathBuf {
    ".".into()
}

fn is_zero(value: &usize) -> bool {
    *value == 0
}

fn is_zero_number(value: &f64) -> bool {
    *value == 0.0
}

fn is_zero_seed(value: &u64) -> bool {
    *value == 0
}

fn one() -> usize {
    1
}

fn four() -> usize {
    4
}

/// Removes a key from a table and parses its value.
fn take<T: serde::de::DeserializeOwned>(
    table: &mut toml::Table,
    key: &str,
) -> Result<Option<T>, toml::de::Error> {
    table.remove(key).map(toml::Value::try_into).transpose()
}

fn source_table(source: &SourceConfig) -> toml::Table {
    toml::Table::try_from(source).unwrap_or_default()
}

impl TryFrom<toml::Table> for TrainSource {
    type Error = toml::de::Error;

    fn try_from(mut table: toml::Table) -> Result<Self, Self::Error> {
        let weight = take(&mut table, "weight")?.unwrap_or_else(schema::whole);
        let share = take(&mut table, "share")?.unwrap_or_else(schema::whole);
        let samples = take(&mut table, "samples")?;
        let exif_orientation = take(&mut table, "exif_orientation")?.unwrap_or(false);
        Ok(TrainSource { weight, share, samples, exif_orientation, source: table.try_into()? })
    }
}

impl From<TrainSource> for toml::Table {
    fn from(config: TrainSource) -> Self {
        let mut table = source_table(&config.source);
        table.insert("weight".into(), config.weight.into());
        if config.share != 1.0 {
            table.insert("share".into(), config.share.into());
        }
        if let Some(samples) = config.samples.and_then(|samples| i64::try_from(samples).ok()) {
            table.insert("samples".into(), samples.into());
        }
        if config.exif_orientation {
            table.insert("exif_orientation".into(), true.into());
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluations_are_due_by_steps_or_epochs() {
        let due = |every_steps, every_epochs, steps_per_epoch| {
            let eval = Eval { every_steps, every_epochs, ..Eval::default() };
            (0..=30).filter(|step| eval.is_due(*step, steps_per_epoch)).collect::<Vec<_>>()
        };
        assert_eq!(due(10, 0.0, 7.0), [0, 10, 20, 30]);
        assert_eq!(due(0, 1.0, 7.0), [7, 14, 21, 28]);
        assert_eq!(due(0, 0.1, 100.0), [10, 20, 30]);
        assert_eq!(due(0, 0.5, 15.0), [8, 15, 23, 30]);
        assert_eq!(due(20, 1.0, 12.5), [0, 13, 20, 25]);
        assert!(due(0, 0.0, 7.0).is_empty() && !Eval::default().is_repeated());
    }
}
