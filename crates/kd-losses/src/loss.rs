//! The registry of losses: one entry each, with everything that the crate needs to know about it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use tch::Tensor;

use crate::evaluation::{PairTerms, StudentTerms};
use crate::learned::{LearnedParts, Part};
use crate::settings::Kind;
use crate::structure::{AnchorScope, Block};
use crate::{Error, LossSettings, Result, clip_rd, feature, gradient, interactive, relation, rkd};

/// The registry's entry of a loss.
struct Entry {
    name: &'static str,
    summary: &'static str,
    source: &'static str,
    value: Value,
    settings: Kind,
    inputs: &'static [Input],
    parts: &'static [Part],
    by_rows: bool,
}

/// The function that computes a loss.
#[derive(Clone, Copy)]
pub(crate) enum Value {
    /// From the student alone.
    Student(for<'a, 'b> fn(&'b StudentTerms<'a>, &LearnedParts) -> Result<Tensor>),
    /// From the student and one teacher.
    Pair(PairValue),
}

pub(crate) type PairValue = for<'a, 'b> fn(&'b PairTerms<'a>, &LossSettings) -> Result<Tensor>;

/// Inputs besides the embeddings of the batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Tokens,
    Classes,
    Anchors,
}

impl Entry {
    const fn new(name: &'static str, summary: &'static str, source: &'static str, value: Value) -> Self {
        Entry { name, summary, source, value, settings: Kind::Plain, inputs: &[], parts: &[], by_rows: false }
    }

    const fn student(
        name: &'static str,
        summary: &'static str,
        source: &'static str,
        value: for<'a, 'b> fn(&'b StudentTerms<'a>, &LearnedParts) -> Result<Tensor>,
    ) -> Self {
        Self::new(name, summary, source, Value::Student(value))
    }

    const fn pair(name: &'static str, summary: &'static str, source: &'static str, value: PairValue) -> Self {
        Self::new(name, summary, source, Value::Pair(value))
    }

    /// Inputs that the loss reads besides embeddings.
    const fn reads(mut self, inputs: &'static [Input]) -> Self {
        self.inputs = inputs;
        self
    }

    /// Learned parts of the loss.
    const fn learns(mut self, parts: &'static [Part]) -> Self {
        self.parts = parts;
        self
    }

    /// Marks a loss that is a mean over the rows of the batch; see [`Loss::is_mean_over_rows`].
    const fn by_rows(mut self) -> Self {
        self.by_rows = true;
        self
    }

    /// The kind of the loss's own settings.
    const fn has(mut self, settings: Kind) -> Self {
        self.settings = settings;
        self
    }
}

