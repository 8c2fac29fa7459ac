//! `metrics.jsonl`: one JSON object per line, for training steps and for evaluations.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroshot_eval::Report;
use zeroshot_eval::metric::{Metric, MetricName, MetricValue};

use crate::run::tensorboard::EventFile;
use crate::step::StepReport;
use crate::{Error, Result};

/// File name of the metrics in a run folder.
const FILE: &str = "metrics.jsonl";

/// A line of `metrics.jsonl` for a training step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepLine {
    /// Progress of the run.
    #[serde(flatten)]
    pub at: StepStats,
    /// Learning rate.
    #[serde(default, with = "finite_or_null")]
    pub lr: f64,
    /// The weighted sum of the terms.
    pub loss: f64,
    /// The terms of the loss, in report order.
    #[serde(default, with = "by_name")]
    pub terms: Vec<TermLoss>,
    /// L2 norm of all gradients, before clipping.
    #[serde(default, with = "finite_or_null")]
    pub grad_norm: f64,
    /// exp(logit scale) used in the step.
    #[serde(default, with = "finite_or_null")]
    pub logit_scale: f64,
    /// Expected sparsity from the masks of pruning, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<f64>,
}

/// A term of a step's loss.
#[derive(Clone, Debug, PartialEq)]
pub struct TermLoss {
    /// Name of the loss, or `prune` for the penalty of pruning.
    pub name: String,
    /// The unweighted value.
    pub raw: f64,
    /// The weighted value.
    pub weighted: f64,
}

/// A line of `metrics.jsonl` for an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationLine {
    /// Finished steps.
    pub step: u64,
    /// The metrics of each data set.
    #[serde(rename = "eval", with = "by_set")]
    pub sets: Vec<SetMetrics>,
}

/// The metrics of one data set.
#[derive(Clone, Debug, PartialEq)]
pub struct SetMetrics {
    /// The data set.
    pub set: String,
    /// Its metrics.
    pub metrics: Vec<MetricValue>,
}

/// A line of `metrics.jsonl`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Evaluation(EvaluationLine),
    Step(StepLine),
}

/// Writer of a run's metrics: `metrics.jsonl` and, if enabled, TensorBoard events.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
    events: Option<EventFile>,
}

/// The progress of a run when a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepStats {
    /// Finished steps.
    pub step: u64,
    /// Epochs, including the fraction of the current one.
    #[serde(default, with = "finite_or_null")]
    pub epoch: f64,
    /// Samples seen.
    #[serde(default)]
    pub samples: u64,
    /// Seconds of training.
    #[serde(default, with = "finite_or_null")]
    pub seconds: f64,
    /// Samples per second since the last line.
    #[serde(rename = "samples_per_second", default, with = "finite_or_null")]
    pub rate: f64,
    /// Fraction of the time since the last line spent waiting for data.
    #[serde(default, with = "finite_or_null")]
    pub data_wait: f64,
}

impl Line {
    fn step(&self) -> u64 {
        match self {
            Line::Step(line) => line.at.step,
            Line::Evaluation(line) => line.step,
        }
    }
}

impl StepLine {
    fn new(at: &StepStats, report: &StepReport) -> Self {
        let term = |(name, value, weight): &(&str, f64, f64)| TermLoss {
            name: name.to_string(),
            raw: *value,
            weighted: value * weight,
        };
        StepLine {
            at: *at,
            lr: report.lr,
            loss: report.loss,
            terms: report.terms.iter().map(term).collect(),
            grad_norm: report.grad_norm,
            logit_scale: report.logit_scale,
            sparsity: report.sparsity,
        }
    }

    /// Returns the term with this name.
    pub fn term(&self, name: &str) -> Option<&TermLoss> {
        self.terms.iter().find(|term| term.name == name)
    }

    /// Returns the line without the measured times, which differ from run to run.
    pub fn without_times(mut self) -> Self {
        (self.at.seconds, self.at.rate, self.at.data_wait) = (0.0, 0.0, 0.0);
        self
    }
}

impl EvaluationLine {
    fn new(step: u64, report: &Report) -> Self {
        let sets = report.sets.iter();
        let sets = sets.map(|scored| SetMetrics { set: scored.set.clone(), metrics: scored.score.metrics() });
        EvaluationLine { step, sets: sets.collect() }
    }

    /// Returns the value of a metric.
    pub fn get(&self, metric: &Metric) -> Option<f64> {
        let set = self.sets.iter().find(|set| set.set == metric.set)?;
        set.metrics.iter().find(|found| found.name == metric.name).map(|found| found.value)
    }
}

