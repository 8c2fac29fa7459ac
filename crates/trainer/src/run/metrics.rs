//! `metrics.jsonl`: one JSON object per line, for training steps and for evaluations.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use zeroshot_eval::Report;

use crate::run::tensorboard::EventFile;
use crate::step::StepReport;
use crate::{Error, Result};

/// Writes the metrics of a run.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
    events: Option<EventFile>,
}

/// The progress of a run when a line is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepStats {
    /// Finished steps.
    pub step: u64,
    /// Epochs, including the fraction of the current one.
    pub epoch: f64,
    /// Samples seen.
    pub samples: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// Samples per second since the last line.
    pub rate: f64,
    /// Fraction of the time since the last line spent waiting for data.
    pub data_wait: f64,
}

impl MetricsFile {
    /// Opens the file of a run that resumes at `step`. Drops the lines of later steps, because they will be written
    /// again. `last` means that no step is left and only the final evaluation runs again.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read or written.
    pub fn open(folder: &Path, step: u64, last: bool, tensorboard: bool) -> Result<Self> {
        let path = folder.join("metrics.jsonl");
        let old = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::io(&path, e)),
        };
        // A truncated line is not valid JSON and is also dropped.
        let kept = old.lines().filter(|line| {
            let Ok(value) = serde_json::from_str::<Value>(line) else { return false };
            // The evaluation of the last step also runs again, because the checkpoint precedes it.
            let again = value.get("eval").is_some() && value["step"].as_u64() == Some(step) && last;
            value["step"].as_u64().is_some_and(|at| at <= step && step > 0) && !again
        });
        let kept = kept.map(|line| format!("{line}\n")).collect::<String>();
        file_ext::write_atomic(&path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| Error::io(&path, e))?;
        let events = tensorboard.then(|| EventFile::create(&folder.join("tensorboard"))).transpose()?;
        Ok(MetricsFile { path, file, events })
    }

    /// Writes a training step: rate, loss, each term raw and weighted, gradient norm, logit scale.
    ///
    /// # Errors
    /// [`Error::Io`] if the disk is full.
    pub fn step(&mut self, at: &StepStats, report: &StepReport) -> Result<()> {
        let mut terms = serde_json::Map::new();
        for (name, value, weight) in &report.terms {
            terms.insert((*name).into(), json!({ "raw": value, "weighted": value * weight }));
        }
        let mut line = json!({
            "step": at.step, "epoch": at.epoch, "samples": at.samples, "seconds": at.seconds,
            "samples_per_second": at.rate, "data_wait": at.data_wait,
            "lr": report.lr, "loss": report.loss, "terms": terms,
            "grad_norm": report.grad_norm, "logit_scale": report.logit_scale,
        });
        if let Some(sparsity) = report.sparsity {
            line["sparsity"] = json!(sparsity);
        }
        self.line(&line)?;
        let Some(events) = &mut self.events else { return Ok(()) };
        let terms = report.terms.iter().map(|(name, value, _)| (format!("terms/{name}"), *value));
        let mut scalars = terms.collect::<Vec<_>>();
        scalars.extend(report.sparsity.map(|sparsity| ("sparsity".into(), sparsity)));
        for (name, value) in [
            ("loss", report.loss),
            ("lr", report.lr),
            ("grad_norm", report.grad_norm),
            ("logit_scale", report.logit_scale),
            ("samples_per_second", at.rate),
        ] {
            scalars.push((name.into(), value));
        }
        events.scalars(at.step, scalars.iter().map(|(name, value)| (name.as_str(), *value)))
    }

    /// Writes an evaluation.
    ///
    /// # Errors
    /// [`Error::Io`] if the disk is full.
    pub fn evaluation(&mut self, step: u64, report: &Report) -> Result<()> {
        let mut sets = serde_json::Map::new();
        for set in &report.sets {
            sets.insert(
                set.set.clone(),
                set.score
                    .figures()
                    .into_iter()
                    .map(|(n, v)| (n.into(), v.into()))
                    .collect::<serde_json::Map<_, _>>()
                    .into(),
            );
        }
        self.line(&json!({ "step": step, "eval": sets }))?;
        let Some(events) = &mut self.events else { return Ok(()) };
        let scalars = report.sets.iter().flat_map(|set| {
            set.score
                .figures()
                .into_iter()
                .map(move |(name, value)| (format!("eval/{}/{name}", set.set), value))
        });
        let scalars = scalars.collect::<Vec<_>>();
        events.scalars(step, scalars.iter().map(|(name, value)| (name.as_str(), *value)))
    }

    fn line(&mut self, value: &Value) -> Result<()> {
        writeln!(self.file, "{value}").map_err(|e| Error::io(&self.path, e))
    }
}

/// Reads the training steps of a run's metrics.
///
/// # Errors
/// [`Error::Io`] if the file does not exist.
pub fn read_steps(folder: &Path) -> Result<Vec<Value>> {
    let path = folder.join("metrics.jsonl");
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(lines.filter(|line| line["loss"].is_number()).collect())
}
