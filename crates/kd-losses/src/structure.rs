//! Structure transfer: distils the relations in the joint space of images and texts as distributions.
//!
//! Every relation is a matrix of cosines, so student and teacher may have different widths. At each of several
//! temperatures, a row becomes a distribution over its columns, and the student's distribution is trained towards the
//! teacher's. Low temperatures emphasise the nearest neighbours, high ones the global arrangement. This project's own
//! method.

use tch::{Kind, Tensor};

use crate::embeddings::{Embeddings, check_alike, check_relations};
use crate::relation::kl;
use crate::{Error, Result};

/// Default temperatures.
pub const TEMPERATURES: [f64; 3] = [0.02, 0.07, 0.2];

/// Mask value that removes a sample's cosine with itself from the softmax.
const MASKED: f64 = -1e9;

/// The cosines of the joint Gram matrix of [images; texts] to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// All 2B rows over all others, within and across the modalities at once, which preserves the modality gap.
    Joint,
    /// Images over other images.
    ImageImage,
    /// Texts over other texts.
    TextText,
    /// Images over texts and texts over images, including the matching one.
    ImageText,
}

/// The anchors to compare a row with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnchorScope {
    /// The anchors of both modalities together.
    Joint,
    /// The anchors of its own modality.
    Within,
    /// The anchors of the other modality.
    Across,
}

/// A batch of images and the prompts of a class list, both as unit rows of one model.
#[derive(Clone, Copy, Debug)]
pub struct ImagesAndPrompts<'a> {
    /// `[images, width]`.
    pub images: &'a Tensor,
    /// `[prompts, width]`.
    pub prompts: &'a Tensor,
}

/// Gram loss of structure transfer: KL(teacher ‖ student) for one block of the joint Gram matrix, averaged over
/// temperatures and rows.
///
/// Both hold unit rows of the same pairs; the widths may differ.
///
/// ```no_run
/// # use kd_losses::{Embeddings, structure::{self, Block}};
/// # fn example(student: &Embeddings, teacher: &Embeddings) -> kd_losses::Result<tch::Tensor> {
/// structure::gram(&student.normalized(), teacher, Block::Joint, &structure::TEMPERATURES)
/// # }
/// ```
///
/// # Errors
/// [`Error::Shapes`] if the rows differ or are fewer than two; [`Error::Argument`] without temperatures, or for one that is
/// not positive.
pub fn gram(
    student: &Embeddings,
    teacher: &Embeddings,
    block: Block,
    temperatures: &[f64],
) -> Result<Tensor> {
    check_relations(student, teacher)?;
    check_temperatures(temperatures)?;
    let (student, teacher) = (cosines(student, block), cosines(teacher, block));
    Ok(compare(&student, &teacher, temperatures))
}

/// Anchor loss of structure transfer: KL(teacher ‖ student) of each row's distribution over a bank of anchors, averaged
/// over temperatures and rows.
///
/// `anchors` are the teacher's unit embeddings of pairs beyond the batch. `scope` selects the anchors for each row. The
/// student's rows are unit rows in the teacher's width.
///
/// ```no_run
/// # use kd_losses::{Embeddings, structure::{self, AnchorScope}};
/// # fn example(student: &Embeddings, teacher: &Embeddings, bank: &Embeddings) -> kd_losses::Result<tch::Tensor> {
/// structure::anchors(student, teacher, bank, AnchorScope::Within, &structure::TEMPERATURES)
/// # }
/// ```
///
/// # Errors
/// [`Error::Shapes`] if rows or widths differ; [`Error::Argument`] like [`gram`].
pub fn anchors(
    student: &Embeddings,
    teacher: &Embeddings,
    anchors: &Embeddings,
    scope: AnchorScope,
    temperatures: &[f64],
) -> Result<Tensor> {
    check_alike(student, teacher)?;
    if anchors.width() != teacher.width() {
        return Err(Error::Shapes {
            left: "the anchors",
            left_shape: anchors.image.size(),
            right: "the teacher's embeddings",
            right_shape: teacher.image.size(),
            rule: "anchors are embeddings of the same teacher",
        });
    }
    check_temperatures(temperatures)?;
    let (images, texts) = (anchors.image.tr(), anchors.text.tr()); // [width, anchors] each
    let towards = |rows: &Embeddings| match scope {
        AnchorScope::Joint => {
            let bank = Tensor::cat(&[&images, &texts], 1);
            vec![Tensor::cat(&[&rows.image, &rows.text], 0).matmul(&bank)]
        }
        AnchorScope::Within => vec![rows.image.matmul(&images), rows.text.matmul(&texts)],
        AnchorScope::Across => vec![rows.image.matmul(&texts), rows.text.matmul(&images)],
    };
    Ok(compare(&towards(student), &towards(teacher), temperatures))
}

