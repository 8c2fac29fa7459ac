//! Names of metrics, metrics on a data set, and their values.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Name of a metric.
///
/// ```
/// use zeroshot_eval::MetricName;
///
/// let name: MetricName = "text recall@10".parse()?;
/// assert_eq!((name, name.to_string()), (MetricName::TextRecallAt10, "text recall@10".into()));
/// # Ok::<_, zeroshot_eval::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum MetricName {
    /// Accuracy of the class with the highest score.
    Top1,
    /// Accuracy of the five classes with the highest scores.
    Top5,
    /// Mean of the recalls of all classes.
    MeanPerClassRecall,
    /// Fraction of images with one of their texts first.
    TextRecallAt1,
    /// Fraction of images with one of their texts among the first five.
    TextRecallAt5,
    /// Fraction of images with one of their texts among the first ten.
    TextRecallAt10,
    /// Fraction of texts with their image first.
    ImageRecallAt1,
    /// Fraction of texts with their image among the first five.
    ImageRecallAt5,
    /// Fraction of texts with their image among the first ten.
    ImageRecallAt10,
    /// Mean of all six recalls of a retrieval.
    MeanRecall,
    /// Mean probability of the predicted class.
    Confidence,
    /// Expected calibration error of the class probabilities.
    ExpectedCalibrationError,
    /// Similarity of a student to its teacher.
    Fidelity(FidelityMetric),
}

/// Name of a metric that compares a student with its teacher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FidelityMetric {
    /// Linear CKA of the images.
    CkaImages,
    /// Linear CKA of the texts.
    CkaTexts,
    /// Linear CKA of images and texts as one set.
    CkaStacked,
    /// Spearman's correlation of the cosines of image pairs.
    SpearmanImages,
    /// Spearman's correlation of the cosines of text pairs.
    SpearmanTexts,
    /// Spearman's correlation of the cosines of images with texts.
    SpearmanImageText,
    /// Fraction of common nearest images.
    NeighborOverlapImages,
    /// Fraction of common nearest texts.
    NeighborOverlapTexts,
    /// Fraction of common nearest texts of an image.
    NeighborOverlapImageText,
    /// The teacher's modality gap.
    ModalityGapTeacher,
    /// The student's modality gap.
    ModalityGapStudent,
    /// The student's modality gap divided by the teacher's.
    ModalityGapRatio,
    /// The teacher's mean cosine of matching pairs.
    PairCosineTeacher,
    /// The student's mean cosine of matching pairs.
    PairCosineStudent,
    /// Fraction of images that both models put into the same class.
    Top1Agreement,
}

/// Metrics of a classification.
pub const CLASSIFICATION_METRICS: [MetricName; 3] =
    [MetricName::Top1, MetricName::Top5, MetricName::MeanPerClassRecall];
/// Metrics of a retrieval.
pub const RETRIEVAL_METRICS: [MetricName; 6] = [
    MetricName::TextRecallAt1,
    MetricName::TextRecallAt5,
    MetricName::TextRecallAt10,
    MetricName::ImageRecallAt1,
    MetricName::ImageRecallAt5,
    MetricName::ImageRecallAt10,
];

impl MetricName {
    /// Iterates over all metrics.
    pub fn all() -> impl Iterator<Item = MetricName> {
        let others = [MetricName::MeanRecall, MetricName::Confidence, MetricName::ExpectedCalibrationError];
        let fidelity = FidelityMetric::ALL.into_iter().map(MetricName::Fidelity);
        CLASSIFICATION_METRICS.into_iter().chain(RETRIEVAL_METRICS).chain(others).chain(fidelity)
    }
}

impl fmt::Display for MetricName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            MetricName::Top1 => "top-1",
            MetricName::Top5 => "top-5",
            MetricName::MeanPerClassRecall => "mean per-class recall",
            MetricName::TextRecallAt1 => "text recall@1",
            MetricName::TextRecallAt5 => "text recall@5",
            MetricName::TextRecallAt10 => "text recall@10",
            MetricName::ImageRecallAt1 => "image recall@1",
            MetricName::ImageRecallAt5 => "image recall@5",
            MetricName::ImageRecallAt10 => "image recall@10",
            MetricName::MeanRecall => "mean recall",
            MetricName::Confidence => "confidence",
            MetricName::ExpectedCalibrationError => "expected calibration error",
            MetricName::Fidelity(metric) => return metric.fmt(out),
        })
    }
}

impl FromStr for MetricName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        MetricName::all().find(|metric| metric.to_string() == name).ok_or_else(|| Error::Unknown {
            kind: "metric",
            name: name.into(),
            known: MetricName::all().map(|metric| format!("`{metric}`")).collect::<Vec<_>>().join(", "),
        })
    }
}

