//! The program `clip-distill`: parses arguments, runs the command, and prints its error once.

mod args;
mod bench;
mod busy;
mod commands;
mod data;
mod destination;
mod embeddings;
mod environment;
mod exit;
mod images;
mod output;
mod processes;
mod provenance;
mod signals;
mod staged;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    output::one_line_panics();
    let args = args::Args::parse();
    output::set_up(args.verbose);
    if args.command.runs_long() {
        // This loads libtorch a second time, which takes some tenths of a second.
        environment::set_up();
    }
    if args.command.uses_gpu() {
        // This must precede the first use of libtorch. Loading CUDA's libraries takes about a second, so no other
        // command does it.
        torch_ext::cuda::load();
    }
    if let Err(reason) = torch_ext::products::choose_from_environment() {
        output::error(&anyhow::anyhow!(reason));
        return exit::Code::Failed.into();
    }
    match commands::run(args.command) {
        Ok(code) => code.into(),
        Err(error) => {
            output::error(&error);
            exit::Code::Failed.into()
        }
    }
}
