//! Makes the cells of a sweep, each in a process of its own.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clip_model::weights::write_atomic;

use super::file::{Cell, Sweep};
use crate::{Error, Result};

/// How often a process is looked at.
const POLL: Duration = Duration::from_millis(200);
/// Exit code of a run that was stopped with a checkpoint.
const STOPPED: i32 = 130;

/// How much is done in one sitting.
#[derive(Clone, Debug)]
pub struct Limits<'a> {
    /// Cells at once.
    pub jobs: usize,
    /// Devices that cells take in turn; empty leaves the recipe's.
    pub devices: Vec<String>,
    /// Cells that are begun or gone on with; the others wait for the next sitting.
    pub cells: Option<usize>,
    /// Set from outside (a signal): running cells stop with a checkpoint, and no other is begun.
    pub stop: &'a AtomicBool,
}

/// What became of the cells of one sitting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Runs that are finished now, earlier ones among them.
    pub finished: usize,
    /// Runs that were stopped, or wait.
    pub open: usize,
    /// Runs that failed: label and the last line that they said.
    pub failed: Vec<(String, String)>,
}

/// Makes all runs of a sweep by `program train`; `say` gets a line for each that ends.
///
/// Shared runs come before the cells that build on them; where one is not finished, none of these is begun.
///
/// # Errors
/// [`Error::Io`] where a folder cannot be written or the program cannot be started; a run that fails is in the
/// result and does not hold up the others.
pub fn run_cells(
    sweep: &Sweep,
    program: &Path,
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
                // The place in the queue's front and the count are taken together.
                let cell = {
                    let mut begun = begun.lock().unwrap_or_else(PoisonError::into_inner);
                    if limits.cells.is_some_and(|most| *begun >= most) {
                        return Ok(());
                    }
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(cell) = next else { return Ok(()) };
                    *begun += 1;
                    cell
                };
                let device =
                    (!limits.devices.is_empty()).then(|| &limits.devices[worker % limits.devices.len()]);
                let started = Instant::now();
                let outcome = run_cell(cell, program, device.map(String::as_str), limits.stop)?;
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
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push((cell.label(), reason));
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let workers =
                (0..limits.jobs.clamp(1, batch.len().max(1))).map(|worker| scope.spawn(move || work(worker)));
            let workers = workers.collect::<Vec<_>>();
            workers.into_iter().try_for_each(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|_| Err(Error::recipe(&sweep.name, "a worker stopped unexpectedly")))
            })
        })?;
        if sweep.is_shared(batch[0]) && finished(batch) < batch.len() {
            break;
        }
    }
    let finished = finished(&runs);
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Progress { finished, open: total.saturating_sub(finished + failed.len()), failed })
}

enum Ended {
    Finished,
    Stopped,
    Failed(String),
}

/// The files of a cell beside its folder: its recipe, and what its process says.
fn beside(folder: &Path, ending: &str) -> PathBuf {
    folder.with_extension(ending)
}

fn run_cell(cell: &Cell, program: &Path, device: Option<&str>, stop: &AtomicBool) -> Result<Ended> {
    let mut recipe = cell.recipe.clone();
    if let Some(device) = device {
        recipe.train.device = device.into();
    }
    let parent = cell.folder.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
    let (file, log) = (beside(&cell.folder, "toml"), beside(&cell.folder, "log"));
    write_atomic(&file, recipe.to_toml()?.as_bytes())?;
    let output = File::create(&log).map_err(|e| Error::io(&log, e))?;
    let copy = output.try_clone().map_err(|e| Error::io(&log, e))?;
    let mut command = Command::new(program);
    // Ctrl-C would reach the run together with this process, and the signal that asks it to stop would then be
    // its second one, which ends it at once.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command
        .arg("train")
        .arg(&file)
        .arg("--out")
        .arg(&cell.folder)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(copy)
        .spawn()
        .map_err(|e| Error::io(program, e))?;
    let mut asked = false;
    let status = loop {
        match child.try_wait().map_err(|e| Error::io(program, e))? {
            Some(status) => break status,
            None if stop.load(Ordering::Relaxed) && !asked => {
                ask_to_stop(&child);
                asked = true;
            }
            None => std::thread::sleep(POLL),
        }
    };
    Ok(match status.code() {
        Some(0) => Ended::Finished,
        Some(STOPPED) => Ended::Stopped,
        _ if asked => Ended::Stopped,
        _ => {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let last = said.lines().rev().find(|line| !line.trim().is_empty());
            Ended::Failed(last.map_or_else(|| status.to_string(), |line| line.trim().to_string()))
        }
    })
}

/// The run, which no signal of the terminal reaches, writes a checkpoint and ends.
fn ask_to_stop(child: &Child) {
    if cfg!(unix) {
        let sent =
            Command::new("kill").arg("-TERM").arg(child.id().to_string()).stderr(Stdio::null()).status();
        if sent.is_err() {
            tracing::warn!("a running cell could not be asked to stop; it is waited for");
        }
    }
}
