//! Arguments of `clip-distill evaluate`.

use std::path::PathBuf;

use clap::{Args as Group, ValueEnum};

use super::{Arch, Damage, Device, Orientation, Output, Prompts, Tokenizer};

/// Help of the argument MODEL that accepts several models.
const MODELS: &str = "Models to compare: model folders (open_clip or Hugging Face), weight files, hf-hub:OWNER/NAME[@REVISION], or open_clip's ARCH:TAG";

/// Arguments that exclude the options of a single data set.
const ONE_DATA_SET: [&str; 2] = ["suite", "embeddings"];

#[derive(Debug, Group)]
#[command(
    mut_arg("prompts", |arg| arg.requires("data").conflicts_with_all(ONE_DATA_SET)),
    mut_arg("max_damaged", |arg| arg.conflicts_with("embeddings")),
    mut_arg("exif_orientation", |arg| arg.requires("data").conflicts_with_all(ONE_DATA_SET)),
    mut_arg("arch", |arg| arg.conflicts_with("embeddings")),
    mut_arg("tokenizer", |arg| arg.conflicts_with("embeddings")),
    after_help = "\
Examples:
  clip-distill evaluate runs/mine/model --data datasets/cifar10.toml
  clip-distill evaluate runs/mine/model --data pictures --prompts openai-80
  clip-distill evaluate runs/mine/model \\
    --data hf-hub:datasets/clip-benchmark/wds_vtab-cifar100
  clip-distill evaluate MODEL-1 MODEL-2 --teacher TEACHER \\
    --suite configs/suites/clip-benchmark.toml --sets cifar100,eurosat

Without --prompts, the prompt templates of the manifest or of CLIP_benchmark's data set are used, else plain."
)]
pub(crate) struct Evaluate {
    #[arg(help = MODELS, value_name = "MODEL", required_unless_present = "embeddings", conflicts_with = "embeddings")]
    pub models: Vec<String>,
    /// Data set: a folder, tars, Parquet files, a table, a CIFAR archive, a data set of CLIP_benchmark, a manifest, or
    /// emoji.
    ///
    /// For classification: a folder with one subfolder per class, a CIFAR archive, or tars or Parquet files with class
    /// labels. For retrieval: tars or Parquet files with captions, a folder of images with .txt or .json files, a table
    /// (CSV, JSON) of image paths and captions, or the built-in data set `emoji`. Name tars and Parquet files by a
    /// file, a folder or a pattern such as val-{000..009}.tar. A data set of CLIP_benchmark is a folder with
    /// classnames.txt and a folder per split, or hf-hub:datasets/OWNER/NAME. A manifest (TOML, see datasets/) states
    /// its task.
    #[arg(long, required_unless_present_any = ONE_DATA_SET, conflicts_with_all = ONE_DATA_SET)]
    pub data: Option<String>,
    /// Split of a data set of CLIP_benchmark [default: test].
    #[arg(long, value_name = "NAME", requires = "data", conflicts_with_all = ONE_DATA_SET)]
    pub split: Option<String>,
    /// Suite file (TOML) with several data sets.
    #[arg(long, value_name = "FILE", conflicts_with = "embeddings")]
    pub suite: Option<PathBuf>,
    /// Data sets of the suite to evaluate, such as cifar100,eurosat [default: all].
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "suite")]
    pub sets: Vec<String>,
    /// Safetensors file of embeddings from another program, instead of a model and data.
    ///
    /// For classification: `images` (n x d), `labels` (n) and `classes` (c x d). For retrieval: `images`, `texts` (m x d)
    /// and `image_of` (m), the image of each text. `train_images` and `train_labels` add k-NN and a linear probe. The
    /// metadata entry `class_names`, a JSON list, is optional. The output of `clip-distill embed` holds only `embeddings`,
    /// without labels, and is not such a file.
    #[arg(long, value_name = "FILE")]
    pub embeddings: Option<PathBuf>,
    /// Teacher to compare with: a model, or with --embeddings a file of embeddings.
    ///
    /// Adds the fidelity to the teacher and the share of the teacher's scores that the model retains.
    #[arg(long, value_name = "MODEL")]
    pub teacher: Option<String>,
    /// Evaluation task [default: inferred from the data].
    #[arg(long, requires = "data", conflicts_with_all = ONE_DATA_SET)]
    pub task: Option<Task>,
    #[command(flatten)]
    pub prompts: Prompts,
    /// Table (CSV) with the columns `folder` and `name`, for class folders [default: classes.csv in the data folder or its
    /// parent].
    #[arg(long, value_name = "FILE", requires = "data", conflicts_with_all = ONE_DATA_SET)]
    pub classes: Option<PathBuf>,
    /// File of class names (one per line, or JSON), instead of the names in the data set.
    #[arg(long, value_name = "FILE", requires = "data", conflicts_with_all = ONE_DATA_SET)]
    pub class_names: Option<PathBuf>,
    /// Folder for the relative paths of a manifest, suite or table [default: data/NAME, the suite's `root`, or the folder
    /// of the table].
    #[arg(long, value_name = "DIR", conflicts_with = "embeddings")]
    pub root: Option<PathBuf>,
    #[command(flatten)]
    pub damage: Damage,
    #[command(flatten)]
    pub orientation: Orientation,
    #[command(flatten)]
    pub arch: Arch,
    #[command(flatten)]
    pub tokenizer: Tokenizer,
    #[command(flatten)]
    pub device: Device,
    /// Also print recall, precision and support of every class.
    #[arg(long)]
    pub per_class: bool,
    #[command(flatten)]
    pub output: Output,
}

/// Evaluation task.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Task {
    /// Zero-shot classification: accuracy, calibration, k-NN.
    Classification,
    /// Retrieval between images and captions: recall@k.
    Retrieval,
}
