//! Evaluation of a model on one data set from stored embeddings.
//!
//! Encoding costs far more than any metric, so embeddings are computed once ([`crate::encode_labelled`],
//! [`crate::encode_captioned`], or read from a file), and all metrics use them.

use std::fmt;

use ndarray::{Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use crate::calibration::{BINS, Calibration, Reliability};
use crate::confusion::{ClassCounts, ConfusedPair, Confusion};
use crate::fidelity::{Fidelity, FidelityInput, FidelityOptions, Sides, fidelity};
use crate::metric::{MetricName, MetricValue};
#[cfg(feature = "probe")]
use crate::probe::{Probe, ProbeOptions, ProbeTraining};
use crate::report::{Score, SetScore};
use crate::rows::{self, check_labels};
use crate::table::{Cell, Table};
use crate::{Accuracy, Classification, Error, Result, Retrieval, retrieval};
#[cfg(feature = "knn")]
use crate::{Knn, KnnOptions};

/// Number of images whose class scores are in memory together.
const BLOCK: usize = 1024;

/// A data set: its name, labels and captions, which do not depend on the model.
#[derive(Clone, Copy, Debug)]
pub struct StoredSet<'a> {
    /// Name of the data set.
    pub name: &'a str,
    /// Its classes, if it has labels.
    pub labels: Option<Labels<'a>>,
    /// The image of each text, if it has captions.
    pub image_of: Option<&'a [usize]>,
}

/// Classes and labels of a data set.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// Names of the classes. Among equal names, the first one wins.
    pub classes: &'a [String],
    /// The label of each image.
    pub test: &'a [usize],
    /// The label of each training image, for k-NN and the linear probe.
    pub train: Option<&'a [usize]>,
}

/// Embeddings of a data set by one model, all of width D. They need not be normalised.
#[derive(Clone, Copy, Debug)]
pub struct StoredEmbeddings<'a> {
    /// Images `[n, D]`.
    pub images: ArrayView2<'a, f32>,
    /// Class embeddings `[classes, D]` ([`crate::Classifier::embeddings`]), for zero-shot classification.
    pub classes: Option<ArrayView2<'a, f32>>,
    /// Texts `[m, D]`, for retrieval.
    pub texts: Option<ArrayView2<'a, f32>>,
    /// Training images `[t, D]`, for k-NN and the linear probe.
    pub train_images: Option<ArrayView2<'a, f32>>,
    /// The logit scale (CLIP's learned scale is near 100), for calibration.
    pub logit_scale: Option<f64>,
}

/// Settings of an evaluation.
///
/// A part that is `None` is left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct StoredOptions {
    /// Number of bins of the calibration error.
    pub bins: usize,
    /// Number of confused class pairs to list.
    pub confused: usize,
    /// Classification by the nearest training images.
    #[cfg(feature = "knn")]
    pub knn: Option<KnnOptions>,
    /// Linear probe on the training images.
    #[cfg(feature = "probe")]
    pub probe: Option<ProbeOptions>,
    /// Comparison of a student with its teacher.
    pub fidelity: Option<FidelityOptions>,
}

impl Default for StoredOptions {
    fn default() -> Self {
        StoredOptions {
            bins: BINS,
            confused: 10,
            #[cfg(feature = "knn")]
            knn: Some(KnnOptions::default()),
            #[cfg(feature = "probe")]
            probe: Some(ProbeOptions::default()),
            fidelity: Some(FidelityOptions::default()),
        }
    }
}

impl StoredOptions {
    /// Returns settings for the zero-shot scores and their calibration only.
    pub fn scores() -> Self {
        StoredOptions {
            #[cfg(feature = "knn")]
            knn: None,
            #[cfg(feature = "probe")]
            probe: None,
            fidelity: None,
            ..StoredOptions::default()
        }
    }

    /// Sets the number of bins of the calibration.
    pub fn with_bins(mut self, bins: usize) -> Self {
        self.bins = bins;
        self
    }

    /// Sets the maximum number of confused pairs.
    pub fn with_confused(mut self, pairs: usize) -> Self {
        self.confused = pairs;
        self
    }

    /// Sets the k-NN classifier; `None` turns it off.
    #[cfg(feature = "knn")]
    pub fn with_knn(mut self, options: Option<KnnOptions>) -> Self {
        self.knn = options;
        self
    }

    /// Sets the linear probe; `None` turns it off.
    #[cfg(feature = "probe")]
    pub fn with_probe(mut self, options: Option<ProbeOptions>) -> Self {
        self.probe = options;
        self
    }

    /// Sets the fidelity metrics; `None` turns them off.
    pub fn with_fidelity(mut self, options: Option<FidelityOptions>) -> Self {
        self.fidelity = options;
        self
    }
}