/// Defines [`Loss`] and the table of its entries, in the order of reports.
macro_rules! registry {
    ($($(#[$doc:meta])* $loss:ident = $entry:expr;)*) => {
        /// A loss of the registry. The order is that of reports; names in files are in kebab case.
        ///
        /// ```no_run
        /// use kd_losses::Loss;
        ///
        /// let loss: Loss = "cross-kd".parse()?;
        /// assert_eq!((loss, loss.to_string()), (Loss::CrossKd, "cross-kd".into()));
        /// # Ok::<_, kd_losses::Error>(())
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[non_exhaustive]
        pub enum Loss {
            $($(#[$doc])* $loss,)*
        }

        const ALL: &[Loss] = &[$(Loss::$loss,)*];
        static ENTRIES: &[Entry] = &[$($entry,)*];
    };
}

const CLIP_KD: &str = "CLIP-KD (Yang et al. 2024)";
const FITNETS: &str = "after FitNets (Romero et al. 2015)";
const THIS_PROJECT: &str = "this project";

registry! {
    /// CLIP's contrastive loss; needs no teacher.
    Task = Entry::student("task", "cross-entropy of image-text logits, both directions", "CLIP (Radford et al. 2021)",
        |student, _| student.task()).by_rows();
    /// SigLIP's pairwise sigmoid loss; needs no teacher.
    Siglip = Entry::student("siglip", "pairwise sigmoid of image-text logits", "SigLIP (Zhai et al. 2023)",
        |student, parts| student.siglip(parts)).learns(&[Part::LogitBias]).by_rows();
    /// Hinton's soft targets on the logits of a zero-shot classifier.
    Hinton = Entry::pair("hinton", "KL of zero-shot class logits at a temperature", "Hinton et al. 2015",
        |pair, settings| pair.hinton(settings)).reads(&[Input::Classes]).has(Kind::Hinton).by_rows();
    /// CLIP-KD's contrastive relational distillation.
    Crd = Entry::pair("crd", "KL of image-text similarity distributions", CLIP_KD,
        |pair, _| relation::crd(pair.student_logits()?, pair.teacher_logits()?)).by_rows();
    /// CLIP-KD's feature distillation.
    Fd = Entry::pair("fd", "squared distance of unit embeddings", CLIP_KD,
        |pair, _| feature::fd(pair.projected(), pair.teacher())).learns(&[Part::Projections]).by_rows();
    /// CLIP-KD's masked feature distillation.
    Mfd = Entry::pair("mfd", "fd with most of the student's patches left out", CLIP_KD,
        |pair, _| pair.mfd()).learns(&[Part::Projections]).has(Kind::Mfd).by_rows();
    /// CLIP-KD's gradient distillation.
    Gd = Entry::pair("gd", "squared distance of contrastive gradients", CLIP_KD,
        |pair, _| gradient::gd(pair.projected(), pair.student_scale(), pair.teacher(), pair.teacher_scale()))
        .learns(&[Part::Projections]);
    /// CLIP-KD's interactive contrastive learning.
    Icl = Entry::pair("icl", "contrastive loss of student images and teacher texts, and the reverse", CLIP_KD,
        |pair, _| interactive::icl(pair.cross_logits()?, pair.targets()))
        .learns(&[Part::Projections, Part::CrossScale]).by_rows();
    /// CLIP-KD's augmented feature distillation.
    Afd = Entry::pair("afd", "contrastive loss of fused student and teacher embeddings", CLIP_KD,
        |pair, _| pair.afd()).learns(&[Part::Projections, Part::Fusion]);
    /// Soft targets on the logits between the models, from CLIP-KD's published code.
    CrossKd = Entry::pair("cross-kd", "KL of the teacher's similarities to the student-teacher similarities", "CLIP-KD, published code",
        |pair, _| interactive::cross_kd(pair.cross_logits()?, pair.teacher_logits()?))
        .learns(&[Part::Projections, Part::CrossScale]).by_rows();
    /// TinyCLIP's affinity mimicking.
    Affinity = Entry::pair("affinity", "soft cross-entropy of image-text similarities", "TinyCLIP (Wu et al. 2023)",
        |pair, _| relation::affinity(pair.student_logits()?, pair.teacher_logits()?)).by_rows();
    /// DCLIP's cosine distance of embeddings.
    Cosine = Entry::pair("cosine", "1 - cosine of embeddings", "DCLIP",
        |pair, _| feature::cosine(pair.projected(), pair.teacher())).learns(&[Part::Projections]).by_rows();
    /// The patch tokens of the two ViTs.
    PatchTokens = Entry::pair("patch-tokens", "squared distance of unit patch tokens of the ViTs", FITNETS,
        |pair, _| pair.patch_tokens()).reads(&[Input::Tokens]).learns(&[Part::PatchMap]).by_rows();
    /// The outputs of chosen transformer blocks of both towers.
    Hidden = Entry::pair("hidden", "squared distance of unit outputs of evenly spaced blocks of both towers", FITNETS,
        |pair, _| pair.hidden()).reads(&[Input::Tokens]).learns(&[Part::BlockMaps]).has(Kind::Hidden);
    /// RKD's relative distances within each modality.
    RkdDistance = Entry::pair("rkd-distance", "Huber loss of relative distances within a modality", "RKD (Park et al. 2019)",
        |pair, _| rkd::distance(pair.student(), pair.teacher()));
    /// RKD's angles within each modality.
    RkdAngle = Entry::pair("rkd-angle", "Huber loss of triplet angles within a modality", "RKD (Park et al. 2019)",
        |pair, _| rkd::angle(pair.student(), pair.teacher()));
    /// CLIP-RD's vertical relation.
    ClipRdVrd = Entry::pair("clip-rd-vrd", "KL of teacher-student similarities of texts to those of images", "CLIP-RD",
        |pair, _| pair.vrd()).learns(&[Part::Projections, Part::ModalityScales]);
    /// CLIP-RD's crossed relation.
    ClipRdXrd = Entry::pair("clip-rd-xrd", "KL between image-text and text-image teacher-student similarities", "CLIP-RD",
        |pair, _| clip_rd::xrd(pair.projected(), pair.teacher(), pair.cross_scale()?))
        .learns(&[Part::Projections, Part::CrossScale]);
    /// Structure transfer: the joint Gram matrix of images and texts.
    Gram = Entry::pair("gram", "KL of the joint Gram matrix's rows at several temperatures", THIS_PROJECT,
        |pair, settings| pair.gram(Block::Joint, settings)).has(Kind::Gram);
    /// Structure transfer: images to images.
    GramImageImage = Entry::pair("gram-image-image", "the image-image block of gram", THIS_PROJECT,
        |pair, settings| pair.gram(Block::ImageImage, settings)).has(Kind::Gram);
    /// Structure transfer: texts to texts.
    GramTextText = Entry::pair("gram-text-text", "the text-text block of gram", THIS_PROJECT,
        |pair, settings| pair.gram(Block::TextText, settings)).has(Kind::Gram);
    /// Structure transfer: images to texts and back.
    GramImageText = Entry::pair("gram-image-text", "the image-text block of gram", THIS_PROJECT,
        |pair, settings| pair.gram(Block::ImageText, settings)).has(Kind::Gram);
    /// Structure transfer: a bank of teacher embeddings beyond the batch, of both modalities together.
    Anchors = Entry::pair("anchors", "KL of similarities to teacher embeddings beyond the batch", THIS_PROJECT,
        |pair, settings| pair.anchors(Loss::Anchors, AnchorScope::Joint, settings))
        .reads(&[Input::Anchors]).learns(&[Part::Projections]).has(Kind::Anchors).by_rows();
    /// Structure transfer: images over the bank's images, and texts over its texts.
    AnchorsWithin = Entry::pair("anchors-within", "images to images and texts to texts beyond the batch", THIS_PROJECT,
        |pair, settings| pair.anchors(Loss::AnchorsWithin, AnchorScope::Within, settings))
        .reads(&[Input::Anchors]).learns(&[Part::Projections]).has(Kind::Anchors).by_rows();
    /// Structure transfer: images over the bank's texts, and texts over its images.
    AnchorsAcross = Entry::pair("anchors-across", "images to texts and texts to images beyond the batch", THIS_PROJECT,
        |pair, settings| pair.anchors(Loss::AnchorsAcross, AnchorScope::Across, settings))
        .reads(&[Input::Anchors]).learns(&[Part::Projections]).has(Kind::Anchors).by_rows();
    /// Structure transfer: the batch's images among the prompts of a vocabulary.
    Vocabulary = Entry::pair("vocabulary", "images to a class list, classes to images, and classes to classes", THIS_PROJECT,
        |pair, settings| pair.vocabulary(settings)).reads(&[Input::Classes]).has(Kind::Vocabulary);
}

impl Loss {
    /// Iterates over all losses, in report order.
    pub fn all() -> impl Iterator<Item = Loss> {
        ALL.iter().copied()
    }

    fn entry(self) -> &'static Entry {
        &ENTRIES[self as usize]
    }

    /// Returns the name in recipes, metrics and reports.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// Returns a one-line summary of the comparison.
    pub fn summary(self) -> &'static str {
        self.entry().summary
    }

    /// Returns the paper or project that introduced the loss.
    pub fn source(self) -> &'static str {
        self.entry().source
    }

    /// Whether the loss compares with a teacher.
    pub fn needs_teacher(self) -> bool {
        matches!(self.entry().value, Value::Pair(_))
    }

    /// Whether the loss reads token states of both models ([`crate::TokenStates`]), which stores do not contain.
    pub fn reads_tokens(self) -> bool {
        self.entry().inputs.contains(&Input::Tokens)
    }

    /// Whether the loss reads the embeddings of a class list of both models ([`crate::AuxOutputs::classes`]).
    pub fn reads_classes(self) -> bool {
        self.entry().inputs.contains(&Input::Classes)
    }

    /// Whether the loss reads a bank of teacher embeddings beyond the batch ([`crate::AuxOutputs::anchors`]).
    pub fn reads_anchors(self) -> bool {
        self.entry().inputs.contains(&Input::Anchors)
    }

    /// Whether the loss is a mean over the rows of a batch, where each row may be compared with the whole batch. Such a
    /// loss can be computed in blocks of rows ([`crate::ModelOutputs::local`]): the values and gradients of the blocks,
    /// weighted by their share of the rows, add up to those of the batch.
    pub fn is_mean_over_rows(self) -> bool {
        self.entry().by_rows
    }

    /// Returns the default temperatures; empty for losses without a temperature.
    pub fn default_temperatures(self) -> &'static [f64] {
        self.kind().default_temperatures()
    }

    /// Returns the loss's own settings with their defaults.
    pub fn default_settings(self) -> LossSettings {
        self.kind().defaults()
    }

    /// Returns the keys of the loss's own settings in a file, including aliases.
    pub fn setting_keys(self) -> &'static [&'static str] {
        self.kind().keys()
    }

    /// Checks that a key belongs to the loss's own settings.
    ///
    /// ```no_run
    /// use kd_losses::Loss;
    ///
    /// assert!(Loss::Mfd.check_setting("masked").is_ok());
    /// let error = Loss::Fd.check_setting("masked").unwrap_err();
    /// assert_eq!(error.to_string(), "`masked` belongs to `mfd`; `fd` has no such setting");
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownSetting`] with the losses that have the setting.
    pub fn check_setting(self, key: &str) -> Result<()> {
        let has = |loss: &Loss| loss.setting_keys().contains(&key);
        if has(&self) {
            return Ok(());
        }
        Err(Error::UnknownSetting { loss: self, key: key.into(), owners: Loss::all().filter(has).collect() })
    }

    /// Reads the loss's own settings from any format of serde; the weight's settings are
    /// [`crate::WeightSettings`].
    ///
    /// # Errors
    /// The format's error for an unknown key or a value of the wrong type. [`LossSettings::validate`] checks ranges.
    pub fn read_settings<'de, D: Deserializer<'de>>(self, from: D) -> Result<LossSettings, D::Error> {
        self.kind().deserialize(from)
    }

    /// Returns the JSON schema of the loss's own settings. Does not include aliases, which [`Loss::setting_keys`]
    /// lists.
    #[cfg(feature = "schema")]
    pub fn settings_schema(self, generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        self.kind().schema(generator)
    }

    pub(crate) fn kind(self) -> Kind {
        self.entry().settings
    }

    pub(crate) fn value(self) -> Value {
        self.entry().value
    }

    /// Whether the loss has this learned part.
    pub(crate) fn learns(self, part: Part) -> bool {
        self.entry().parts.contains(&part)
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

impl FromStr for Loss {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Loss::all().find(|loss| loss.name() == name).ok_or_else(|| Error::UnknownLoss(name.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_reports_use_the_same_names() {
        for (index, loss) in Loss::all().enumerate() {
            assert_eq!(loss as usize, index, "{loss}");
            assert_eq!(serde_json::to_value(loss).unwrap(), loss.name());
            assert_eq!(loss.name().parse::<Loss>().unwrap(), loss);
        }
        assert!(matches!("fdd".parse::<Loss>(), Err(Error::UnknownLoss(name)) if name == "fdd"));
    }

    #[test]
    fn an_error_names_the_losses_that_have_a_setting() {
        for (loss, key, message) in [
            (Loss::Fd, "layers", "`layers` belongs to `hidden`; `fd` has no such setting"),
            (
                Loss::Fd,
                "count",
                "`count` belongs to `anchors`, `anchors-within` and `anchors-across`; `fd` has no such setting",
            ),
            (Loss::Fd, "wieght", "unknown setting `wieght` of `fd`"),
        ] {
            assert_eq!(loss.check_setting(key).unwrap_err().to_string(), message);
        }
    }
}
