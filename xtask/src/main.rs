//! Commands of the workspace: `cargo xtask --help`.

mod bench;
mod check;
mod disk;
mod doctor;
mod install;
mod peers;
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
    /// Install libtorch into the per-user cache, unless `LIBTORCH` names one, and link it as `.libtorch`.
    Setup(Setup),
    /// Set up, build and train all runs of a recipe; without a recipe, the quickstart on the embedded emoji.
    ///
    /// The paths of the recipe and of --out are relative to the current folder. Paths inside the recipe, paths in
    /// --set and the default output folder are relative to the workspace.
    Train(Forwarded),
    /// Set up, build, and download a data set (`download NAME`) or list all data sets.
    Download(Forwarded),
    /// Set up and run all tests of the workspace, or the tests against Python's packages (--python).
    Test(Test),
    /// Set up and check format, repository rules, lints and documentation.
    Check,
    /// Set up, build and run a sweep (`sweep FILE`), the micro-benchmarks (`micro [FILTER]`), or the comparison with
    /// Python's open_clip (`peers`, see `peers --help`).
    ///
    /// Without arguments, lists the sweeps and runs a small one on the embedded emoji.
    Bench(Forwarded),
    /// Report which requirements this machine meets and which are missing.
    Doctor,
    /// Build `clip-distill` in release mode and install it into cargo's `bin` folder.
    Install,
}

#[derive(Debug, Args)]
struct Setup {
    /// Install libtorch with CUDA (a download of about 3 GB, 9 GB on disk).
    #[arg(long)]
    cuda: bool,
}

#[derive(Debug, Args)]
struct Forwarded {
    /// Arguments for the program that the command starts.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

#[derive(Debug, Args)]
struct Test {
    /// Run only the scripts in `tests/python`; installs their packages into `.venv` (9 GB on Linux).
    #[arg(long)]
    python: bool,
    /// Arguments for `cargo test`; with --python, substrings of script names.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::run(args.cuda).map(|_| ()),
        Command::Train(args) => train::run(args.rest),
        Command::Download(args) => {
            train::caller().and_then(|folder| program::become_program("download", &args.rest, &folder))
        }
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
    fn test_arguments_are_passed_through() {
        check_test("", false, &[]);
        check_test("-p kd-losses -- --nocapture", false, &["-p", "kd-losses", "--", "--nocapture"]);
        check_test("--python", true, &[]);
        check_test("--python open_clip", true, &["open_clip"]);
    }
}
