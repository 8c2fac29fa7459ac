//! The rows of the comparison: work, inputs, target ratio, and tolerance of the results.

use std::path::Path;

use serde_json::{Value, json};

/// A row of the table.
pub(super) struct Row {
    /// Name for `--only`.
    pub name: &'static str,
    /// Description in the table.
    pub title: &'static str,
    pub bar: Option<Bar>,
    pub tolerance: Tolerance,
    pub work: Work,
}

/// Target ratio of the program to the peer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bar {
    /// Ratio of speeds.
    AtLeast(f64),
    /// Ratio of memory.
    AtMost(f64),
}

/// Tolerance for the deviation of the program's results from the peer's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tolerance {
    /// Maximum deviation of each value.
    pub largest: f64,
    /// Maximum of the mean deviation.
    pub mean: f64,
    /// Whether deviations are divided by the peer's value.
    pub is_relative: bool,
}

/// A level of an 8-bit channel after normalisation by CLIP's smallest standard deviation.
const LEVEL: f64 = 1.0 / 255.0 / 0.261_302_6;
/// Pixels: at most 3 levels per value and half a level on average, because libjpeg implementations round the inverse
/// DCT and the upsampling differently.
const PIXELS: Tolerance = Tolerance { largest: 3.0 * LEVEL, mean: 0.5 * LEVEL, is_relative: false };
/// Token ids must be equal.
const IDS: Tolerance = Tolerance { largest: 0.0, mean: 0.0, is_relative: false };
/// Losses of the first steps in float32, which differ because sums are added in a different order.
const LOSSES: Tolerance = Tolerance { largest: 1e-4, mean: 1e-4, is_relative: true };
/// Losses in bfloat16 (8 significant bits), which differ because autocast rounds different intermediate results.
const LOSSES_BF16: Tolerance = Tolerance { largest: 2e-2, mean: 2e-2, is_relative: true };
/// Accuracy as a fraction: rounding may flip near-ties, that is, up to 5 of 10,000 predictions.
const ACCURACY: Tolerance = Tolerance { largest: 5e-4, mean: 5e-4, is_relative: false };

/// The measured work.
pub(super) enum Work {
    /// Decoding and transforming photos on one core.
    Images { training: bool },
    /// Tokenising captions on one core.
    Tokens,
    /// Training or distillation steps.
    Step(Step),
    /// Peak memory of training or distillation steps.
    Memory(Step),
    /// Zero-shot evaluation as a whole command.
    ZeroShot,
}

/// Training or distillation steps.
#[derive(Clone, Copy)]
pub(super) struct Step {
    student: &'static str,
    teacher: Option<&'static str>,
    /// The program reads the teacher's embeddings from memory; the peer runs the teacher.
    stored: bool,
    batches: &'static str,
    batch: u64,
    precision: &'static str,
    /// Steps per round, chosen so that a round takes seconds.
    round_steps: u64,
}

/// ViT-T/16 with a text tower of 12 x 384.
const TRAIN: Step = Step {
    student: "ViT-T-16",
    teacher: None,
    stored: false,
    batches: "batches-224-short",
    batch: 16,
    precision: "fp32",
    round_steps: 2,
};
const DISTIL: Step = Step { teacher: Some("ViT-B-16"), ..TRAIN };
/// A student of 3 x 128 at 32 px.
const SMALL: Step =
    Step { student: "ViT-pico-32px", batches: "batches-32-short", batch: 128, round_steps: 6, ..TRAIN };
/// A teacher of 4 x 128.
const SMALL_DISTIL: Step = Step { teacher: Some("ViT-micro-32px"), ..SMALL };

impl Step {
    /// Returns the step in bf16. Emulated bf16 is slow, so a round has a single step.
    const fn in_bf16(self) -> Self {
        Step { precision: "bf16", round_steps: 1, ..self }
    }
}

