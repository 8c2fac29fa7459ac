//! How much of a teacher's zero-shot scores a student keeps.

use std::mem::discriminant;

use serde::{Deserialize, Serialize};

use crate::report::{Report, SetScore, markdown};

/// A student by its teacher, set by set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retention {
    /// The student.
    pub student: String,
    /// The teacher.
    pub teacher: String,
    /// Each set of the student.
    pub sets: Vec<SetRetention>,
    /// Mean of the shares; none where one is none, since a mean of fewer sets says something else.
    pub mean: Option<f64>,
}

/// One set. Scores are those of [`crate::Score::main`], 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetRetention {
    /// The set.
    pub set: String,
    /// The figure that is compared.
    pub figure: String,
    /// The student's score.
    pub student: f64,
    /// The teacher's; none where it was not measured there.
    pub teacher: Option<f64>,
    /// The student's by the teacher's, above 1 where the student is better; none where the teacher scores nothing.
    pub retained: Option<f64>,
}

/// Compares the main figures of two reports; sets are matched by name and task.
pub fn retention(student: &Report, teacher: &Report) -> Retention {
    let set = |own: &SetScore| {
        let matches = |other: &&SetScore| {
            other.set == own.set && discriminant(&other.score) == discriminant(&own.score)
        };
        let (student, teacher) =
            (own.score.main(), teacher.sets.iter().find(matches).map(|s| s.score.main()));
        let retained = teacher.filter(|teacher| *teacher > 0.0).map(|teacher| student / teacher);
        let figure = own.score.main_name().into();
        SetRetention { set: own.set.clone(), figure, student, teacher, retained }
    };
    let sets = student.sets.iter().map(set).collect::<Vec<_>>();
    let shares = sets.iter().map(|set| set.retained).collect::<Option<Vec<_>>>();
    let mean = shares.filter(|shares| !shares.is_empty());
    let mean = mean.map(|shares| shares.iter().sum::<f64>() / shares.len() as f64);
    Retention { student: student.model.clone(), teacher: teacher.model.clone(), sets, mean }
}

impl Retention {
    /// A Markdown table, in percent.
    pub fn table(&self) -> String {
        let percent = |value: Option<f64>| value.map_or("-".into(), |value| format!("{:.1}", value * 100.0));
        let head = ["data set", "figure", &self.teacher, &self.student, "retained"];
        let mut rows = vec![head.map(String::from).to_vec()];
        rows.extend(self.sets.iter().map(|set| {
            let mut row = vec![set.set.clone(), set.figure.clone()];
            row.extend([set.teacher, Some(set.student), set.retained].map(percent));
            row
        }));
        rows.push(vec!["all".into(), "mean".into(), "-".into(), "-".into(), percent(self.mean)]);
        markdown(&rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Classification, Recall, Retrieval, Score};

    fn classified(set: &str, top1: f64) -> SetScore {
        let score =
            Classification { top1, top5: None, mean_per_class_recall: 0.0, samples: 1, per_class: vec![] };
        SetScore { set: set.into(), score: Score::Classification(score) }
    }

    fn found(set: &str, at: f64) -> SetScore {
        let recall = Recall { at_1: at, at_5: at, at_10: at };
        let score = Retrieval { image_to_text: recall, text_to_image: recall, images: 1, texts: 1 };
        SetScore { set: set.into(), score: Score::Retrieval(score) }
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
| data set | figure      |  big | small | retained |
|----------|-------------|-----:|------:|---------:|
| photos   | mean recall | 80.0 |  60.0 |     75.0 |
| toys     | top-1       | 50.0 |  45.0 |     90.0 |
| all      | mean        |    - |     - |     82.5 |
";
        assert_eq!(kept.table(), expected);
        let json = serde_json::to_string(&kept).unwrap();
        assert_eq!(serde_json::from_str::<Retention>(&json).unwrap(), kept);
    }

    #[test]
    fn what_cannot_be_compared_has_no_share_and_no_mean() {
        let student = report("small", vec![classified("toys", 0.4), classified("more", 0.4)]);
        let missing = retention(&student, &report("big", vec![classified("toys", 0.5)]));
        assert_eq!((missing.sets[1].teacher, missing.mean), (None, None));
        assert!((missing.sets[0].retained.unwrap() - 0.8).abs() < 1e-12);
        let zero =
            retention(&student, &report("big", vec![classified("toys", 0.0), classified("more", 0.4)]));
        assert_eq!((zero.sets[0].retained, zero.sets[1].retained, zero.mean), (None, Some(1.0), None));
        // A set of the same name with another task is another set.
        let other = retention(&student, &report("big", vec![found("toys", 0.5)]));
        assert_eq!(other.sets[0].teacher, None);
        assert_eq!(retention(&report("small", vec![]), &student).mean, None);
    }
}
