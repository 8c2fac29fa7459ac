//! Command-line arguments.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::{Args as Group, Parser, Subcommand, ValueEnum};

/// Distil large CLIP models into small ones that keep their zero-shot accuracy.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "\
Start with:
  clip-distill train configs/recipes/quickstart.toml
  clip-distill help train

Exit codes:
  0    success
  1    error
  2    invalid arguments
  130  stopped by a signal, --stop-after or --limit

Ctrl-C or SIGTERM stops a run after the current step, with a checkpoint; the same command resumes it. A second signal \
ends the program at once."
)]
pub(crate) struct Args {
    /// Log more; RUST_LOG=trainer=debug sets the level of a single crate.
    #[arg(long, short, global = true, display_order = 100)]
    pub verbose: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train the runs of a recipe, evaluate them and write a report.
    ///
    /// A recipe (TOML) names a student, its losses, teachers and data; docs/recipes.md describes every setting. A run
    /// writes its metrics, checkpoints, model and scores to its folder. The same command resumes stopped runs and keeps
    /// finished ones.
    Train(Train),
    /// Train the cells of a sweep once per seed and compare them.
    ///
    /// A sweep file (TOML) lists seeds and cells; a cell is a variation of a recipe. Sweeps with the same --out share
    /// runs with equal settings. The same command resumes stopped runs and keeps finished ones. The report contains
    /// means over seeds and paired differences to the baseline.
    Sweep(Sweep),
    /// Store the embeddings of a recipe's teachers, so that training does not load the teachers.
    ///
    /// Embeds a fixed number of augmentations of each training image, and all captions. A recipe trains from the store
    /// with `teacher.store`. The same command resumes a partial store.
    Reinforce(Reinforce),
    /// List methods and losses with their papers.
    Methods(Methods),
    /// Print the reference of all settings of recipes, sweeps and suites.
    ///
    /// The reference is generated from the program and lists type, default and description of each setting. As a JSON
    /// schema, it lets editors complete and check the files.
    Settings(Settings),
    /// Evaluate a model zero-shot on one data set or a suite of them.
    ///
    /// Measures classification or retrieval and prints a table in percent. With --teacher, also compares the model with
    /// its teacher. Embeddings from another program can replace the model.
    Evaluate(Evaluate),
    /// Write the embeddings of images or texts to a file.
    ///
    /// The safetensors file holds `embeddings` [n, embed dim], not normalised. Its metadata entry `names` is a JSON
    /// list of the image paths or texts.
    Embed(Embed),
    /// Classify images zero-shot among labels of your choice.
    Classify(Classify),
    /// Convert a model to another format.
    ///
    /// Folders also get a model card (README.md), and the tokenizer if their library needs the file.
    Convert(Convert),
    /// Print the token ids of the lines of standard input.
    Tokenize(Tokenize),
    /// Print the size, cost and configuration of a model, or list all presets.
    Inspect(Inspect),
    /// Check this machine: libtorch, its speed, CUDA devices, threads and the tokenizer.
    ///
    /// Exits with 1 if libtorch or the tokenizer computes a wrong result.
    Doctor,
}

impl Command {
    /// Whether the command runs long enough for the spin time of its threads to matter, or reports it.
    pub(crate) fn runs_long(&self) -> bool {
        use Command::{Doctor, Embed, Evaluate, Reinforce, Sweep, Train};
        matches!(self, Train(_) | Sweep(_) | Reinforce(_) | Evaluate(_) | Embed(_) | Doctor)
    }

    /// Whether the command can compute on a GPU, or reports on GPUs.
    pub(crate) fn uses_gpu(&self) -> bool {
        matches!(self, Command::Train(_) | Command::Sweep(_) | Command::Reinforce(_) | Command::Doctor)
    }
}

/// Help of the argument MODEL.
const MODEL: &str = "Model folder (open_clip or Hugging Face), weight file, hf-hub:OWNER/NAME[@REVISION], or open_clip's ARCH:TAG";

fn at_least_one(text: &str) -> Result<NonZeroUsize, &'static str> {
    text.parse().map_err(|_| "must be a whole number of at least 1")
}

// Options of several commands. Their comments are not documentation, because clap would show the documentation of a
// group as the description of the command.

