//! Reports the progress of long operations: as a bar on a terminal, otherwise as `tracing` lines.
//!
//! A bar is drawn only if the caller requests it and standard error is a terminal.

use std::cell::RefCell;
use std::fmt::Write;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use data_pipeline::download;
use data_pipeline::notice::printable;
use indicatif::{ProgressBar, ProgressStyle};
use ndarray::{Array2, ArrayView4};
use zeroshot_eval::{EncodeError, Encoder, SetScore};

use crate::run::metrics::StepStats;
use crate::step::StepReport;

/// Number of calls of [`Pace::add`] (usually batches) after which a line is due.
const CALLS: u64 = 32;
/// Time after which a line is due.
const INTERVAL: Duration = Duration::from_secs(10);

fn bar(count: u64, visible: bool) -> Option<ProgressBar> {
    (visible && std::io::stderr().is_terminal()).then(|| ProgressBar::new(count))
}

/// Progress of training: steps, loss, speed, learning rate and the remaining time.
#[derive(Debug)]
pub(crate) struct Progress {
    name: String,
    bar: Option<ProgressBar>,
    /// Steps and seconds of training before this session.
    start: (u64, f64),
    steps: u64,
}

impl Progress {
    /// Creates a report. `done` holds the finished steps and all steps, `seconds` the training time so far.
    pub(crate) fn new(name: &str, (done, steps): (u64, u64), seconds: f64, visible: bool) -> Self {
        let bar = bar(steps, visible);
        if let Some(bar) = &bar {
            if let Ok(style) = ProgressStyle::with_template("{prefix:16} {wide_bar} {pos}/{len} {msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(printable(name).into_owned());
            bar.set_position(done);
            bar.enable_steady_tick(Duration::from_millis(500));
        }
        Progress { name: name.into(), bar, start: (done, seconds), steps }
    }

    /// Updates the bar.
    pub(crate) fn update(&self, at: &StepStats, report: &StepReport) {
        let Some(bar) = &self.bar else { return };
        bar.set_position(at.step);
        let (loss, lr, eta) = (report.loss, report.lr, clock(self.left(at)));
        bar.set_message(format!("loss {loss:.4} {:.0} samples/s lr {lr:.1e} ETA {eta}", at.rate));
    }

    /// Logs a line if no bar is drawn.
    pub(crate) fn line(&self, at: &StepStats, report: &StepReport) {
        if self.bar.is_none() {
            data_pipeline::log_info!("{}: {}", self.name, line(at, self.steps, report, self.left(at)));
        }
    }

    /// Hides the bar while `work` logs its own lines.
    pub(crate) fn pause<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(work),
            None => work(),
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }

    /// Remaining seconds of training, at the mean speed of this session's steps. Excludes evaluations and checkpoints.
    fn left(&self, at: &StepStats) -> f64 {
        let (steps, seconds) = self.start;
        let done = at.step.saturating_sub(steps).max(1) as f64;
        (at.seconds - seconds) / done * self.steps.saturating_sub(at.step) as f64
    }
}

/// Describes a step as text. The loss terms are weighted, so they add up to the loss.
fn line(at: &StepStats, steps: u64, report: &StepReport, left: f64) -> String {
    let mut text = format!("step {}/{steps}, epoch {:.2}, loss {:.4}", at.step, at.epoch, report.loss);
    for (index, (name, value, weight)) in report.terms.iter().enumerate() {
        let sign = if index == 0 { '=' } else { '+' };
        let _ = write!(text, " {sign} {name} {:.4}", value * weight);
    }
    let _ = write!(text, ", {:.1} samples/s, lr {:.2e}, ETA {}", at.rate, report.lr, clock(left));
    text
}

/// Formats seconds as `m:ss` or `h:mm:ss`.
fn clock(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, minutes, seconds) => format!("{minutes}:{seconds:02}"),
        (hours, minutes, seconds) => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// Logs a model's results in percent, one line per data set.
pub(crate) fn scores(sets: &[SetScore]) {
    for set in sets {
        let metrics = set.score.metrics();
        let metrics = metrics.iter().map(|metric| format!("{} {:.1}", metric.name, metric.value * 100.0));
        data_pipeline::log_info!("{}: {}", set.set, metrics.collect::<Vec<_>>().join(", "));
    }
}

