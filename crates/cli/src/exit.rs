//! Exit codes, as `clip-distill --help` documents them. The argument parser exits with 2 for invalid arguments.

use std::process::ExitCode;

/// Exit code of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// Success.
    Done = 0,
    /// An error, whose message names the remedy.
    Failed = 1,
    /// Stopped by a signal, `--stop-after` or `--limit`. The same command resumes.
    Stopped = 130,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        ExitCode::from(code as u8)
    }
}
