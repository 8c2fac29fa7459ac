//! The commands, one module each.

mod bench;
mod classify;
mod convert;
mod doctor;
pub(crate) mod download;
mod embed;
mod evaluate;
mod inspect;
mod methods;
mod reinforce;
mod self_check;
mod settings;
mod sweep;
mod tokenize;
mod train;

use crate::args::Command;
use crate::exit::Code;

/// Runs a command and returns its exit code.
pub(crate) fn run(command: Command) -> anyhow::Result<Code> {
    match command {
        Command::Train(args) => train::run(args),
        Command::Sweep(args) => sweep::run(args),
        Command::Reinforce(args) => reinforce::run(args),
        Command::Settings(args) => settings::run(args),
        Command::Methods(args) => methods::run(args),
        Command::Evaluate(args) => evaluate::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Embed(args) => embed::run(args),
        Command::Classify(args) => classify::run(args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Download(args) => download::run(args),
        Command::Doctor => doctor::run(),
        Command::SelfCheck(args) => self_check::run(args),
        Command::Bench(args) => bench::run(args),
    }
}
