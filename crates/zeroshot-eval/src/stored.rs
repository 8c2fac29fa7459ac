//! Everything that stored rows tell about a model on one data set, from one reading of it.
//!
//! Encoding costs far more than any measure, so rows are made once ([`crate::encode_labelled`],
//! [`crate::encode_captioned`], or read from a file) and all measures are taken from them.

use ndarray::{Array2, ArrayView2, Axis, s};
use serde::{Deserialize, Serialize};

use crate::calibration::{BINS, Calibration, Reliability};
use crate::confusion::{ClassCounts, ConfusedPair, Confusion};
use crate::fidelity::{Fidelity, FidelityInput, FidelityOptions, Sides, fidelity};
use crate::probe::{Probe, ProbeOptions, ProbeTraining};
use crate::report::{Score, SetScore, markdown};
use crate::rows::{self, check_labels};
use crate::{Accuracy, Classification, Error, Knn, KnnOptions, Result, Retrieval, retrieval};

/// Images whose class scores are in memory at once.
const BLOCK: usize = 1024;

/// A data set: what is the same for every model.
#[derive(Clone, Copy, Debug)]
pub struct StoredSet<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its classes, where it has some.
    pub labels: Option<Labels<'a>>,
    /// The pairs, where it has captions: `image_of[t]` is the image of text t.
    pub image_of: Option<&'a [usize]>,
}

/// Classes of a data set.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// Their names. Of classes with the same name, the first wins.
    pub classes: &'a [String],
    /// The class of each image.
    pub test: &'a [usize],
    /// The class of each training image, for k-NN and the linear probe.
    pub train: Option<&'a [usize]>,
}

/// What one model made of a data set. Rows need no particular length; all of a model are of one width D.
#[derive(Clone, Copy, Debug)]
pub struct StoredRows<'a> {
    /// Images `[n, D]`.
    pub images: ArrayView2<'a, f32>,
    /// Class rows `[classes, D]` ([`crate::Classifier::rows`]), for zero-shot classification.
    pub classes: Option<ArrayView2<'a, f32>>,
    /// Texts `[m, D]`, for retrieval.
    pub texts: Option<ArrayView2<'a, f32>>,
    /// Training images `[t, D]`, for k-NN and the linear probe.
    pub train_images: Option<ArrayView2<'a, f32>>,
    /// What cosines are multiplied with before the softmax (CLIP's learned scale, near 100), for calibration.
    pub logit_scale: Option<f64>,
}

/// What is measured, where there are the rows for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoredOptions {
    /// Bins of the calibration; 15.
    pub bins: usize,
    /// Confused pairs that are listed; 10.
    pub confused: usize,
    /// How neighbours vote; none leaves k-NN out.
    pub knn: Option<KnnOptions>,
    /// How the linear probe is trained; none leaves it out.
    pub probe: Option<ProbeOptions>,
    /// How a student is compared with its teacher; none leaves it out.
    pub fidelity: Option<FidelityOptions>,
}

impl Default for StoredOptions {
    fn default() -> Self {
        StoredOptions {
            bins: BINS,
            confused: 10,
            knn: Some(KnnOptions::default()),
            probe: Some(ProbeOptions::default()),
            fidelity: Some(FidelityOptions::default()),
        }
    }
}

impl StoredOptions {
    /// The zero-shot scores and their calibration alone.
    pub fn scores() -> Self {
        StoredOptions { knn: None, probe: None, fidelity: None, ..StoredOptions::default() }
    }
}

/// What was found; none where there were no rows for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The data set.
    pub set: String,
    /// Zero-shot classification.
    pub classification: Option<Classification>,
    /// Retrieval both ways.
    pub retrieval: Option<Retrieval>,
    /// Calibration of the zero-shot probabilities.
    pub calibration: Option<Calibration>,
    /// Each class of the zero-shot classification.
    pub per_class: Vec<ClassCounts>,
    /// Its most frequent confusions.
    pub confused: Vec<ConfusedPair>,
    /// Classification by the nearest training images.
    pub knn: Option<Classification>,
    /// Classification by a linear probe.
    pub probe: Option<ProbeResult>,
    /// The student's likeness to its teacher.
    pub fidelity: Option<Fidelity>,
}

