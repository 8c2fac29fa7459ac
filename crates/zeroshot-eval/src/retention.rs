//! Retention: the fraction of a teacher's zero-shot scores that a student keeps.

use std::mem::discriminant;

use serde::{Deserialize, Serialize};

use crate::metric::MetricName;
use crate::report::{Report, SetScore};
use crate::table::{Cell, Table};

/// A student's scores divided by its teacher's, for each data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retention {
    /// Name of the student.
    pub student: String,
    /// Name of the teacher.
    pub teacher: String,
    /// All sets of the student.
    pub sets: Vec<SetRetention>,
    /// Mean of the retained fractions; `None` if a set has none, because a mean over fewer sets is not comparable.
    pub mean: Option<f64>,
}

/// The fraction of the teacher's score that the student retains on one set. Scores are main metrics
/// ([`SetScore::main`]), 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetRetention {
    /// Name of the data set.
    pub set: String,
    /// The compared metric.
    #[serde(alias = "figure")]
    pub metric: MetricName,
    /// Score of the student.
    pub student: f64,
    /// Score of the teacher; `None` if it was not measured.
    pub teacher: Option<f64>,
    /// Student divided by teacher, above 1 if the student is better; `None` if the teacher scores 0.
    pub retained: Option<f64>,
}

/// Compares the main metrics of two reports. Sets match by name and task.
///
/// ```
/// use zeroshot_eval::{Report, retention};
///
/// let report = |model: &str| Report { model: model.into(), sets: vec![] };
/// assert_eq!(retention(&report("student"), &report("teacher")).mean, None);
/// ```
pub fn retention(student: &Report, teacher: &Report) -> Retention {
    let set = |own: &SetScore| {
        let matches = |other: &&SetScore| {
            other.set == own.set && discriminant(&other.score) == discriminant(&own.score)
        };
        let (student, teacher) = (own.main(), teacher.sets.iter().find(matches).map(SetScore::main));
        let retained = teacher.filter(|teacher| *teacher > 0.0).map(|teacher| student / teacher);
        let metric = own.main_name();
        SetRetention { set: own.set.clone(), metric, student, teacher, retained }
    };
    let sets = student.sets.iter().map(set).collect::<Vec<_>>();
    let shares = sets.iter().map(|set| set.retained).collect::<Option<Vec<_>>>();
    let mean = shares.filter(|shares| !shares.is_empty());
    let mean = mean.map(|shares| shares.iter().sum::<f64>() / shares.len() as f64);
    Retention { student: student.model.clone(), teacher: teacher.model.clone(), sets, mean }
}

impl Retention {
    /// Returns a table in percent.
    pub fn table(&self) -> Table {
        let numbers = [self.teacher.as_str(), &self.student, "retained"];
        let mut table = Table::new(["data set", "metric"]).with_numbers(numbers);
        let percent = |value: Option<f64>| Cell::from(value.map(Cell::percent));
        for set in &self.sets {
            let values = [set.teacher, Some(set.student), set.retained].map(percent);
            table.push([set.set.as_str().into(), set.metric.to_string().into()].into_iter().chain(values));
        }
        table.push(["all".into(), "mean".into(), Cell::Missing, Cell::Missing, percent(self.mean)]);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Classification, Recall, Retrieval, Score};

    fn classified(set: &str, top1: f64) -> SetScore {
        let score =
            Classification { top1, top5: None, mean_per_class_recall: 0.0, samples: 1, per_class: vec![] };
        SetScore::new(set, Score::Classification(score))
    }

    fn found(set: &str, at: f64) -> SetScore {
        let recall = Recall { at_1: at, at_5: at, at_10: at };
        let score = Retrieval { image_to_text: recall, text_to_image: recall, images: 1, texts: 1 };
        SetScore::new(set, Score::Retrieval(score))
    }

    fn report(model: &str, sets: Vec<SetScore>) -> Report {
        Report { model: model.into(), sets }
    }

    #[test]
    fn by_hand() {
        let teacher = report("big", vec![classified("toys", 0.5), found("photos", 0.8)]);
        let student = report("small", vec![found("photos", 0.6), classified("toys", 0.45)]);
        let kept = retention(&student, &teacher);
        assert!((kept.sets[0].retained.unwrap() - 0.75).abs() < 1e-12);
        assert!((kept.sets[1].retained.unwrap() - 0.9).abs() < 1e-12);
        assert!((kept.mean.unwrap() - 0.825).abs() < 1e-12);
        assert_eq!(kept.mean, student.retained(&teacher));
        let expected = "\
| data set | metric      |  big | small | retained |
|----------|-------------|-----:|------:|---------:|
| photos   | mean recall | 80.0 |  60.0 |     75.0 |
| toys     | top-1       | 50.0 |  45.0 |     90.0 |
| all      | mean        |    - |     - |     82.5 |
";
        assert_eq!(kept.table().to_markdown(), expected);
        let json = serde_json::to_string(&kept).unwrap();
        assert_eq!(serde_json::from_str::<Retention>(&json).unwrap(), kept);
    }

    #[test]
    fn sets_that_do_not_match_have_no_retention_and_no_mean() {
        let student = report("small", vec![classified("toys", 0.4), classified("more", 0.4)]);
        let missing = retention(&student, &report("big", vec![classified("toys", 0.5)]));
        assert_eq!((missing.sets[1].teacher, missing.mean), (None, None));
        assert!((missing.sets[0].retained.unwrap() - 0.8).abs() < 1e-12);
        let zero =
            retention(&student, &report("big", vec![classified("toys", 0.0), classified("more", 0.4)]));
        assert_eq!((zero.sets[0].retained, zero.sets[1].retained, zero.mean), (None, Some(1.0), None));
        // A set with this name but another task does not match.
        let other = retention(&student, &report("big", vec![found("toys", 0.5)]));
        assert_eq!(other.sets[0].teacher, None);
        assert_eq!(retention(&report("small", vec![]), &student).mean, None);
    }
}