// Settings of a recipe.
#[derive(Debug, Group)]
pub(crate) struct Overrides {
    /// Override a setting of the recipe, such as train.steps=500; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

// The format of the result.
#[derive(Debug, Group)]
pub(crate) struct Output {
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

// The architecture of a bare weight file.
#[derive(Debug, Group)]
pub(crate) struct Arch {
    /// Architecture preset of a bare weight file, if it cannot be inferred.
    #[arg(long, value_name = "PRESET")]
    arch: Option<String>,
}

impl Arch {
    pub(crate) fn as_deref(&self) -> Option<&str> {
        self.arch.as_deref()
    }
}

// The tokenizer of a model.
#[derive(Debug, Group)]
pub(crate) struct Tokenizer {
    /// A tokenizer.json [default: the one in the model folder, or CLIP's tokenizer].
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

impl Tokenizer {
    pub(crate) fn as_deref(&self) -> Option<&Path> {
        self.tokenizer.as_deref()
    }
}

// Prompt templates.
#[derive(Debug, Group)]
pub(crate) struct Prompts {
    /// Prompt templates: plain, cifar, simple-7, openai-80, or a file with one per line.
    #[arg(long, value_name = "NAME|FILE")]
    pub prompts: Option<String>,
}

#[derive(Debug, Group)]
#[command(after_help = "\
Examples:
  clip-distill train configs/recipes/quickstart.toml --dry-run
  clip-distill train mine.toml --set data.root=DATA --set train.batch_size=64

--set changes all runs of the recipe, or one of them as runs.NAME.KEY=VALUE.")]
pub(crate) struct Train {
    /// Recipe file (TOML).
    pub recipe: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Output folder [default: runs/NAME].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Resume stopped runs and keep finished ones (the default; the option has no effect).
    #[arg(long, conflicts_with = "restart")]
    pub resume: bool,
    /// Remove earlier runs from the output folder and start again.
    #[arg(long)]
    pub restart: bool,
    /// Stop when a run reaches this step, with a checkpoint; for time-limited jobs.
    #[arg(long, value_name = "STEP")]
    pub stop_after: Option<u64>,
    /// Print the steps, samples, parameters, FLOPs and memory of each run, and exit.
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Group)]
#[command(after_help = "\
Examples:
  clip-distill sweep configs/sweeps/quick.toml --dry-run
  clip-distill sweep configs/sweeps/quick.toml --jobs 2 --devices cuda:0,cuda:1

--set changes all cells and all shared runs, such as teachers.")]
pub(crate) struct Sweep {
    /// Sweep file (TOML).
    #[arg(value_name = "SWEEP")]
    pub file: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Output folder: runs go to `cells`, reports to a folder with the sweep's name.
    #[arg(long, value_name = "DIR", default_value = "runs/sweeps")]
    pub out: PathBuf,
    /// Number of runs to train at the same time.
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least_one)]
    pub jobs: NonZeroUsize,
    /// Devices to assign to runs in turn, such as cuda:0,cuda:1 [default: that of the recipe].
    #[arg(long, value_name = "DEVICE", value_delimiter = ',')]
    pub devices: Vec<String>,
    /// Stop after starting or resuming this many runs; for time-limited jobs.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Print the state and cost of each run, and exit.
    #[arg(long)]
    pub dry_run: bool,
    /// Write the report of the finished runs without training.
    #[arg(long, conflicts_with = "dry_run")]
    pub report: bool,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Group)]
#[command(after_help = "\
Example:
  clip-distill reinforce mine.toml --out store
  clip-distill train mine.toml --set teacher.store=store")]
pub(crate) struct Reinforce {
    /// Recipe file (TOML) with data and one or more teachers.
    pub recipe: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Output folder; resumes a partial store.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Run of the recipe whose teachers to store [default: the first run with a teacher].
    #[arg(long, value_name = "NAME")]
    pub run: Option<String>,
    /// Folder of the recipe's runs, if a teacher is one of them [default: runs/NAME].
    #[arg(long, value_name = "DIR")]
    pub runs: Option<PathBuf>,
    /// Augmentations per image [default: data.variants of the recipe, or 2].
    #[arg(long, value_name = "N")]
    pub variants: Option<usize>,
    /// Number format of the stored embeddings.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "f16")]
    pub kind: Numbers,
    #[command(flatten)]
    pub output: Output,
}

/// Number format of stored embeddings.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Numbers {
    /// float32: 4 bytes, exact.
    F32,
    /// float16: 2 bytes, an error of about 2e-4.
    F16,
    /// bfloat16: 2 bytes, the range of float32 with 8 bits of precision.
    Bf16,
    /// 8-bit integers: 1 byte, with a scale per embedding.
    Int8,
}

