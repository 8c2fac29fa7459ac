//! Programs that link libtorch: how xtask builds them and how they find the library.
//!
//! `.cargo/config.toml` gives programs run paths from a target folder in the workspace to `.libtorch`.
//! Programs that xtask starts also get the library folder in their search path, so they run from any
//! target folder and with any RUSTFLAGS of the user.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::setup;
use crate::shell::{cargo, describe, root, say};

/// Environment variable of the dynamic loader's search path.
pub(crate) const SEARCH_PATH: &str =
    if cfg!(target_os = "macos") { "DYLD_FALLBACK_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };

/// Adds libtorch to the library path of a command.
pub(crate) fn with_libtorch<'a>(command: &'a mut Command, libtorch: &Path) -> Result<&'a mut Command> {
    let libraries = libtorch.canonicalize().context("libtorch was moved or removed")?.join("lib");
    let path = search_path(&libraries, env::var_os(SEARCH_PATH).as_deref())?;
    Ok(command.env(SEARCH_PATH, path))
}

/// Returns the search path that starts with `libraries` and continues with the folders of `current`.
fn search_path(libraries: &Path, current: Option<&OsStr>) -> Result<OsString> {
    let current = match current {
        Some(current) if !current.is_empty() => current.to_os_string(),
        // The folders that macOS searches only if the variable is not set.
        _ if cfg!(target_os = "macos") => "/usr/local/lib:/usr/lib".into(),
        _ => return Ok(libraries.into()),
    };
    env::join_paths([libraries.to_path_buf()].into_iter().chain(env::split_paths(&current))).with_context(
        || {
            format!(
                "`{}` contains a path separator, which {SEARCH_PATH} does not allow: move the folder",
                libraries.display()
            )
        },
    )
}

/// Builds `clip-distill`; the program has to be started through [`with_libtorch`].
fn build() -> Result<PathBuf> {
    build_with(&mut cargo(&["build", "--package", "clip-distill", "--bin", "clip-distill", MESSAGES]))
}

/// Sets up libtorch, builds `clip-distill` and replaces this process with it, so that it receives signals directly. The
/// program runs in `folder`. Returns only on an error.
pub(crate) fn become_program(command: &str, args: &[String], folder: &Path) -> Result<()> {
    let libtorch = setup::run(false)?;
    say("building clip-distill");
    let mut program = Command::new(build()?);
    program.arg(command).args(args).current_dir(folder);
    let error = std::os::unix::process::CommandExt::exec(with_libtorch(&mut program, &libtorch)?);
    Err(error).context("cannot start clip-distill")
}

/// Builds `clip-distill` with the absolute path of libtorch as run path, so that it runs from any folder.
pub(crate) fn build_for_anywhere(libtorch: &Path, release: bool) -> Result<PathBuf> {
    let libraries = libtorch.canonicalize().context("libtorch was moved or removed")?.join("lib");
    let mut rustc = cargo(&["rustc", "--package", "clip-distill", "--bin", "clip-distill", MESSAGES]);
    if release {
        rustc.arg("--release");
    }
    build_with(rustc.args(["--", "-C"]).arg(format!("link-arg=-Wl,-rpath,{}", libraries.display())))
}

/// Makes cargo print its artifacts as JSON; diagnostics stay readable.
const MESSAGES: &str = "--message-format=json-render-diagnostics";

/// Runs a cargo command with [`MESSAGES`] and returns the program that it built.
///
/// The path comes from cargo, because many settings affect the target folder and the target.
fn build_with(command: &mut Command) -> Result<PathBuf> {
    let line = describe(command);
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed ({})", output.status);
    }
    program_in(&String::from_utf8_lossy(&output.stdout)).with_context(|| format!("`{line}` built no program"))
}

/// Returns the last program in cargo's messages, which are one JSON object per line.
fn program_in(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back()
}

/// Returns the target folder of the workspace, from `cargo metadata`.
pub(crate) fn target_folder() -> Result<PathBuf> {
    target_folder_of(&mut cargo(&["metadata", "--no-deps", "--format-version", "1"]))
}

fn target_folder_of(command: &mut Command) -> Result<PathBuf> {
    let line = describe(command);
    let output = command.output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
    let folder = metadata["target_directory"].as_str();
    folder.map(PathBuf::from).with_context(|| format!("`{line}` reports no target folder"))
}

