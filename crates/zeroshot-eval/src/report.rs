//! Results of several models on several data sets, as tables and JSON.

use serde::{Deserialize, Serialize};

use crate::metric::{CLASSIFICATION_METRICS, MetricName, MetricValue, RETRIEVAL_METRICS};
use crate::retention::retention;
use crate::table::{Cell, Table};
use crate::{Classification, Retrieval};

/// Result of the zero-shot evaluation on one data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "lowercase")]
pub enum Score {
    /// Zero-shot classification.
    Classification(Classification),
    /// Retrieval of texts by images and of images by texts.
    Retrieval(Retrieval),
}

impl Score {
    /// Returns the metrics that tables show.
    ///
    /// ```
    /// use zeroshot_eval::{MetricName, MetricValue, Recall, Retrieval, Score};
    ///
    /// let recall = Recall { at_1: 0.5, at_5: 0.75, at_10: 1.0 };
    /// let found = Retrieval { image_to_text: recall, text_to_image: recall, images: 4, texts: 4 };
    /// let metrics = Score::Retrieval(found).metrics();
    /// assert_eq!(metrics[0], MetricValue::new(MetricName::TextRecallAt1, 0.5));
    /// ```
    pub fn metrics(&self) -> Vec<MetricValue> {
        let named = |names: &[MetricName], values: &[Option<f64>]| {
            let all = names.iter().zip(values);
            all.filter_map(|(name, value)| Some(MetricValue::new(*name, (*value)?))).collect()
        };
        match self {
            Score::Classification(found) => named(
                &CLASSIFICATION_METRICS,
                &[Some(found.top1), found.top5, Some(found.mean_per_class_recall)],
            ),
            Score::Retrieval(found) => {
                let both = [found.image_to_text, found.text_to_image];
                let values = both.map(|recall| [recall.at_1, recall.at_5, recall.at_10].map(Some));
                named(&RETRIEVAL_METRICS, values.as_flattened())
            }
        }
    }

    /// Returns the main metric, for comparisons: top-1 accuracy, or the mean of all recalls.
    pub fn main(&self) -> f64 {
        match self {
            Score::Classification(found) => found.top1,
            Score::Retrieval(found) => (found.image_to_text.mean() + found.text_to_image.mean()) / 2.0,
        }
    }

    /// Returns the name of the main metric.
    pub fn main_name(&self) -> MetricName {
        match self {
            Score::Classification(_) => MetricName::Top1,
            Score::Retrieval(_) => MetricName::MeanRecall,
        }
    }

    /// Returns the value of a metric, or `None` if the score does not have it.
    pub fn value(&self, name: MetricName) -> Option<f64> {
        if name == self.main_name() {
            return Some(self.main());
        }
        self.metrics().into_iter().find(|metric| metric.name == name).map(|metric| metric.value)
    }
}

/// A data set with its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetScore {
    /// Name of the data set.
    pub set: String,
    /// The main metric of the set. Default: the one of its task ([`Score::main_name`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<MetricName>,
    /// The result.
    #[serde(flatten)]
    pub score: Score,
}

impl SetScore {
    /// Creates a result with the main metric of its task.
    pub fn new(set: impl Into<String>, score: Score) -> Self {
        SetScore { set: set.into(), metric: None, score }
    }

    /// Sets the main metric.
    #[must_use]
    pub fn with_metric(mut self, metric: Option<MetricName>) -> Self {
        self.metric = metric;
        self
    }

    /// Returns the main metric of the set, for comparisons.
    ///
    /// ```
    /// use zeroshot_eval::{MetricName, Recall, Retrieval, Score, SetScore};
    ///
    /// let recall = Recall { at_1: 0.5, at_5: 0.75, at_10: 1.0 };
    /// let found = Retrieval { image_to_text: recall, text_to_image: recall, images: 4, texts: 4 };
    /// let photos = SetScore::new("photos", Score::Retrieval(found)).with_metric(Some(MetricName::ImageRecallAt5));
    /// assert_eq!(photos.main(), 0.75);
    /// ```
    pub fn main(&self) -> f64 {
        self.metric.and_then(|name| self.score.value(name)).unwrap_or_else(|| self.score.main())
    }

