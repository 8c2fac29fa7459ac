//! Prints results to standard output and everything else to standard error.

use std::io::{self, IsTerminal, Write};

use data_pipeline::notice::printable;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

/// Sends log lines to standard error: warnings, the progress of runs, and notes on skipped data and inferred settings.
/// `--verbose` or `RUST_LOG` adds more.
pub(crate) fn set_up(verbose: bool) {
    let level = if verbose { "info" } else { "warn,trainer=info,data_pipeline=info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    log.without_time().with_ansi(io::stderr().is_terminal()).init();
}

/// Prints a panic on one line, like any error. `RUST_BACKTRACE=full` restores the usual report.
pub(crate) fn one_line_panics() {
    let verbose = std::env::var("RUST_BACKTRACE").is_ok_and(|value| value == "full");
    if !verbose {
        std::panic::set_hook(Box::new(|info| {
            let reason = info.payload_as_str().unwrap_or("unknown reason");
            let location = info.location().map(ToString::to_string).unwrap_or_default();
            note(format!(
                "error: internal error at {location}: {}; please report it with your command and its output with \
                 RUST_BACKTRACE=full",
                reason.replace('\n', " ")
            ));
        }));
    }
}

/// Prints a result as text.
pub(crate) fn text(text: impl AsRef<str>) -> anyhow::Result<()> {
    let text = text.as_ref();
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Prints a result as JSON, on one line.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    text(serde_json::to_string(value)?)
}

/// Prints a note of one or more lines to standard error. It may contain names of files, so control characters are
/// escaped.
pub(crate) fn note(text: impl AsRef<str>) {
    let lines = text.as_ref().split('\n').map(printable).collect::<Vec<_>>();
    // The command continues if standard error is closed.
    let _ = writeln!(io::stderr(), "{}", lines.join("\n"));
}

/// Prints an error and its causes on one line. Omits a cause that the line already contains.
pub(crate) fn error(error: &anyhow::Error) {
    if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
        return;
    }
    let mut line = String::from("error");
    for cause in error.chain() {
        let cause = cause.to_string();
        let cause = cause.trim_end().replace('\n', "; ");
        if !line.contains(&cause) {
            line.push_str(": ");
            line.push_str(&cause);
        }
    }
    note(printable(&line));
}
