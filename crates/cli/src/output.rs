//! All that is printed: results on standard output, everything else on standard error.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use tracing_subscriber::EnvFilter;

/// Sends log lines to standard error: warnings and what training decided (layouts, resuming), or more with
/// `--verbose` or `RUST_LOG`.
pub(crate) fn set_up(verbose: bool) {
    let level = if verbose { "info" } else { "warn,trainer=info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    log.without_time().with_ansi(io::stderr().is_terminal()).init();
}

/// A defect of the program is said on one line like any error; `RUST_BACKTRACE=full` shows where it is.
pub(crate) fn one_line_panics() {
    let verbose = std::env::var("RUST_BACKTRACE").is_ok_and(|value| value == "full");
    if !verbose {
        std::panic::set_hook(Box::new(|info| {
            let reason = info.payload_as_str().unwrap_or("no reason given");
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            note(format!(
                "error: a defect of the program at {place}: {}; please report it with the command (RUST_BACKTRACE=full shows more)",
                reason.replace('\n', " ")
            ));
        }));
    }
}

/// Prints a result.
pub(crate) fn text(text: impl AsRef<str>) -> anyhow::Result<()> {
    let text = text.as_ref();
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Prints a result for programs, on one line.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    text(serde_json::to_string(value)?)
}

/// Prints a remark for people.
pub(crate) fn note(text: impl AsRef<str>) {
    // A closed standard error is no reason to stop.
    let _ = writeln!(io::stderr(), "{}", text.as_ref());
}

/// Prints an error with its causes on one line; those that repeat what stands before them are left out.
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
    note(line);
}
