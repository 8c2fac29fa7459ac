//! Losses: values within a relative error of 1e-5, gradients within 1e-4 of their largest value.
//!
//! `losses` and `losses-2` are reference values of published losses. `tests/python/golden_losses.py` computes those of
//! `losses-extra`: the project's own losses, and published ones that the other two do not contain.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use clip_distill_tests::fill;
use clip_distill_tests::golden::{Coverage, assert_close, difference, files, tensors};
use kd_losses::{
    AuxOutputs, BlockPairs, Embeddings, Loss, ModelOutputs, Objective, Targets, Term, TokenStates,
    TokenWidths, embeddings, logit,
};
use tch::{Device, Kind, Tensor};

const STUDENT_SCALE: f64 = 20.0;
const TEACHER_SCALE: f64 = 50.0;
const SIGLIP_BIAS: f64 = -10.0;

/// The cases of each loss: embeddings of one width, and of a wider teacher.
const CASES: [&str; 2] = ["same-width", "wider-teacher"];

/// Losses of the reference files that this project does not implement. Their values are not compared.
///
/// The test fails for any other unknown name, and if a loss of this list is implemented.
const NOT_IMPLEMENTED: [&str; 10] = [
    "crd_diagonal_t5",
    "crd_off_diagonal_t5",
    "crd_standardized",
    "dist",
    "gram_frobenius",
    "matryoshka_crd",
    "matryoshka_task",
    "procrustes",
    "sigmoid_kd",
    "sigmoid_kd_bce",
];

/// Returns the loss with this name in a golden file.
fn loss(name: &str) -> Option<Loss> {
    match name {
        // The name contains the temperature.
        "hinton_t4" => Some(Loss::Hinton),
        _ => Loss::all().find(|loss| loss.name() == name.replace('_', "-")),
    }
}

/// Tensors that require a gradient, by the reference's names.
type Leaves = HashMap<String, Tensor>;

/// The named inputs of a golden file.
struct Case {
    tag: String,
    /// Sizes of the inputs, as the file's metadata gives them.
    sizes: HashMap<String, i64>,
}

impl Case {
    fn read(path: &std::path::Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap();
        let sizes = metadata.iter().filter_map(|(key, value)| Some((key.clone(), value.parse().ok()?)));
        Case { tag: metadata["tag"].clone(), sizes: sizes.collect() }
    }

    fn size(&self, key: &str) -> i64 {
        *self.sizes.get(key).unwrap_or_else(|| panic!("the metadata of {} lacks `{key}`", self.tag))
    }

    fn unit(&self, name: &str, shape: &[i64]) -> Tensor {
        fill::unit(&format!("{}.{name}", self.tag), shape)
    }

    /// Creates a named input of the student, which gets a gradient.
    fn leaf(&self, leaves: &mut Leaves, name: &str, shape: &[i64]) -> Tensor {
        let leaf = self.unit(name, shape).set_requires_grad(true);
        leaves.insert(name.into(), leaf.shallow_clone());
        leaf
    }

    /// Returns named unit embeddings of the teacher.
    fn rows(&self, name: &str, rows: i64) -> Tensor {
        embeddings::normalize(&self.unit(name, &[rows, self.size("teacher_width")]))
    }

    /// Creates the token states of one model, for losses on tokens.
    fn tokens(&self, side: &str, make: &mut dyn FnMut(&str, &[i64]) -> Tensor) -> TokenStates {
        let batch = self.size("batch");
        let patches = self.size(&format!("{side}_grid")).pow(2);
        let image = self.size(&format!("{side}_image_width"));
        let text = [batch, self.size("text_length"), self.size(&format!("{side}_text_width"))];
        let mut blocks = |of: &str, shape: &[i64]| {
            let count = self.size(&format!("{of}_blocks"));
            (0..count).map(|k| make(&format!("{side}_{of}_block.{k}"), shape)).collect::<Vec<_>>()
        };
        TokenStates {
            image_blocks: blocks("image", &[batch, 1 + patches, image]),
            text_blocks: blocks("text", &text),
            patches: Some(make(&format!("{side}_patches"), &[batch, patches, image])),
            text_counts: Some(self.unit("text_counts", &text[..2]).gt(-0.5)),
        }
    }

    /// Computes the loss that a golden file calls `name`: its value, and the gradients of all its inputs.
    fn compute(&self, name: &str) -> Option<(Tensor, Leaves)> {
        let mut leaves = Leaves::new();
        let value = match name {
            "hinton_t4" => {
                let shape = [self.size("batch"), 10];
                let student = (self.unit("class_logits", &shape) * 8.0).set_requires_grad(true);
                let teacher = self.unit("teacher_class_logits", &shape) * 8.0;
                leaves.insert("class_logits".into(), student.shallow_clone());
                logit::hinton(&student, &teacher, 4.0).unwrap()
            }
            _ => self.evaluate(loss(name)?, &mut leaves),
        };
        value.backward();
        let gradients = leaves.into_iter().filter(|(_, leaf)| leaf.grad().defined());
        Some((value.detach().view([1]), gradients.map(|(name, leaf)| (name, leaf.grad().copy())).collect()))
    }