/// Returns all rows, in the order of the table.
pub(super) fn all() -> Vec<Row> {
    let least = |bar| Some(Bar::AtLeast(bar));
    let most = |bar| Some(Bar::AtMost(bar));
    let images = |name, title, bar, training| Row {
        name,
        title,
        bar,
        tolerance: PIXELS,
        work: Work::Images { training },
    };
    let step = |name, title, bar, step: Step| {
        let tolerance = if step.precision == "bf16" { LOSSES_BF16 } else { LOSSES };
        Row { name, title, bar, tolerance, work: Work::Step(step) }
    };
    let memory =
        |name, title, step| Row { name, title, bar: most(0.6), tolerance: LOSSES, work: Work::Memory(step) };
    vec![
        images("photos", "JPEG of 500 px, evaluation transform to 224, one core", least(2.0), false),
        images("photos-training", "JPEG of 500 px, training transform to 224, one core", None, true),
        Row {
            name: "captions",
            title: "tokenising captions, one core",
            bar: least(40.0),
            tolerance: IDS,
            work: Work::Tokens,
        },
        step("train", "train ViT-T/16, batch 16, short captions, fp32", least(2.2), TRAIN),
        step(
            "train-77",
            "train ViT-T/16, batch 16, captions of 77 tokens, fp32",
            least(1.5),
            Step { batches: "batches-224-full", ..TRAIN },
        ),
        step("train-bf16", "train ViT-T/16, batch 16, short captions, bf16", least(1.6), TRAIN.in_bf16()),
        step("distil", "distil ViT-T/16 from ViT-B/16, batch 16, fp32", least(2.2), DISTIL),
        step("distil-bf16", "distil ViT-T/16 from ViT-B/16, batch 16, bf16", least(1.6), DISTIL.in_bf16()),
        step(
            "distil-stored",
            "distil ViT-T/16 from stored embeddings, batch 16, fp32; the peer runs ViT-B/16",
            least(7.0),
            Step { stored: true, ..DISTIL },
        ),
        step("small-distil", "32 px: distil 3 x 128 from 4 x 128, batch 128, fp32", least(2.0), SMALL_DISTIL),
        step(
            "small-distil-bf16",
            "32 px: distil 3 x 128 from 4 x 128, batch 128, bf16",
            least(1.6),
            SMALL_DISTIL.in_bf16(),
        ),
        step("small-train", "32 px: train 3 x 128, batch 128, fp32", least(1.8), SMALL),
        memory("memory-train", "peak memory of `train`", TRAIN),
        memory("memory-distil", "peak memory of `distil`", DISTIL),
        memory("memory-small", "peak memory of `small-distil`", SMALL_DISTIL),
        Row {
            name: "zero-shot",
            title: "zero-shot evaluation of 10,000 images of 32 px, whole command",
            bar: least(4.0),
            tolerance: ACCURACY,
            work: Work::ZeroShot,
        },
    ]
}

impl Row {
    pub(super) fn is_bf16(&self) -> bool {
        matches!(&self.work, Work::Step(step) | Work::Memory(step) if step.precision == "bf16")
    }

    pub(super) fn is_memory(&self) -> bool {
        matches!(self.work, Work::Memory(_))
    }

    /// Returns the unit of the row's values.
    pub(super) fn unit(&self) -> &'static str {
        match self.work {
            Work::Memory(_) => "MiB",
            Work::ZeroShot => "s",
            Work::Images { .. } => "images/s",
            Work::Tokens => "captions/s",
            Work::Step(_) => "samples/s",
        }
    }

    /// Returns the thread count of the row: 1 in single-core rows, else `threads`.
    pub(super) fn threads(&self, threads: usize) -> usize {
        if matches!(self.work, Work::Images { .. } | Work::Tokens) { 1 } else { threads }
    }

    /// Returns the names of the row's inputs, which `inputs.py` creates.
    pub(super) fn inputs(&self) -> Vec<String> {
        match &self.work {
            Work::Images { .. } => vec!["photos".into()],
            Work::Tokens => vec!["captions".into()],
            Work::ZeroShot => vec!["zero-shot".into()],
            Work::Step(step) | Work::Memory(step) => {
                let models = [Some(step.student), step.teacher].into_iter().flatten();
                models.map(|name| format!("models/{name}")).chain([step.batches.into()]).collect()
            }
        }
    }

    /// Returns the case that both sides read, or `None` for rows that measure whole commands.
    pub(super) fn case(&self, inputs: &Path, threads: usize) -> Option<Value> {
        let threads = self.threads(threads);
        Some(match &self.work {
            Work::ZeroShot => return None,
            Work::Images { training } => json!({
                "kind": "images", "threads": threads, "folder": inputs.join("photos"), "size": 224, "training": training,
            }),
            Work::Tokens => json!({
                "kind": "tokens", "threads": threads, "file": inputs.join("captions/captions.txt"), "context": 77,
            }),
            Work::Step(step) | Work::Memory(step) => {
                let model = |name: &str| inputs.join("models").join(name);
                json!({
                    "kind": "step",
                    "threads": threads,
                    "student": model(step.student),
                    "teacher": step.teacher.map(model),
                    "stored": step.stored,
                    "batches": inputs.join(step.batches).join("batches.safetensors"),
                    "batch": step.batch,
                    "precision": step.precision,
                    "lr": 1e-4,
                    "check_steps": if self.is_bf16() { 1 } else { 3 },
                    "round_steps": step.round_steps,
                })
            }
        })
    }
}
