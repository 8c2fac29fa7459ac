//! What was typed, and nothing more.

use std::path::PathBuf;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};

/// Distil large CLIP models into small ones that keep their zero-shot generalisation.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Exit codes: 0 done, 1 error, 2 wrong arguments, 130 stopped by a signal, --stop-after or --limit (a checkpoint of the last whole step is there; a second signal ends at once)."
)]
pub(crate) struct Args {
    /// Say more about what is done.
    #[arg(long, short, global = true)]
    pub verbose: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make all runs of a recipe: train, distil, evaluate, report.
    Train(Train),
    /// Make all cells of a sweep file and compare them over seeds.
    Sweep(Sweep),
    /// Store a teacher's embeddings of a recipe's data, so that students train without it.
    Reinforce(Reinforce),
    /// List all methods and losses, with what they do and where they come from.
    Methods(Methods),
    /// Measure a model zero-shot on a data set.
    Evaluate(Evaluate),
    /// Write the embeddings of images or texts to a safetensors file.
    Embed(Embed),
    /// Print how probable each label is for images.
    Classify(Classify),
    /// Write a model in another format, with a model card.
    Convert(Convert),
    /// Read lines of text and print their token ids.
    Tokenize(Tokenize),
    /// Print parameters, operations and configuration of a model or preset.
    Inspect(Inspect),
    /// Say what this machine and build can do.
    Doctor,
}

impl Command {
    /// Whether the command computes long enough for the waiting mode of its threads to matter.
    pub(crate) fn runs_long(&self) -> bool {
        use Command::{Doctor, Embed, Evaluate, Reinforce, Sweep, Train};
        matches!(self, Train(_) | Sweep(_) | Reinforce(_) | Evaluate(_) | Embed(_) | Doctor)
    }

    /// Whether the command can compute on a GPU, or reports on GPUs.
    pub(crate) fn takes_a_gpu(&self) -> bool {
        matches!(self, Command::Train(_) | Command::Sweep(_) | Command::Reinforce(_) | Command::Doctor)
    }
}

