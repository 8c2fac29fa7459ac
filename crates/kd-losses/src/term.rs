//! The terms of an objective as data: the available losses, their requirements, and weight schedules.

use serde::{Deserialize, Serialize};

use crate::{Error, Result, structure};

/// A term of the objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Loss {
    /// CLIP's contrastive loss; needs no teacher.
    Task,
    /// SigLIP's pairwise sigmoid loss; needs no teacher.
    Siglip,
    /// Hinton's soft targets on the logits of a zero-shot classifier.
    Hinton,
    /// CLIP-KD's contrastive relational distillation.
    Crd,
    /// CLIP-KD's feature distillation.
    Fd,
    /// CLIP-KD's masked feature distillation.
    Mfd,
    /// CLIP-KD's gradient distillation.
    Gd,
    /// CLIP-KD's interactive contrastive learning.
    Icl,
    /// CLIP-KD's augmented feature distillation.
    Afd,
    /// The soft targets on the logits between the models, of CLIP-KD's published code.
    CrossKd,
    /// TinyCLIP's affinity mimicking.
    Affinity,
    /// DCLIP's cosine distance of embeddings.
    Cosine,
    /// The patch tokens of the two ViTs.
    PatchTokens,
    /// The outputs of chosen transformer blocks of both towers.
    Hidden,
    /// RKD's relative distances within each modality.
    RkdDistance,
    /// RKD's angles within each modality.
    RkdAngle,
    /// CLIP-RD's vertical relation.
    ClipRdVrd,
    /// CLIP-RD's crossed relation.
    ClipRdXrd,
    /// Structure transfer: the joint Gram matrix of images and texts.
    Gram,
    /// Structure transfer: images to images.
    GramImageImage,
    /// Structure transfer: texts to texts.
    GramTextText,
    /// Structure transfer: images to texts and back.
    GramImageText,
    /// Structure transfer: a bank of teacher embeddings beyond the batch, of both modalities at once.
    Anchors,
    /// Structure transfer: images over the bank's images, and texts over its texts.
    AnchorsWithin,
    /// Structure transfer: images over the bank's texts, and texts over its images.
    AnchorsAcross,
    /// Structure transfer: the batch's images among the prompts of a vocabulary.
    Vocabulary,
}

/// Facts of a loss: name, one-line summary, source.
struct Facts {
    loss: Loss,
    name: &'static str,
    summary: &'static str,
    source: &'static str,
}

const CLIP_KD: &str = "CLIP-KD (Yang et al. 2024)";
const FITNETS: &str = "after FitNets (Romero et al. 2015)";
const OWN: &str = "this project";

