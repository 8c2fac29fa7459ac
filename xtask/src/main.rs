//! The workspace's own commands: `cargo xtask --help`.

mod bench;
mod check;
mod disk;
mod doctor;
mod download;
mod install;
mod program;
mod python;
mod setup;
mod shell;
#[cfg(test)]
mod testing;
mod tidy;
mod train;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Set up, train, test and measure; run as `cargo xtask COMMAND`.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find libtorch or install it into the per-user cache, once per machine, and link it as `.libtorch`.
    Setup(Setup),
    /// Set up, build, and make all runs of a recipe; without one, the quickstart on the embedded emoji.
    ///
    /// The recipe and --out are relative to the current folder; paths inside the recipe and of --set,
    /// and the default folder of the runs, are relative to the workspace.
    Train(Forwarded),
    /// Fetch a data set of `datasets/` with checksums, and go on where a download was cut.
    Download(Download),
    /// Set up and run all tests of the workspace, or those against Python's packages.
    Test(Test),
    /// Set up and check format, tidiness, lints and documentation, cheapest first.
    Check,
    /// `sweep FILE`: set up, build, and compare the cells of a sweep over seeds; `micro [WORD]`: the micro-benchmarks.
    ///
    /// Without a word, lists the sweeps and runs a small one on the embedded emoji.
    Bench(Forwarded),
    /// Say what this machine has and what is missing.
    Doctor,
    /// Build `clip-distill` for use outside the workspace and put it into cargo's folder of programs.
    Install,
}

#[derive(Debug, Args)]
struct Setup {
    /// Install libtorch with CUDA (several GB more).
    #[arg(long)]
    cuda: bool,
}

#[derive(Debug, Args)]
struct Download {
    /// Name of a manifest; all names if left out.
    name: Option<String>,
    /// Folder of all data.
    #[arg(long, default_value = "data")]
    to: std::path::PathBuf,
}

#[derive(Debug, Args)]
struct Forwarded {
    /// Handed on as they are.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

#[derive(Debug, Args)]
struct Test {
    /// Run only the scripts of `tests/python`, with their packages in `.venv` (several GB on Linux).
    #[arg(long)]
    python: bool,
    /// Handed on to `cargo test`; with --python, words that the names of scripts contain.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::run(args.cuda).map(|_| ()),
        Command::Train(args) => train::run(args.rest),
        Command::Download(args) => download::run(args.name.as_deref(), &args.to),
        Command::Test(args) if args.python => python::run(&args.rest),
        Command::Test(args) => check::test(&args.rest),
        Command::Check => check::run(),
        Command::Bench(args) => bench::run(&args.rest),
        Command::Doctor => doctor::run(),
        Command::Install => install::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_test(words: &str, python: bool, rest: &[&str]) {
        let words = ["xtask", "test"].into_iter().chain(words.split_whitespace());
        let Command::Test(test) = Cli::try_parse_from(words).unwrap().command else { panic!("not `test`") };
        assert_eq!((test.python, test.rest), (python, rest.iter().map(ToString::to_string).collect()));
    }

    #[test]
    fn words_of_test_are_handed_on() {
        check_test("", false, &[]);
        check_test("-p kd-losses -- --nocapture", false, &["-p", "kd-losses", "--", "--nocapture"]);
        check_test("--python", true, &[]);
        check_test("--python open_clip", true, &["open_clip"]);
    }
}
