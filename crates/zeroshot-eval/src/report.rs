//! Results of several models on several data sets, as tables and JSON.

use serde::{Deserialize, Serialize};

use crate::retention::retention;
use crate::{Classification, Retrieval};

/// What was measured on one data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "lowercase")]
pub enum Score {
    /// Zero-shot classification.
    Classification(Classification),
    /// Retrieval both ways.
    Retrieval(Retrieval),
}

/// Names of [`Score::figures`] of a classification.
pub const CLASSIFICATION_FIGURES: [&str; 3] = ["top-1", "top-5", "mean per-class recall"];
/// Names of [`Score::figures`] of a retrieval.
pub const RETRIEVAL_FIGURES: [&str; 6] = [
    "text recall@1",
    "text recall@5",
    "text recall@10",
    "image recall@1",
    "image recall@5",
    "image recall@10",
];

impl Score {
    /// The figures that tables show: name and share (0 to 1).
    pub fn figures(&self) -> Vec<(&'static str, f64)> {
        match self {
            Score::Classification(found) => {
                let values = [Some(found.top1), found.top5, Some(found.mean_per_class_recall)];
                let named = CLASSIFICATION_FIGURES.into_iter().zip(values);
                named.filter_map(|(name, value)| Some((name, value?))).collect()
            }
            Score::Retrieval(found) => {
                let both = [found.image_to_text, found.text_to_image];
                let values = both.into_iter().flat_map(|way| [way.at_1, way.at_5, way.at_10]);
                RETRIEVAL_FIGURES.into_iter().zip(values).collect()
            }
        }
    }

    /// One figure for comparisons: top-1, or the mean of all recalls.
    pub fn main(&self) -> f64 {
        match self {
            Score::Classification(found) => found.top1,
            Score::Retrieval(found) => (found.image_to_text.mean() + found.text_to_image.mean()) / 2.0,
        }
    }

    /// What [`Score::main`] is.
    pub fn main_name(&self) -> &'static str {
        match self {
            Score::Classification(_) => "top-1",
            Score::Retrieval(_) => "mean recall",
        }
    }
}

/// A data set and what was measured on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetScore {
    /// The data set.
    pub set: String,
    /// The result.
    #[serde(flatten)]
    pub score: Score,
}

/// One model on all sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The model.
    pub model: String,
    /// Its results.
    pub sets: Vec<SetScore>,
}

impl Report {
    /// The figures of one model, one line each.
    pub fn table(&self) -> String {
        compare(std::slice::from_ref(self), None)
    }

    /// The mean over all sets of the main figure of this model divided by the other's: the share that it retains.
    ///
    /// None where a set is missing or the other scores nothing on one.
    pub fn retained(&self, teacher: &Report) -> Option<f64> {
        retention(self, teacher).mean
    }
}

/// A Markdown table with one column per model, in percent; with the share retained of the model at `teacher`.
pub fn compare(reports: &[Report], teacher: Option<usize>) -> String {
    let mut rows = vec![vec!["data set".to_string(), "figure".to_string()]];
    rows[0].extend(reports.iter().map(|report| report.model.clone()));
    let mut sets = Vec::<&str>::new();
    for set in reports.iter().flat_map(|report| &report.sets) {
        if !sets.contains(&set.set.as_str()) {
            sets.push(&set.set);
        }
    }
    for set in sets {
        let own = reports.iter().map(|r| r.sets.iter().find(|s| s.set == set).map(|s| s.score.figures()));
        let own = own.collect::<Vec<_>>();
        let names = own.iter().flatten().next().into_iter().flatten().map(|(name, _)| *name);
        for name in names {
            let value = |figures: &Option<Vec<(&str, f64)>>| {
                let found = figures.iter().flatten().find(|(n, _)| *n == name);
                found.map_or("-".to_string(), |(_, value)| format!("{:.1}", value * 100.0))
            };
            let mut row = vec![set.to_string(), name.to_string()];
            row.extend(own.iter().map(value));
            rows.push(row);
        }
    }
    if let Some(teacher) = teacher.and_then(|index| reports.get(index)) {
        let mut row = vec!["all".to_string(), "retained of the teacher".to_string()];
        row.extend(reports.iter().map(|report| {
            report.retained(teacher).map_or("-".to_string(), |share| format!("{:.1}", share * 100.0))
        }));
        rows.push(row);
    }
    markdown(&rows)
}

/// Aligned Markdown; the first row is the head, and from the third column on figures are aligned to the right.
pub fn markdown(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
            .max(3)
    };
    let widths = (0..columns).map(width).collect::<Vec<_>>();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (column, width) in widths.iter().enumerate() {
            let cell = row.get(column).map_or("", String::as_str);
            let padding = " ".repeat(width - cell.chars().count());
            let cell = if column < 2 { format!("{cell}{padding}") } else { format!("{padding}{cell}") };
            text.push_str(&format!("| {cell} "));
        }
        text.push_str("|\n");
        if index == 0 {
            for (column, width) in widths.iter().enumerate() {
                let (dashes, end) = if column < 2 { (width + 2, "") } else { (width + 1, ":") };
                text.push_str(&format!("|{}{end}", "-".repeat(dashes)));
            }
            text.push_str("|\n");
        }
    }
    text
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
| data set | figure                  | teacher | student |
|----------|-------------------------|--------:|--------:|
| toys     | top-1                   |    50.0 |    40.0 |
| toys     | mean per-class recall   |    50.0 |    40.0 |
| all      | retained of the teacher |   100.0 |    80.0 |
";
        assert_eq!(table, expected);
    }

    #[test]
    fn json_goes_there_and_back() {
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
    fn nothing_is_retained_of_nothing() {
        assert_eq!(report("s", 0.1).retained(&report("t", 0.0)), None);
        assert_eq!(report("s", 0.1).retained(&Report { model: "t".into(), sets: vec![] }), None);
    }
}