#[rustfmt::skip]
const FACTS: [Facts; 26] = [
    Facts { loss: Loss::Task, name: "task", summary: "cross-entropy of image-text logits, both directions", source: "CLIP (Radford et al. 2021)" },
    Facts { loss: Loss::Siglip, name: "siglip", summary: "pairwise sigmoid of image-text logits", source: "SigLIP (Zhai et al. 2023)" },
    Facts { loss: Loss::Hinton, name: "hinton", summary: "KL of zero-shot class logits at a temperature", source: "Hinton et al. 2015" },
    Facts { loss: Loss::Crd, name: "crd", summary: "KL of image-text similarity distributions", source: CLIP_KD },
    Facts { loss: Loss::Fd, name: "fd", summary: "squared distance of unit embeddings", source: CLIP_KD },
    Facts { loss: Loss::Mfd, name: "mfd", summary: "the same with most of the student's patches left out", source: CLIP_KD },
    Facts { loss: Loss::Gd, name: "gd", summary: "squared distance of contrastive gradients", source: CLIP_KD },
    Facts { loss: Loss::Icl, name: "icl", summary: "contrast of student images with teacher texts and the reverse", source: CLIP_KD },
    Facts { loss: Loss::Afd, name: "afd", summary: "contrast of fused student and teacher embeddings", source: CLIP_KD },
    Facts { loss: Loss::CrossKd, name: "cross-kd", summary: "KL of the teacher's similarities to those between the models", source: "CLIP-KD, published code" },
    Facts { loss: Loss::Affinity, name: "affinity", summary: "soft cross-entropy of image-text similarities", source: "TinyCLIP (Wu et al. 2023)" },
    Facts { loss: Loss::Cosine, name: "cosine", summary: "1 - cosine of embeddings", source: "DCLIP" },
    Facts { loss: Loss::PatchTokens, name: "patch-tokens", summary: "squared distance of unit patch tokens of the ViTs", source: FITNETS },
    Facts { loss: Loss::Hidden, name: "hidden", summary: "squared distance of unit outputs of chosen blocks of both towers", source: FITNETS },
    Facts { loss: Loss::RkdDistance, name: "rkd-distance", summary: "Huber loss of relative distances within a modality", source: "RKD (Park et al. 2019)" },
    Facts { loss: Loss::RkdAngle, name: "rkd-angle", summary: "Huber loss of triplet angles within a modality", source: "RKD (Park et al. 2019)" },
    Facts { loss: Loss::ClipRdVrd, name: "clip-rd-vrd", summary: "teacher to student is alike in both modalities", source: "CLIP-RD" },
    Facts { loss: Loss::ClipRdXrd, name: "clip-rd-xrd", summary: "teacher to student is alike across the modalities", source: "CLIP-RD" },
    Facts { loss: Loss::Gram, name: "gram", summary: "KL of the joint Gram matrix's rows at several temperatures", source: OWN },
    Facts { loss: Loss::GramImageImage, name: "gram-image-image", summary: "its image-image block alone", source: OWN },
    Facts { loss: Loss::GramTextText, name: "gram-text-text", summary: "its text-text block alone", source: OWN },
    Facts { loss: Loss::GramImageText, name: "gram-image-text", summary: "its image-text block alone", source: OWN },
    Facts { loss: Loss::Anchors, name: "anchors", summary: "KL of similarities to teacher embeddings beyond the batch", source: OWN },
    Facts { loss: Loss::AnchorsWithin, name: "anchors-within", summary: "images to images and texts to texts beyond the batch", source: OWN },
    Facts { loss: Loss::AnchorsAcross, name: "anchors-across", summary: "images to texts and texts to images beyond the batch", source: OWN },
    Facts { loss: Loss::Vocabulary, name: "vocabulary", summary: "images to a class list, classes to images, and classes to classes", source: OWN },
];

impl Loss {
    /// All terms, in report order.
    pub fn all() -> impl Iterator<Item = Loss> {
        FACTS.iter().map(|facts| facts.loss)
    }

    fn facts(self) -> &'static Facts {
        // The table is in declaration order, which a test checks.
        &FACTS[self as usize]
    }

    /// The name in recipes, metrics and reports.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// A one-line summary of the comparison.
    pub fn summary(self) -> &'static str {
        self.facts().summary
    }

    /// Its source.
    pub fn source(self) -> &'static str {
        self.facts().source
    }

    /// Whether the term compares with a teacher.
    pub fn needs_teacher(self) -> bool {
        !matches!(self, Loss::Task | Loss::Siglip)
    }

    /// Whether the term reads token states of both models ([`crate::TokenStates`]), which stores do not contain.
    pub fn reads_tokens(self) -> bool {
        matches!(self, Loss::PatchTokens | Loss::Hidden)
    }

    /// Whether the term reads the embeddings of a class list of both models ([`crate::AuxOutputs::classes`]).
    pub fn reads_classes(self) -> bool {
        matches!(self, Loss::Hinton | Loss::Vocabulary)
    }

    /// Whether the term reads a bank of teacher embeddings beyond the batch ([`crate::AuxOutputs::anchors`]).
    pub fn reads_anchors(self) -> bool {
        matches!(self, Loss::Anchors | Loss::AnchorsWithin | Loss::AnchorsAcross)
    }

    /// Whether the term reads student embeddings projected to the teacher's width.
    pub fn works_in_teacher_width(self) -> bool {
        matches!(
            self,
            Loss::Fd
                | Loss::Mfd
                | Loss::Gd
                | Loss::Icl
                | Loss::Afd
                | Loss::CrossKd
                | Loss::Cosine
                | Loss::ClipRdVrd
                | Loss::ClipRdXrd
                | Loss::Anchors
                | Loss::AnchorsWithin
                | Loss::AnchorsAcross
        )
    }

    /// Whether the term reads the factor of the logits between the models.
    pub(crate) fn reads_cross_scale(self) -> bool {
        matches!(self, Loss::Icl | Loss::CrossKd | Loss::ClipRdXrd)
    }

    /// Default temperatures; empty for losses without a temperature.
    pub fn default_temperatures(self) -> &'static [f64] {
        match self {
            Loss::Hinton => &[4.0],
            Loss::Gram
            | Loss::GramImageImage
            | Loss::GramTextText
            | Loss::GramImageText
            | Loss::Anchors
            | Loss::AnchorsWithin
            | Loss::AnchorsAcross
            | Loss::Vocabulary => &structure::TEMPERATURES,
            _ => &[],
        }
    }
}

