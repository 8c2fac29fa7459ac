//! Exit codes, as the help page documents them. Wrong arguments give 2, from the argument parser.

use std::process::ExitCode;

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// Done.
    Done = 0,
    /// An error; the message says what to do next.
    Failed = 1,
    /// Stopped by a signal or `--stop-after` after writing a checkpoint. The same command resumes the run.
    Stopped = 130,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        ExitCode::from(code as u8)
    }
}
