//! What a run does, as data: the fields of a recipe file, with their defaults. Tables that another crate or module reads are
//! declared there: sources, augmentation, optimiser, cross-modal head.

mod load;
mod losses;
mod precision;
mod prune;
pub(crate) mod sources;
mod stages;
mod targets;
mod teachers;
mod validate;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clip_model::CrossModalConfig;
use clip_model::folder::Adjust;
use data_pipeline::image::AugmentConfig;
use data_pipeline::loader::CaptionChoice;
use data_pipeline::policy::ErrorPolicy;
use data_pipeline::sources::SourceConfig;
use kd_losses::{Loss, Term};
use serde::{Deserialize, Serialize};

pub use load::{Job, check_name, load, load_one, merge, parse, settings_table};
pub use losses::{Classes, LossConfig, When};
pub use precision::PrecisionConfig;
pub use prune::PruneConfig;
pub use targets::TargetRule;
pub use teachers::TeacherConfig;

use crate::optim::adamw::OptimizerConfig;
use crate::teacher::teachers::Models;
use crate::{Error, Result};

/// One run, resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Names the run in reports and folders.
    pub name: String,
    /// Names initial weights, order of samples and augmentation.
    #[serde(default)]
    pub seed: u64,
    /// What is trained.
    pub student: Student,
    /// Whom it learns from, if anyone: `[teacher]`, or `[[teacher]]` for several at once.
    #[serde(default, rename = "teacher", with = "teachers::written", skip_serializing_if = "Vec::is_empty")]
    pub teachers: Vec<TeacherConfig>,
    /// A cross-modal head that is trained in the student's place, which stays as it is (DCLIP's teacher).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cross_modal: Option<CrossModalConfig>,
    /// What it is trained on.
    pub data: Data,
    /// Weights of the terms by name (`clip-distill methods` lists them); 0 leaves one out.
    #[serde(with = "losses::written")]
    pub losses: BTreeMap<Loss, LossConfig>,
    /// Which pairs of a batch count as right in the task loss, `icl` and `afd`.
    #[serde(default)]
    pub targets: TargetRule,
    /// AdamW.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// Learned masks that make the student smaller on the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<PruneConfig>,
    /// Length and shape of the run.
    pub train: Train,
    /// When to save.
    #[serde(default)]
    pub checkpoint: Checkpoints,
    /// What to write down.
    #[serde(default)]
    pub metrics: Metrics,
    /// What to measure.
    #[serde(default)]
    pub eval: Eval,
}

/// The model that is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Student {
    /// A preset, a configuration in open_clip's format (`*.json`), or a model to go on from: a folder, a checkpoint
    /// file or `hf-hub:owner/name`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// An earlier run of the recipe file whose model, of whatever shape it came to, is gone on with in place of `model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Side of its images in pixels, where it is to be another than the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<i64>,
    /// Share of the patches that a ViT leaves out while training; left out, the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_dropout: Option<f64>,
    /// Largest drop path rate of a timm tower; left out, the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_path: Option<f64>,
    /// Whether the image tower stays as it is, but for its last groups.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lock_image: bool,
    /// Groups of a locked image tower that are trained all the same, counted from the projection.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lock_image_unlocked_groups: usize,
    /// Whether the text tower stays as it is, but for its last groups.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lock_text: bool,
    /// Groups of a locked text tower that are trained all the same, counted from the projection.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lock_text_unlocked_groups: usize,
    /// A `tokenizer.json`; left out, that of the model's folder, or CLIP's tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// A larger model (folder or file) of which the student starts as a part, in place of its own start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inherit: Option<String>,
    /// The same of an earlier run of the recipe file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inherit_run: Option<String>,
    /// Of that model only the token and positional embeddings, projected to the student's width.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inherit_tokens: bool,
}

impl Student {
    /// The model that it starts as a part of, if any.
    pub fn larger(&self, models: Models<'_>) -> Option<String> {
        let run = || self.inherit_run.as_deref().map(|run| models(run).display().to_string());
        self.inherit.clone().or_else(run)
    }

    /// What differs from the model's own configuration.
    pub fn adjust(&self) -> Adjust {
        Adjust { image_size: self.image_size, patch_dropout: self.patch_dropout, drop_path: self.drop_path }
    }
}

