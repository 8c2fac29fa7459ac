//! `cargo xtask bench peers`: compares the program with Python's open_clip on the same inputs, threads and precision.
//!
//! The Python side is in `benches/peers`; the program's side is `clip-distill bench --rounds`.

mod results;
mod rows;
mod sides;
mod table;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::shell::{root, run as run_program, say};
use crate::{program, python, setup};
use results::Outcome;
use rows::{Row, Work};
use sides::{Side, alternating};

/// Compare the program with Python's open_clip: same inputs, threads and precision, results checked first.
///
/// Installs open_clip into `.venv`, like `cargo xtask test --python`, and builds the program in release mode. The
/// rounds of both sides alternate. Prints a table in Markdown with the median and the range of the ratios.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench peers", no_binary_name = true)]
struct Peers {
    /// Rows to measure [default: all; bf16 rows only on processors with bf16 instructions].
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    only: Vec<String>,
    /// Number of rounds per side.
    #[arg(long, value_name = "N", default_value = "5")]
    rounds: NonZeroUsize,
    /// Threads per side, except in single-core rows [default: number of cores].
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Programs and folders of a comparison.
struct Places {
    python: PathBuf,
    program: PathBuf,
    /// Inputs of both sides.
    inputs: PathBuf,
    /// Cases and results of both sides.
    scratch: PathBuf,
}

impl Places {
    /// Installs and builds both sides.
    fn prepare() -> Result<Self> {
        let python = python::environment()?;
        let libtorch = setup::run(false)?;
        say("building clip-distill in release mode");
        let folder = program::target_folder()?.join("peers");
        Ok(Places {
            python,
            program: program::build_for_anywhere(&libtorch, true)?,
            inputs: folder.join("inputs"),
            scratch: folder.join("scratch"),
        })
    }

    /// Returns a command for a script of `benches/peers`.
    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(root().join("benches/peers").join(name));
        // Python's torch must not load the program's libtorch.
        command.env_remove(program::SEARCH_PATH).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    fn make_inputs(&self, rows: &[Row]) -> Result<()> {
        let mut names = rows.iter().flat_map(Row::inputs).collect::<Vec<_>>();
        names.sort();
        names.dedup();
        run_program(self.script("inputs.py").arg(&self.inputs).args(names))
    }
}

pub(crate) fn run(args: &[String]) -> Result<()> {
    let options = Peers::parse_from(args);
    let machine = table::Machine::of_this();
    let rows = selected(rows::all(), &options.only, machine.has_bf16)?;
    let places = Places::prepare()?;
    std::fs::create_dir_all(&places.scratch)
        .with_context(|| format!("cannot create `{}`", places.scratch.display()))?;
    places.make_inputs(&rows)?;
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = options.threads.map_or(cores, NonZeroUsize::get);
    let rounds = options.rounds.get();
    let mut outcomes = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        say(&format!("{} of {}: {}", index + 1, rows.len(), row.name));
        let outcome = measure(row, &places, threads, rounds);
        say(&match &outcome {
            Ok(found) => table::line(found),
            Err(error) => format!("error: {}: {error:#}", row.name),
        });
        outcomes.push(outcome);
    }
    let report = table::Report { args, machine, threads, rows: &rows, outcomes: &outcomes };
    let markdown = report.markdown();
    let file = places.scratch.with_file_name("table.md");
    std::fs::write(&file, &markdown).with_context(|| format!("cannot write `{}`", file.display()))?;
    table::print(&if options.json { report.json().to_string() } else { markdown })?;
    say(&format!("the table is in {}", file.display()));
    match outcomes.iter().filter(|outcome| outcome.is_err()).count() {
        0 => Ok(()),
        failed => bail!("{failed} of {} rows could not be compared", rows.len()),
    }
}

/// Returns the rows that `only` names, or all. Without bf16 instructions, bf16 rows are left out unless named.
fn selected(rows: Vec<Row>, only: &[String], has_bf16: bool) -> Result<Vec<Row>> {
    if let Some(unknown) = only.iter().find(|name| !rows.iter().any(|row| row.name == **name)) {
        let known = rows.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
        bail!("no row is named `{unknown}`; available: {known}");
    }
    if only.is_empty() {
        return Ok(rows.into_iter().filter(|row| has_bf16 || !row.is_bf16()).collect());
    }
    Ok(rows.into_iter().filter(|row| only.iter().any(|name| row.name == name)).collect())
}

/// Compares the results of both sides of a row, then measures the rounds.
fn measure(row: &Row, places: &Places, threads: usize, rounds: usize) -> Result<Outcome> {
    let case = row.case(&places.inputs, threads).map(|case| case_file(places, row, &case)).transpose()?;
    match (&row.work, case) {
        (Work::ZeroShot, _) | (_, None) => sides::commands(row, places, threads, rounds),
        (Work::Memory(_), Some(case)) => {
            // Peak memory is a property of a process, so each round starts new processes.
            let mut outcome = Outcome::new(row);
            for round in 0..rounds {
                let mut pair = sides::start(places, row, &case, threads)?;
                outcome.check(&pair)?;
                for side in alternating(round) {
                    outcome.add(side, &pair[side as usize].round()?);
                }
            }
            Ok(outcome)
        }
        (_, Some(case)) => {
            let mut pair = sides::start(places, row, &case, threads)?;
            let mut outcome = Outcome::new(row);
            outcome.check(&pair)?;
            for round in 0..rounds {
                for side in alternating(round) {
                    outcome.add(side, &pair[side as usize].round()?);
                }
            }
            Ok(outcome)
        }
    }
}

fn case_file(places: &Places, row: &Row, case: &serde_json::Value) -> Result<PathBuf> {
    let file = places.scratch.join(format!("{}.json", row.name));
    std::fs::write(&file, case.to_string()).with_context(|| format!("cannot write `{}`", file.display()))?;
    Ok(file)
}

/// Returns the file with the results of a side.
fn results_file(places: &Places, row: &Row, side: Side) -> PathBuf {
    Path::new(&places.scratch).join(format!("{}.{}.f32", row.name, side.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(only: &[&str], has_bf16: bool) -> Vec<&'static str> {
        let only = only.iter().map(ToString::to_string).collect::<Vec<_>>();
        selected(rows::all(), &only, has_bf16).unwrap().iter().map(|row| row.name).collect()
    }

    #[test]
    fn rows_are_selected_by_name_and_bf16_needs_instructions() {
        assert_eq!(names(&["train", "captions"], false), ["captions", "train"]);
        assert_eq!(names(&["train-bf16"], false), ["train-bf16"]);
        assert_eq!(names(&[], true).len(), rows::all().len());
        let fast = names(&[], false);
        assert!(fast.contains(&"train") && !fast.iter().any(|name| name.contains("bf16")), "{fast:?}");
        let error = selected(rows::all(), &["nothing".into()], true).err().unwrap().to_string();
        assert!(error.contains("nothing") && error.contains("zero-shot"), "{error}");
    }

    #[test]
    fn options_are_parsed() {
        let options = Peers::try_parse_from(["--only", "train,captions", "--rounds", "3", "--json"]).unwrap();
        assert_eq!((options.only.len(), options.rounds.get(), options.json), (2, 3, true));
        assert!(Peers::try_parse_from(["--rounds", "0"]).is_err());
    }
}
