//! Runs the cells of a sweep, each in a process of this program.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use experiments::{Cell, Ended, Error, Result, Runner};
use file_ext::write_atomic;
use trainer::recipe::DeviceSetting;

/// How often a process is polled.
const POLL: Duration = Duration::from_millis(200);
/// Exit code of a run that stopped with a checkpoint.
const STOPPED: i32 = 130;

/// Starts `program train` for each cell.
pub(crate) struct Processes {
    /// This program.
    pub program: PathBuf,
}

impl Runner for Processes {
    fn run(&self, cell: &Cell, device: Option<DeviceSetting>, stop: &AtomicBool) -> Result<Ended> {
        let mut recipe = cell.recipe.clone();
        if let Some(device) = device {
            recipe.train.device = device;
        }
        let parent = cell.folder.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        let (file, log) = (beside(&cell.folder, "toml"), beside(&cell.folder, "log"));
        write_atomic(&file, recipe.to_toml()?.as_bytes())?;
        let output = File::create(&log).map_err(|e| Error::io(&log, e))?;
        let copy = output.try_clone().map_err(|e| Error::io(&log, e))?;
        let mut command = Command::new(&self.program);
        // Ctrl-C would reach both this process and the run. The stop signal from this process would then be the run's
        // second one, which ends it at once.
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
            .map_err(|e| Error::io(&self.program, e))?;
        let mut stop_sent = false;
        let status = loop {
            match child.try_wait().map_err(|e| Error::io(&self.program, e))? {
                Some(status) => break status,
                None if stop.load(Ordering::Relaxed) && !stop_sent => {
                    ask_to_stop(&child);
                    stop_sent = true;
                }
                None => std::thread::sleep(POLL),
            }
        };
        Ok(match status.code() {
            Some(0) => Ended::Finished,
            Some(STOPPED) => Ended::Stopped,
            _ if stop_sent => Ended::Stopped,
            _ => {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                let last = text.lines().rev().find(|line| !line.trim().is_empty());
                Ended::Failed(last.map_or_else(|| status.to_string(), |line| line.trim().to_string()))
            }
        })
    }
}

/// Returns the path of a file beside a cell's folder: its recipe or the log of its process.
fn beside(folder: &Path, extension: &str) -> PathBuf {
    folder.with_extension(extension)
}

/// Signals a run to write a checkpoint and exit. The terminal's signals do not reach it.
fn ask_to_stop(child: &Child) {
    if cfg!(unix) {
        let sent =
            Command::new("kill").arg("-TERM").arg(child.id().to_string()).stderr(Stdio::null()).status();
        if sent.is_err() {
            tracing::warn!("cannot run `kill` to stop a running cell; waiting for the cell to finish");
        }
    }
}
