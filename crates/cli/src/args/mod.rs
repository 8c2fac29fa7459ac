//! Command-line arguments.

mod evaluate;
mod models;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use data_pipeline::policy::ErrorPolicy;
use trainer::recipe::DeviceSetting;

pub(crate) use evaluate::{Evaluate, Task};
pub(crate) use models::{
    Bench, Classify, Convert, Embed, Format, Inspect, ProductPrecision, SelfCheck, Tokenize,
};

/// Distil large CLIP models into small ones that keep their zero-shot accuracy.
#[derive(Debug, Parser)]
#[command(
    version = env!("CLIP_DISTILL_VERSION"),
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
    /// list of the image paths or texts. The file has no labels, so `evaluate --embeddings` does not read it: `evaluate`
    /// with a model and --data computes scores.
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
    /// Download a published data set and verify its checksums, or list all data sets.
    ///
    /// An interrupted download resumes. For data sets whose terms require a manual download, instructions are printed.
    Download(Download),
    /// Check this machine: libtorch, its speed, CUDA devices, threads and the tokenizer.
    ///
    /// Exits with 1 if libtorch or the tokenizer computes a wrong result.
    Doctor,
    /// Compare this machine's results with reference values.
    ///
    /// Checks towers, losses, a short training and a resumed run, in float32 and bfloat16. Run it first on a new
    /// machine or GPU. Takes about a minute on a CPU with two cores; without bfloat16 instructions, --precision fp32 is the
    /// faster part. Exits with 1 if a result differs by more than its tolerance.
    SelfCheck(SelfCheck),
    /// Measure training and distillation steps: time, samples per second, share of the device's peak, memory.
    ///
    /// Trains on random data, so neither data nor weights are needed. Each case runs in its own process. The share of the
    /// peak counts the multiply-adds of the whole model (model FLOPs utilization), although the last block of a tower
    /// may compute one token only.
    Bench(Bench),
}

impl Command {
    /// Whether the OpenMP and allocator settings apply: the command runs long enough for them, or reports them.
    pub(crate) fn runs_long(&self) -> bool {
        use Command::{Bench, Doctor, Embed, Evaluate, Reinforce, SelfCheck, Sweep, Train};
        matches!(
            self,
            Train(_) | Sweep(_) | Reinforce(_) | Evaluate(_) | Embed(_) | Doctor | Bench(_) | SelfCheck(_)
        )
    }

    /// Whether the command may compute on a GPU, or reports on GPUs.
    pub(crate) fn uses_gpu(&self) -> bool {
        use Command::{Bench, Classify, Doctor, Embed, Evaluate, Reinforce, SelfCheck, Sweep, Train};
        let device = match self {
            Train(args) => args.device.chosen,
            Reinforce(args) => args.device.chosen,
            Evaluate(args) => args.device.chosen,
            Embed(args) => args.device.chosen,
            Classify(args) => args.device.chosen,
            SelfCheck(args) => args.device.chosen,
            Bench(args) => args.device.chosen,
            Sweep(_) | Doctor => None,
            _ => return false,
        };
        device != Some(DeviceSetting::Cpu)
    }
}

/// Help of the option --device of a command with a recipe.
const RECIPE_DEVICE: &str =
    "Device: auto (the first GPU, or the CPU), cpu, cuda or cuda:N [default: `train.device` of the recipe]";

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

// The device of a computation.
#[derive(Debug, Group)]
pub(crate) struct Device {
    /// Device: auto (the first GPU, or the CPU), cpu, cuda or cuda:N [default: auto].
    #[arg(id = "device", long = "device", value_name = "DEVICE")]
    pub chosen: Option<DeviceSetting>,
}

impl Device {
    /// Returns the setting of a recipe that selects the device.
    pub(crate) fn as_override(&self) -> Option<String> {
        self.chosen.map(|device| format!("train.device={device}"))
    }

