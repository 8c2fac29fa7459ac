//! From wheels to a libtorch in the cache, whole or not at all.
//!
//! Wheels are unpacked under a temporary name inside the cache, which is renamed when all is there,
//! under a lock: a cut connection, a full disk, a killed process or a second set-up at the same
//! time leave either nothing or all of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::disk::{CPU, CUDA, FreeKib, check_room};
use crate::setup::libtorch::{VERSION, Wheels, check_version, check_wheels, point};
use crate::shell::{output, run as run_program, say};

/// Wheels are fetched for this Python, whatever the user's own version; no Python runs them.
const WHEEL_PYTHON: &str = "3.11";
/// What the wheel's run paths need besides itself, on Linux x86-64 without CUDA devices.
const CPU_WHEELS: [&str; 2] = ["nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"];

/// Where libtorch comes from and goes to; parameters, so that tests have their own.
pub(crate) struct Installer<'a> {
    /// Programs to try; the first with pip fetches the wheels.
    pub pythons: &'a [PathBuf],
    pub cache: &'a Path,
    /// The link that builds and programs use.
    pub link: &'a Path,
    pub free: FreeKib,
}

impl Installer<'_> {
    /// Makes the link point at a whole libtorch, installed if need be, and returns where it is.
    pub(crate) fn ensure(&self, cuda: bool) -> Result<PathBuf> {
        let (kind, wheels) = if cuda { ("cuda", Wheels::Cuda) } else { ("cpu", Wheels::Cpu) };
        let folder = self.cache.join(format!("libtorch-{VERSION}-{kind}"));
        let libtorch = folder.join("torch");
        if !cuda && self.is_linked(&libtorch) {
            return Ok(self.link.to_path_buf());
        }
        let lock = self.lock()?;
        // Another set-up may have done it by now.
        if check_wheels(&folder, wheels).is_err() {
            self.install(&folder, cuda, &lock)?;
        }
        point(self.link, &libtorch)?;
        say(&format!("libtorch {VERSION} ({kind}) is in {}", libtorch.display()));
        Ok(libtorch)
    }

    /// Whether the link leads to a whole libtorch, in the cache or elsewhere.
    fn is_linked(&self, libtorch: &Path) -> bool {
        let Ok(target) = self.link.canonicalize() else { return false };
        match libtorch.canonicalize().is_ok_and(|cached| cached == target) {
            true => libtorch.parent().is_some_and(|folder| check_wheels(folder, Wheels::Cpu).is_ok()),
            false => check_version(&target).is_ok(),
        }
    }

    /// Waits until no other set-up is at work.
    fn lock(&self) -> Result<File> {
        fs::create_dir_all(self.cache).with_context(|| format!("cannot make `{}`", self.cache.display()))?;
        let path = self.cache.join("setup.lock");
        let lock = File::create(&path).with_context(|| format!("cannot write `{}`", path.display()))?;
        if lock.try_lock().is_err() {
            say("another set-up is at work; waiting for it");
            lock.lock().context("cannot wait for the other set-up")?;
        }
        Ok(lock)
    }

    fn install(&self, folder: &Path, cuda: bool, lock: &File) -> Result<()> {
        let size = if cuda { CUDA } else { CPU };
        let has_pip = |python: &&PathBuf| output(python, &["-m", "pip", "--version"]).is_some();
        let python = self.pythons.iter().find(has_pip).context(
            "python3 with pip is needed to fetch libtorch: install it (such as the packages python3 and python3-pip), or set LIBTORCH to a libtorch of your own",
        )?;
        // What a killed set-up has left.
        let mut partial = folder.as_os_str().to_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        remove(&partial)?;
        check_room(
            "libtorch",
            size,
            self.cache,
            self.free,
            "make room, or set CLIP_DISTILL_CACHE to a folder with more",
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
            // Nothing half done stays; what pip has fetched is in its own cache for the next time.
            let _ = fs::remove_dir_all(&partial);
            return Err(error.context("libtorch could not be installed: check the connection and the disk, then run `cargo xtask setup` again"));
        }
        // Where there is one, it is half deleted.
        remove(folder)?;
        fs::rename(&wheels, folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        remove(&partial)
    }
}

/// Has pip unpack the wheels into `wheels`; what else it writes goes into `partial`.
fn fetch(python: &Path, partial: &Path, wheels: &Path, cuda: bool, lock: &File) -> Result<()> {
    // Pip unpacks in its temporary folder first, and /tmp is often small or in memory. On the disk
    // whose room was checked there is nothing else to run full, and a killed pip leaves nothing elsewhere.
    let temporary = partial.join("tmp");
    fs::create_dir_all(&temporary).with_context(|| format!("cannot make `{}`", temporary.display()))?;
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
    // Into a folder of its own, a system-wide user is no danger.
    pip.env("TMPDIR", &temporary).env("PIP_ROOT_USER_ACTION", "ignore");
    // As its input, pip holds the lock too: it may outlive a killed set-up, and the next one then
    // must not clear the folder under its hands.
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