    /// Evaluates the objective of one term.
    fn evaluate(&self, loss: Loss, leaves: &mut Leaves) -> Tensor {
        let (batch, width) = (self.size("batch"), self.size("student_width"));
        let teacher_width = self.size("teacher_width");
        let mut objective =
            Objective::new(&[Term::new(loss, 1.0)], width, &[teacher_width], Device::Cpu).unwrap();
        if loss.reads_tokens() {
            let widths = |side: &str| TokenWidths {
                image: self.size(&format!("{side}_image_width")),
                text: self.size(&format!("{side}_text_width")),
            };
            let pairs = BlockPairs {
                image: self.size("image_blocks") as usize,
                text: self.size("text_blocks") as usize,
            };
            objective =
                objective.with_tokens(widths("student"), &[widths("teacher")], pairs, Device::Cpu).unwrap();
        }
        for (part, tensor) in objective.parts() {
            let named = fill::parameter(&format!("{}.loss.{part}", self.tag), &tensor.size());
            tch::no_grad(|| tensor.shallow_clone().copy_(&named));
            leaves.insert(format!("loss.{part}"), tensor.shallow_clone());
        }
        let scalar = |leaves: &mut Leaves, name: &str, value: f64| {
            let leaf = Tensor::from(value as f32).set_requires_grad(true);
            leaves.insert(name.into(), leaf.shallow_clone());
            leaf
        };
        let scale = scalar(leaves, "student_logit_scale", STUDENT_SCALE);
        let bias = scalar(leaves, "logit_bias", SIGLIP_BIAS);
        let mut student = |name: &str| self.leaf(leaves, name, &[batch, width]);
        let student_rows = Embeddings::new(student("student_image"), student("student_text")).unwrap();
        let teacher_rows =
            Embeddings::new(self.rows("teacher_image", batch), self.rows("teacher_text", batch)).unwrap();

        let masked = (loss == Loss::Mfd).then(|| student("masked_image"));
        let classes = loss.reads_classes().then(|| {
            let count = self.size("classes");
            let student = self.leaf(leaves, "student_classes", &[count, width]);
            (embeddings::normalize(&student), self.rows("teacher_classes", count))
        });
        let anchors = loss.reads_anchors().then(|| {
            let count = self.size("anchors");
            Embeddings::new(self.rows("anchor_image", count), self.rows("anchor_text", count)).unwrap()
        });
        let tokens = loss.reads_tokens().then(|| {
            let student = self.tokens("student", &mut |name, shape| self.leaf(leaves, name, shape));
            (student, self.tokens("teacher", &mut |name, shape| self.unit(name, shape)))
        });

        let mut student = ModelOutputs::new(&student_rows, &scale);
        student.extra = AuxOutputs {
            masked_image: masked.as_ref(),
            classes: classes.as_ref().map(|both| &both.0),
            tokens: tokens.as_ref().map(|both| &both.0),
            logit_bias: Some(&bias),
            ..AuxOutputs::default()
        };
        let teacher_scale = Tensor::from(TEACHER_SCALE as f32);
        let mut teacher = ModelOutputs::new(&teacher_rows, &teacher_scale);
        teacher.extra = AuxOutputs {
            classes: classes.as_ref().map(|both| &both.1),
            tokens: tokens.as_ref().map(|both| &both.1),
            anchors: anchors.as_ref(),
            ..AuxOutputs::default()
        };
        let targets = Targets::Diagonal { offset: 0 };
        objective.evaluate(0, &student, &[teacher], &targets).unwrap().total
    }
}

/// Splits the keys of a file into `<loss>.value` and `<loss>.grad.<input>`, and fails for any other key.
fn by_loss(reference: &HashMap<String, Tensor>) -> BTreeMap<&str, Vec<&str>> {
    let mut losses = BTreeMap::<&str, Vec<&str>>::new();
    for key in reference.keys() {
        let (name, rest) = key.split_once('.').unwrap_or_else(|| panic!("unknown key `{key}`"));
        let inputs = losses.entry(name).or_default();
        match rest.strip_prefix("grad.") {
            Some(input) => inputs.push(input),
            None => assert_eq!(rest, "value", "unknown key `{key}`"),
        }
    }
    losses
}

#[test]
fn losses_agree_with_the_reference() {
    let mut coverage = Coverage::new("losses");
    let mut skipped = BTreeSet::new();
    for file in files("losses", "safetensors") {
        let (case, reference) = (Case::read(&file.path), tensors(&file.path));
        for (name, inputs) in by_loss(&reference) {
            let what = format!("{name} of {}", file.path.display());
            if NOT_IMPLEMENTED.contains(&name) {
                assert!(loss(name).is_none(), "{what}: implemented, but listed as not implemented");
                skipped.insert(name.to_string());
                continue;
            }
            let (value, gradients) = case.compute(name).unwrap_or_else(|| panic!("{what}: unknown loss"));
            assert_close(&value, &reference[&format!("{name}.value")], 1e-5, &what);
            assert!(!inputs.is_empty(), "{what}: no gradient to compare");
            for leaf in &inputs {
                let found = gradients.get(*leaf).unwrap_or_else(|| panic!("{what}: no gradient of {leaf}"));
                let expected = &reference[&format!("{name}.grad.{leaf}")];
                assert_close(found, expected, 1e-4, &format!("{what}, gradient of {leaf}"));
            }
            // A gradient that the reference does not have must be zero.
            for (leaf, gradient) in &gradients {
                if !inputs.contains(&leaf.as_str()) {
                    let (largest, _) = difference(gradient, &gradient.zeros_like().to_kind(Kind::Float));
                    assert!(largest == 0.0, "{what}: unexpected gradient of {leaf}");
                }
            }
            let (_, case) = file.name.rsplit_once('/').unwrap();
            coverage.add(&file, format!("{name} {case}"));
        }
    }
    println!("losses: not compared, because they are not implemented: {skipped:?}");
    // Every loss has a reference value. `hinton` has two: one of its term, and one of plain class logits.
    let names = Loss::all().map(|loss| loss.name().replace('-', "_")).chain(["hinton_t4".to_string()]);
    coverage.assert_exactly(names.flat_map(|name| CASES.map(|case| format!("{name} {case}"))));
    assert_eq!(skipped, NOT_IMPLEMENTED.map(String::from).into(), "losses that are not implemented");
}
