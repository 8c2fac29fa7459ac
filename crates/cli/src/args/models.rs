//! Arguments of the commands that apply, convert, inspect and measure models.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args as Group, ValueEnum};
use trainer::recipe::PrecisionConfig;

use super::{Arch, Damage, Device, MODEL, Orientation, Output, Prompts, Tokenizer, at_least_one};

#[derive(Debug, Group)]
#[command(after_help = "\
Examples:
  clip-distill embed runs/mine/model --images pictures --out images.safetensors
  clip-distill embed runs/mine/model --images 'photos/*.jpg' \\
    --out images.safetensors
  clip-distill embed hf-hub:OWNER/NAME --texts captions.txt \\
    --out texts.safetensors")]
pub(crate) struct Embed {
    #[arg(help = MODEL)]
    pub model: String,
    /// Images: a folder with its subfolders, a file, or a pattern such as 'photos/*.jpg'; may be repeated.
    #[arg(long, value_name = "PATH", required_unless_present = "texts", conflicts_with = "texts")]
    pub images: Vec<PathBuf>,
    /// Further images, such as those of a pattern that the shell expanded.
    #[arg(value_name = "IMAGE", requires = "images", hide = true)]
    pub more_images: Vec<PathBuf>,
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
    pub damage: Damage,
    #[command(flatten)]
    pub orientation: Orientation,
    #[command(flatten)]
    pub arch: Arch,
    #[command(flatten)]
    pub tokenizer: Tokenizer,
    #[command(flatten)]
    pub device: Device,
}

#[derive(Debug, Group)]
#[command(
    mut_arg("prompts", |arg| arg.default_value("plain")),
    after_help = "\
Examples:
  clip-distill classify runs/mine/model picture.jpg --labels cat,dog
  clip-distill classify runs/mine/model pictures --labels-file labels.txt
  clip-distill classify runs/mine/model picture.jpg \\
    --labels '\"red, ripe tomato\",leaf'"
)]
pub(crate) struct Classify {
    #[arg(help = MODEL)]
    pub model: String,
    /// Images: files, folders with their subfolders, or patterns such as 'photos/*.jpg'.
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,
    /// Labels, separated by commas; enclose a label that contains a comma in double quotes. May be repeated.
    #[arg(
        long,
        value_name = "LABELS",
        required_unless_present = "labels_file",
        conflicts_with = "labels_file"
    )]
    pub labels: Vec<String>,
    /// File of labels: one per line, or a JSON list.
    #[arg(long, value_name = "FILE")]
    pub labels_file: Option<PathBuf>,
    #[command(flatten)]
    pub prompts: Prompts,
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

#[derive(Debug, Group)]
#[command(after_help = "\
Example:
  clip-distill self-check --device cuda")]
pub(crate) struct SelfCheck {
    #[command(flatten)]
    pub device: Device,
    /// Precisions to check.
    #[arg(long, value_name = "PRECISION", value_delimiter = ',', default_value = "fp32,bf16")]
    pub precision: Vec<ProductPrecision>,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Group)]
#[command(after_help = "\
Examples:
  clip-distill bench
  clip-distill bench --preset ViT-T-16 --teacher ViT-L-14 --batch 64,256 \\
    --precision bf16")]
pub(crate) struct Bench {
    #[command(flatten)]
    pub device: Device,
    /// Student preset; may be repeated [default: two presets that fit the device].
    #[arg(long, value_name = "PRESET")]
    pub preset: Vec<String>,
    /// Teacher preset of the distillation steps [default: ViT-B-16, or ViT-micro-32px for small images].
    #[arg(long, value_name = "PRESET")]
    pub teacher: Option<String>,
    /// Pairs per batch [default: chosen for the device].
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub batch: Vec<u64>,
    /// Pairs per forward and backward pass of the student, as in `train.micro_batch` [default: the whole batch].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub micro_batch: Option<NonZeroUsize>,
    /// Image sizes of the student in pixels, multiples of the patch size [default: the preset's].
    #[arg(long, value_name = "PX", value_delimiter = ',', value_parser = clap::value_parser!(i64).range(1..))]
    pub image_size: Vec<i64>,
    /// Measure training steps only, without distillation steps.
    #[arg(long, conflicts_with = "teacher")]
    pub no_teacher: bool,
    /// Precisions [default: fp32, and bf16 if the device has instructions for it].
    #[arg(long, value_name = "PRECISION", value_delimiter = ',')]
    pub precision: Vec<ProductPrecision>,
    /// Steps to measure per case, for at most a minute.
    #[arg(long, value_name = "N", default_value = "10", value_parser = at_least_one)]
    pub steps: NonZeroUsize,
    #[command(flatten)]
    pub output: Output,
    /// Measure one case, given as JSON, in this process.
    #[arg(long, value_name = "JSON", hide = true)]
    pub case: Option<String>,
    /// Measure rounds of the case in a JSON file, one per line of standard input, and write its results to a file.
    #[arg(long, value_names = ["CASE", "RESULTS"], num_args = 2, hide = true)]
    pub rounds: Vec<PathBuf>,
}

/// Precision of matrix products and convolutions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProductPrecision {
    /// float32.
    Fp32,
    /// bfloat16.
    Bf16,
}

impl From<ProductPrecision> for PrecisionConfig {
    fn from(precision: ProductPrecision) -> Self {
        match precision {
            ProductPrecision::Fp32 => PrecisionConfig::Fp32,
            ProductPrecision::Bf16 => PrecisionConfig::Bf16,
        }
    }
}