/// The schedule of a weight from start to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Curve {
    /// Constant, and 0 outside its steps.
    #[default]
    Constant,
    /// Linear, then constant at the end value.
    Linear,
    /// Half a cosine, then constant at the end value.
    Cosine,
}

/// The weight of a term over the steps of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeightSchedule {
    /// The shape of the schedule from `start` to `end`.
    pub shape: Curve,
    /// Weight at the first step.
    pub start: f64,
    /// Weight from step `until` on; unused by the constant shape.
    pub end: f64,
    /// First step with a nonzero weight.
    pub from: u64,
    /// The step at which the weight reaches `end`, or a constant weight becomes 0.
    pub until: u64,
}

impl WeightSchedule {
    /// The same weight in all steps.
    pub fn constant(weight: f64) -> Self {
        WeightSchedule { shape: Curve::Constant, start: weight, end: weight, from: 0, until: u64::MAX }
    }

    /// The weight at a step, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.from {
            return 0.0;
        }
        let way = ((step - self.from) as f64 / (self.until.saturating_sub(self.from)).max(1) as f64).min(1.0);
        match self.shape {
            Curve::Constant if step < self.until => self.start,
            Curve::Constant => 0.0,
            Curve::Linear => self.start + (self.end - self.start) * way,
            Curve::Cosine => {
                self.end + (self.start - self.end) * (1.0 + (std::f64::consts::PI * way).cos()) / 2.0
            }
        }
    }
}

/// A loss with its weight and settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    /// Which loss.
    pub loss: Loss,
    /// Its factor in the sum.
    pub weight: WeightSchedule,
    /// Temperatures, for losses that use them; [`Loss::default_temperatures`] if empty.
    pub temperatures: Vec<f64>,
}

impl Term {
    /// A constant weight and the loss's own settings.
    pub fn new(loss: Loss, weight: f64) -> Self {
        Term { loss, weight: WeightSchedule::constant(weight), temperatures: Vec::new() }
    }

    /// The temperatures that the loss reads.
    pub fn temperatures(&self) -> &[f64] {
        if self.temperatures.is_empty() { self.loss.default_temperatures() } else { &self.temperatures }
    }

    /// Checks the settings that the types do not.
    ///
    /// # Errors
    /// [`Error::Setting`] for a weight that is negative, not finite or never above 0, and for temperatures that are not
    /// positive or that the loss does not use.
    pub fn check(&self) -> Result<()> {
        let (name, WeightSchedule { shape, start, end, from, until }) = (self.loss.name(), self.weight);
        let fail = |reason: String| Err(Error::Setting(reason));
        for weight in [start, end] {
            if !(weight.is_finite() && weight >= 0.0) {
                return fail(format!("the weight of `{name}` is {weight}, not a number of at least 0"));
            }
        }
        if start == 0.0 && (shape == Curve::Constant || end == 0.0) {
            return fail(format!("the weight of `{name}` is 0 in all steps: leave the term out"));
        }
        if until <= from {
            return fail(format!("the term `{name}` ends at step {until} and begins only at step {from}"));
        }
        if let Some(bad) = self.temperatures.iter().find(|t| !(t.is_finite() && **t > 0.0)) {
            return fail(format!("temperature {bad} of `{name}` is not a positive number"));
        }
        match (self.temperatures.len(), self.loss.default_temperatures().len()) {
            (1.., 0) => fail(format!("`{name}` reads no temperature")),
            (2.., 1) => fail(format!("`{name}` reads one temperature, not several")),
            _ => Ok(()),
        }
    }
}

