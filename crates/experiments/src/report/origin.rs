//! The origin of a report: the file that was run, its losses and seeds, and the programs and machines.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use trainer::Job;
use trainer::run::job::folder;
use trainer::run::status::RUN_FILE;

/// Where a report comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The recipe or sweep file, as the user named it.
    pub file: String,
    /// Program with its commit, machine and date of the report.
    pub made: String,
}

impl Origin {
    /// Creates the origin of a report.
    pub fn new(file: impl AsRef<Path>, made: impl Into<String>) -> Self {
        Origin { file: file.as_ref().display().to_string(), made: made.into() }
    }
}

/// Returns the lines at the head of a job's report: label and text.
pub(super) fn of_job(job: &Job, out: &Path, origin: &Origin) -> Vec<(String, String)> {
    let mut lines = vec![("Recipe".to_string(), origin.file.clone())];
    for recipe in &job.runs {
        let label = if job.is_single() { "Losses".into() } else { format!("Run {}", recipe.name) };
        lines.push((label, format!("{}; seed {}", recipe.losses_text(), recipe.seed)));
    }
    let folders = job.runs.iter().map(|recipe| folder(job, out, &recipe.name)).collect::<Vec<_>>();
    let trained = trained_by(folders.iter().map(std::path::PathBuf::as_path));
    lines.extend(trained.into_iter().map(|line| ("Trained".into(), line)));
    lines.push(("Report".into(), origin.made.clone()));
    lines.retain(|(_, text)| !text.is_empty());
    lines
}

/// Returns program, machine, device and precision of finished runs, with the number of runs for each combination.
pub(super) fn trained_by<'a>(folders: impl IntoIterator<Item = &'a Path>) -> Vec<String> {
    let mut counts = BTreeMap::<String, u64>::new();
    for folder in folders {
        let text = std::fs::read_to_string(folder.join(RUN_FILE)).unwrap_or_default();
        let Ok(run) = serde_json::from_str::<serde_json::Value>(&text) else { continue };
        let machine = &run["machine"];
        let text = |value: &serde_json::Value| value.as_str().unwrap_or("unknown").to_string();
        let line = format!(
            "{}; {}, {} cores; {}, {}",
            text(&run["program"]),
            text(&machine["cpu"]),
            machine["cores"],
            text(&machine["device"]),
            text(&machine["precision"]).to_lowercase()
        );
        *counts.entry(line).or_default() += 1;
    }
    counts.into_iter().map(|(line, runs)| format!("{line}; runs: {runs}")).collect()
}
