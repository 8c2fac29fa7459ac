//! Sets how long OpenMP's threads spin while they wait for work.
//!
//! By default, GNU OpenMP's threads spin for 300,000 iterations before they sleep. This takes the cores from other
//! programs and, on a busy machine, from the training itself. On an idle machine, a shorter spin has no measurable cost
//! (docs/performance.md).

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Environment variable for the number of iterations that a waiting thread of GNU OpenMP spins before it sleeps.
pub(crate) const VARIABLE: &str = "GOMP_SPINCOUNT";
/// Value of [`VARIABLE`].
const ITERATIONS: &str = "20000";
/// Environment variables with which users choose the waiting mode.
const USER_CHOICES: [&str; 3] = [VARIABLE, "OMP_WAIT_POLICY", "KMP_BLOCKTIME"];

/// Restarts the program with a short spin, unless the user has set the waiting mode.
///
/// OpenMP is loaded before `main` and reads its settings then, so they must be in the environment when the process
/// starts. The process keeps its id, arguments and open files.
pub(crate) fn shorten() {
    if !cfg!(target_os = "linux") || USER_CHOICES.iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    if is_loader(&program) {
        return;
    }
    let mut arguments = std::env::args_os();
    let mut command = Command::new(&program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let error = command.args(arguments).env(VARIABLE, ITERATIONS).exec();
    // Without the restart, the program is only slower on a busy machine.
    tracing::debug!("cannot restart `{}` with {VARIABLE}={ITERATIONS}: {error}", program.display());
}

/// Whether the program was started through the system's loader (`ld-linux-x86-64.so.2 clip-distill …`). On a restart,
/// the loader would take the arguments as its own.
fn is_loader(program: &Path) -> bool {
    program.file_name().map(OsStr::as_encoded_bytes).is_some_and(|name| name.starts_with(b"ld-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_is_not_restarted() {
        assert!(is_loader(Path::new("/lib64/ld-linux-x86-64.so.2")));
        assert!(!is_loader(Path::new("/usr/bin/clip-distill")));
    }
}