/// Results of a model on a data set; `None` for metrics without embeddings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Name of the data set.
    pub set: String,
    /// The main metric of the set. Default: the one of its task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<MetricName>,
    /// Number of images, classes, prompts and texts.
    #[serde(default)]
    pub counts: SetCounts,
    /// Zero-shot classification.
    pub classification: Option<Classification>,
    /// Retrieval of texts by images and of images by texts.
    pub retrieval: Option<Retrieval>,
    /// Calibration of the zero-shot probabilities.
    pub calibration: Option<Calibration>,
    /// Counts of each class of the zero-shot classification.
    pub per_class: Vec<ClassCounts>,
    /// The most frequent confusions of the zero-shot classification.
    pub confused: Vec<ConfusedPair>,
    /// Classification by the nearest training images.
    #[cfg(feature = "knn")]
    pub knn: Option<Classification>,
    /// Classification by a linear probe.
    #[cfg(feature = "probe")]
    pub probe: Option<ProbeResult>,
    /// Similarity of the student to its teacher.
    pub fidelity: Option<Fidelity>,
}

/// Sizes of a data set in an evaluation, displayed as in `9 images, 3 classes, 18 prompts per class`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SetCounts {
    /// Number of images that were evaluated.
    pub images: usize,
    /// Number of classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    /// Number of prompts of all classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<usize>,
    /// Number of prompts per class, if all classes have the same number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts_per_class: Option<usize>,
    /// Number of texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub texts: Option<usize>,
    /// Number of damaged images that were left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub damaged: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl fmt::Display for SetCounts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted =
            |count: usize, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
        let prompts = match (self.prompts_per_class, self.prompts) {
            (Some(count), _) => Some(format!("{} per class", counted(count, "prompt", "prompts"))),
            (None, count) => count.map(|count| counted(count, "prompt", "prompts")),
        };
        let parts = [
            Some(counted(self.images, "image", "images")),
            self.classes.map(|count| counted(count, "class", "classes")),
            prompts,
            self.texts.map(|count| counted(count, "text", "texts")),
        ];
        out.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))?;
        match self.damaged {
            0 => Ok(()),
            count => write!(out, "; left out {}", counted(count, "damaged image", "damaged images")),
        }
    }
}

/// Results and training of a linear probe.
#[cfg(feature = "probe")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// Classification of the test images.
    pub classification: Classification,
    /// Record of the training.
    pub training: ProbeTraining,
}

/// Computes all metrics that the embeddings allow, and the fidelity if a teacher's embeddings of this set are given.
///
/// ```
/// use ndarray::array;
/// use zeroshot_eval::{Labels, StoredOptions, StoredEmbeddings, StoredSet, evaluate_stored};
///
/// let classes = ["cat".to_string(), "dog".to_string()]; let set = StoredSet {     name: "animals",     labels:
/// Some(Labels { classes: &classes, test: &[0, 1], train: None }),     image_of: None, }; let (images,
/// class_embeddings) = (array![[1.0, 0.1], [0.2, 1.0]], array![[1.0, 0.0], [0.0, 1.0]]); let model = StoredEmbeddings {
/// images: images.view(),     classes: Some(class_embeddings.view()),     texts: None,     train_images: None,
/// logit_scale: None, }; let found = evaluate_stored(&set, &model, None, &StoredOptions::default())?;
/// assert_eq!(found.classification.map(|found| found.top1), Some(1.0));
/// # Ok::<_, zeroshot_eval::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if sizes differ, [`Error::Input`] if no metric can be computed, a value is not finite, a label is not
/// a class, training images lack labels, texts lack their images, or an option is out of range.
pub fn evaluate_stored(
    set: &StoredSet<'_>,
    model: &StoredEmbeddings<'_>,
    teacher: Option<&StoredEmbeddings<'_>>,
    options: &StoredOptions,
) -> Result<Evaluation> {
    let images = rows::unit("image", model.images)?;
    let mut found = Evaluation {
        set: set.name.into(),
        metric: None,
        counts: SetCounts {
            images: images.nrows(),
            classes: set.labels.map(|labels| labels.classes.len()),
            texts: model.texts.map(|texts| texts.nrows()),
            ..SetCounts::default()
        },
        classification: None,
        retrieval: None,
        calibration: None,
        per_class: Vec::new(),
        confused: Vec::new(),
        #[cfg(feature = "knn")]
        knn: None,
        #[cfg(feature = "probe")]
        probe: None,
        fidelity: None,
    };
    if let Some(labels) = set.labels {
        check_labels(labels.test, images.nrows(), labels.classes.len())?;
        if let Some(classes) = model.classes {
            found.zero_shot(&images, classes, &labels, model.logit_scale, options)?;
        }
        #[cfg(any(feature = "knn", feature = "probe"))]
        if let Some(train) = model.train_images {
            let train_labels = labels
                .train
                .ok_or_else(|| Error::Input("training images are given without labels".into()))?;
            found.learned(&images, train, &labels, train_labels, options)?;
        }
    }
    if let Some(texts) = model.texts {
        let image_of =
            set.image_of.ok_or_else(|| Error::Input("texts are given without the image of each".into()))?;
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
            "nothing can be measured on `{}`: give labels with class embeddings or training images, texts \
             with their images, or a teacher's embeddings",
            set.name
        )));
    }
    Ok(found)
}

