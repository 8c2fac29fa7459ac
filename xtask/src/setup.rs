//! libtorch, once per machine: found where the user says, or installed from its Python wheel.
//!
//! The wheel is unpacked under a temporary name inside the cache and renamed when it is whole,
//! under a lock, so that a cut connection, a full disk or a second set-up at the same time leave
//! either nothing or all of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::{output, root, run as run_program, say};

/// The release that the tch binding fits.
const VERSION: &str = "2.11.0";
/// Wheels are fetched for this Python, whatever the user's own version; no Python runs them.
const WHEEL_PYTHON: &str = "3.11";
/// What the wheel's run paths need besides itself, on Linux x86-64 without CUDA devices.
const CPU_WHEELS: [&str; 2] = ["nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"];
/// Download and disk space: for the CPU, and with all of CUDA.
const CPU_SIZE: Size = Size { download: "about 530 MB", disk_kib: 2 << 20 };
const CUDA_SIZE: Size = Size { download: "about 3 GB", disk_kib: 9 << 20 };

struct Size {
    download: &'static str,
    disk_kib: u64,
}

/// Makes `.libtorch` point at a libtorch, and returns where it is.
pub(crate) fn run(cuda: bool) -> Result<PathBuf> {
    let link = root().join(".libtorch");
    // Cargo itself sets LIBTORCH to the link for what it runs; anything else is the user's choice.
    let own = std::env::var_os("LIBTORCH").map(PathBuf::from).filter(|path| *path != link);
    if let Some(own) = own {
        check_version(&own).context("LIBTORCH points at a libtorch that cannot be used")?;
        point(&link, &own)?;
        return Ok(own);
    }
    let kind = if cuda { "cuda" } else { "cpu" };
    let folder = cache()?.join(format!("libtorch-{VERSION}-{kind}"));
    let libtorch = folder.join("torch");
    if !cuda && check_version(&link).is_ok() {
        return Ok(link);
    }
    if check_version(&libtorch).is_err() {
        let cache = cache()?;
        fs::create_dir_all(&cache).with_context(|| format!("cannot make `{}`", cache.display()))?;
        let lock_path = cache.join("setup.lock");
        let lock =
            File::create(&lock_path).with_context(|| format!("cannot write `{}`", lock_path.display()))?;
        if lock.try_lock().is_err() {
            say("another set-up is at work; waiting for it");
            lock.lock().context("cannot wait for the other set-up")?;
        }
        // The other one may have done it.
        if check_version(&libtorch).is_err() {
            install(&folder, cuda)?;
        }
    }
    check_version(&libtorch)?;
    point(&link, &libtorch)?;
    say(&format!("libtorch {VERSION} ({kind}) is in {}", libtorch.display()));
    Ok(libtorch)
}

/// Where per-user files that can be made again go.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(own) = std::env::var_os("CLIP_DISTILL_CACHE") {
        return Ok(own.into());
    }
    let home = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    Ok(home
        .context("neither XDG_CACHE_HOME nor HOME is set: set CLIP_DISTILL_CACHE to a folder")?
        .join("clip-distill"))
}

/// Whether a folder is a libtorch of the version that fits.
pub(crate) fn check_version(libtorch: &Path) -> Result<()> {
    let library = libtorch.join("lib").join(format!("libtorch_cpu{}", std::env::consts::DLL_SUFFIX));
    if !library.exists() {
        bail!("`{}` is not there", library.display());
    }
    // Wheels say their version in version.py, zip files in build-version.
    let texts = ["version.py", "build-version"]
        .map(|file| fs::read_to_string(libtorch.join(file)).unwrap_or_default());
    if !texts.iter().any(|text| text.contains(VERSION)) {
        bail!("`{}` is not libtorch {VERSION}, which this workspace is made for", libtorch.display());
    }
    Ok(())
}