#[derive(Debug, Group)]
#[command(after_help = "\
A recipe turns a loss on by its weight, such as losses.crd = 1.0; docs/methods.md has the formulas.")]
pub(crate) struct Methods {
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Group)]
#[command(after_help = "\
Examples:
  clip-distill settings recipe
  clip-distill settings recipe --json-schema > recipe.schema.json")]
pub(crate) struct Settings {
    /// Type of file [default: all].
    pub kind: Option<FileType>,
    /// Print the JSON schema of the file.
    #[arg(long, requires = "kind")]
    pub json_schema: bool,
    /// Fail unless the generated parts of this Markdown file are up to date.
    #[arg(long, value_name = "FILE", conflicts_with = "json_schema")]
    pub check: Option<PathBuf>,
    /// Update the generated parts of this Markdown file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json_schema", "check"])]
    pub write: Option<PathBuf>,
}

/// Type of file with settings.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum FileType {
    /// Training runs (clip-distill train).
    Recipe,
    /// A comparison of runs (clip-distill sweep).
    Sweep,
    /// Data sets (clip-distill evaluate --suite).
    Suite,
}

/// Arguments that exclude the options of a single data set.
const ONE_DATA_SET: [&str; 2] = ["suite", "embeddings"];

#[derive(Debug, Group)]
#[command(
    mut_arg("prompts", |arg| arg.requires("data").conflicts_with_all(ONE_DATA_SET)),
    after_help = "\
Examples:
  clip-distill evaluate runs/mine/model --data datasets/cifar10.toml
  clip-distill evaluate runs/mine/model --data pictures --class-names names.txt --prompts openai-80
  clip-distill evaluate MODEL --suite configs/suites/small-images.toml --teacher TEACHER --json

Without --prompts, the templates are those of the manifest, or plain."
)]
pub(crate) struct Evaluate {
    #[arg(help = MODEL, required_unless_present = "embeddings", conflicts_with = "embeddings")]
    pub model: Option<String>,
    /// Data set: class folders, tars of image-text pairs, a manifest, or emoji.
    ///
    /// A folder of class folders is used for classification. A tar file, a pattern such as val-{000..009}.tar, a folder
    /// of tars and the built-in data set `emoji` are used for retrieval. A manifest (TOML, see datasets/) states its
    /// task.
    #[arg(long, required_unless_present_any = ONE_DATA_SET, conflicts_with_all = ONE_DATA_SET)]
    pub data: Option<String>,
    /// Suite file (TOML) with several data sets.
    #[arg(long, value_name = "FILE", conflicts_with = "embeddings")]
    pub suite: Option<PathBuf>,
    /// Safetensors file of embeddings from another program, instead of a model and data.
    ///
    /// For classification: `images` (n x d), `labels` (n) and `classes` (c x d). For retrieval: `images`, `texts` (m x d)
    /// and `image_of` (m), the image of each text. `train_images` and `train_labels` add k-NN and a linear probe. The
    /// metadata entry `class_names`, a JSON list, is optional.
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
    /// Table (CSV) with the columns `folder` and `name` [default: classes.csv in the data folder or its parent].
    #[arg(long, value_name = "FILE", requires = "data", conflicts_with_all = ONE_DATA_SET)]
    pub classes: Option<PathBuf>,
    /// Text file with one class name per line, instead of the names in the data set.
    #[arg(long, value_name = "FILE", requires = "data", conflicts_with_all = ONE_DATA_SET)]
    pub class_names: Option<PathBuf>,
    /// Folder for the relative paths of a manifest or suite [default: data/NAME, or the suite's `root`].
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    #[command(flatten)]
    pub arch: Arch,
    #[command(flatten)]
    pub tokenizer: Tokenizer,
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

#[derive(Debug, Group)]
#[command(after_help = "\
Examples:
  clip-distill embed runs/mine/model --images pictures --out images.safetensors
  clip-distill embed hf-hub:OWNER/NAME --texts captions.txt --out texts.safetensors")]
pub(crate) struct Embed {
    #[arg(help = MODEL)]
    pub model: String,
    /// Folder of images, including subfolders, in the order of their paths.
    #[arg(long, value_name = "DIR", required_unless_present = "texts", conflicts_with = "texts")]
    pub images: Option<PathBuf>,
    /// Text file with one text per line.
    #[arg(long, value_name = "FILE")]
    pub texts: Option<PathBuf>,
    /// Output file (safetensors).
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Replace an existing output file.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub arch: Arch,
    #[command(flatten)]
    pub tokenizer: Tokenizer,
}

#[derive(Debug, Group)]
#[command(
    mut_arg("prompts", |arg| arg.default_value("plain")),
    after_help = "\
Example:
  clip-distill classify runs/mine/model picture.jpg --labels cat,dog"
)]
pub(crate) struct Classify {
    #[arg(help = MODEL)]
    pub model: String,
    /// Image files.
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,
    /// Labels, separated by commas.
    #[arg(long, value_name = "LABEL", value_delimiter = ',', required = true)]
    pub labels: Vec<String>,
    #[command(flatten)]
    pub prompts: Prompts,
    #[command(flatten)]
    pub arch: Arch,
    #[command(flatten)]
    pub tokenizer: Tokenizer,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Group)]
