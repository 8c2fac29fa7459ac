//! The workspace's own commands: `cargo xtask --help`.

mod bench;
mod check;
mod doctor;
mod download;
mod install;
mod setup;
mod shell;
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
    Train(Forwarded),
    /// Fetch a data set of `datasets/` with checksums, and go on where a download was cut.
    Download(Download),
    /// Set up and run all tests of the workspace.
    Test(Forwarded),
    /// Set up and check format, tidiness, lints and documentation, cheapest first.
    Check,
    /// Set up and run the micro-benchmarks; a word chooses those whose names contain it.
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

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::run(args.cuda).map(|_| ()),
        Command::Train(args) => train::run(args.rest),
        Command::Download(args) => download::run(args.name.as_deref(), &args.to),
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
