//! The Python environment with open_clip and transformers, and `cargo xtask test --python`, the tests against them.
//!
//! These tests are separate from the others, because their downloads are far larger.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::disk::{CPU, CUDA, FreeKib, Size, check_room, free_kib};
use crate::shell::{root, run as run_program, say};
use crate::{program, setup};

/// Packages that the scripts may import, besides their dependencies.
pub(crate) const PACKAGES: [&str; 5] =
    ["open_clip_torch==3.3.0", "transformers", "torch==2.11.0", "torchvision==0.26.0", "pillow"];
/// File inside the environment that lists the packages of a complete installation.
const STAMP: &str = "clip-distill-packages";
/// Environment variable with the path of `clip-distill`, for the scripts.
const PROGRAM: &str = "CLIP_DISTILL_BIN";

/// Runs the scripts whose names contain one of `words`, or all of them.
pub(crate) fn run(words: &[String]) -> Result<()> {
    // First, because without scripts nothing needs to be installed or built.
    let scripts = scripts(&root().join("tests/python"), words)?;
    let python = environment()?;
    let libtorch = setup::run(false)?;
    say("building clip-distill");
    // The scripts must not inherit the library path: Python's torch would load this libtorch.
    let built = program::build_for_anywhere(&libtorch, false)?;
    run_all(&python, &scripts, &built)
}

fn scripts(folder: &Path, words: &[String]) -> Result<Vec<PathBuf>> {
    let none = || format!("no scripts found in `{}` for --python", folder.display());
    let entries = fs::read_dir(folder).with_context(none)?;
    let mut scripts = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    scripts.retain(|path| path.extension().is_some_and(|ending| ending == "py"));
    scripts.sort();
    if scripts.is_empty() {
        bail!(none());
    }
    let name = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let known = scripts.iter().map(|path| name(path)).collect::<Vec<_>>().join(", ");
    scripts.retain(|path| words.is_empty() || words.iter().any(|word| name(path).contains(word)));
    if scripts.is_empty() {
        bail!("no script name contains `{}`; available: {known}", words.join("` or `"));
    }
    Ok(scripts)
}

/// Creates the workspace's virtual environment with the packages unless it is complete; returns its Python.
pub(crate) fn environment() -> Result<PathBuf> {
    create(&["python3".into(), "python".into()], &root().join(".venv"), free_kib)
}

fn create(pythons: &[PathBuf], folder: &Path, free: FreeKib) -> Result<PathBuf> {
    let own = folder.join("bin/python");
    let (stamp, packages) = (folder.join(STAMP), PACKAGES.join("\n"));
    if own.exists() && fs::read_to_string(&stamp).is_ok_and(|text| text == packages) {
        return Ok(own);
    }
    let size = size();
    check_room("the Python environment", size, folder, free, "free some space on this disk")?;
    say(&format!(
        "installing {} into {}: a download of {}, up to {} MB on disk; once per workspace",
        PACKAGES.join(", "),
        folder.display(),
        size.download,
        size.disk_kib >> 10
    ));
    let has_venv =
        |python: &&PathBuf| crate::shell::output(python, &["-c", "import ensurepip, venv"]).is_some();
    let python = pythons
        .iter()
        .find(has_venv)
        .context("python3 with venv is needed: install it (such as the packages python3 and python3-venv)")?;
    // An interrupted installation is completed; packages that are already installed are kept.
    run_program(Command::new(python).args(["-m", "venv"]).arg(folder))?;
    // On the disk whose free space was checked, as in `setup`.
    let temporary = folder.join("tmp");
    fs::create_dir_all(&temporary).with_context(|| format!("cannot create `{}`", temporary.display()))?;
    let mut pip = Command::new(&own);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "10"]);
    let result = run_program(pip.args(PACKAGES).env("TMPDIR", &temporary));
    // A killed pip also leaves files behind.
    let _ = fs::remove_dir_all(&temporary);
    result.context(
        "the packages could not be installed: check the connection and the disk, then run the command again",
    )?;
    fs::write(&stamp, packages).with_context(|| format!("cannot write `{}`", stamp.display()))?;
    Ok(own)
}