    /// Returns the name of the main metric.
    pub fn main_name(&self) -> MetricName {
        self.metric.filter(|name| self.score.value(*name).is_some()).unwrap_or_else(|| self.score.main_name())
    }
}

/// Results of one model on all data sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Name of the model.
    pub model: String,
    /// Its results.
    pub sets: Vec<SetScore>,
}

impl Report {
    /// Returns a table of this model's metrics, one row each.
    pub fn table(&self) -> Table {
        compare(std::slice::from_ref(self), None)
    }

    /// Returns the mean over all sets of this model's main metric divided by the teacher's.
    ///
    /// `None` if the teacher lacks a set or scores 0 on one.
    pub fn retained(&self, teacher: &Report) -> Option<f64> {
        retention(self, teacher).mean
    }
}

/// Compares models in a table with one column per model, in percent. If `teacher` is the index of a report, its last
/// row is the fraction that each model retains of that report's scores.
///
/// ```
/// use zeroshot_eval::{Recall, Report, Retrieval, Score, SetScore, report::compare};
///
/// let report = |model: &str, at_1| {
///     let recall = Recall { at_1, at_5: 1.0, at_10: 1.0 };
///     let found = Retrieval { image_to_text: recall, text_to_image: recall, images: 4, texts: 4 };
///     let sets = vec![SetScore::new("photos", Score::Retrieval(found))];
///     Report { model: model.into(), sets }
/// };
/// let table = compare(&[report("teacher", 0.5), report("student", 0.25)], Some(0));
/// assert!(table.to_markdown().contains("| photos   | text recall@1           |    50.0 |    25.0 |"));
/// ```
pub fn compare(reports: &[Report], teacher: Option<usize>) -> Table {
    let mut table = columns(reports);
    for set in set_names(reports) {
        let found = reports.iter().map(|r| r.sets.iter().find(|s| s.set == set).map(|s| s.score.metrics()));
        let found = found.collect::<Vec<_>>();
        for MetricValue { name, .. } in found.iter().flatten().next().into_iter().flatten() {
            let value = |metrics: &Option<Vec<MetricValue>>| {
                let found = metrics.iter().flatten().find(|metric| metric.name == *name);
                Cell::from(found.map(|metric| Cell::percent(metric.value)))
            };
            table.push([set.into(), name.to_string().into()].into_iter().chain(found.iter().map(value)));
        }
    }
    push_retained(&mut table, reports, teacher);
    table
}

/// Compares the main metrics of models in percent: one row per data set, and their mean over all sets. If `teacher` is
/// the index of a report, the last row is the fraction that each model retains of that report's scores.
pub fn main_metrics(reports: &[Report], teacher: Option<usize>) -> Table {
    let mut table = columns(reports);
    let names = set_names(reports);
    for name in &names {
        let found = reports.iter().map(|report| report.sets.iter().find(|set| set.set == *name));
        let found = found.collect::<Vec<_>>();
        let Some(metric) = found.iter().flatten().map(|set| set.main_name()).next() else { continue };
        let values = found.iter().map(|set| Cell::from(set.map(|set| Cell::percent(set.main()))));
        table.push([Cell::from(*name), metric.to_string().into()].into_iter().chain(values));
    }
    // A mean over fewer sets is not comparable.
    let mean = |report: &Report| {
        let complete = !names.is_empty() && report.sets.len() == names.len();
        complete.then(|| report.sets.iter().map(SetScore::main).sum::<f64>() / names.len() as f64)
    };
    let means = reports.iter().map(|report| Cell::from(mean(report).map(Cell::percent)));
    table.push([Cell::from("all"), "mean".into()].into_iter().chain(means));
    push_retained(&mut table, reports, teacher);
    table
}

/// Creates a table with one column per model.
fn columns(reports: &[Report]) -> Table {
    Table::new(["data set", "metric"]).with_numbers(reports.iter().map(|report| report.model.as_str()))
}