/// Returns the first step of a run in which no term has a nonzero weight.
pub fn first_gap(terms: &[Term], steps: u64) -> Option<u64> {
    // Between these moments, no weight becomes 0 or ceases to be. A rising weight is 0 at its first step.
    let moments = terms.iter().flat_map(|term| {
        let WeightSchedule { from, until, .. } = term.weight;
        [from, from.saturating_add(1), until]
    });
    let mut moments = moments.chain([0]).filter(|step| *step < steps).collect::<Vec<_>>();
    moments.sort_unstable();
    moments.into_iter().find(|step| terms.iter().all(|term| term.weight.at(*step) <= 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_declarations() {
        for (place, facts) in FACTS.iter().enumerate() {
            assert_eq!(facts.loss as usize, place, "{}", facts.name);
            let name = serde_json::to_value(facts.loss).unwrap();
            assert_eq!(name, facts.name, "the recipe's name is the report's");
        }
    }

    #[test]
    fn weights_over_the_steps() {
        let schedule = |shape| WeightSchedule { shape, start: 2.0, end: 1.0, from: 10, until: 20 };
        let at = |shape, step| schedule(shape).at(step);
        for shape in [Curve::Constant, Curve::Linear, Curve::Cosine] {
            assert_eq!([at(shape, 9), at(shape, 10)], [0.0, 2.0]);
        }
        assert_eq!([at(Curve::Constant, 19), at(Curve::Constant, 20)], [2.0, 0.0]);
        assert_eq!([at(Curve::Linear, 15), at(Curve::Linear, 20), at(Curve::Linear, 99)], [1.5, 1.0, 1.0]);
        assert!((at(Curve::Cosine, 15) - 1.5).abs() < 1e-12 && at(Curve::Cosine, 12) > at(Curve::Linear, 12));
        assert_eq!(WeightSchedule::constant(3.0).at(u64::MAX - 1), 3.0);
    }

    #[test]
    fn steps_without_any_weight_are_found() {
        let term = |from, until| Term {
            weight: WeightSchedule { from, until, ..WeightSchedule::constant(1.0) },
            ..Term::new(Loss::Task, 1.0)
        };
        assert_eq!(first_gap(&[term(0, 10), term(10, 20)], 20), None);
        assert_eq!(first_gap(&[term(0, 10), term(10, 20)], 21), Some(20));
        assert_eq!(first_gap(&[term(0, 10), term(11, 20)], 20), Some(10));
        assert_eq!(first_gap(&[term(1, 10)], 5), Some(0));
        let rising = WeightSchedule { shape: Curve::Linear, start: 0.0, end: 1.0, from: 0, until: 9 };
        assert_eq!(first_gap(&[Term { weight: rising, ..Term::new(Loss::Fd, 1.0) }], 20), Some(0));
    }

    #[test]
    fn terms_that_cannot_work_are_refused() {
        assert!(Term::new(Loss::Fd, 2000.0).check().is_ok());
        let with = |loss, weight: WeightSchedule, temperatures: &[f64]| {
            Term { loss, weight, temperatures: temperatures.to_vec() }.check()
        };
        let one = WeightSchedule::constant(1.0);
        for (loss, weight, temperatures) in [
            (Loss::Fd, WeightSchedule::constant(0.0), &[][..]),
            (Loss::Fd, WeightSchedule::constant(-1.0), &[]),
            (Loss::Fd, WeightSchedule::constant(f64::NAN), &[]),
            (Loss::Fd, WeightSchedule { from: 5, until: 5, ..one }, &[]),
            (Loss::Fd, one, &[1.0]),
            (Loss::Hinton, one, &[1.0, 2.0]),
            (Loss::Gram, one, &[0.1, 0.0]),
        ] {
            assert!(with(loss, weight, temperatures).is_err(), "{loss:?} {weight:?} {temperatures:?}");
        }
        let rising = WeightSchedule { shape: Curve::Linear, start: 0.0, end: 1.0, from: 0, until: 9 };
        assert!(with(Loss::Gram, rising, &[0.1, 1.0]).is_ok());
    }
}
