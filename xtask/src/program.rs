//! Programs on libtorch: where cargo puts them, and how they find the library.
//!
//! `.cargo/config.toml` gives programs run paths that lead from a target folder in the workspace to
//! `.libtorch`. What xtask starts gets the folder of libraries besides, so that it runs from any
//! other target folder too, and whatever the user's own RUSTFLAGS are.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::{cargo, describe, root};

/// Where the loader of this system looks for libraries.
pub(crate) const SEARCH_PATH: &str =
    if cfg!(target_os = "macos") { "DYLD_FALLBACK_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };

/// How programs on Linux get memory: each step of a training allocates its activations anew, and by default the C
/// library gives large ones back to the kernel at once, which has to clear them again for the next step. So memory is
/// kept, in huge pages where the kernel gives them on request.
const MEMORY: [(&str, &str); 4] = [
    ("THP_MEM_ALLOC_ENABLE", "1"),
    ("MALLOC_MMAP_MAX_", "0"),
    ("MALLOC_TRIM_THRESHOLD_", "8589934592"),
    ("MALLOC_TOP_PAD_", "268435456"),
];

/// Lets a command and the programs that it starts find libtorch, and sets how they get memory unless the user does.
pub(crate) fn with_libtorch<'a>(command: &'a mut Command, libtorch: &Path) -> Result<&'a mut Command> {
    let libraries = libtorch.canonicalize().context("libtorch has moved")?.join("lib");
    let path = search_path(&libraries, env::var_os(SEARCH_PATH).as_deref())?;
    if cfg!(target_os = "linux") {
        command.envs(MEMORY.into_iter().filter(|(name, _)| env::var_os(name).is_none()));
    }
    Ok(command.env(SEARCH_PATH, path))
}

fn search_path(libraries: &Path, now: Option<&OsStr>) -> Result<OsString> {
    let now = match now {
        Some(now) if !now.is_empty() => now.to_os_string(),
        // What macOS searches if the variable is not set, and else no longer does.
        _ if cfg!(target_os = "macos") => "/usr/local/lib:/usr/lib".into(),
        _ => return Ok(libraries.into()),
    };
    env::join_paths([libraries.to_path_buf()].into_iter().chain(env::split_paths(&now)))
        .with_context(|| format!("`{}` cannot be in {SEARCH_PATH}: move it", libraries.display()))
}

/// Builds `clip-distill` for [`with_libtorch`].
pub(crate) fn build() -> Result<PathBuf> {
    build_with(&mut cargo(&["build", "--package", "clip-distill", "--bin", "clip-distill", MESSAGES]))
}

/// Builds `clip-distill` with the place of libtorch inside, so that it runs from anywhere by itself.
pub(crate) fn build_for_anywhere(libtorch: &Path, release: bool) -> Result<PathBuf> {
    let libraries = libtorch.canonicalize().context("libtorch has moved")?.join("lib");
    let mut rustc = cargo(&["rustc", "--package", "clip-distill", "--bin", "clip-distill", MESSAGES]);
    if release {
        rustc.arg("--release");
    }
    build_with(rustc.args(["--", "-C"]).arg(format!("link-arg=-Wl,-rpath,{}", libraries.display())))
}

/// Has cargo say what it has made; problems are still told as usual.
const MESSAGES: &str = "--message-format=json-render-diagnostics";

/// Runs a cargo command with [`MESSAGES`] and returns the program that it has made.
///
/// Cargo is asked, since target folder and target come from many places.
fn build_with(command: &mut Command) -> Result<PathBuf> {
    let line = describe(command);
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed ({})", output.status);
    }
    program_in(&String::from_utf8_lossy(&output.stdout)).with_context(|| format!("`{line}` made no program"))
}

/// The program among cargo's messages, one JSON object a line.
fn program_in(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back()
}

/// The target folder of the workspace, as cargo sees it.
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
    folder.map(PathBuf::from).with_context(|| format!("`{line}` says no target folder"))
}

/// What does not work with a target folder that run paths do not lead from, if it is one.
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
    fn libtorch_comes_first_and_the_users_own_folders_stay() {
        let path = search_path(Path::new("/t/lib"), Some("/a:/b".as_ref())).unwrap();
        assert_eq!(path, "/t/lib:/a:/b");
        for nothing in [None, Some("".as_ref())] {
            let path = search_path(Path::new("/t/lib"), nothing).unwrap().into_string().unwrap();
            // An empty entry would mean the current folder.
            assert!(path.starts_with("/t/lib") && !path.contains("::") && !path.ends_with(':'), "{path}");
        }
        assert!(search_path(Path::new("/a:b"), Some("/c".as_ref())).is_err());
    }

    #[test]
    fn started_programs_get_the_libraries() {
        let libtorch = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        // Asked of the shell's own environment, since macOS takes DYLD_ variables from its programs.
        with_libtorch(command.args(["-c", "true"]), libtorch.path()).unwrap();
        let (_, value) = command.get_envs().find(|(name, _)| *name == SEARCH_PATH).unwrap();
        let first = env::split_paths(value.unwrap()).next().unwrap();
        assert_eq!(first, libtorch.path().canonicalize().unwrap().join("lib"));
        assert!(with_libtorch(&mut command, Path::new("nowhere")).is_err());
    }

    /// A workspace of one program, and cargo in it, with the settings of this process taken away.
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
    fn a_target_folder_of_cargos_settings_is_found() {
        let (folder, mut metadata) = project(&["metadata", "--no-deps", "--format-version", "1"]);
        write(&folder.path().join(".cargo/config.toml"), "[build]\ntarget-dir = \"built\"\n");
        assert_eq!(target_folder_of(&mut metadata).unwrap().file_name(), Some("built".as_ref()));
    }

    #[test]
    fn a_build_that_fails_is_told() {
        let (folder, mut build) = project(&["build", "--quiet", MESSAGES]);
        std::fs::remove_file(folder.path().join("src/main.rs")).unwrap();
        assert!(build_with(&mut build).unwrap_err().to_string().contains("failed"));
    }

    #[test]
    fn the_limit_is_told_only_outside_the_workspace() {
        assert_eq!(limit_of(&root().join("target")), None);
        let elsewhere = tempfile::tempdir().unwrap();
        assert!(limit_of(elsewhere.path()).unwrap().contains(SEARCH_PATH));
        // Run paths have one depth.
        assert!(limit_of(&root().join("a/b")).is_some());
    }
}
