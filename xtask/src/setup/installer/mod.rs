//! Atomic installation of libtorch from its wheels into the cache.
//!
//! Under a lock, the wheels are unpacked into a temporary folder of the cache, which is renamed when it is
//! complete. A lost connection, a full disk, a killed process or a second setup at the same time
//! leave either nothing or a complete installation.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::disk::{CPU, CUDA, FreeKib, check_room};
use crate::setup::libtorch::{VERSION, Wheels, check_version, check_wheels, point};
use crate::shell::{output, run as run_program, say};

/// Python version of the wheels, independent of the user's version; no Python runs them.
const WHEEL_PYTHON: &str = "3.11";
/// Wheels with libraries that the CPU libraries load, on Linux x86-64.
const CPU_WHEELS: [&str; 2] = ["nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"];

/// Installer with its programs and folders as parameters, so that tests can replace them.
pub(crate) struct Installer<'a> {
    /// Candidates; the first one with pip downloads the wheels.
    pub pythons: &'a [PathBuf],
    pub cache: &'a Path,
    /// The link that builds and programs use.
    pub link: &'a Path,
    pub free: FreeKib,
}

impl Installer<'_> {
    /// Links a complete libtorch, installs it if necessary, and returns its path.
    pub(crate) fn ensure(&self, cuda: bool) -> Result<PathBuf> {
        let (kind, wheels) = if cuda { ("cuda", Wheels::Cuda) } else { ("cpu", Wheels::Cpu) };
        let folder = self.cache.join(format!("libtorch-{VERSION}-{kind}"));
        let libtorch = folder.join("torch");
        if !cuda && self.is_linked(&libtorch) {
            return Ok(self.link.to_path_buf());
        }
        let lock = self.lock()?;
        // Another setup may have installed it while this one waited for the lock.
        if check_wheels(&folder, wheels).is_err() {
            self.install(&folder, cuda, &lock)?;
        }
        point(self.link, &libtorch)?;
        say(&format!("using libtorch {VERSION} ({kind}) in {}", libtorch.display()));
        Ok(libtorch)
    }

    /// Returns whether the link points at a complete libtorch, in the cache or elsewhere.
    fn is_linked(&self, libtorch: &Path) -> bool {
        let Ok(target) = self.link.canonicalize() else { return false };
        match libtorch.canonicalize().is_ok_and(|cached| cached == target) {
            true => libtorch.parent().is_some_and(|folder| check_wheels(folder, Wheels::Cpu).is_ok()),
            false => check_version(&target).is_ok(),
        }
    }

    /// Takes the lock of the cache; waits while another setup holds it.
    fn lock(&self) -> Result<File> {
        fs::create_dir_all(self.cache)
            .with_context(|| format!("cannot create `{}`", self.cache.display()))?;
        let path = self.cache.join("setup.lock");
        let lock = File::create(&path).with_context(|| format!("cannot write `{}`", path.display()))?;
        if lock.try_lock().is_err() {
            say("waiting for another setup to finish");
            lock.lock().context("cannot wait for the other setup")?;
        }
        Ok(lock)
    }

    fn install(&self, folder: &Path, cuda: bool, lock: &File) -> Result<()> {
        let size = if cuda { CUDA } else { CPU };
        let has_pip = |python: &&PathBuf| output(python, &["-m", "pip", "--version"]).is_some();
        let python = self.pythons.iter().find(has_pip).context(
            "downloading libtorch requires python3 with pip: install it (on Debian, python3 and python3-pip), or set LIBTORCH to an installed libtorch",
        )?;
        // A killed setup may have left one.
        let mut partial = folder.as_os_str().to_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        remove(&partial)?;
        check_room(
            "libtorch",
            size,
            self.cache,
            self.free,
            "free some space, or set CLIP_DISTILL_CACHE to a folder on a larger disk",
        )?;
        say(&format!(
            "installing libtorch {VERSION} into {}: a download of {}, {} MB on disk; once per machine",
            folder.display(),
            size.download,
            size.disk_kib >> 10
        ));
        let wheels = partial.join("wheels");
        let kind = if cuda { Wheels::Cuda } else { Wheels::Cpu };
        let result = fetch(python, &partial, &wheels, cuda, lock).and_then(|()| check_wheels(&wheels, kind));
        if let Err(error) = result {
            // Pip keeps its downloads in its own cache for the next attempt.
            let _ = fs::remove_dir_all(&partial);
            return Err(error.context("libtorch could not be installed: check the connection and the disk, then run `cargo xtask setup` again"));
        }
        // An existing folder is incomplete.
        remove(folder)?;
        fs::rename(&wheels, folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        remove(&partial)
    }
}

/// Unpacks the wheels into `wheels` with pip, which writes its other files into `partial`.
fn fetch(python: &Path, partial: &Path, wheels: &Path, cuda: bool, lock: &File) -> Result<()> {
    // Pip unpacks in its temporary folder first, and /tmp is often small or in memory. Here it uses the
    // disk whose free space was checked, and a killed pip leaves no files outside the cache.
    let temporary = partial.join("tmp");
    fs::create_dir_all(&temporary).with_context(|| format!("cannot create `{}`", temporary.display()))?;
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]);
    pip.args(["--only-binary=:all:", "--python-version", WHEEL_PYTHON, "--retries", "10"]);
    pip.arg("--target").arg(wheels).arg(format!("torch=={VERSION}"));
    if !cuda {
        pip.arg("--no-deps");
        if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            pip.args(CPU_WHEELS);
        }
    }
    // Running pip as the system administrator is harmless, because it writes into its own folder only.
    pip.env("TMPDIR", &temporary).env("PIP_ROOT_USER_ACTION", "ignore");
    // Pip inherits the lock as its input. It may outlive a killed setup, and the next setup must not
    // remove the folder while pip still writes into it.
    pip.stdin(lock.try_clone().context("cannot share the lock")?);
    run_program(&mut pip)
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove `{}`", folder.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