/// A linear probe's classification and its training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// On the test images.
    pub classification: Classification,
    /// On the training images.
    pub training: ProbeTraining,
}

/// Takes every measure that there are rows for; fidelity where a teacher's rows of the same set are given.
///
/// # Errors
/// [`Error::Shape`] where sizes differ, [`Error::Input`] where nothing can be measured, a row is not finite,
/// a label is no class, training images lack their labels or texts their pairs, or an option
/// is out of range.
pub fn evaluate_stored(
    set: &StoredSet<'_>,
    model: &StoredRows<'_>,
    teacher: Option<&StoredRows<'_>>,
    options: &StoredOptions,
) -> Result<Evaluation> {
    let images = rows::unit("image", model.images)?;
    let mut found = Evaluation {
        set: set.name.into(),
        classification: None,
        retrieval: None,
        calibration: None,
        per_class: Vec::new(),
        confused: Vec::new(),
        knn: None,
        probe: None,
        fidelity: None,
    };
    if let Some(labels) = set.labels {
        check_labels(labels.test, images.nrows(), labels.classes.len())?;
        if let Some(classes) = model.classes {
            found.zero_shot(&images, classes, &labels, model.logit_scale, options)?;
        }
        if let Some(train) = model.train_images {
            let train_labels = labels
                .train
                .ok_or_else(|| Error::Input("there are training images, but not the class of each".into()))?;
            found.learned(&images, train, &labels, train_labels, options)?;
        }
    }
    if let Some(texts) = model.texts {
        let image_of = set
            .image_of
            .ok_or_else(|| Error::Input("there are texts, but not the image that each belongs to".into()))?;
        found.retrieval = Some(retrieval(images.view(), rows::unit("text", texts)?.view(), image_of)?);
    }
    if let (Some(teacher), Some(options)) = (teacher, &options.fidelity) {
        let texts = sides(&teacher.texts, &model.texts);
        let input = FidelityInput {
            images: Sides { teacher: teacher.images.view(), student: model.images.view() },
            texts,
            image_of: texts.and(set.image_of),
            classes: sides(&teacher.classes, &model.classes),
            class_names: set.labels.map(|labels| labels.classes),
        };
        found.fidelity = Some(fidelity(&input, options)?);
    }
    if found.is_empty() {
        return Err(Error::Input(format!(
            "nothing can be measured on `{}`: give labels with class rows or training images, texts with \
             their images, or a teacher's rows",
            set.name
        )));
    }
    Ok(found)
}

/// What both models have.
fn sides<'a>(
    teacher: &'a Option<ArrayView2<'_, f32>>,
    student: &'a Option<ArrayView2<'_, f32>>,
) -> Option<Sides<'a>> {
    Some(Sides { teacher: teacher.as_ref()?.view(), student: student.as_ref()?.view() })
}

impl Evaluation {
    fn is_empty(&self) -> bool {
        self.classification.is_none()
            && self.retrieval.is_none()
            && self.knn.is_none()
            && self.probe.is_none()
            && self.fidelity.is_none()
    }

    fn zero_shot(
        &mut self,
        images: &Array2<f32>,
        classes: ArrayView2<'_, f32>,
        labels: &Labels<'_>,
        logit_scale: Option<f64>,
        options: &StoredOptions,
    ) -> Result<()> {
        let classes = rows::unit("class", classes)?;
        if classes.ncols() != images.ncols() {
            return Err(Error::shape("width of the class rows", images.ncols(), classes.ncols()));
        }
        let mut accuracy = Accuracy::new(labels.classes);
        let mut confusion = Confusion::new(labels.classes)?;
        let reliability = logit_scale.map(|scale| Reliability::new(scale, options.bins)).transpose()?;
        let mut reliability = reliability.map(|counts| counts.with_classes(labels.classes));
        for (images, labels) in images.axis_chunks_iter(Axis(0), BLOCK).zip(labels.test.chunks(BLOCK)) {
            let scores = images.dot(&classes.t());
            accuracy.add(scores.view(), labels)?;
            confusion.add(scores.view(), labels)?;
            if let Some(reliability) = &mut reliability {
                reliability.add(scores.view(), labels)?;
            }
        }
        self.classification = Some(accuracy.finish()?);
        self.calibration = reliability.map(Reliability::finish).transpose()?;
        self.per_class = confusion.per_class();
        self.confused = confusion.most_confused(options.confused);
        Ok(())
    }

