//! The comparison of a student with its teacher.

use ndarray::{Array2, ArrayView2, Axis, concatenate};

use super::{
    Fidelity, FidelityInput, FidelityOptions, Sides, agreement, geometry, linear_cka, ranks, spearman,
};
use crate::names::Firsts;
use crate::seeded::Seeded;
use crate::{Error, Result, rows};

/// Compares a student with its teacher.
///
/// CKA, correlations and overlaps use at most [`FidelityOptions::max_rows`] images and as many texts, preferably the texts
/// of the drawn images. Gaps, cosines of pairs and agreement are cheap and use all embeddings.
///
/// ```
/// use ndarray::Array2;
/// use zeroshot_eval::{FidelityInput, FidelityOptions, Sides, fidelity};
///
/// let rows = Array2::<f32>::eye(12);
/// let images = Sides { teacher: rows.view(), student: rows.view() };
/// let input = FidelityInput { images, texts: None, image_of: None, classes: None, class_names: None };
/// let found = fidelity(&input, &FidelityOptions::default())?;
/// assert!(found.cka_images.is_some_and(|cka| cka > 0.999));
/// # Ok::<_, zeroshot_eval::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if numbers of embeddings or widths do not match, [`Error::Input`] for an empty array, a value that is
/// not finite, a text without an existing image, or an option that is too small.
pub fn fidelity(input: &FidelityInput<'_>, options: &FidelityOptions) -> Result<Fidelity> {
    if options.neighbors == 0 || options.max_pairs < 2 || options.max_rows < 2 {
        return Err(Error::Input(
            "fidelity needs at least 1 neighbour, 2 embeddings and 2 pairs to rank".into(),
        ));
    }
    if input.image_of.is_some() && input.texts.is_none() {
        return Err(Error::Input("pairs of images and texts are given without texts".into()));
    }
    let images = Units::new(["the teacher's image", "the student's image"], input.images)?;
    let mut draws = Seeded::new(options.seed);
    let drawn = draws.some(images.count(), options.max_rows);
    let some_images = images.select(&drawn);
    let mut found = Fidelity {
        images: images.count(),
        images_drawn: drawn.len(),
        texts: None,
        texts_drawn: None,
        options: *options,
        cka_images: some_images.cka()?,
        cka_texts: None,
        cka_stacked: None,
        spearman_images: some_images.spearman(options)?,
        spearman_texts: None,
        spearman_image_text: None,
        neighbor_overlap_images: some_images.overlap(options.neighbors),
        neighbor_overlap_texts: None,
        neighbor_overlap_image_text: None,
        modality_gap_teacher: None,
        modality_gap_student: None,
        modality_gap_ratio: None,
        pair_cosine_teacher: None,
        pair_cosine_student: None,
        top1_agreement: None,
    };
    if let Some(texts) = input.texts {
        let texts = Units::new(["the teacher's text", "the student's text"], texts)?;
        images.check_widths("width of the teacher's texts", "width of the student's texts", &texts)?;
        let pairs = input.image_of.map(|image_of| check_pairs(image_of, images.count(), texts.count()));
        let pairs = pairs.transpose()?;
        let drawn = draw_texts(&mut draws, pairs.as_deref(), &drawn, texts.count(), options.max_rows);
        found.texts = Some(texts.count());
        found.texts_drawn = Some(drawn.len());
        found.with_texts(&some_images, &texts.select(&drawn), options)?;
        found.with_pairs(&images, &texts, pairs.as_deref());
    }
    if let Some(classes) = input.classes {
        let classes = Units::new(["the teacher's class", "the student's class"], classes)?;
        images.check_widths("width of the teacher's classes", "width of the student's classes", &classes)?;
        let firsts = input.class_names.map_or_else(|| Firsts::distinct(classes.count()), Firsts::of);
        if firsts.len() != classes.count() {
            return Err(Error::shape("names of the classes", classes.count(), firsts.len()));
        }
        let teacher = geometry::predictions(images.teacher.view(), classes.teacher.view(), &firsts);
        let student = geometry::predictions(images.student.view(), classes.student.view(), &firsts);
        found.top1_agreement = Some(agreement(&teacher, &student)?);
    }
    Ok(found)
}

impl Fidelity {
    /// Adds the metrics of the drawn texts.
    fn with_texts(&mut self, images: &Units, texts: &Units, options: &FidelityOptions) -> Result<()> {
        self.cka_texts = texts.cka()?;
        self.cka_stacked = images.stack(texts)?.cka()?;
        self.spearman_texts = texts.spearman(options)?;
        let pairs = ranks::pairs_between(images.count(), texts.count(), options.max_pairs, options.seed);
        self.spearman_image_text = correlation(images, texts, &pairs)?;
        self.neighbor_overlap_texts = texts.overlap(options.neighbors);
        self.neighbor_overlap_image_text = (texts.count() > options.neighbors).then(|| {
            geometry::unit_cross_overlap(
                [images.teacher.view(), texts.teacher.view()],
                [images.student.view(), texts.student.view()],
                options.neighbors,
            )
        });
        Ok(())
    }