/// Returns the names of all data sets, in the order of the reports.
fn set_names(reports: &[Report]) -> Vec<&str> {
    let mut sets = Vec::<&str>::new();
    for set in reports.iter().flat_map(|report| &report.sets) {
        if !sets.contains(&set.set.as_str()) {
            sets.push(&set.set);
        }
    }
    sets
}

fn push_retained(table: &mut Table, reports: &[Report], teacher: Option<usize>) {
    if let Some(teacher) = teacher.and_then(|index| reports.get(index)) {
        let retained = reports.iter().map(|report| Cell::from(report.retained(teacher).map(Cell::percent)));
        table.push(["all".into(), "retained of the teacher".into()].into_iter().chain(retained));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recall;

    fn report(model: &str, top1: f64) -> Report {
        let score = Score::Classification(Classification {
            top1,
            top5: None,
            mean_per_class_recall: top1,
            samples: 10,
            per_class: vec![],
        });
        Report { model: model.into(), sets: vec![SetScore::new("toys", score)] }
    }

    #[test]
    fn a_table_by_hand() {
        let table = compare(&[report("teacher", 0.5), report("student", 0.4)], Some(0));
        let expected = "\
| data set | metric                  | teacher | student |
|----------|-------------------------|--------:|--------:|
| toys     | top-1                   |    50.0 |    40.0 |
| toys     | mean per-class recall   |    50.0 |    40.0 |
| all      | retained of the teacher |   100.0 |    80.0 |
";
        assert_eq!(table.to_markdown(), expected);
    }

    #[test]
    fn json_round_trips() {
        let recall = Recall { at_1: 0.1, at_5: 0.2, at_10: 0.3 };
        let score = Score::Retrieval(Retrieval {
            image_to_text: recall,
            text_to_image: recall,
            images: 3,
            texts: 15,
        });
        let mut report = report("m", 0.25);
        report.sets.push(SetScore::new("photos", score));
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.contains(r#""task":"retrieval""#), "{json}");
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }

    #[test]
    fn a_set_may_have_another_main_metric_than_its_task() {
        let Score::Classification(found) = report("m", 0.5).sets.remove(0).score else { panic!() };
        let found = Classification { mean_per_class_recall: 0.25, ..found };
        let set = SetScore::new("pets", Score::Classification(found));
        assert_eq!((set.main_name(), set.main()), (MetricName::Top1, 0.5));
        assert!(!serde_json::to_string(&set).unwrap().contains("metric"));
        let recall = set.clone().with_metric(Some(MetricName::MeanPerClassRecall));
        assert_eq!((recall.main_name(), recall.main()), (MetricName::MeanPerClassRecall, 0.25));
        let json = serde_json::to_string(&recall).unwrap();
        assert_eq!(serde_json::from_str::<SetScore>(&json).unwrap(), recall);
        // Few classes have no top-5 accuracy.
        let missing = set.with_metric(Some(MetricName::Top5));
        assert_eq!((missing.main_name(), missing.main()), (MetricName::Top1, 0.5));
    }

    #[test]
    fn a_table_of_main_metrics_has_one_row_per_set_and_their_mean() {
        let reports = [report("teacher", 0.5), report("student", 0.4)];
        let expected = "\
| data set | metric                  | teacher | student |
|----------|-------------------------|--------:|--------:|
| toys     | top-1                   |    50.0 |    40.0 |
| all      | mean                    |    50.0 |    40.0 |
| all      | retained of the teacher |   100.0 |    80.0 |
";
        assert_eq!(main_metrics(&reports, Some(0)).to_markdown(), expected);
        // A mean over fewer sets is not comparable.
        let less = Report { model: "student".into(), sets: vec![] };
        let table = main_metrics(&[reports[0].clone(), less], None).to_markdown();
        let mean = table.lines().last().unwrap();
        assert!(mean.contains("mean") && mean.contains("50.0") && mean.ends_with("- |"), "{table}");
    }

    #[test]
    fn a_teacher_without_scores_gives_no_retention() {
        assert_eq!(report("s", 0.1).retained(&report("t", 0.0)), None);
        assert_eq!(report("s", 0.1).retained(&Report { model: "t".into(), sets: vec![] }), None);
    }
}