/// Vocabulary loss of structure transfer: KL(teacher ‖ student) of images over prompts, prompts over images, and
/// prompts over other prompts, averaged over temperatures and rows.
///
/// Both models embed the same prompts, and images need not match any prompt. The text tower thus learns the teacher's
/// embeddings of words that no caption of the batch contains.
///
/// ```no_run
/// # use kd_losses::structure::{self, ImagesAndPrompts};
/// # fn example(student: &ImagesAndPrompts<'_>, teacher: &ImagesAndPrompts<'_>) -> kd_losses::Result<tch::Tensor> {
/// structure::vocabulary(student, teacher, &structure::TEMPERATURES)
/// # }
/// ```
///
/// # Errors
/// [`Error::Shapes`] if the rows of the two sides differ; [`Error::Argument`] like [`gram`].
pub fn vocabulary(
    student: &ImagesAndPrompts<'_>,
    teacher: &ImagesAndPrompts<'_>,
    temperatures: &[f64],
) -> Result<Tensor> {
    check_temperatures(temperatures)?;
    let rows = |side: &ImagesAndPrompts<'_>| (side.images.size()[0], side.prompts.size()[0]);
    if rows(student) != rows(teacher) || rows(student).0 < 1 || rows(student).1 < 2 {
        return Err(Error::Shapes {
            left: "the student's prompts",
            left_shape: student.prompts.size(),
            right: "the teacher's prompts",
            right_shape: teacher.prompts.size(),
            rule: "both embed the same images, and the same prompts, at least two of them",
        });
    }
    let relations = |ImagesAndPrompts { images, prompts }: &ImagesAndPrompts<'_>| {
        let across = images.matmul(&prompts.tr());
        [across.tr(), across, within(prompts)]
    };
    Ok(compare(&relations(student), &relations(teacher), temperatures))
}

/// Computes the cosines of unit rows with each other, and masks those of a row with itself.
fn within(rows: &Tensor) -> Tensor {
    let identity = Tensor::eye(rows.size()[0], (Kind::Bool, rows.device()));
    rows.matmul(&rows.tr()).masked_fill(&identity, MASKED)
}

/// Returns the matrices whose rows are compared. A row's cosine with itself is masked.
fn cosines(pairs: &Embeddings, block: Block) -> Vec<Tensor> {
    match block {
        Block::Joint => vec![within(&Tensor::cat(&[&pairs.image, &pairs.text], 0))],
        Block::ImageImage => vec![within(&pairs.image)],
        Block::TextText => vec![within(&pairs.text)],
        Block::ImageText => {
            let across = pairs.image.matmul(&pairs.text.tr());
            vec![across.tr(), across]
        }
    }
}

/// Averages the KL divergence over pairs of cosine matrices and temperatures.
fn compare(student: &[Tensor], teacher: &[Tensor], temperatures: &[f64]) -> Tensor {
    let mut sum = Tensor::zeros([0i64; 0].as_slice(), (Kind::Float, student[0].device()));
    for (student, teacher) in student.iter().zip(teacher) {
        for &temperature in temperatures {
            sum += kl(&(student / temperature), &(teacher / temperature));
        }
    }
    sum / (student.len() * temperatures.len()) as f64
}

