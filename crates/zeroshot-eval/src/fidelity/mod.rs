//! Fidelity: how well a student keeps the relations of its teacher, from embeddings of the same images and texts.
//!
//! The embeddings are normalised first, because CLIP compares cosines. The two models may have different widths. Equal
//! embeddings of student and teacher give 1, except for the modality gaps, which are then equal.

mod cka;
mod geometry;
mod measure;
mod ranks;

use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};

pub use cka::linear_cka;
pub use geometry::{agreement, modality_gap, neighbor_overlap};
pub use measure::fidelity;
pub use ranks::spearman;

use crate::metric::{FidelityMetric, MetricName, MetricValue};
use crate::table::{Cell, Table};

/// Embeddings of the same items by both models.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'a> {
    /// The teacher's embeddings `[n, Dt]`.
    pub teacher: ArrayView2<'a, f32>,
    /// The student's embeddings `[n, Ds]`.
    pub student: ArrayView2<'a, f32>,
}

/// Embeddings to compare.
#[derive(Clone, Copy, Debug)]
pub struct FidelityInput<'a> {
    /// Embeddings of n images.
    pub images: Sides<'a>,
    /// Embeddings of m texts, as wide as each model's images.
    pub texts: Option<Sides<'a>>,
    /// The image of each text; requires `texts`.
    pub image_of: Option<&'a [usize]>,
    /// Class embeddings of both zero-shot classifiers ([`crate::Classifier::embeddings`]), as wide as each model's images.
    pub classes: Option<Sides<'a>>,
    /// Names of the classes. Classes with the same name count as one class.
    pub class_names: Option<&'a [String]>,
}

/// Settings of the comparison of a student with its teacher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct FidelityOptions {
    /// Number of neighbours per sample for the k-NN overlap.
    pub neighbors: usize,
    /// Maximum number of ranked pairs of each similarity matrix; 1,000,000 are all pairs of 1,414 embeddings. From a larger
    /// matrix, one pair is drawn from each of this many equal parts.
    pub max_pairs: usize,
    /// Maximum number of images, and of texts, for CKA, correlations and overlaps. CKA is biased towards 1 unless
    /// this is several times the embed dim.
    pub max_rows: usize,
    /// Seed of the sampling.
    pub seed: u64,
}

impl Default for FidelityOptions {
    fn default() -> Self {
        FidelityOptions { neighbors: 10, max_pairs: 1_000_000, max_rows: 2_000, seed: 0 }
    }
}

/// Similarity of a student to its teacher. A metric is `None` if it was not measured, or if the embeddings do not vary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fidelity {
    /// Number of images.
    pub images: usize,
    /// Number of images for CKA, correlations and overlaps.
    pub images_drawn: usize,
    /// Number of texts.
    pub texts: Option<usize>,
    /// Number of texts for CKA, correlations and overlaps.
    pub texts_drawn: Option<usize>,
    /// Settings of the metrics.
    pub options: FidelityOptions,
    /// Linear CKA of the images, 0 to 1.
    pub cka_images: Option<f64>,
    /// Linear CKA of the texts, 0 to 1.
    pub cka_texts: Option<f64>,
    /// Linear CKA of images and texts as one set, 0 to 1; unlike the others, it depends on the positions of the
    /// modalities relative to each other.
    pub cka_stacked: Option<f64>,
    /// Spearman's correlation of the cosines of image pairs, -1 to 1.
    pub spearman_images: Option<f64>,
    /// Spearman's correlation of the cosines of text pairs, -1 to 1.
    pub spearman_texts: Option<f64>,
    /// Spearman's correlation of the cosines of images with texts, -1 to 1.
    pub spearman_image_text: Option<f64>,
    /// Fraction of common nearest images, 0 to 1; `None` if all other images are neighbours.
    pub neighbor_overlap_images: Option<f64>,
    /// Fraction of common nearest texts, 0 to 1; `None` if all other texts are neighbours.
    pub neighbor_overlap_texts: Option<f64>,
    /// Fraction of an image's common nearest texts, 0 to 1; `None` if all texts are neighbours.
    pub neighbor_overlap_image_text: Option<f64>,
    /// The teacher's distance between the centroids of images and texts, 0 to 2.
    pub modality_gap_teacher: Option<f64>,
    /// The student's distance between the centroids of images and texts, 0 to 2.
    pub modality_gap_student: Option<f64>,
    /// The student's modality gap divided by the teacher's; `None` if the teacher has no gap.
    pub modality_gap_ratio: Option<f64>,
    /// The teacher's mean cosine of texts with their images, -1 to 1.
    pub pair_cosine_teacher: Option<f64>,
    /// The student's mean cosine of texts with their images, -1 to 1.
    pub pair_cosine_student: Option<f64>,
    /// Fraction of images that both models put into the same class, 0 to 1; see [`agreement`].
    pub top1_agreement: Option<f64>,
}

impl FidelityOptions {
    /// Sets the number of nearest neighbours.
    pub fn with_neighbors(mut self, neighbors: usize) -> Self {
        self.neighbors = neighbors;
        self
    }

    /// Sets the maximum number of ranked pairs.
    pub fn with_max_pairs(mut self, pairs: usize) -> Self {
        self.max_pairs = pairs;
        self
    }

    /// Sets the maximum number of images, and of texts.
    pub fn with_max_rows(mut self, rows: usize) -> Self {
        self.max_rows = rows;
        self
    }

    /// Sets the seed of the draws.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
}

impl Fidelity {
    /// Returns a metric, or `None` if it was not measured.
    pub fn get(&self, metric: FidelityMetric) -> Option<f64> {
        match metric {
            FidelityMetric::CkaImages => self.cka_images,
            FidelityMetric::CkaTexts => self.cka_texts,
            FidelityMetric::CkaStacked => self.cka_stacked,
            FidelityMetric::SpearmanImages => self.spearman_images,
            FidelityMetric::SpearmanTexts => self.spearman_texts,
            FidelityMetric::SpearmanImageText => self.spearman_image_text,
            FidelityMetric::NeighborOverlapImages => self.neighbor_overlap_images,
            FidelityMetric::NeighborOverlapTexts => self.neighbor_overlap_texts,
            FidelityMetric::NeighborOverlapImageText => self.neighbor_overlap_image_text,
            FidelityMetric::ModalityGapTeacher => self.modality_gap_teacher,
            FidelityMetric::ModalityGapStudent => self.modality_gap_student,
            FidelityMetric::ModalityGapRatio => self.modality_gap_ratio,
            FidelityMetric::PairCosineTeacher => self.pair_cosine_teacher,
            FidelityMetric::PairCosineStudent => self.pair_cosine_student,
            FidelityMetric::Top1Agreement => self.top1_agreement,
        }
    }

    /// Returns the metrics that were measured.
    pub fn metrics(&self) -> Vec<MetricValue> {
        let value = |metric| Some(MetricValue::new(MetricName::Fidelity(metric), self.get(metric)?));
        FidelityMetric::ALL.into_iter().filter_map(value).collect()
    }

    /// Returns a table of the metrics; without texts, only those of images.
    pub fn table(&self) -> Table {
        let mut table = Table::new(["of", "metric"]).with_numbers(["value"]);
        let shown = |metric: &FidelityMetric| self.texts.is_some() || metric.subject() == "images";
        for metric in FidelityMetric::ALL.into_iter().filter(shown) {
            let value = self.get(metric).map(|value| Cell::number(value, 4));
            table.push([metric.subject().into(), metric.measure().into(), Cell::from(value)]);
        }
        table
    }
}

#[cfg(test)]
mod tests;