    /// Returns the device of this machine for a command without a recipe.
    ///
    /// # Errors
    /// The errors of [`trainer::model::device::resolve`].
    pub(crate) fn resolve(&self) -> trainer::Result<tch::Device> {
        trainer::model::device::resolve(self.chosen.unwrap_or_default())
    }
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
    ///
    /// A JSON file may also contain a list of templates, or an object with the prompts of each class. Lists of templates in
    /// Python are read too.
    #[arg(long, value_name = "NAME|FILE")]
    pub prompts: Option<String>,
}

// Handling of damaged images.
#[derive(Debug, Group)]
pub(crate) struct Damage {
    /// Largest fraction of damaged images to leave out [default: 0.01, or the suite's `damaged`].
    ///
    /// Damaged images are counted and named. In a set with fewer than 1000 images, as many may be damaged as in a set
    /// with 1000.
    #[arg(long, value_name = "FRACTION", value_parser = fraction)]
    max_damaged: Option<f64>,
}

impl Damage {
    pub(crate) fn policy(&self) -> Option<ErrorPolicy> {
        self.max_damaged.map(|max_fraction| ErrorPolicy::Skip { max_fraction })
    }
}

// Rotation of images.
#[derive(Debug, Group)]
pub(crate) struct Orientation {
    /// Turn images upright by their EXIF orientation, which open_clip ignores.
    #[arg(long)]
    pub exif_orientation: bool,
}

fn fraction(text: &str) -> Result<f64, &'static str> {
    let fraction = text.parse().ok().filter(|value| (0.0..=1.0).contains(value));
    fraction.ok_or("must be a number from 0 to 1")
}

#[derive(Debug, Group)]
#[command(after_help = "\
Examples:
  clip-distill download
  clip-distill download cifar10
  clip-distill evaluate MODEL --data datasets/cifar10.toml")]
pub(crate) struct Download {
    /// Name of a data set, or a manifest (TOML) that describes one; without it, all data sets are listed.
    pub data: Option<String>,
    /// Output folder; the data set is stored in a subfolder with its name.
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub to: PathBuf,
}

#[derive(Debug, Group)]
#[command(
    mut_arg("device", |arg| arg.help(RECIPE_DEVICE)),
    after_help = "\
Examples:
  clip-distill train configs/recipes/quickstart.toml --dry-run
  clip-distill train mine.toml --set data.root=DATA --set train.batch_size=64

--set changes all runs of the recipe, or one of them as runs.NAME.KEY=VALUE."
)]
pub(crate) struct Train {
    /// Recipe file (TOML).
    pub recipe: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    #[command(flatten)]
    pub device: Device,
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
  clip-distill sweep configs/sweeps/clip-rd.toml --dry-run
  clip-distill sweep configs/sweeps/clip-rd.toml --jobs 2 \\
    --devices cuda:0,cuda:1

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
    /// Devices to assign to runs in turn, such as cuda:0,cuda:1 [default: `train.device` of each recipe].
    #[arg(long, visible_alias = "device", value_name = "DEVICE", value_delimiter = ',')]
    pub devices: Vec<DeviceSetting>,
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
#[command(
    mut_arg("device", |arg| arg.help(RECIPE_DEVICE)),
    after_help = "\
Example:
  clip-distill reinforce mine.toml --out store
  clip-distill train mine.toml --set teacher.store=store"
)]
pub(crate) struct Reinforce {
    /// Recipe file (TOML) with data and one or more teachers.
    pub recipe: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    #[command(flatten)]
    pub device: Device,
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

    #[test]
    fn helps_fit_a_terminal_and_name_a_recipe_only_where_there_is_one() {
        let mut command = Args::command().term_width(80);
        command.build();
        for subcommand in command.get_subcommands_mut().filter(|command| command.get_name() != "help") {
            let name = subcommand.get_name().to_string();
            let examples = subcommand.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in examples.lines().filter(|line| line.starts_with("  ")) {
                assert!(line.chars().count() <= 80, "{name}: {line}");
            }
            let help = subcommand.render_long_help().to_string().replace('\n', " ");
            let has_recipe = ["train", "reinforce", "sweep"].contains(&name.as_str());
            if help.contains("--device") {
                assert_eq!(
                    help.contains("of the recipe") || help.contains("of each recipe"),
                    has_recipe,
                    "{name}: {help}"
                );
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