#[command(after_help = "\
Examples:
  clip-distill convert runs/mine/model mine-hf --to huggingface --license mit
  clip-distill convert hf-hub:OWNER/NAME model.safetensors --to safetensors")]
pub(crate) struct Convert {
    #[arg(help = MODEL)]
    pub model: String,
    /// Output format.
    #[arg(long, value_name = "FORMAT")]
    pub to: Format,
    /// Output folder, or output file for `safetensors`.
    pub out: PathBuf,
    #[command(flatten)]
    pub arch: Arch,
    #[command(flatten)]
    pub tokenizer: Tokenizer,
    /// Licence of the weights for the model card (an SPDX name).
    #[arg(long, value_name = "SPDX")]
    pub license: Option<String>,
    /// Replace an existing file, or the model in an existing folder.
    #[arg(long)]
    pub force: bool,
}

/// Output format of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A folder for Python's open_clip (local-dir:DIR).
    OpenClip,
    /// A folder for transformers: CLIPModel, CLIPProcessor and pipelines.
    #[value(name = "huggingface")]
    HuggingFace,
    /// A single weight file with open_clip's parameter names.
    Safetensors,
}

#[derive(Debug, Group)]
#[command(
    mut_arg("tokenizer", |arg| arg.help("A tokenizer.json [default: CLIP's tokenizer]")),
    after_help = "\
Example:
  echo \"a photo of a cat\" | clip-distill tokenize"
)]
pub(crate) struct Tokenize {
    /// Tokens per text, truncated or padded [default: unpadded, or 77 with --tokenizer].
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
    #[command(flatten)]
    pub tokenizer: Tokenizer,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Group)]
#[command(after_help = "\
Examples:
  clip-distill inspect
  clip-distill inspect ViT-B-16
  clip-distill inspect hf-hub:OWNER/NAME --json")]
pub(crate) struct Inspect {
    /// Preset, configuration file, model folder, weight file, hf-hub:OWNER/NAME or open_clip's ARCH:TAG [default: all
    /// presets].
    pub model: Option<String>,
    #[command(flatten)]
    pub output: Output,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent_and_shared_options_keep_the_descriptions_of_commands() {
        let mut command = Args::command();
        command.build();
        command.clone().debug_assert();
        for subcommand in command.get_subcommands().filter(|command| command.get_name() != "help") {
            let about = subcommand.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(!about.is_empty() && !about.ends_with('.'), "{}: {about}", subcommand.get_name());
            for argument in subcommand.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", subcommand.get_name(), argument.get_id());
            }
        }
    }

    fn refused(arguments: &[&str]) -> String {
        let arguments = ["clip-distill"].iter().chain(arguments);
        Args::try_parse_from(arguments).unwrap_err().to_string()
    }

    #[test]
    fn zero_jobs_are_refused() {
        let error = refused(&["sweep", "sweep.toml", "--jobs", "0"]);
        assert!(error.contains("--jobs") && error.contains("at least 1"), "{error}");
    }

    #[test]
    fn prompts_are_refused_without_a_data_set() {
        let error = refused(&["evaluate", "model", "--suite", "suite.toml", "--prompts", "plain"]);
        assert!(error.contains("--prompts") && error.contains("--suite"), "{error}");
    }

    #[test]
    fn classify_uses_the_plain_template_by_default() {
        let arguments = ["clip-distill", "classify", "model", "a.png", "--labels", "a,b"];
        let Command::Classify(classify) = Args::parse_from(arguments).command else { panic!("classify") };
        assert_eq!(classify.prompts.prompts.as_deref(), Some("plain"));
    }
}
