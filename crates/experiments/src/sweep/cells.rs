//! Runs the cells of a sweep in order, several in parallel.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use trainer::recipe::DeviceSetting;

use super::file::{Cell, Sweep};
use crate::{Error, Result};

/// Runs a single cell. The command line starts a process for each.
pub trait Runner: Sync {
    /// Starts or resumes the run of `cell` in its folder, on `device` if given. A runner polls `stop`: once it is set,
    /// the run writes a checkpoint and exits.
    ///
    /// # Errors
    /// [`Error::Io`] if the run cannot be started. A run that fails is [`Ended::Failed`].
    fn run(&self, cell: &Cell, device: Option<DeviceSetting>, stop: &AtomicBool) -> Result<Ended>;
}

/// How a cell's run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The run finished and wrote its results.
    Finished,
    /// The run stopped after writing a checkpoint.
    Stopped,
    /// The run failed, for this reason.
    Failed(String),
}

/// Limits of one session of [`run_cells`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits<'a> {
    /// Number of cells to run in parallel.
    pub jobs: usize,
    /// Devices that cells use in turn; if empty, the recipe's device.
    pub devices: Vec<DeviceSetting>,
    /// Maximum number of cells to start or resume. The others wait for the next session.
    pub cells: Option<usize>,
    /// A flag set by a signal handler: running cells stop with a checkpoint, and no others start.
    pub stop: &'a AtomicBool,
}

impl<'a> Limits<'a> {
    /// Creates limits for one run at a time, all cells, and the recipe's device.
    pub fn new(stop: &'a AtomicBool) -> Self {
        Limits { jobs: 1, devices: Vec::new(), cells: None, stop }
    }

    /// Sets the number of cells to run in parallel.
    pub fn with_jobs(mut self, jobs: usize) -> Self {
        self.jobs = jobs;
        self
    }

    /// Sets the devices.
    pub fn with_devices(mut self, devices: impl Into<Vec<DeviceSetting>>) -> Self {
        self.devices = devices.into();
        self
    }

    /// Sets the maximum number of cells.
    pub fn with_cells(mut self, cells: Option<usize>) -> Self {
        self.cells = cells;
        self
    }
}

/// The outcome of one session of [`run_cells`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Finished runs, including those of earlier sessions.
    pub finished: usize,
    /// Runs that stopped or are waiting.
    pub open: usize,
    /// Failed runs.
    pub failed: Vec<FailedRun>,
}

/// A run that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRun {
    /// Name and seed of the cell.
    pub cell: String,
    /// The reason: the last line of its output.
    pub reason: String,
}

/// Runs all cells of a sweep with `runner`, and calls `say` with a line for each run that ends.
///
/// ```no_run
/// use std::sync::atomic::AtomicBool;
///
/// use experiments::{Cell, Ended, Limits, Runner, Sweep, run_cells};
/// use trainer::recipe::DeviceSetting;
///
/// struct Printer;
///
/// impl Runner for Printer {
///     fn run(&self, cell: &Cell, _: Option<DeviceSetting>, _: &AtomicBool) -> experiments::Result<Ended> {
///         println!("{}", cell.folder.display());
///         Ok(Ended::Finished)
///     }
/// }
///
/// # fn example(sweep: &Sweep) -> experiments::Result<()> {
/// let stop = AtomicBool::new(false);
/// run_cells(sweep, &Printer, &Limits::new(&stop).with_jobs(2), &|line| println!("{line}"))?;
/// # Ok(())
/// # }
/// ```
///
/// Shared runs precede the cells that depend on them. If a shared run is not finished, its cells do not start.
///
/// # Errors
/// The errors of [`Runner::run`]. A failed run is part of the result and does not block the others.
pub fn run_cells(
    sweep: &Sweep,
    runner: &dyn Runner,
    limits: &Limits<'_>,
    say: &(dyn Fn(&str) + Sync),
) -> Result<Progress> {
    let runs = sweep.runs();
    let total = runs.len();
    let begun = Mutex::new(0usize);
    let failed = Mutex::new(Vec::new());
    let finished = |runs: &[&Cell]| runs.iter().filter(|run| !sweep.is_open(run)).count();
    for batch in runs.chunk_by(|one, next| sweep.is_shared(one) == sweep.is_shared(next)) {
        let queue = batch.iter().copied().filter(|run| sweep.is_open(run));
        let queue = Mutex::new(queue.collect::<VecDeque<_>>());
        let work = |worker: usize| -> Result<()> {
            loop {
                if limits.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                // Hold the count's lock while taking a cell, so that the limit is never exceeded.
                let cell = {
                    let mut begun = begun.lock().unwrap_or_else(PoisonError::into_inner);
                    if limits.cells.is_some_and(|limit| *begun >= limit) {
                        return Ok(());
                    }
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(cell) = next else { return Ok(()) };
                    *begun += 1;
                    cell
                };
                let device =
                    (!limits.devices.is_empty()).then(|| limits.devices[worker % limits.devices.len()]);
                let started = Instant::now();
                let outcome = runner.run(cell, device, limits.stop)?;
                let seconds = started.elapsed().as_secs();
                match outcome {
                    Ended::Finished => say(&format!(
                        "{} of {total} finished: {} in {}:{:02} min",
                        finished(&runs),
                        cell.label(),
                        seconds / 60,
                        seconds % 60
                    )),
                    Ended::Stopped => say(&format!("stopped: {}", cell.label())),
                    Ended::Failed(reason) => {
                        say(&format!("failed: {}: {reason}", cell.label()));
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        failed.push(FailedRun { cell: cell.label(), reason });
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let workers =
                (0..limits.jobs.clamp(1, batch.len().max(1))).map(|worker| scope.spawn(move || work(worker)));
            let workers = workers.collect::<Vec<_>>();
            workers.into_iter().try_for_each(|worker| worker.join().unwrap_or(Err(Error::Worker)))
        })?;
        if sweep.is_shared(batch[0]) && finished(batch) < batch.len() {
            break;
        }
    }
    let finished = finished(&runs);
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Progress { finished, open: total.saturating_sub(finished + failed.len()), failed })
}