impl MetricsFile {
    /// Opens the file of a run that resumes at `step`. Drops the lines of later steps, because they will be written
    /// again. `last` means that no step is left and only the final evaluation runs again.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read or written.
    pub fn open(folder: &Path, step: u64, last: bool, tensorboard: bool) -> Result<Self> {
        let path = folder.join(FILE);
        let old = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::io(&path, e)),
        };
        // A truncated line is not valid JSON and is also dropped.
        let kept = old.lines().filter(|line| {
            let Ok(line) = serde_json::from_str::<Line>(line) else { return false };
            // The evaluation of the last step also runs again, because the checkpoint precedes it.
            let again = matches!(line, Line::Evaluation(_)) && line.step() == step && last;
            line.step() <= step && step > 0 && !again
        });
        let kept = kept.map(|line| format!("{line}\n")).collect::<String>();
        file_ext::write_atomic(&path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| Error::io(&path, e))?;
        let events = tensorboard.then(|| EventFile::create(&folder.join("tensorboard"))).transpose()?;
        Ok(MetricsFile { path, file, events })
    }

    /// Writes a training step.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn step(&mut self, at: &StepStats, report: &StepReport) -> Result<()> {
        let line = StepLine::new(at, report);
        self.write(&line)?;
        let Some(events) = &mut self.events else { return Ok(()) };
        let terms = line.terms.iter().map(|term| (format!("terms/{}", term.name), term.raw));
        let sparsity = line.sparsity.map(|sparsity| ("sparsity".to_string(), sparsity));
        let others = [
            ("loss", line.loss),
            ("lr", line.lr),
            ("grad_norm", line.grad_norm),
            ("logit_scale", line.logit_scale),
            ("samples_per_second", line.at.rate),
        ];
        let others = others.map(|(name, value)| (name.to_string(), value));
        events.scalars(line.at.step, terms.chain(sparsity).chain(others))
    }

    /// Writes an evaluation.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn evaluation(&mut self, step: u64, report: &Report) -> Result<()> {
        let line = EvaluationLine::new(step, report);
        self.write(&line)?;
        let Some(events) = &mut self.events else { return Ok(()) };
        let scalars = line.sets.iter().flat_map(|SetMetrics { set, metrics }| {
            metrics.iter().map(move |metric| (format!("eval/{set}/{}", metric.name), metric.value))
        });
        events.scalars(step, scalars)
    }

    fn write(&mut self, line: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(line).map_err(|e| Error::io(&self.path, e.into()))?;
        writeln!(self.file, "{text}").map_err(|e| Error::io(&self.path, e))
    }
}

/// Reads the training steps of a run's metrics. Skips truncated lines.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read.
pub fn read_steps(folder: &Path) -> Result<Vec<StepLine>> {
    let step = |line| if let Line::Step(line) = line { Some(line) } else { None };
    Ok(read(folder)?.into_iter().filter_map(step).collect())
}

/// Reads the evaluations of a run's metrics. Skips truncated lines.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read.
pub fn read_evaluations(folder: &Path) -> Result<Vec<EvaluationLine>> {
    let evaluation = |line| if let Line::Evaluation(line) = line { Some(line) } else { None };
    Ok(read(folder)?.into_iter().filter_map(evaluation).collect())
}

fn read(folder: &Path) -> Result<Vec<Line>> {
    let path = folder.join(FILE);
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Serialization of a number: JSON stores NaN and infinities as `null`.
mod finite_or_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        value.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
    }
}

/// Terms as an object: `{ "NAME": { "raw": 1.0, "weighted": 2.0 } }`.
mod by_name {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::{Map, Value};

    use super::TermLoss;

    #[derive(Serialize, Deserialize)]
    struct Values {
        #[serde(with = "super::finite_or_null")]
        raw: f64,
        #[serde(with = "super::finite_or_null")]
        weighted: f64,
    }

    pub(super) fn serialize<S: Serializer>(terms: &[TermLoss], to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(
            terms.iter().map(|term| (&term.name, Values { raw: term.raw, weighted: term.weighted })),
        )
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<TermLoss>, D::Error> {
        let read = |(name, value): (String, Value)| {
            let Values { raw, weighted } = serde_json::from_value(value).map_err(serde::de::Error::custom)?;
            Ok(TermLoss { name, raw, weighted })
        };
        Map::deserialize(from)?.into_iter().map(read).collect()
    }
}

/// Metrics as objects: `{ "SET": { "top-1": 0.5 } }`.
mod by_set {
    use serde::{Deserialize, Deserializer, Serializer};
    use serde_json::{Map, Value};