    /// Adds the metrics of all embeddings.
    fn with_pairs(&mut self, images: &Units, texts: &Units, pairs: Option<&[(usize, usize)]>) {
        let teacher = geometry::unit_modality_gap(images.teacher.view(), texts.teacher.view());
        let student = geometry::unit_modality_gap(images.student.view(), texts.student.view());
        self.modality_gap_teacher = Some(teacher);
        self.modality_gap_student = Some(student);
        self.modality_gap_ratio = (teacher > 0.0).then(|| student / teacher);
        if let Some(pairs) = pairs {
            let mean = |images: ArrayView2<'_, f32>, texts: ArrayView2<'_, f32>| {
                let cosines = ranks::cosines(images, texts, pairs);
                Some(cosines.iter().sum::<f64>() / cosines.len() as f64)
            };
            self.pair_cosine_teacher = mean(images.teacher.view(), texts.teacher.view());
            self.pair_cosine_student = mean(images.student.view(), texts.student.view());
        }
    }
}

/// Checks the image of each text, and returns the pairs (image, text).
fn check_pairs(image_of: &[usize], images: usize, texts: usize) -> Result<Vec<(usize, usize)>> {
    rows::check_image_of(image_of, images, texts)?;
    Ok(image_of.iter().enumerate().map(|(text, &image)| (image, text)).collect())
}

/// Draws the texts to compare, preferably those of the drawn images, because an image's own texts are its most
/// important neighbours.
fn draw_texts(
    draws: &mut Seeded,
    pairs: Option<&[(usize, usize)]>,
    images: &[usize],
    texts: usize,
    limit: usize,
) -> Vec<usize> {
    let matching = pairs.into_iter().flatten().filter(|(image, _)| images.binary_search(image).is_ok());
    let matching = matching.map(|(_, text)| *text).collect::<Vec<_>>();
    if matching.is_empty() {
        return draws.some(texts, limit);
    }
    draws.some(matching.len(), limit).into_iter().map(|index| matching[index]).collect()
}

/// Checked unit embeddings of both models.
struct Units {
    teacher: Array2<f32>,
    student: Array2<f32>,
}

impl Units {
    fn new(what: [&'static str; 2], sides: Sides<'_>) -> Result<Self> {
        if sides.teacher.nrows() != sides.student.nrows() {
            let (expected, found) = (sides.teacher.nrows(), sides.student.nrows());
            return Err(Error::Shape {
                what: "embeddings of the student, as many as the teacher's",
                expected: format!("{expected} ({})", what[0]),
                found: format!("{found} ({})", what[1]),
            });
        }
        Ok(Units {
            teacher: rows::unit(what[0], sides.teacher)?,
            student: rows::unit(what[1], sides.student)?,
        })
    }

    fn count(&self) -> usize {
        self.teacher.nrows()
    }

    fn select(&self, rows: &[usize]) -> Units {
        Units { teacher: self.teacher.select(Axis(0), rows), student: self.student.select(Axis(0), rows) }
    }

    fn check_widths(&self, teacher: &'static str, student: &'static str, other: &Units) -> Result<()> {
        let check = |what, expected: &Array2<f32>, found: &Array2<f32>| {
            let (expected, found) = (expected.ncols(), found.ncols());
            if expected == found { Ok(()) } else { Err(Error::shape(what, expected, found)) }
        };
        check(teacher, &self.teacher, &other.teacher)?;
        check(student, &self.student, &other.student)
    }

    fn stack(&self, other: &Units) -> Result<Units> {
        let stack = |a: &Array2<f32>, b: &Array2<f32>| {
            concatenate(Axis(0), &[a.view(), b.view()])
                .map_err(|_| Error::shape("width of the text embeddings", a.ncols(), b.ncols()))
        };
        Ok(Units {
            teacher: stack(&self.teacher, &other.teacher)?,
            student: stack(&self.student, &other.student)?,
        })
    }

    fn cka(&self) -> Result<Option<f64>> {
        linear_cka(self.teacher.view(), self.student.view())
    }

    fn spearman(&self, options: &FidelityOptions) -> Result<Option<f64>> {
        correlation(self, self, &ranks::pairs_within(self.count(), options.max_pairs, options.seed))
    }

    /// Returns the k-NN overlap, or `None` if all others are neighbours: the overlap would then always be 1.
    fn overlap(&self, k: usize) -> Option<f64> {
        (self.count() - 1 > k)
            .then(|| geometry::unit_neighbor_overlap(self.teacher.view(), self.student.view(), k))
    }
}

/// Returns Spearman's correlation of the cosines of the pairs; `None` without pairs.
fn correlation(a: &Units, b: &Units, pairs: &[(usize, usize)]) -> Result<Option<f64>> {
    if pairs.is_empty() {
        return Ok(None);
    }
    let teacher = ranks::cosines(a.teacher.view(), b.teacher.view(), pairs);
    spearman(&teacher, &ranks::cosines(a.student.view(), b.student.view(), pairs))
}