/// Training data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Relative paths of sources start here.
    #[serde(default = "here")]
    pub root: PathBuf,
    /// Sources that mix by weight.
    pub train: Vec<TrainSource>,
    /// Random crops, flips, jitter and erasing.
    #[serde(default)]
    pub augment: AugmentConfig,
    /// Which of several captions a sample shows.
    #[serde(default)]
    pub caption: CaptionChoice,
    /// Augmentations per image that come again and again, as a store of teacher embeddings has them; 0 is a new
    /// one each time.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub variants: usize,
    /// Names those augmentations, so that runs of different seeds share a store.
    #[serde(default, skip_serializing_if = "is_zero_seed")]
    pub variants_seed: u64,
    /// What happens with damaged samples.
    #[serde(default)]
    pub damaged: ErrorPolicy,
    /// Threads that decode; 0 takes as many as there are cores.
    #[serde(default)]
    pub workers: usize,
    /// Batches made ahead.
    #[serde(default = "four")]
    pub prefetch: usize,
}

/// A source with the share of it that an epoch visits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "toml::Table", into = "toml::Table")]
pub struct TrainSource {
    /// The source.
    pub source: SourceConfig,
    /// Visits per sample and epoch; 1 is each sample once.
    pub weight: f64,
    /// A fixed part of the samples, the same in every run; 1 is all of them.
    pub share: f64,
    /// Samples that the source has, for a plan where the data is not on this machine.
    pub samples: Option<usize>,
}

/// Length and shape of the run. Exactly one of `epochs` and `steps` is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Samples per contrastive batch.
    pub batch_size: usize,
    /// Batches whose gradients are averaged into one step; each stays its own contrastive batch.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Passes over the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Steps of linear warm-up.
    #[serde(default)]
    pub warmup_steps: u64,
    /// Decay of averaged student weights; the averages are what is saved and evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Computes the activations of the student's blocks again in the backward pass instead of keeping them:
    /// about a third more time for a fraction of the memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub grad_checkpointing: bool,
    /// In what matrix products and convolutions are computed, the teachers' too: `fp32`, `bf16`, or `auto`, which is
    /// bf16 where the device has instructions for it (twice as fast) and fp32 elsewhere (where bf16 would be many times
    /// slower). Weights, losses and evaluation are float32 in each.
    #[serde(default, skip_serializing_if = "precision::is_fp32")]
    pub precision: PrecisionConfig,
    /// Threads of the tensor library; 0 leaves its own choice. Part of what makes a run repeatable.
    #[serde(default)]
    pub threads: i32,
    /// `cpu` or `cuda:N`.
    #[serde(default = "cpu")]
    pub device: String,
}

/// When checkpoints are written; the last step always gives one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoints {
    /// After this many steps; 0 is never.
    pub every_steps: u64,
    /// After this many minutes; 0 is never.
    pub every_minutes: f64,
    /// How many of the last ones stay. The best one stays too.
    pub keep: usize,
}

/// What is written down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// A line of `metrics.jsonl` after this many steps.
    pub every_steps: u64,
    /// Also an event file for TensorBoard.
    pub tensorboard: bool,
}

/// What is measured, and when. The end of the run always is measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Eval {
    /// After this many steps; 0 is only at the end.
    pub every_steps: u64,
    /// The data sets.
    pub sets: Vec<EvalSet>,
    /// Whether the finished student is compared with its teacher: CKA, rank correlations, neighbours, agreement.
    pub fidelity: bool,
    /// The model to compare with, where it is not the first teacher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherConfig>,
    /// Where the teacher's rows of the data sets are kept for the next run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
}

/// A data set that is measured zero-shot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "toml::Table", into = "toml::Table")]
pub struct EvalSet {
    /// Names it in reports.
    pub name: String,
    /// What is asked.
    pub task: EvalTask,
    /// Prompt templates, for classification.
    pub templates: Templates,
    /// Class names in place of the source's own.
    pub class_names: Option<Classes>,
    /// Training images of the same classes, for k-NN and a linear probe.
    pub train: Option<SourceConfig>,
    /// The data.
    pub source: SourceConfig,
}

/// What an evaluation asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvalTask {
    /// Which class.
    Classification,
    /// Which caption, and which image.
    Retrieval,
}