/// Returns the embeddings if both models have them.
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
            && self.learned_results().is_empty()
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
            return Err(Error::shape("width of the class embeddings", images.ncols(), classes.ncols()));
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

    /// Adds the classifiers that learn from training images.
    #[cfg(any(feature = "knn", feature = "probe"))]
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
                let images = images.slice(ndarray::s![start..start + labels.len(), ..]);
                accuracy.add(score(images)?.view(), labels)?;
            }
            accuracy.finish()
        };
        #[cfg(feature = "knn")]
        if let Some(options) = options.knn {
            let knn = Knn::new(train, train_labels, count, options)?;
            self.knn = Some(measure(&|images| knn.scores(images))?);
        }
        #[cfg(feature = "probe")]
        if let Some(options) = &options.probe {
            let probe = Probe::train(train, train_labels, count, options)?;
            let classification = measure(&|images| probe.scores(images))?;
            self.probe = Some(ProbeResult { classification, training: probe.training().clone() });
        }
        Ok(())
    }

    /// Returns the results of classifiers that learn from training images, with their names.
    fn learned_results(&self) -> Vec<(&'static str, &Classification)> {
        [
            #[cfg(feature = "knn")]
            self.knn.as_ref().map(|found| ("k-NN", found)),
            #[cfg(feature = "probe")]
            self.probe.as_ref().map(|found| ("linear probe", &found.classification)),
            None,
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Returns the zero-shot scores, for a [`crate::Report`].
    pub fn scores(&self) -> Vec<SetScore> {
        let classification = self.classification.clone().map(Score::Classification);
        let retrieval = self.retrieval.map(Score::Retrieval);
        // Tables identify a set by its name.
        let second =
            if classification.is_some() { format!("{} (retrieval)", self.set) } else { self.set.clone() };
        let names = [self.set.clone(), second];
        let scores = names.into_iter().zip([classification, retrieval]);
        let set_score = |(set, score): (_, Option<Score>)| {
            let score = score?;
            let metric = self.metric.filter(|name| score.value(*name).is_some());
            Some(SetScore { set, metric, score })
        };
        scores.filter_map(set_score).collect()
    }

    /// Returns the tables of the metrics, of the confused pairs and of the fidelity, as far as they were measured.
    pub fn tables(&self) -> Vec<Table> {
        let mut metrics = Table::new(["by", "metric"]).with_numbers(["%"]);
        let mut add = |by: &str, MetricValue { name, value, .. }: MetricValue| {
            metrics.push([by.into(), name.to_string().into(), Cell::percent(value)]);
        };
        for score in self.scores() {
            score.score.metrics().into_iter().for_each(|metric| add("zero-shot", metric));
        }
        if let Some(found) = &self.calibration {
            let error = found.expected_calibration_error;
            add("zero-shot", MetricValue::new(MetricName::Confidence, found.confidence));
            add("zero-shot", MetricValue::new(MetricName::ExpectedCalibrationError, error));
        }
        for (by, found) in self.learned_results() {
            let metrics = Score::Classification(found.clone()).metrics();
            metrics.into_iter().for_each(|metric| add(by, metric));
        }
        let mut confused = Table::new(["class", "taken for"]).with_numbers(["images", "% of the class"]);
        for pair in &self.confused {
            let names = [pair.class.as_str(), &pair.predicted].map(Cell::from);
            confused.push(names.into_iter().chain([pair.count.into(), Cell::percent(pair.share)]));
        }
        let mut tables = vec![metrics, confused];
        tables.extend(self.fidelity.as_ref().map(Fidelity::table));
        tables.retain(|table| !table.is_empty());
        tables
    }

    /// Returns a table of the classes of the zero-shot classification.
    pub fn class_table(&self) -> Table {
        let numbers = ["taken for it", "recall %", "precision %"];
        let mut table = Table::new(["class", "images"]).with_numbers(numbers);
        for class in &self.per_class {
            let shares = [class.recall, class.precision].map(|share| Cell::from(share.map(Cell::percent)));
            let counts = [class.support, class.predicted].map(Cell::from);
            table.push(std::iter::once(class.class.as_str().into()).chain(counts).chain(shares));
        }
        table
    }
}