impl From<MetricName> for String {
    fn from(name: MetricName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for MetricName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl FidelityMetric {
    /// All metrics, in the order of tables.
    pub const ALL: [FidelityMetric; 15] = [
        FidelityMetric::CkaImages,
        FidelityMetric::CkaTexts,
        FidelityMetric::CkaStacked,
        FidelityMetric::SpearmanImages,
        FidelityMetric::SpearmanTexts,
        FidelityMetric::SpearmanImageText,
        FidelityMetric::NeighborOverlapImages,
        FidelityMetric::NeighborOverlapTexts,
        FidelityMetric::NeighborOverlapImageText,
        FidelityMetric::ModalityGapTeacher,
        FidelityMetric::ModalityGapStudent,
        FidelityMetric::ModalityGapRatio,
        FidelityMetric::PairCosineTeacher,
        FidelityMetric::PairCosineStudent,
        FidelityMetric::Top1Agreement,
    ];

    /// Returns the embeddings or the model that the metric describes.
    pub fn subject(self) -> &'static str {
        match self {
            FidelityMetric::CkaImages
            | FidelityMetric::SpearmanImages
            | FidelityMetric::NeighborOverlapImages
            | FidelityMetric::Top1Agreement => "images",
            FidelityMetric::CkaTexts
            | FidelityMetric::SpearmanTexts
            | FidelityMetric::NeighborOverlapTexts => "texts",
            FidelityMetric::CkaStacked => "images and texts",
            FidelityMetric::SpearmanImageText => "images with texts",
            FidelityMetric::NeighborOverlapImageText => "images to texts",
            FidelityMetric::ModalityGapTeacher | FidelityMetric::PairCosineTeacher => "teacher",
            FidelityMetric::ModalityGapStudent | FidelityMetric::PairCosineStudent => "student",
            FidelityMetric::ModalityGapRatio => "student / teacher",
        }
    }

    /// Returns the name of the measure, without its subject.
    pub fn measure(self) -> &'static str {
        match self {
            FidelityMetric::CkaImages | FidelityMetric::CkaTexts | FidelityMetric::CkaStacked => "linear CKA",
            FidelityMetric::SpearmanImages
            | FidelityMetric::SpearmanTexts
            | FidelityMetric::SpearmanImageText => "Spearman",
            FidelityMetric::NeighborOverlapImages
            | FidelityMetric::NeighborOverlapTexts
            | FidelityMetric::NeighborOverlapImageText => "k-NN overlap",
            FidelityMetric::ModalityGapTeacher
            | FidelityMetric::ModalityGapStudent
            | FidelityMetric::ModalityGapRatio => "modality gap",
            FidelityMetric::PairCosineTeacher | FidelityMetric::PairCosineStudent => "cosine of pairs",
            FidelityMetric::Top1Agreement => "top-1 agreement",
        }
    }
}

impl fmt::Display for FidelityMetric {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&format!("{}, {}", self.subject(), self.measure()))
    }
}

/// A metric on a data set. Its text is `SET: NAME`, which is also its form in files and its order.
///
/// ```
/// use zeroshot_eval::{Metric, MetricName};
///
/// let metric: Metric = "held out: top-1".parse()?;
/// assert_eq!(metric, Metric::new("held out", MetricName::Top1));
/// # Ok::<_, zeroshot_eval::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Metric {
    /// Name of the data set.
    pub set: String,
    /// Name of the metric.
    pub name: MetricName,
}

impl Metric {
    /// Creates a metric on a data set.
    pub fn new(set: impl Into<String>, name: MetricName) -> Self {
        Metric { set: set.into(), name }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&format!("{}: {}", self.set, self.name))
    }
}

impl FromStr for Metric {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // The name of a set may contain the separator too; that of a metric never does.
        let (set, name) = text.rsplit_once(": ").ok_or_else(|| Error::Unknown {
            kind: "metric",
            name: text.into(),
            known: "the form is `SET: METRIC`".into(),
        })?;
        Ok(Metric::new(set, name.parse()?))
    }
}

impl From<Metric> for String {
    fn from(metric: Metric) -> Self {
        metric.to_string()
    }
}

impl TryFrom<String> for Metric {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl Ord for Metric {
    fn cmp(&self, other: &Self) -> Ordering {
        self.to_string().cmp(&other.to_string())
    }
}

impl PartialOrd for Metric {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A metric with its value.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct MetricValue {
    /// Name of the metric.
    pub name: MetricName,
    /// Its value; fractions are 0 to 1.
    pub value: f64,
}

impl MetricValue {
    /// Creates a value.
    pub fn new(name: MetricName, value: f64) -> Self {
        MetricValue { name, value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_parse_back() {
        let names = MetricName::all().collect::<Vec<_>>();
        for (index, name) in names.iter().enumerate() {
            assert_eq!(name.to_string().parse::<MetricName>().unwrap(), *name);
            assert!(names[..index].iter().all(|other| other.to_string() != name.to_string()), "{name}");
            let metric = Metric::new("a: b", *name);
            assert_eq!(metric.to_string().parse::<Metric>().unwrap(), metric);
            let json = serde_json::to_string(&metric).unwrap();
            assert_eq!(json, format!("\"{metric}\""));
            assert_eq!(serde_json::from_str::<Metric>(&json).unwrap(), metric);
        }
    }

    #[test]
    fn unknown_names_are_errors() {
        for text in ["top1", "set: top1", "images, linear CKA"] {
            assert!(matches!(text.parse::<Metric>(), Err(Error::Unknown { .. })), "{text}");
        }
        assert!("Top-1".parse::<MetricName>().unwrap_err().to_string().contains("`top-1`"));
    }
}