#[derive(Debug, Group)]
pub(crate) struct Train {
    /// Recipe file (TOML).
    pub recipe: PathBuf,
    /// Change a setting: `key.path=value`, or `runs.NAME.key.path=value` for one run only; may be repeated.
    #[arg(long, value_name = "K=V")]
    pub set: Vec<String>,
    /// Folder of the runs [default: runs/NAME].
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Resume stopped runs and keep finished ones. This is the default, so the option has no effect.
    #[arg(long, conflicts_with = "restart")]
    pub resume: bool,
    /// Remove earlier runs from the folder and start again.
    #[arg(long)]
    pub restart: bool,
    /// Stop each run after this step, with a checkpoint, as a signal would (for slots of limited time).
    #[arg(long, value_name = "STEP")]
    pub stop_after: Option<u64>,
    /// Print steps, samples, parameters, operations and memory, and stop there.
    #[arg(long)]
    pub dry_run: bool,
    /// Print results (or the plan) as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Sweep {
    /// Sweep file (TOML).
    pub file: PathBuf,
    /// Folder of all sweeps: runs in `cells`, reports in a folder of each sweep's name.
    #[arg(long, default_value = "runs/sweeps")]
    pub out: PathBuf,
    /// Change a setting of every cell and every shared run, a teacher too: `key.path=value`; may be repeated.
    #[arg(long, value_name = "K=V")]
    pub set: Vec<String>,
    /// Cells at once.
    #[arg(long, default_value_t = 1)]
    pub jobs: usize,
    /// Devices that cells take in turn, such as cuda:0,cuda:1.
    #[arg(long, value_delimiter = ',')]
    pub devices: Vec<String>,
    /// Start or resume at most this many cells in this session.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Print cells, their state and what they cost, and stop there.
    #[arg(long)]
    pub dry_run: bool,
    /// Write the reports of what is finished, and make nothing.
    #[arg(long, conflicts_with = "dry_run")]
    pub report: bool,
    /// Print the report (or the plan) as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Reinforce {
    /// Recipe file (TOML) with the data and its teacher, or several.
    pub recipe: PathBuf,
    /// Folder of the store; one that was begun is gone on with.
    #[arg(long)]
    pub out: PathBuf,
    /// The run of the recipe whose teachers are stored [default: the first with a teacher].
    #[arg(long)]
    pub run: Option<String>,
    /// Where the recipe's runs are, for a teacher that is one of them [default: runs/NAME].
    #[arg(long)]
    pub runs: Option<PathBuf>,
    /// Change a setting: `key.path=value`; may be repeated.
    #[arg(long, value_name = "K=V")]
    pub set: Vec<String>,
    /// Augmentations per image [default: data.variants of the recipe, or 2].
    #[arg(long, value_name = "K")]
    pub variants: Option<usize>,
    /// How numbers are stored.
    #[arg(long, value_enum, default_value = "f16")]
    pub kind: Numbers,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Numbers {
    F32,
    F16,
    Bf16,
    Int8,
}

#[derive(Debug, Group)]
pub(crate) struct Methods {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Evaluate {
    /// Model folder (open_clip or Hugging Face), checkpoint file, or hf-hub:owner/name.
    #[arg(required_unless_present = "embeddings", conflicts_with = "embeddings")]
    pub model: Option<String>,
    /// Folder of class folders, tar file or pattern, folder of tars, or manifest from `datasets/`.
    #[arg(long, required_unless_present_any = ["suite", "embeddings"], conflicts_with_all = ["suite", "embeddings"])]
    pub data: Option<String>,
    /// Suite file (TOML) that names several data sets.
    #[arg(long, conflicts_with = "embeddings")]
    pub suite: Option<PathBuf>,
    /// Safetensors file with embeddings from elsewhere: `images` (n x D) with `labels` (n) and `classes` (c x D),
    /// or `texts` (m x D) with `image_of` (m); `train_images` and `train_labels` for k-NN and a linear probe.
    #[arg(long)]
    pub embeddings: Option<PathBuf>,
    /// Model (or, with --embeddings, file) to compare with: fidelity and the share of its scores that is retained.
    #[arg(long)]
    pub teacher: Option<String>,
    /// What to ask; by default what the data is made for.
    #[arg(long, requires = "data", conflicts_with_all = ["suite", "embeddings"])]
    pub task: Option<Task>,
    /// Prompt templates: plain, cifar, simple-7, openai-80, or a file with one per line.
    #[arg(long, requires = "data", conflicts_with_all = ["suite", "embeddings"])]
    pub prompts: Option<String>,
    /// Table with the columns `folder` and `name` [default: classes.csv beside or above the class folders].
    #[arg(long, requires = "data", conflicts_with_all = ["suite", "embeddings"])]
    pub classes: Option<PathBuf>,
    /// Text file with one class name per line, in place of the data's own names.
    #[arg(long, requires = "data", conflicts_with_all = ["suite", "embeddings"])]
    pub class_names: Option<PathBuf>,
    /// Where the data of a manifest or suite lies [default: data/NAME, or what the suite says].
    #[arg(long)]
    pub root: Option<PathBuf>,
    /// The preset whose weights a bare file holds.
    #[arg(long)]
    pub arch: Option<String>,
    /// A `tokenizer.json`, for models that do not use CLIP's tokenizer.
    #[arg(long)]
    pub tokenizer: Option<PathBuf>,
    /// Also print every class: recall, precision, support.
    #[arg(long)]
    pub per_class: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Task {
    Classification,
    Retrieval,
}

#[derive(Debug, Group)]
pub(crate) struct Embed {
    /// Model folder (open_clip or Hugging Face), checkpoint file, or hf-hub:owner/name, maybe with @revision.
    pub model: String,
    /// Folder of images; all below it are taken, in the order of their paths.
    #[arg(long, required_unless_present = "texts", conflicts_with = "texts")]
    pub images: Option<PathBuf>,
    /// File with one text per line.
    #[arg(long)]
    pub texts: Option<PathBuf>,
    /// File to write: `embeddings` [n, embed dim], not normalised, and the names in its metadata.
    #[arg(long)]
    pub out: PathBuf,
    /// Replace the file if it exists.
    #[arg(long)]
    pub force: bool,
    /// The preset whose weights a bare file holds, where its shapes do not tell.
    #[arg(long)]
    pub arch: Option<String>,
    /// A `tokenizer.json` [default: that of the model's folder, or CLIP's tokenizer].
    #[arg(long)]
    pub tokenizer: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(crate) struct Classify {
    /// Model folder (open_clip or Hugging Face), checkpoint file, or hf-hub:owner/name, maybe with @revision.
    pub model: String,
    /// Images.
    #[arg(required = true)]
    pub images: Vec<PathBuf>,
    /// Labels, separated by commas.
    #[arg(long, value_delimiter = ',', required = true)]
    pub labels: Vec<String>,
    /// Prompt templates: plain, cifar, simple-7, openai-80, or a file with one per line.
    #[arg(long, default_value = "plain")]
    pub prompts: String,
    /// The preset whose weights a bare file holds, where its shapes do not tell.
    #[arg(long)]
    pub arch: Option<String>,
    /// A `tokenizer.json` [default: that of the model's folder, or CLIP's tokenizer].
    #[arg(long)]
    pub tokenizer: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Convert {
    /// Model folder (open_clip or Hugging Face), checkpoint file, or hf-hub:owner/name, maybe with @revision.
    pub model: String,
    /// What to write.
    #[arg(long)]
    pub to: Format,
    /// Folder to write, or file for `safetensors`.
    pub out: PathBuf,
    /// The preset whose weights a bare file holds, where its shapes do not tell.
    #[arg(long)]
    pub arch: Option<String>,
    /// A `tokenizer.json` to write with the model [default: the one in the model's folder, or CLIP's tokenizer].
    #[arg(long)]
    pub tokenizer: Option<PathBuf>,
    /// Licence of the weights, for the model card (an SPDX name).
    #[arg(long)]
    pub license: Option<String>,
    /// Replace an existing file, or an existing model in the folder.
    #[arg(long)]
    pub force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A folder that Python's open_clip loads as local-dir:.
    OpenClip,
    /// A folder that transformers loads as a CLIPModel, a CLIPProcessor or a pipeline.
    #[value(name = "huggingface")]
    HuggingFace,
    /// One weight file under open_clip's names.
    Safetensors,
}

#[derive(Debug, Group)]
pub(crate) struct Tokenize {
    /// Tokens per text; all ids of a text, without padding, if left out.
    #[arg(long)]
    pub context: Option<usize>,
    /// A `tokenizer.json` instead of CLIP's tokenizer.
    #[arg(long)]
    pub tokenizer: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Group)]
pub(crate) struct Inspect {
    /// Model folder, checkpoint file, hf-hub:owner/name or preset; all presets if left out.
    pub model: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
