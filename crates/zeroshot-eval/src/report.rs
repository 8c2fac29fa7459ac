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
}

/// A data set with its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetScore {
    /// Name of the data set.
    pub set: String,
    /// The result.
    #[serde(flatten)]
    pub score: Score,
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
///     let sets = vec![SetScore { set: "photos".into(), score: Score::Retrieval(found) }];
///     Report { model: model.into(), sets }
/// };
/// let table = compare(&[report("teacher", 0.5), report("student", 0.25)], Some(0));
/// assert!(table.to_markdown().contains("| photos   | text recall@1           |    50.0 |    25.0 |"));
/// ```
pub fn compare(reports: &[Report], teacher: Option<usize>) -> Table {
    let models = reports.iter().map(|report| report.model.as_str());
    let mut table = Table::new(["data set", "metric"]).with_numbers(models);
    let mut sets = Vec::<&str>::new();
    for set in reports.iter().flat_map(|report| &report.sets) {
        if !sets.contains(&set.set.as_str()) {
            sets.push(&set.set);
        }
    }
    for set in sets {
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
    if let Some(teacher) = teacher.and_then(|index| reports.get(index)) {
        let retained = reports.iter().map(|report| Cell::from(report.retained(teacher).map(Cell::percent)));
        table.push(["all".into(), "retained of the teacher".into()].into_iter().chain(retained));
    }
    table
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
        Report { model: model.into(), sets: vec![SetScore { set: "toys".into(), score }] }
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
        report.sets.push(SetScore { set: "photos".into(), score });
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.contains(r#""task":"retrieval""#), "{json}");
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }

    #[test]
    fn a_teacher_without_scores_gives_no_retention() {
        assert_eq!(report("s", 0.1).retained(&report("t", 0.0)), None);
        assert_eq!(report("s", 0.1).retained(&Report { model: "t".into(), sets: vec![] }), None);
    }
}
