//! The command line: parse, run, print an error once, exit with a documented code.

mod args;
mod commands;
mod data;
mod destination;
mod embeddings;
mod exit;
mod output;
mod signals;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    output::one_line_panics();
    let args = args::Args::parse();
    output::set_up(args.verbose);
    match commands::run(args.command) {
        Ok(code) => code.into(),
        Err(error) => {
            output::error(&error);
            exit::Code::Failed.into()
        }
    }
}
