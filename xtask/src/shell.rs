//! Programs that xtask starts, and messages to the user.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Returns the root of the workspace.
pub(crate) fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

/// Prints a message to standard error; standard output is for results.
pub(crate) fn say(text: &str) {
    // A closed standard error must not stop the command.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Returns a command for the cargo that runs xtask, in the root of the workspace.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    if let Ok(caller) = env::current_dir() {
        command.envs(target_folders(&caller, |name| env::var_os(name)));
    }
    command
}

/// Returns the environment variables of the target folder as absolute paths.
///
/// Cargo resolves them in its working directory, which differs from the user's.
fn target_folders(caller: &Path, var: impl Fn(&str) -> Option<OsString>) -> Vec<(&'static str, PathBuf)> {
    let set = |name| var(name).filter(|folder| !folder.is_empty()).map(|folder| (name, caller.join(folder)));
    ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"].into_iter().filter_map(set).collect()
}

/// Runs a program and waits for it; an exit status other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = describe(command);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// Returns the standard output of a program, or `None` if it cannot be started or fails.
pub(crate) fn output(program: impl AsRef<OsStr>, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
}

/// Returns a command line as text, for messages.
pub(crate) fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_folder_is_relative_to_the_caller() {
        let folders = |folder: &str| {
            let folder = OsString::from(folder);
            target_folders(Path::new("/here"), |name| (name == "CARGO_TARGET_DIR").then(|| folder.clone()))
        };
        assert_eq!(folders("out"), [("CARGO_TARGET_DIR", "/here/out".into())]);
        assert_eq!(folders("/out"), [("CARGO_TARGET_DIR", "/out".into())]);
        assert!(folders("").is_empty());
    }
}