/// Prompt templates by a built-in name, or in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Templates {
    /// Built in: `plain`, `cifar`, `simple-7`, `openai-80`.
    Named(String),
    /// Texts with `{}` for the class name.
    Listed(Vec<String>),
}

impl Templates {
    /// The texts.
    ///
    /// # Errors
    /// [`Error::Eval`] where a name is not built in, or a text has no place for the class name.
    pub fn texts(&self) -> Result<Vec<String>> {
        let texts = match self {
            Templates::Named(name) => zeroshot_eval::prompts::templates(name)?,
            Templates::Listed(texts) => texts.clone(),
        };
        zeroshot_eval::prompts::check(&texts)?;
        Ok(texts)
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
    /// The terms that ever have a weight in a run of so many steps, in the order of reports.
    pub fn terms(&self, steps: u64) -> Vec<Term> {
        let weighted = self.losses.iter().filter(|(_, config)| config.is_on());
        weighted.map(|(&loss, config)| config.term(loss, steps)).collect()
    }

    /// What the recipe says of a loss that has a weight.
    pub fn loss(&self, loss: Loss) -> Option<&LossConfig> {
        self.losses.get(&loss).filter(|config| config.is_on())
    }

    /// What it says of the loss that reads a class list, where one does.
    pub fn reads_classes(&self) -> Option<&LossConfig> {
        Loss::all().filter(|loss| loss.reads_classes()).find_map(|loss| self.loss(loss))
    }

    /// Pairs of the bank that its losses read, where one does: the largest number that one of them names, or 1024.
    pub fn anchor_count(&self) -> Option<usize> {
        let losses = Loss::all().filter(|loss| loss.reads_anchors());
        let named = losses.filter_map(|loss| self.loss(loss)).map(|config| config.count);
        Some(named.max()?.unwrap_or(losses::ANCHORS))
    }

    /// The recipe as it is written into the run folder.
    ///
    /// # Errors
    /// [`Error::Recipe`] where a number does not fit into TOML.
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

fn is_zero_seed(value: &u64) -> bool {
    *value == 0
}

fn one() -> usize {
    1
}

fn four() -> usize {
    4
}

fn cpu() -> String {
    "cpu".into()
}

/// Takes an own key out of a table whose rest is a source.
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
        let weight = take(&mut table, "weight")?.unwrap_or(1.0);
        let share = take(&mut table, "share")?.unwrap_or(1.0);
        let samples = take(&mut table, "samples")?;
        Ok(TrainSource { weight, share, samples, source: table.try_into()? })
    }
}

impl From<TrainSource> for toml::Table {
    fn from(own: TrainSource) -> Self {
        let mut table = source_table(&own.source);
        table.insert("weight".into(), own.weight.into());
        if own.share != 1.0 {
            table.insert("share".into(), own.share.into());
        }
        if let Some(samples) = own.samples.and_then(|samples| i64::try_from(samples).ok()) {
            table.insert("samples".into(), samples.into());
        }
        table
    }
}

impl TryFrom<toml::Table> for EvalSet {
    type Error = toml::de::Error;

    fn try_from(mut table: toml::Table) -> Result<Self, Self::Error> {
        let missing =
            |key: &str| <toml::de::Error as serde::de::Error>::custom(format!("an eval set needs `{key}`"));
        Ok(EvalSet {
            name: take(&mut table, "name")?.ok_or_else(|| missing("name"))?,
            task: take(&mut table, "task")?.unwrap_or(EvalTask::Classification),
            templates: take(&mut table, "prompts")?.unwrap_or(Templates::Named("plain".into())),
            class_names: take(&mut table, "class_names")?,
            train: take(&mut table, "train")?,
            source: table.try_into()?,
        })
    }
}

impl From<EvalSet> for toml::Table {
    fn from(own: EvalSet) -> Self {
        let mut table = toml::Table::new();
        table.insert("name".into(), own.name.into());
        for (key, value) in
            [("task", toml::Value::try_from(own.task)), ("prompts", toml::Value::try_from(&own.templates))]
        {
            if let Ok(value) = value {
                table.insert(key.into(), value);
            }
        }
        if let Some(Ok(names)) = own.class_names.as_ref().map(toml::Value::try_from) {
            table.insert("class_names".into(), names);
        }
        if let Some(train) = &own.train {
            table.insert("train".into(), source_table(train).into());
        }
        table.extend(source_table(&own.source));
        table
    }
}
