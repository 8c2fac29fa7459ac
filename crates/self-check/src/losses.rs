//! Losses: values and gradients of named inputs, compared with those of the published implementations.

use std::collections::{BTreeSet, HashMap};

use kd_losses::{
    AuxOutputs, BlockPairs, Embeddings, Loss, ModelOutputs, Objective, Targets, Term, TokenStates,
    TokenWidths, embeddings, logit,
};
use safetensors::SafeTensors;
use tch::{Device, Tensor};

use crate::tensors::{deviation, read};
use crate::{Error, Result, fill};

const STUDENT_SCALE: f64 = 20.0;
const TEACHER_SCALE: f64 = 50.0;
const SIGLIP_BIAS: f64 = -10.0;

/// Largest relative error of a loss.
pub const TOLERANCE: f64 = 1e-5;
/// Largest error of a gradient, relative to its largest value.
pub const GRADIENT_TOLERANCE: f64 = 1e-4;

/// The embedded references: published losses, and this project's own.
const REFERENCES: [(&str, &[u8]); 4] = [
    ("same width", include_bytes!("../../../tests/golden/losses/same-width.safetensors")),
    ("wider teacher", include_bytes!("../../../tests/golden/losses/wider-teacher.safetensors")),
    ("same width", include_bytes!("../../../tests/golden/losses-extra/same-width.safetensors")),
    ("wider teacher", include_bytes!("../../../tests/golden/losses-extra/wider-teacher.safetensors")),
];

/// Parses the embedded references.
pub(crate) fn embedded() -> impl Iterator<Item = Result<Case>> {
    REFERENCES.iter().map(|(title, bytes)| Case::read(title, bytes))
}

/// Returns the loss with this name in a reference file, such as `crd` or `patch_tokens`.
pub fn loss(name: &str) -> Option<Loss> {
    match name {
        // The name contains the temperature.
        "hinton_t4" => Some(Loss::Hinton),
        _ => Loss::all().find(|loss| loss.name() == name.replace('_', "-")),
    }
}

/// Tensors that require a gradient, by the reference's names.
pub type Leaves = HashMap<String, Tensor>;

/// A reference file: named inputs of all losses, with their values and gradients.
#[derive(Debug)]
pub struct Case {
    /// Title in reports.
    pub title: String,
    /// Values (`<loss>.value`) and gradients (`<loss>.grad.<input>`), on the CPU.
    pub reference: HashMap<String, Tensor>,
    tag: String,
    /// Sizes of the inputs, as the file's metadata gives them.
    sizes: HashMap<String, i64>,
}

/// A loss and its gradients on a device.
#[derive(Debug)]
pub struct Outcome {
    /// The value `[1]`.
    pub value: Tensor,
    /// Gradients of all inputs that the loss reads.
    pub gradients: Leaves,
}

