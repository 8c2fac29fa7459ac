//! `cargo xtask bench`: sweeps that compare methods, micro-benchmarks of the hot paths, and the comparison with Python.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::program::{self, with_libtorch};
use crate::shell::{cargo, root, run as run_program, say};
use crate::{peers, setup, train};

/// Folder of the sweep files.
const SWEEPS: &str = "configs/sweeps";
/// The default sweep: on the embedded emoji, within 20 minutes.
const DEFAULT_SWEEP: &str = "configs/sweeps/clip-rd.toml";
/// Options of `clip-distill sweep` that take a value.
const VALUED: [&str; 5] = ["--set", "--out", "--jobs", "--devices", "--limit"];

pub(crate) fn run(rest: &[String]) -> Result<()> {
    match rest.split_first() {
        None => {
            list()?;
            sweep(vec![root().join(DEFAULT_SWEEP).display().to_string()])
        }
        Some((kind, rest)) if kind == "sweep" => sweep(rest.to_vec()),
        Some((kind, rest)) if kind == "micro" => micro(rest),
        Some((kind, rest)) if kind == "peers" => peers::run(rest),
        Some((other, _)) => {
            bail!(
                "unknown benchmark `{other}`: use `sweep FILE`, `micro [FILTER]`, `peers`, or no argument to list the sweeps and run a small one"
            )
        }
    }
}

/// Lists the sweep files, each with the first line of its comment.
fn list() -> Result<()> {
    let folder = root().join(SWEEPS);
    let entries =
        std::fs::read_dir(&folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    let mut files = entries.filter_map(|entry| Some(entry.ok()?.path())).collect::<Vec<_>>();
    files.sort();
    say("sweeps (cargo xtask bench sweep FILE):");
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "toml")) {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let name = Path::new(SWEEPS).join(file.file_name().unwrap_or_default());
        say(&format!(
            "  {}: {}",
            name.display(),
            text.lines().next().unwrap_or_default().trim_start_matches("# ")
        ));
    }
    say("micro-benchmarks: cargo xtask bench micro [FILTER]");
    say("comparison with Python's open_clip: cargo xtask bench peers");
    Ok(())
}

fn sweep(args: Vec<String>) -> Result<()> {
    let caller = train::caller()?;
    let args = train::from_root(args, &caller, &VALUED, DEFAULT_SWEEP);
    train::say_where(&caller);
    program::become_program("sweep", &args, &root())
}

fn micro(filters: &[String]) -> Result<()> {
    let libtorch = setup::run(false)?;
    let mut bench = cargo(&["bench", "--package", "clip-distill-benches", "--"]);
    run_program(with_libtorch(bench.args(filters), &libtorch)?)
}