/// Size of the registry's torch: with CUDA on Linux, CPU only elsewhere.
fn size() -> Size {
    if cfg!(target_os = "linux") { CUDA } else { CPU }
}

fn run_all(python: &Path, scripts: &[PathBuf], built: &Path) -> Result<()> {
    for script in scripts {
        say(&format!("== {}", script.file_name().unwrap_or_default().to_string_lossy()));
        let mut command = Command::new(python);
        // Keeps Python from writing bytecode beside the scripts.
        command.arg(script).current_dir(root()).env("PYTHONDONTWRITEBYTECODE", "1").env(PROGRAM, built);
        run_program(&mut command)?;
    }
    say(&format!("{} scripts passed", scripts.len()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakePython, write};

    /// Creates environments that hold a link to itself; fails at `pip` in the mode `cut`, and at scripts named `bad.py`.
    const PYTHON: &str = r#"
case "$*" in
"-c import"*) ;;
"-m venv "*) echo venv >> "$here/log"; mkdir -p "$3/bin"; ln -sf "$here/python3" "$3/bin/python" ;;
"-m pip install "*) echo "pip $*" >> "$here/log"; [ "$(cat "$here/mode")" = cut ] && exit 1; exit 0 ;;
*) echo "${1##*/} $CLIP_DISTILL_BIN" >> "$here/log"; [ "${1##*/}" = bad.py ] && exit 3; exit 0 ;;
esac
"#;

    #[test]
    fn an_environment_is_created_once_and_completed_after_an_interruption() {
        let python = FakePython::new(PYTHON);
        let folder = tempfile::tempdir().unwrap();
        let venv = folder.path().join(".venv");
        let make = || create(&["no-such-python".into(), python.program.clone()], &venv, |_| None);
        python.set_mode("cut");
        assert!(format!("{:#}", make().unwrap_err()).contains("could not be installed"));
        python.set_mode("whole");
        for _ in 0..2 {
            assert_eq!(make().unwrap(), venv.join("bin/python"));
        }
        let log = python.log();
        assert_eq!(log.len(), 4, "{log:?}");
        assert!(PACKAGES.iter().all(|package| log[3].contains(package)), "{log:?}");
        assert!(!venv.join("tmp").exists());
        // The installed packages are not the wanted ones.
        fs::write(venv.join(STAMP), "torch==1.0.0").unwrap();
        make().unwrap();
        assert_eq!(python.log().len(), 6);
    }

    #[test]
    fn too_little_disk_space_fails_before_anything_is_written() {
        let python = FakePython::new(PYTHON);
        let venv = python.folder.path().join(".venv");
        let error = create(std::slice::from_ref(&python.program), &venv, |_| Some(7 << 10)).unwrap_err();
        assert!(error.to_string().contains("7 MB free"), "{error}");
        assert!(python.log().is_empty() && !venv.exists());
    }

    #[test]
    fn scripts_run_in_order_with_the_program_until_one_fails() {
        let python = FakePython::new(PYTHON);
        let folder = tempfile::tempdir().unwrap();
        for name in ["c.py", "a.py", "notes.txt"] {
            write(&folder.path().join(name), "");
        }
        let built = Path::new("/built/clip-distill");
        run_all(&python.program, &scripts(folder.path(), &[]).unwrap(), built).unwrap();
        assert_eq!(python.log(), ["a.py /built/clip-distill", "c.py /built/clip-distill"]);
        write(&folder.path().join("bad.py"), "");
        let error = run_all(&python.program, &scripts(folder.path(), &[]).unwrap(), built).unwrap_err();
        assert!(error.to_string().contains("bad.py"), "{error}");
        assert_eq!(python.log().len(), 4);
        assert_eq!(scripts(folder.path(), &["c".into()]).unwrap(), [folder.path().join("c.py")]);
        assert!(scripts(folder.path(), &["x".into()]).unwrap_err().to_string().contains("a, bad, c"));
    }

    #[test]
    fn an_absent_or_empty_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        for folder in [folder.path(), &folder.path().join("absent")] {
            let error = format!("{:#}", scripts(folder, &[]).unwrap_err());
            assert!(error.contains("no scripts found") && error.contains("--python"), "{error}");
        }
    }
}