impl Case {
    /// Reads a safetensors file.
    ///
    /// # Errors
    /// [`Error::Reference`] for a broken file, or metadata without `tag`.
    pub fn read(title: &str, bytes: &[u8]) -> Result<Self> {
        let broken = |reason: String| Error::reference(title, reason);
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| broken(e.to_string()))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let tag = metadata.get("tag").ok_or_else(|| broken("its metadata lacks `tag`".into()))?;
        let sizes = metadata.iter().filter_map(|(key, value)| Some((key.clone(), value.parse().ok()?)));
        Ok(Case {
            title: title.into(),
            reference: read(title, bytes)?,
            tag: tag.clone(),
            sizes: sizes.collect(),
        })
    }

    /// Returns the names of the losses, sorted.
    pub fn names(&self) -> BTreeSet<String> {
        self.reference.keys().filter_map(|key| Some(key.split_once('.')?.0.to_string())).collect()
    }

    /// Returns the reference's gradients of a loss by the names of the inputs.
    pub fn gradients<'a>(&'a self, name: &str) -> impl Iterator<Item = (&'a str, &'a Tensor)> {
        let prefix = format!("{name}.grad.");
        self.reference.iter().filter_map(move |(key, tensor)| Some((key.strip_prefix(&prefix)?, tensor)))
    }

    /// Returns the largest deviation of a loss: that of its value, or of its gradients scaled by [`TOLERANCE`] /
    /// [`GRADIENT_TOLERANCE`], so that [`TOLERANCE`] applies to both.
    ///
    /// # Errors
    /// [`Error::Reference`] for an unknown loss, [`Error::Loss`] if it cannot be computed.
    pub(crate) fn deviation(&self, name: &str, device: Device) -> Result<f64> {
        let outcome = self.compute(name, device)?;
        let missing = |what: &str| Error::reference(&self.title, format!("no {what} of `{name}`"));
        let expected = self.reference.get(&format!("{name}.value")).ok_or_else(|| missing("value"))?;
        let mut largest = deviation(name, &outcome.value, expected)?;
        for (input, expected) in self.gradients(name) {
            let found =
                outcome.gradients.get(input).ok_or_else(|| missing(&format!("gradient for {input}")))?;
            let error = deviation(input, found, expected)?;
            largest = largest.max(error * TOLERANCE / GRADIENT_TOLERANCE);
        }
        Ok(largest)
    }

    /// Computes a loss: its value, and the gradients of all its inputs.
    ///
    /// # Errors
    /// [`Error::Reference`] for an unknown loss or a missing size, [`Error::Loss`] if it cannot be computed.
    pub fn compute(&self, name: &str, device: Device) -> Result<Outcome> {
        let inputs = Inputs { case: self, device };
        let mut leaves = Leaves::new();
        let value = match name {
            "hinton_t4" => {
                let shape = [self.size("batch")?, 10];
                let student = (inputs.unit("class_logits", &shape) * 8.0).set_requires_grad(true);
                let teacher = inputs.unit("teacher_class_logits", &shape) * 8.0;
                leaves.insert("class_logits".into(), student.shallow_clone());
                logit::hinton(&student, &teacher, 4.0)?
            }
            _ => {
                let known = loss(name)
                    .ok_or_else(|| Error::reference(&self.title, format!("unknown loss `{name}`")))?;
                inputs.evaluate(known, &mut leaves)?
            }
        };
        value.f_backward()?;
        let gradients = leaves.into_iter().filter(|(_, leaf)| leaf.grad().defined());
        let gradients = gradients.map(|(name, leaf)| (name, leaf.grad().copy())).collect();
        Ok(Outcome { value: value.f_detach()?.f_view([1])?, gradients })
    }

    fn size(&self, key: &str) -> Result<i64> {
        let size = self.sizes.get(key).copied();
        size.ok_or_else(|| Error::reference(&self.title, format!("its metadata lacks `{key}`")))
    }
}

/// The inputs of a case on a device.
struct Inputs<'a> {
    case: &'a Case,
    device: Device,
}