    fn learned(
        &mut self,
        images: &Array2<f32>,
        train: ArrayView2<'_, f32>,
        labels: &Labels<'_>,
        train_labels: &[usize],
        options: &StoredOptions,
    ) -> Result<()> {
        let count = labels.classes.len();
        let measure = |score: &dyn Fn(ArrayView2<'_, f32>) -> Result<Array2<f32>>| {
            let mut accuracy = Accuracy::new(labels.classes);
            for (start, labels) in (0..).step_by(BLOCK).zip(labels.test.chunks(BLOCK)) {
                let images = images.slice(s![start..start + labels.len(), ..]);
                accuracy.add(score(images)?.view(), labels)?;
            }
            accuracy.finish()
        };
        if let Some(options) = options.knn {
            let knn = Knn::new(train, train_labels, count, options)?;
            self.knn = Some(measure(&|images| knn.scores(images))?);
        }
        if let Some(options) = &options.probe {
            let probe = Probe::train(train, train_labels, count, options)?;
            let classification = measure(&|images| probe.scores(images))?;
            self.probe = Some(ProbeResult { classification, training: probe.training().clone() });
        }
        Ok(())
    }

    /// The zero-shot scores, for a [`crate::Report`].
    pub fn scores(&self) -> Vec<SetScore> {
        let classification = self.classification.clone().map(Score::Classification);
        let retrieval = self.retrieval.map(Score::Retrieval);
        // Tables know a set by its name.
        let second =
            if classification.is_some() { format!("{} (retrieval)", self.set) } else { self.set.clone() };
        let names = [self.set.clone(), second];
        let scores = names.into_iter().zip([classification, retrieval]);
        scores.filter_map(|(set, score)| score.map(|score| SetScore { set, score })).collect()
    }

    /// The figures, the confused pairs and the fidelity as Markdown tables.
    pub fn table(&self) -> String {
        let percent = |value: f64| format!("{:.1}", value * 100.0);
        let mut rows = vec![["by", "figure", "%"].map(String::from).to_vec()];
        let mut add =
            |by: &str, figure: &str, value: f64| rows.push(vec![by.into(), figure.into(), percent(value)]);
        for score in self.scores() {
            score.score.figures().into_iter().for_each(|(figure, value)| add("zero-shot", figure, value));
        }
        if let Some(found) = &self.calibration {
            add("zero-shot", "confidence", found.confidence);
            add("zero-shot", "expected calibration error", found.expected_calibration_error);
        }
        let learned =
            [("k-NN", self.knn.as_ref()), ("linear probe", self.probe.as_ref().map(|p| &p.classification))];
        for (by, found) in learned {
            let figures = found.map(|found| Score::Classification(found.clone()).figures());
            figures.into_iter().flatten().for_each(|(figure, value)| add(by, figure, value));
        }
        let mut tables = Vec::new();
        if rows.len() > 1 {
            tables.push(markdown(&rows));
        }
        if !self.confused.is_empty() {
            let mut rows =
                vec![["class", "taken for", "images", "% of the class"].map(String::from).to_vec()];
            rows.extend(self.confused.iter().map(|pair| {
                vec![pair.class.clone(), pair.predicted.clone(), pair.count.to_string(), percent(pair.share)]
            }));
            tables.push(markdown(&rows));
        }
        tables.extend(self.fidelity.as_ref().map(Fidelity::table));
        tables.join("\n")
    }

    /// Each class of the zero-shot classification as a Markdown table.
    pub fn class_table(&self) -> String {
        let percent = |value: Option<f64>| value.map_or("-".into(), |value| format!("{:.1}", value * 100.0));
        let head = ["class", "images", "taken for it", "recall %", "precision %"];
        let mut rows = vec![head.map(String::from).to_vec()];
        rows.extend(self.per_class.iter().map(|class| {
            let mut row = vec![class.class.clone(), class.support.to_string(), class.predicted.to_string()];
            row.extend([class.recall, class.precision].map(percent));
            row
        }));
        markdown(&rows)
    }
}