fn check_temperatures(temperatures: &[f64]) -> Result<()> {
    if temperatures.is_empty() {
        return Err(Error::Argument("structure transfer needs at least one temperature".into()));
    }
    match temperatures.iter().find(|t| !(t.is_finite() && **t > 0.0)) {
        Some(bad) => Err(Error::Argument(format!("temperature {bad} is not a positive number"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    const BLOCKS: [Block; 4] = [Block::Joint, Block::ImageImage, Block::TextText, Block::ImageText];

    fn randn(rows: i64, width: i64) -> Embeddings {
        let rows = || Tensor::randn([rows, width], (Kind::Float, Device::Cpu));
        Embeddings::new(rows(), rows()).unwrap().normalized()
    }

    #[test]
    fn a_rotated_space_has_the_same_structure() {
        tch::manual_seed(1);
        let teacher = randn(6, 4);
        // Two more dimensions and a rotation change the coordinates but not the relations.
        let (rotation, _) = Tensor::linalg_qr(&Tensor::randn([6, 6], (Kind::Float, Device::Cpu)), "reduced");
        let turn = |rows: &Tensor| rows.constant_pad_nd([0, 2]).matmul(&rotation);
        let student = Embeddings::new(turn(&teacher.image), turn(&teacher.text)).unwrap();
        for block in BLOCKS {
            let loss = gram(&student, &teacher, block, &TEMPERATURES).unwrap().double_value(&[]);
            assert!(loss.abs() < 1e-4, "{block:?}: {loss}");
            let other = gram(&randn(6, 4), &teacher, block, &TEMPERATURES).unwrap().double_value(&[]);
            assert!(other > 0.1, "{block:?}: {other}");
        }
    }

    #[test]
    fn by_hand() {
        let rows = |values: &[f32]| Tensor::from_slice(values).view([-1, 2]);
        // All cosines are 0 or 1.
        let (x, y) = ([1.0f32, 0.0], [0.0f32, 1.0]);
        let pairs = |image: [[f32; 2]; 2], text: [[f32; 2]; 2]| {
            Embeddings::new(rows(&image.concat()), rows(&text.concat())).unwrap()
        };
        let (teacher, student) = (pairs([x, y], [x, y]), pairs([x, y], [x, x]));
        // Teacher, images over texts: (a, b) and (b, a) with a = e/(e+1); student: even, and even.
        let a = 1.0f64.exp() / (1.0 + 1.0f64.exp());
        let b = 1.0 - a;
        let entropy = -a * a.ln() - b * b.ln();
        let image_to_text = 2f64.ln() - entropy;
        // Texts over images: text 0 agrees; text 1 is (b, a) against (a, b).
        let text_to_image = (b * (b / a).ln() + a * (a / b).ln()) / 2.0;
        let loss = gram(&student, &teacher, Block::ImageText, &[1.0]).unwrap().double_value(&[]);
        assert!((loss - (image_to_text + text_to_image) / 2.0).abs() < 1e-6, "{loss}");
        // With two texts, each has only one other text, so the loss is zero.
        assert_eq!(gram(&student, &teacher, Block::TextText, &[1.0]).unwrap().double_value(&[]), 0.0);
    }

    #[test]
    fn anchors_distinguish_students_that_the_batch_does_not() {
        tch::manual_seed(2);
        let (teacher, bank) = (randn(3, 5), randn(40, 5));
        let scopes = [AnchorScope::Joint, AnchorScope::Within, AnchorScope::Across];
        let loss = |student: &Embeddings| {
            scopes.map(|scope| {
                anchors(student, &teacher, &bank, scope, &TEMPERATURES).unwrap().double_value(&[])
            })
        };
        assert!(loss(&teacher).iter().all(|value| value.abs() < 1e-5));
        // A reflection keeps all relations within the batch and changes those with the bank.
        let mirrored = Embeddings::new(-&teacher.image, -&teacher.text).unwrap();
        assert!(gram(&mirrored, &teacher, Block::Joint, &TEMPERATURES).unwrap().double_value(&[]) < 1e-5);
        assert!(loss(&mirrored).iter().all(|value| *value > 0.5));
        for scope in scopes {
            assert!(anchors(&teacher, &teacher, &randn(4, 6), scope, &TEMPERATURES).is_err());
        }
    }

    #[test]
    fn joint_anchors_hide_errors_across_modalities() {
        tch::manual_seed(4);
        let options = (Kind::Float, Device::Cpu);
        // A modality gap: images near one corner and texts near another. Most of the variance within a modality lies in
        // its own dimensions, and a little in those of the other modality.
        let parts = |first: f64, second: f64| {
            let part = |noise: f64| {
                let corner = Tensor::full([6, 1], if noise > 0.2 { 1.0 } else { 0.0 }, options);
                Tensor::cat(&[&corner, &(Tensor::randn([6, 7], options) * noise)], 1)
            };
            Tensor::cat(&[&part(first), &part(second)], 1)
        };
        let pairs = || Embeddings::new(parts(0.4, 0.04), parts(0.04, 0.4)).unwrap().normalized();
        let (teacher, bank) = (pairs(), pairs());
        // The student's images have the right relations to images, and wrong ones to texts.
        let image = Tensor::cat(&[&teacher.image.narrow(1, 0, 8), &-teacher.image.narrow(1, 8, 8)], 1);
        let student = Embeddings::new(image, teacher.text.shallow_clone()).unwrap();
        let loss = |scope| anchors(&student, &teacher, &bank, scope, &[0.04]).unwrap().double_value(&[]);
        let (joint, across) = (loss(AnchorScope::Joint), loss(AnchorScope::Across));
        assert!(across > 5.0 * joint, "{across} and {joint}");
        assert!(across > 5.0 * loss(AnchorScope::Within));
    }

    #[test]
    fn vocabulary_agrees_with_the_gram_matrix() {
        tch::manual_seed(3);
        // In double precision, so that the bounds below are far above rounding.
        let double = |pairs: Embeddings| {
            Embeddings::new(pairs.image.to_kind(Kind::Double), pairs.text.to_kind(Kind::Double)).unwrap()
        };
        let (student, teacher) = (double(randn(5, 4)), double(randn(5, 6)));
        let of = |pairs: &Embeddings, prompts: i64| {
            (pairs.image.shallow_clone(), pairs.text.narrow(0, 0, prompts))
        };
        let loss = |student: &(Tensor, Tensor), teacher: &(Tensor, Tensor)| {
            let side = |(images, prompts)| ImagesAndPrompts { images, prompts };
            vocabulary(&side((&student.0, &student.1)), &side((&teacher.0, &teacher.1)), &TEMPERATURES)
        };
        // With as many prompts as images, the loss is a mean of blocks of the Gram matrix. Any number of prompts is valid.
        let part = |block| gram(&student, &teacher, block, &TEMPERATURES).unwrap().double_value(&[]);
        let parts = (2.0 * part(Block::ImageText) + part(Block::TextText)) / 3.0;
        let whole = loss(&of(&student, 5), &of(&teacher, 5)).unwrap().double_value(&[]);
        assert!((whole - parts).abs() < 1e-6 * parts.min(1.0), "{whole}, {parts}");
        let three = loss(&of(&student, 3), &of(&teacher, 3)).unwrap().double_value(&[]);
        assert!(three > 0.1 && (three - parts).abs() > 1e-3, "{three}");
        assert!(loss(&of(&teacher, 3), &of(&teacher, 3)).unwrap().double_value(&[]).abs() < 1e-5);
        assert!(loss(&of(&student, 3), &of(&teacher, 4)).is_err());
        assert!(loss(&of(&randn(1, 4), 0), &of(&randn(1, 6), 0)).is_err());
    }

    #[test]
    fn bad_settings_are_refused() {
        let pairs = randn(3, 4);
        assert!(gram(&pairs, &pairs, Block::Joint, &[]).is_err());
        assert!(gram(&pairs, &pairs, Block::Joint, &[0.0]).is_err());
        assert!(gram(&randn(1, 4), &randn(1, 4), Block::Joint, &[1.0]).is_err());
        assert!(gram(&pairs, &randn(4, 4), Block::Joint, &[1.0]).is_err());
    }
}