impl Inputs<'_> {
    fn unit(&self, name: &str, shape: &[i64]) -> Tensor {
        fill::unit(&format!("{}.{name}", self.case.tag), shape).to_device(self.device)
    }

    /// Creates a named input of the student, which gets a gradient.
    fn leaf(&self, leaves: &mut Leaves, name: &str, shape: &[i64]) -> Tensor {
        let leaf = self.unit(name, shape).set_requires_grad(true);
        leaves.insert(name.into(), leaf.shallow_clone());
        leaf
    }

    /// Returns named unit embeddings of the teacher.
    fn rows(&self, name: &str, rows: i64) -> Result<Tensor> {
        Ok(embeddings::normalize(&self.unit(name, &[rows, self.case.size("teacher_width")?])))
    }

    /// Creates the token states of one model, for losses on tokens.
    fn tokens(&self, side: &str, make: &mut dyn FnMut(&str, &[i64]) -> Tensor) -> Result<TokenStates> {
        let size = |key: &str| self.case.size(key);
        let batch = size("batch")?;
        let patches = size(&format!("{side}_grid"))?.pow(2);
        let image = size(&format!("{side}_image_width"))?;
        let text = [batch, size("text_length")?, size(&format!("{side}_text_width"))?];
        let mut blocks = |of: &str, shape: &[i64]| {
            let count = size(&format!("{of}_blocks"))?;
            Ok((0..count).map(|k| make(&format!("{side}_{of}_block.{k}"), shape)).collect::<Vec<_>>())
        };
        let (image_blocks, text_blocks): (Result<_>, Result<_>) =
            (blocks("image", &[batch, 1 + patches, image]), blocks("text", &text));
        Ok(TokenStates {
            image_blocks: image_blocks?,
            text_blocks: text_blocks?,
            patches: Some(make(&format!("{side}_patches"), &[batch, patches, image])),
            text_counts: Some(self.unit("text_counts", &text[..2]).gt(-0.5)),
        })
    }

    /// Builds the objective of one term, with named values for its learned parts.
    fn objective(&self, loss: Loss, leaves: &mut Leaves) -> Result<Objective> {
        let size = |key: &str| self.case.size(key);
        let terms = [Term::new(loss, 1.0)];
        let mut objective =
            Objective::new(&terms, size("student_width")?, &[size("teacher_width")?], self.device)?;
        if loss.reads_tokens() {
            let widths = |side: &str| -> Result<TokenWidths> {
                Ok(TokenWidths {
                    image: size(&format!("{side}_image_width"))?,
                    text: size(&format!("{side}_text_width"))?,
                })
            };
            let pairs =
                BlockPairs { image: size("image_blocks")? as usize, text: size("text_blocks")? as usize };
            objective =
                objective.with_tokens(widths("student")?, &[widths("teacher")?], pairs, self.device)?;
        }
        for (part, tensor) in objective.parts() {
            let named = fill::parameter(&format!("{}.loss.{part}", self.case.tag), &tensor.size());
            tch::no_grad(|| tensor.shallow_clone().copy_(&named));
            leaves.insert(format!("loss.{part}"), tensor.shallow_clone());
        }
        Ok(objective)
    }

    /// Evaluates the objective of one term.
    fn evaluate(&self, loss: Loss, leaves: &mut Leaves) -> Result<Tensor> {
        let (batch, width) = (self.case.size("batch")?, self.case.size("student_width")?);
        let objective = self.objective(loss, leaves)?;
        let scalar = |leaves: &mut Leaves, name: &str, value: f64| {
            let leaf = Tensor::from(value as f32).to_device(self.device).set_requires_grad(true);
            leaves.insert(name.into(), leaf.shallow_clone());
            leaf
        };
        let scale = scalar(leaves, "student_logit_scale", STUDENT_SCALE);
        let bias = scalar(leaves, "logit_bias", SIGLIP_BIAS);
        let mut student = |name: &str| self.leaf(leaves, name, &[batch, width]);
        let student_rows = Embeddings::new(student("student_image"), student("student_text"))?;
        let teacher_rows =
            Embeddings::new(self.rows("teacher_image", batch)?, self.rows("teacher_text", batch)?)?;

        let masked = (loss == Loss::Mfd).then(|| student("masked_image"));
        let mut classes = None;
        if loss.reads_classes() {
            let count = self.case.size("classes")?;
            let student = self.leaf(leaves, "student_classes", &[count, width]);
            classes = Some((embeddings::normalize(&student), self.rows("teacher_classes", count)?));
        }
        let mut anchors = None;
        if loss.reads_anchors() {
            let count = self.case.size("anchors")?;
            anchors =
                Some(Embeddings::new(self.rows("anchor_image", count)?, self.rows("anchor_text", count)?)?);
        }
        let mut tokens = None;
        if loss.reads_tokens() {
            let student = self.tokens("student", &mut |name, shape| self.leaf(leaves, name, shape))?;
            tokens = Some((student, self.tokens("teacher", &mut |name, shape| self.unit(name, shape))?));
        }

        let mut student = ModelOutputs::new(&student_rows, &scale);
        student.extra = AuxOutputs {
            masked_image: masked.as_ref(),
            classes: classes.as_ref().map(|both| &both.0),
            tokens: tokens.as_ref().map(|both| &both.0),
            logit_bias: Some(&bias),
            ..AuxOutputs::default()
        };
        let teacher_scale = Tensor::from(TEACHER_SCALE as f32).to_device(self.device);
        let mut teacher = ModelOutputs::new(&teacher_rows, &teacher_scale);
        teacher.extra = AuxOutputs {
            classes: classes.as_ref().map(|both| &both.1),
            tokens: tokens.as_ref().map(|both| &both.1),
            anchors: anchors.as_ref(),
            ..AuxOutputs::default()
        };
        let targets = Targets::Diagonal { offset: 0 };
        Ok(objective.evaluate(0, &student, &[teacher], &targets)?.total)
    }
}