/// Logs the progress of a loop over many items: a line at its start, then one after 32 batches or ten seconds.
#[derive(Debug)]
pub struct Pace {
    what: String,
    unit: &'static str,
    total: Option<u64>,
    done: u64,
    calls: u64,
    started: Instant,
    logged: Instant,
}

impl Pace {
    /// Starts the loop, and logs a line if the number of items is known.
    pub fn new(what: &str, unit: &'static str, total: Option<u64>) -> Self {
        if let Some(total) = total {
            data_pipeline::log_info!("{what}: {total} {unit}");
        }
        Self::silent(what, unit, total)
    }

    /// Starts the loop without a first line.
    pub(crate) fn silent(what: &str, unit: &'static str, total: Option<u64>) -> Self {
        let now = Instant::now();
        Pace { what: what.into(), unit, total, done: 0, calls: 0, started: now, logged: now }
    }

    /// Counts a batch.
    pub fn add(&mut self, count: u64) {
        self.done += count;
        self.calls += 1;
        if let Some(line) = self.line(self.logged.elapsed()) {
            data_pipeline::log_info!("{line}");
            self.logged = Instant::now();
        }
    }

    /// Returns the next line if one is due. The end of the loop needs no line.
    fn line(&self, silence: Duration) -> Option<String> {
        let due = self.calls.is_multiple_of(CALLS) || silence >= INTERVAL;
        if !due || self.total.is_some_and(|total| self.done >= total) {
            return None;
        }
        let (what, done, unit) = (&self.what, self.done, self.unit);
        let rate = done as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
        Some(match self.total {
            Some(total) => {
                let left = clock((total - done) as f64 / rate.max(1e-9));
                format!("{what}: {done} of {total} {unit}, {rate:.0} {unit}/s, ETA {left}")
            }
            None => format!("{what}: {done} {unit}, {rate:.0} {unit}/s"),
        })
    }
}

/// Progress of downloads: a bar on a terminal, otherwise a log line per file and every ten seconds.
#[derive(Debug)]
pub struct Downloads {
    bar: Option<ProgressBar>,
    /// File and time of the last log line.
    logged: Option<(String, Instant)>,
}

impl Downloads {
    /// Creates a report; nothing is drawn or logged unless `visible`.
    pub fn new(visible: bool) -> Self {
        let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}";
        let bar = bar(0, visible);
        if let (Some(bar), Ok(style)) = (&bar, ProgressStyle::with_template(template)) {
            bar.set_style(style);
        }
        let logged = (visible && bar.is_none()).then(|| (String::new(), Instant::now()));
        Downloads { bar, logged }
    }

    /// Reports the progress of a file.
    pub fn update(&mut self, at: download::Progress<'_>) {
        if let Some(bar) = &self.bar {
            bar.set_message(printable(at.file).into_owned());
            bar.set_length(at.total.unwrap_or(at.done));
            bar.set_position(at.done);
        }
        let Some((file, time)) = &mut self.logged else { return };
        if file != at.file || time.elapsed() >= INTERVAL {
            data_pipeline::log_info!("{}", download_line(at.file, at.done, at.total));
            (*file, *time) = (at.file.to_string(), Instant::now());
        }
    }
}

impl Drop for Downloads {
    fn drop(&mut self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}

/// Describes the progress of a download.
fn download_line(file: &str, done: u64, total: Option<u64>) -> String {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    match total {
        Some(total) => format!("{file}: {:.1} of {:.1} MB", megabytes(done), megabytes(total)),
        None => format!("{file}: {:.1} MB", megabytes(done)),
    }
}

/// An encoder that counts its batches of images and texts.
#[derive(Debug)]
pub(crate) struct Counted<'a, E> {
    encoder: &'a E,
    images: RefCell<Pace>,
    texts: RefCell<Pace>,
}

impl<'a, E: Encoder> Counted<'a, E> {
    /// Creates a counter for a data set with `images` images, and `texts` texts if their number is known.
    pub(crate) fn new(encoder: &'a E, set: &str, images: usize, texts: Option<usize>) -> Self {
        let texts = RefCell::new(Pace::silent(set, "texts", texts.map(|count| count as u64)));
        Counted { encoder, images: RefCell::new(Pace::new(set, "images", Some(images as u64))), texts }
    }
}

