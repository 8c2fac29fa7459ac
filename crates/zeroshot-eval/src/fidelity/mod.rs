//! How far a student keeps the relations of its teacher, from embeddings of the same images and texts.
//!
//! Rows are made unit rows first, since cosines are what CLIP compares. No figure needs the two widths
//! to be the same. Equal rows of student and teacher give 1, but for the gaps, which are then equal.

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

use crate::report::markdown;

/// Rows of the same things from both models: `[n, Dt]` and `[n, Ds]`.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'a> {
    /// The teacher's rows `[n, Dt]`.
    pub teacher: ArrayView2<'a, f32>,
    /// The student's rows `[n, Ds]`.
    pub student: ArrayView2<'a, f32>,
}

/// What there is to compare.
#[derive(Clone, Copy, Debug)]
pub struct FidelityInput<'a> {
    /// Images, n rows.
    pub images: Sides<'a>,
    /// Texts, m rows as wide as each model's images.
    pub texts: Option<Sides<'a>>,
    /// The pairs: `image_of[t]` is the image of text t. Needs texts.
    pub image_of: Option<&'a [usize]>,
    /// Class rows of both zero-shot classifiers ([`crate::Classifier::rows`]), as wide as each model's images.
    pub classes: Option<Sides<'a>>,
    /// Names of those classes. Classes with the same name count as one class.
    pub class_names: Option<&'a [String]>,
}

/// How it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FidelityOptions {
    /// Neighbours of a row; 10.
    pub neighbors: usize,
    /// Pairs of rows, of each similarity matrix, that are ranked; 1,000,000. Where there are more, one is
    /// drawn from each of this many equal stretches of the matrix. A matrix of 1,414 rows is ranked whole.
    pub max_pairs: usize,
    /// Images, and texts, that CKA, correlations and overlaps are taken on; 2,000. CKA leans towards 1 where
    /// rows are not several times as many as their width.
    pub max_rows: usize,
    /// Seed of the draws; 0.
    pub seed: u64,
}

impl Default for FidelityOptions {
    fn default() -> Self {
        FidelityOptions { neighbors: 10, max_pairs: 1_000_000, max_rows: 2_000, seed: 0 }
    }
}

/// What was found. A figure is none where it was not measured, or where rows do not vary enough to have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fidelity {
    /// Images.
    pub images: usize,
    /// Images that CKA, correlations and overlaps were taken on.
    pub images_drawn: usize,
    /// Texts.
    pub texts: Option<usize>,
    /// Texts that CKA, correlations and overlaps were taken on.
    pub texts_drawn: Option<usize>,
    /// How they were compared.
    pub options: FidelityOptions,
    /// Linear CKA of the images, 0 to 1.
    pub cka_images: Option<f64>,
    /// Linear CKA of the texts, 0 to 1.
    pub cka_texts: Option<f64>,
    /// Linear CKA of images and texts as one set of rows, 0 to 1; sees how the two lie to each other.
    pub cka_stacked: Option<f64>,
    /// Spearman's correlation of the cosines of image pairs, -1 to 1.
    pub spearman_images: Option<f64>,
    /// Spearman's correlation of the cosines of text pairs, -1 to 1.
    pub spearman_texts: Option<f64>,
    /// Spearman's correlation of the cosines of images with texts, -1 to 1.
    pub spearman_image_text: Option<f64>,
    /// Share of the nearest images that both have, 0 to 1; none up to one image more than neighbours, where it is always 1.
    pub neighbor_overlap_images: Option<f64>,
    /// Share of the nearest texts that both have, 0 to 1; none up to one text more than neighbours.
    pub neighbor_overlap_texts: Option<f64>,
    /// Share of an image's nearest texts that both have, 0 to 1; none up to as many texts as neighbours.
    pub neighbor_overlap_image_text: Option<f64>,
    /// The teacher's distance between the centroids of images and texts, 0 to 2.
    pub modality_gap_teacher: Option<f64>,
    /// The student's.
    pub modality_gap_student: Option<f64>,
    /// The student's by the teacher's; none where the teacher has no gap.
    pub modality_gap_ratio: Option<f64>,
    /// The teacher's mean cosine of texts with their images, -1 to 1.
    pub pair_cosine_teacher: Option<f64>,
    /// The student's.
    pub pair_cosine_student: Option<f64>,
    /// Share of images that both put into the same class, 0 to 1. From predictions: [`agreement`].
    pub top1_agreement: Option<f64>,
}

impl Fidelity {
    /// The figures: of what, which, and its value.
    pub fn figures(&self) -> Vec<(&'static str, &'static str, Option<f64>)> {
        vec![
            ("images", "linear CKA", self.cka_images),
            ("texts", "linear CKA", self.cka_texts),
            ("images and texts", "linear CKA", self.cka_stacked),
            ("images", "Spearman", self.spearman_images),
            ("texts", "Spearman", self.spearman_texts),
            ("images with texts", "Spearman", self.spearman_image_text),
            ("images", "k-NN overlap", self.neighbor_overlap_images),
            ("texts", "k-NN overlap", self.neighbor_overlap_texts),
            ("images to texts", "k-NN overlap", self.neighbor_overlap_image_text),
            ("teacher", "modality gap", self.modality_gap_teacher),
            ("student", "modality gap", self.modality_gap_student),
            ("student / teacher", "modality gap", self.modality_gap_ratio),
            ("teacher", "cosine of pairs", self.pair_cosine_teacher),
            ("student", "cosine of pairs", self.pair_cosine_student),
            ("images", "top-1 agreement", self.top1_agreement),
        ]
    }

    /// The figures as a Markdown table; without texts, those of images.
    pub fn table(&self) -> String {
        let mut table = vec![["of", "figure", "value"].map(String::from).to_vec()];
        let figures = self.figures().into_iter().filter(|(of, _, _)| self.texts.is_some() || *of == "images");
        table.extend(figures.map(|(of, figure, value)| {
            let value = value.map_or("-".to_string(), |value| format!("{value:.4}"));
            vec![of.to_string(), figure.to_string(), value]
        }));
        markdown(&table)
    }
}

#[cfg(test)]
mod tests;