    use super::{MetricName, MetricValue, SetMetrics};

    pub(super) fn serialize<S: Serializer>(sets: &[SetMetrics], to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(sets.iter().map(|set| {
            let metrics = set.metrics.iter().map(|metric| (metric.name.to_string(), metric.value.into()));
            (&set.set, metrics.collect::<Map<_, Value>>())
        }))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SetMetrics>, D::Error> {
        let metric = |(name, value): (String, Value)| {
            Some(MetricValue::new(name.parse::<MetricName>().ok()?, value.as_f64()?))
        };
        let read = |(set, value): (String, Value)| {
            let metrics = Map::deserialize(value).map_err(serde::de::Error::custom)?;
            Ok(SetMetrics { set, metrics: metrics.into_iter().filter_map(metric).collect() })
        };
        Map::deserialize(from)?.into_iter().map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use zeroshot_eval::{Classification, Score, SetScore};

    use super::*;

    /// Lines as the first version of the program wrote them.
    const OLD: [&str; 2] = [
        r#"{"step":8,"epoch":0.5,"samples":64,"seconds":1.25,"samples_per_second":51.2,"data_wait":0.125,"lr":0.001,"loss":3.5,"terms":{"task":{"raw":1.5,"weighted":1.5},"fd":{"raw":0.001,"weighted":2.0}},"grad_norm":0.75,"logit_scale":14.25}"#,
        r#"{"step":8,"eval":{"toys":{"top-1":0.5,"top-5":1.0,"mean per-class recall":0.25},"photos":{"text recall@1":0.125}}}"#,
    ];

    #[test]
    fn old_lines_survive_reading_and_writing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), OLD.join("\n") + "\n{\"step\":9,\"epo").unwrap();
        let steps = read_steps(folder.path()).unwrap();
        assert_eq!(steps.len(), 1);
        assert_eq!(steps[0].term("fd"), Some(&TermLoss { name: "fd".into(), raw: 0.001, weighted: 2.0 }));
        assert_eq!((steps[0].at.samples, steps[0].at.rate, steps[0].sparsity), (64, 51.2, None));
        let evaluations = read_evaluations(folder.path()).unwrap();
        let top5 = Metric::new("toys", MetricName::Top5);
        assert_eq!((evaluations[0].step, evaluations[0].get(&top5)), (8, Some(1.0)));
        assert_eq!(serde_json::to_string(&steps[0]).unwrap(), OLD[0]);
        assert_eq!(serde_json::to_string(&evaluations[0]).unwrap(), OLD[1]);
    }

    #[test]
    fn a_resumed_run_drops_lines_that_it_writes_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let kept = |step, last| {
            std::fs::write(&path, OLD.join("\n") + "\n").unwrap();
            MetricsFile::open(folder.path(), step, last, false).unwrap();
            std::fs::read_to_string(&path).unwrap().lines().count()
        };
        assert_eq!([kept(0, false), kept(7, false), kept(8, false), kept(8, true)], [0, 0, 2, 1]);
    }

    #[test]
    fn lines_hold_the_reported_values() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = MetricsFile::open(folder.path(), 0, false, true).unwrap();
        let at = StepStats { step: 3, samples: 24, ..StepStats::default() };
        let report = StepReport {
            loss: 2.0,
            terms: vec![("task", 0.5, 4.0)],
            grad_norm: f64::INFINITY,
            sparsity: Some(0.25),
            ..StepReport::default()
        };
        file.step(&at, &report).unwrap();
        let score = Score::Classification(Classification {
            top1: 0.5,
            top5: None,
            mean_per_class_recall: 0.25,
            samples: 4,
            per_class: vec![],
        });
        let sets = vec![SetScore::new("toys", score)];
        file.evaluation(3, &Report { model: "m".into(), sets }).unwrap();
        let step = &read_steps(folder.path()).unwrap()[0];
        assert_eq!((step.at, step.loss, step.sparsity), (at, 2.0, Some(0.25)));
        assert!(step.grad_norm.is_nan(), "JSON has no infinity");
        assert_eq!(step.terms, [TermLoss { name: "task".into(), raw: 0.5, weighted: 2.0 }]);
        let evaluation = &read_evaluations(folder.path()).unwrap()[0];
        let metrics = [(MetricName::Top1, 0.5), (MetricName::MeanPerClassRecall, 0.25)]
            .map(|(n, v)| MetricValue::new(n, v));
        assert_eq!(evaluation.sets, [SetMetrics { set: "toys".into(), metrics: metrics.to_vec() }]);
    }
}