impl<E: Encoder> Encoder for Counted<'_, E> {
    fn encode_images(&self, images: ArrayView4<'_, f32>) -> Result<Array2<f32>, EncodeError> {
        let rows = self.encoder.encode_images(images)?;
        self.images.borrow_mut().add(rows.nrows() as u64);
        Ok(rows)
    }

    fn encode_texts(&self, texts: &[String]) -> Result<Array2<f32>, EncodeError> {
        let rows = self.encoder.encode_texts(texts)?;
        self.texts.borrow_mut().add(rows.nrows() as u64);
        Ok(rows)
    }
}

/// Counts items up to a known total: a bar on a terminal, otherwise log lines.
#[derive(Debug)]
pub(crate) enum Counter {
    Bar(ProgressBar, &'static str),
    Lines(Pace),
}

impl Counter {
    pub(crate) fn new(name: &str, unit: &'static str, count: u64, visible: bool) -> Self {
        let Some(bar) = bar(count, visible) else {
            return Counter::Lines(Pace::new(name, unit, Some(count)));
        };
        if let Ok(style) = ProgressStyle::with_template("{prefix:16} {wide_bar} {pos}/{len} {msg} ETA {eta}")
        {
            bar.set_style(style);
        }
        bar.set_prefix(printable(name).into_owned());
        Counter::Bar(bar, unit)
    }

    pub(crate) fn add(&mut self, count: u64) {
        match self {
            Counter::Bar(bar, unit) => {
                bar.inc(count);
                bar.set_message(format!("{:.0} {unit}/s", bar.per_sec()));
            }
            Counter::Lines(pace) => pace.add(count),
        }
    }

    pub(crate) fn finish(&self) {
        if let Counter::Bar(bar, _) = self {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(step: u64, seconds: f64) -> StepStats {
        StepStats { step, epoch: 0.5, samples: step * 8, seconds, rate: 12.34, data_wait: 0.0 }
    }

    #[test]
    fn a_step_line_lists_weighted_terms_that_sum_to_the_loss() {
        let report = StepReport {
            lr: 5e-4,
            loss: 3.5,
            terms: vec![("task", 3.0, 1.0), ("fd", 0.00025, 2000.0)],
            ..StepReport::default()
        };
        let expected = "step 20/200, epoch 0.50, loss 3.5000 = task 3.0000 + fd 0.5000, 12.3 samples/s, lr 5.00e-4, ETA 1:02:03";
        assert_eq!(line(&at(20, 9.0), 200, &report, 3723.0), expected);
    }

    #[test]
    fn the_eta_uses_the_mean_speed_of_the_session() {
        // 100 steps in 1000 s in an earlier session; 10 steps in 20 s in this one.
        let progress = Progress::new("run", (100, 200), 1000.0, false);
        assert_eq!(progress.left(&at(110, 1020.0)), 180.0);
        assert_eq!(progress.left(&at(200, 1100.0)), 0.0);
        assert_eq!(clock(progress.left(&at(110, 1020.0))), "3:00");
    }

    #[test]
    fn download_lines_state_the_total_if_it_is_known() {
        let line = download_line("train.tar", 1_500_000, Some(170_498_071));
        assert_eq!(line, "train.tar: 1.5 of 170.5 MB");
        assert_eq!(download_line("train.tar", 1_500_000, None), "train.tar: 1.5 MB");
    }

    #[test]
    fn a_line_is_due_by_count_or_by_time_but_not_at_the_end() {
        let none = Duration::ZERO;
        let mut pace = Pace::silent("set", "images", Some(CALLS * 10 + 1));
        for call in 1..=CALLS {
            assert!(pace.line(none).is_none() || call == 1, "before call {call}");
            pace.add(10);
        }
        let line = pace.line(none).unwrap();
        assert!(line.starts_with("set: 320 of 321 images, "), "{line}");
        pace.add(0);
        assert!(pace.line(none).is_none());
        assert!(pace.line(INTERVAL).is_some());
        pace.add(1);
        assert!(pace.line(INTERVAL).is_none());
        let unknown = Pace::silent("set", "texts", None);
        assert!(unknown.line(INTERVAL).unwrap().starts_with("set: 0 texts, "));
    }
}