/// Describes the limits of a target folder outside the workspace, for which the run paths do not hold.
pub(crate) fn limit_of(target: &Path) -> Option<String> {
    let real = target.canonicalize().unwrap_or_else(|_| target.to_path_buf());
    if real.parent() == Some(&root().canonicalize().unwrap_or_else(|_| root())) {
        return None;
    }
    let libraries = root().join(".libtorch/lib");
    Some(format!(
        "not directly in the workspace: `cargo xtask` works; plain `cargo run` and `cargo test` need {SEARCH_PATH}={}",
        libraries.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::write;

    #[test]
    fn the_search_path_starts_with_libtorch_and_keeps_the_users_folders() {
        let path = search_path(Path::new("/t/lib"), Some("/a:/b".as_ref())).unwrap();
        assert_eq!(path, "/t/lib:/a:/b");
        for nothing in [None, Some("".as_ref())] {
            let path = search_path(Path::new("/t/lib"), nothing).unwrap().into_string().unwrap();
            // An empty entry stands for the current folder.
            assert!(path.starts_with("/t/lib") && !path.contains("::") && !path.ends_with(':'), "{path}");
        }
        assert!(search_path(Path::new("/a:b"), Some("/c".as_ref())).is_err());
    }

    #[test]
    fn started_programs_find_libtorch() {
        let libtorch = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        // Read from the command, because macOS removes DYLD_ variables from the environment of its programs.
        with_libtorch(command.args(["-c", "true"]), libtorch.path()).unwrap();
        let (_, value) = command.get_envs().find(|(name, _)| *name == SEARCH_PATH).unwrap();
        let first = env::split_paths(value.unwrap()).next().unwrap();
        assert_eq!(first, libtorch.path().canonicalize().unwrap().join("lib"));
        assert!(with_libtorch(&mut command, Path::new("nowhere")).is_err());
    }

    /// Creates a workspace with one program, and a cargo command in it without the target settings of this process.
    fn project(args: &[&str]) -> (tempfile::TempDir, Command) {
        let folder = tempfile::tempdir().unwrap();
        write(
            &folder.path().join("Cargo.toml"),
            "[package]\nname = \"small\"\nedition = \"2024\"\n[workspace]\n",
        );
        write(&folder.path().join("src/main.rs"), "fn main() {}");
        let mut command = cargo(args);
        command.current_dir(folder.path());
        for name in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR", "CARGO_BUILD_TARGET"] {
            command.env_remove(name);
        }
        (folder, command)
    }

    #[test]
    fn a_program_is_found_wherever_the_target_folder_is() {
        let elsewhere = tempfile::tempdir().unwrap();
        let (absolute, relative) = (elsewhere.path().join("absolute"), "../relative");
        for target in [absolute.as_os_str(), relative.as_ref()] {
            let (folder, mut build) = project(&["build", "--quiet", MESSAGES]);
            let (_, mut metadata) = project(&["metadata", "--no-deps", "--format-version", "1"]);
            let place = elsewhere.path().join("place");
            let _ = std::fs::remove_dir_all(&place);
            std::fs::rename(folder.keep(), &place).unwrap();
            for command in [&mut build, &mut metadata] {
                command.current_dir(&place).env("CARGO_TARGET_DIR", target);
            }
            let program = build_with(&mut build).unwrap();
            assert!(program.is_file());
            let found = target_folder_of(&mut metadata).unwrap().canonicalize().unwrap();
            assert!(program.canonicalize().unwrap().starts_with(&found));
            assert_eq!(found.parent(), Some(&*elsewhere.path().canonicalize().unwrap()));
        }
    }

    #[test]
    fn a_target_folder_in_cargos_configuration_is_found() {
        let (folder, mut metadata) = project(&["metadata", "--no-deps", "--format-version", "1"]);
        write(&folder.path().join(".cargo/config.toml"), "[build]\ntarget-dir = \"built\"\n");
        assert_eq!(target_folder_of(&mut metadata).unwrap().file_name(), Some("built".as_ref()));
    }

    #[test]
    fn a_failed_build_is_an_error() {
        let (folder, mut build) = project(&["build", "--quiet", MESSAGES]);
        std::fs::remove_file(folder.path().join("src/main.rs")).unwrap();
        assert!(build_with(&mut build).unwrap_err().to_string().contains("failed"));
    }

    #[test]
    fn only_a_target_folder_outside_the_workspace_has_a_limit() {
        assert_eq!(limit_of(&root().join("target")), None);
        let elsewhere = tempfile::tempdir().unwrap();
        assert!(limit_of(elsewhere.path()).unwrap().contains(SEARCH_PATH));
        // The run paths hold for direct children of the workspace only.
        assert!(limit_of(&root().join("a/b")).is_some());
    }
}