fn install(folder: &Path, cuda: bool) -> Result<()> {
    let size = if cuda { CUDA_SIZE } else { CPU_SIZE };
    let python = ["python3", "python"]
        .into_iter()
        .find(|python| output(python, &["-m", "pip", "--version"]).is_some());
    let python = python.context(
        "python3 with pip is needed to fetch libtorch: install it (such as the packages python3 and python3-pip), or set LIBTORCH to a libtorch of your own",
    )?;
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("cannot remove `{}`", partial.display()))?;
    }
    if let Some(free) = free_kib(folder).filter(|free| *free < size.disk_kib) {
        bail!(
            "libtorch needs {} MB and `{}` has {} MB free: make room, or set CLIP_DISTILL_CACHE to a folder with more",
            size.disk_kib >> 10,
            folder.display(),
            free >> 10
        );
    }
    say(&format!(
        "installing libtorch {VERSION} into {}: a download of {}, {} MB on disk; once per machine",
        folder.display(),
        size.download,
        size.disk_kib >> 10
    ));
    let mut pip = Command::new(python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-compile",
        "--only-binary=:all:",
    ]);
    pip.args(["--python-version", WHEEL_PYTHON, "--retries", "10", "--target"]).arg(&partial);
    // Into a folder of its own, a system-wide user is no danger.
    pip.env("PIP_ROOT_USER_ACTION", "ignore").arg(format!("torch=={VERSION}"));
    if !cuda {
        pip.arg("--no-deps");
        if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            pip.args(CPU_WHEELS);
        }
    }
    let result = run_program(&mut pip).and_then(|()| check_version(&partial.join("torch")));
    if let Err(error) = result {
        // Nothing half done stays; what pip has fetched is in its own cache for the next time.
        let _ = fs::remove_dir_all(&partial);
        return Err(error.context("libtorch could not be installed: check the connection and the disk, then run `cargo xtask setup` again"));
    }
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot replace `{}`", folder.display()))?;
    }
    fs::rename(&partial, folder).with_context(|| format!("cannot make `{}`", folder.display()))
}

/// Free space of the disk that a path (or the nearest folder above it) is on, as `df` says.
fn free_kib(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|path| path.exists())?;
    let text = output("df", &["-Pk", there.to_str()?])?;
    text.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()
}

/// Makes the link, or changes where it points, in one go.
fn point(link: &Path, target: &Path) -> Result<()> {
    let target = target.canonicalize().with_context(|| format!("cannot find `{}`", target.display()))?;
    if fs::read_link(link).is_ok_and(|now| now == target) {
        return Ok(());
    }
    let fresh = link.with_extension(format!("{}", std::process::id()));
    std::os::unix::fs::symlink(&target, &fresh)
        .and_then(|()| fs::rename(&fresh, link))
        .with_context(|| format!("cannot make the link `{}`", link.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(version: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("lib")).unwrap();
        let library = format!("lib/libtorch_cpu{}", std::env::consts::DLL_SUFFIX);
        fs::write(folder.path().join(library), b"").unwrap();
        fs::write(folder.path().join("version.py"), format!("__version__ = '{version}'")).unwrap();
        folder
    }

    #[test]
    fn only_the_version_that_fits_is_taken() {
        assert!(check_version(fake("2.11.0+cu130").path()).is_ok());
        assert!(check_version(fake("2.10.0").path()).unwrap_err().to_string().contains("2.11.0"));
        assert!(check_version(Path::new("nowhere")).unwrap_err().to_string().contains("not there"));
    }

    #[test]
    fn the_link_is_made_and_changed() {
        let (a, b) = (fake("2.11.0"), fake("2.11.0"));
        let place = tempfile::tempdir().unwrap();
        let link = place.path().join(".libtorch");
        for target in [&a, &b, &b] {
            point(&link, target.path()).unwrap();
            assert_eq!(fs::read_link(&link).unwrap(), target.path().canonicalize().unwrap());
        }
        assert!(point(&link, Path::new("nowhere")).is_err());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[test]
    fn free_space_is_known() {
        assert!(free_kib(Path::new("/nowhere/at/all")).is_some_and(|free| free > 0));
    }
}
