//! Progress bars, on a terminal only.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::step::StepReport;

/// Steps done, loss, samples per second, learning rate, time left.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn new(name: &str, done: u64, steps: u64, visible: bool) -> Self {
        let bar = if visible { ProgressBar::new(steps) } else { ProgressBar::hidden() };
        let template = "{prefix:16} {wide_bar} {pos}/{len} {msg} ETA {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_string());
        bar.set_position(done);
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(500));
        Progress(bar)
    }

    pub(crate) fn update(&self, step: u64, report: &StepReport, rate: f64) {
        self.0.set_position(step);
        self.0.set_message(format!("loss {:.4} {rate:.0} samples/s lr {:.1e}", report.loss, report.lr));
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// Things done of a known number, with the time left.
#[derive(Debug)]
pub(crate) struct Counter(ProgressBar);

impl Counter {
    pub(crate) fn new(name: &str, count: u64, visible: bool) -> Self {
        let bar = if visible { ProgressBar::new(count) } else { ProgressBar::hidden() };
        if let Ok(style) =
            ProgressStyle::with_template("{prefix:16} {wide_bar} {pos}/{len} {per_sec} ETA {eta}")
        {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_string());
        Counter(bar)
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.inc(count);
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
