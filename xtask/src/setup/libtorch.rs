//! Checks that a folder holds a complete libtorch of the right version, and the link to it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The libtorch version that the tch binding requires.
pub(crate) const VERSION: &str = "2.11.0";
/// Libraries that every program links.
const LIBRARIES: [&str; 3] = ["torch", "torch_cpu", "c10"];
/// One header of each folder that the binding includes.
const HEADERS: [&str; 3] =
    ["include/torch/csrc/api/include/torch/torch.h", "include/ATen/ATen.h", "include/c10/core/Device.h"];
/// Libraries of other wheels that the CPU libraries load, on Linux x86-64.
const BESIDE: [&str; 2] = ["nvidia/cu13/lib/libcudart.so.13", "nvidia/cu13/lib/libcupti.so.13"];
/// Dependencies of `libtorch_cuda` (its `NEEDED` entries), and the solver libraries that it loads on first use.
const CUDA: [&str; 18] = [
    "torch/lib/libtorch_cuda.so",
    "torch/lib/libc10_cuda.so",
    "torch/lib/libtorch_nvshmem.so",
    "torch/lib/libtorch_cuda_linalg.so",
    "nvidia/cu13/lib/libcublas.so.13",
    "nvidia/cu13/lib/libcublasLt.so.13",
    "nvidia/cu13/lib/libcufft.so.12",
    "nvidia/cu13/lib/libcufile.so.0",
    "nvidia/cu13/lib/libcurand.so.10",
    "nvidia/cu13/lib/libcusolver.so.12",
    "nvidia/cu13/lib/libcusparse.so.12",
    "nvidia/cu13/lib/libnvJitLink.so.13",
    "nvidia/cu13/lib/libnvrtc.so.13",
    "nvidia/cudnn/lib/libcudnn.so.9",
    "nvidia/cudnn/lib/libcudnn_graph.so.9",
    "nvidia/cusparselt/lib/libcusparseLt.so.0",
    "nvidia/nccl/lib/libnccl.so.2",
    "nvidia/nvshmem/lib/libnvshmem_host.so.3",
];

/// Variant of the wheels in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wheels {
    Cpu,
    Cuda,
}

/// Fails unless a folder is a complete libtorch of the required version.
///
/// Checks several files, because cleaning tools often delete only a part of a cache.
pub(crate) fn check_version(libtorch: &Path) -> Result<()> {
    check_parts(libtorch, libtorch)
}

/// Like [`check_version`], for the user's libtorch, whose headers may be in `LIBTORCH_INCLUDE`.
pub(crate) fn check_own(libtorch: &Path) -> Result<()> {
    let headers = std::env::var_os("LIBTORCH_INCLUDE").map(PathBuf::from);
    check_parts(libtorch, headers.as_deref().unwrap_or(libtorch))
}

/// Like [`check_version`], for a folder of unpacked wheels: checks `torch` and the wheels beside it.
pub(crate) fn check_wheels(folder: &Path, wheels: Wheels) -> Result<()> {
    check_version(&folder.join("torch"))?;
    require(folder, beside(wheels).map(PathBuf::from))
}

fn beside(wheels: Wheels) -> impl Iterator<Item = &'static str> {
    let linux = cfg!(all(target_os = "linux", target_arch = "x86_64"));
    let cuda = linux && wheels == Wheels::Cuda;
    let own = if linux { &BESIDE[..] } else { &[] };
    own.iter().chain(if cuda { &CUDA[..] } else { &[] }).copied()
}

fn check_parts(libtorch: &Path, headers: &Path) -> Result<()> {
    require(libtorch, LIBRARIES.iter().map(|name| library(name)))?;
    require(headers, HEADERS.iter().map(PathBuf::from))?;
    // Wheels store their version in version.py, zip files in build-version.
    let texts = ["version.py", "build-version"]
        .map(|file| fs::read_to_string(libtorch.join(file)).unwrap_or_default());
    if !texts.iter().any(|text| text.contains(VERSION)) {
        bail!("`{}` is not libtorch {VERSION}, which this workspace requires", libtorch.display());
    }
    Ok(())
}

fn library(name: &str) -> PathBuf {
    use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
    Path::new("lib").join(format!("{DLL_PREFIX}{name}{DLL_SUFFIX}"))
}

fn require(folder: &Path, mut parts: impl Iterator<Item = PathBuf>) -> Result<()> {
    match parts.find(|part| !folder.join(part).exists()) {
        Some(part) => bail!("`{}` is missing", folder.join(part).display()),
        None => Ok(()),
    }
}

/// Creates the link or changes its target atomically.
pub(crate) fn point(link: &Path, target: &Path) -> Result<()> {
    let target = target.canonicalize().with_context(|| format!("cannot find `{}`", target.display()))?;
    if fs::read_link(link).is_ok_and(|current| current == target) {
        return Ok(());
    }
    let fresh = link.with_extension(format!("{}", std::process::id()));
    // A killed process with the same id may have left one.
    let _ = fs::remove_file(&fresh);
    std::os::unix::fs::symlink(&target, &fresh)
        .and_then(|()| fs::rename(&fresh, link))
        .with_context(|| format!("cannot create the link `{}`", link.display()))
}

/// Returns all files that [`check_wheels`] requires, relative to a folder of unpacked wheels.
#[cfg(test)]
pub(crate) fn parts(wheels: Wheels) -> Vec<PathBuf> {
    let torch = Path::new("torch");
    let mut parts = LIBRARIES.map(|name| torch.join(library(name))).to_vec();
    parts.extend(HEADERS.map(|header| torch.join(header)));
    parts.extend(beside(wheels).map(PathBuf::from));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{fake_wheels, write};

    #[test]
    fn only_the_required_version_passes() {
        assert!(check_version(&fake_wheels("2.11.0+cu130").path().join("torch")).is_ok());
        let other = fake_wheels("2.10.0");
        assert!(check_version(&other.path().join("torch")).unwrap_err().to_string().contains("2.11.0"));
        assert!(check_version(Path::new("nowhere")).unwrap_err().to_string().contains("is missing"));
    }

    #[test]
    fn each_missing_file_is_an_error_that_names_it() {
        for part in parts(Wheels::Cuda) {
            let wheels = fake_wheels(VERSION);
            check_wheels(wheels.path(), Wheels::Cuda).unwrap();
            fs::remove_file(wheels.path().join(&part)).unwrap();
            let error = check_wheels(wheels.path(), Wheels::Cuda).unwrap_err().to_string();
            assert!(error.contains(&part.display().to_string()), "{error}");
            let needed = parts(Wheels::Cpu).contains(&part);
            assert_eq!(check_wheels(wheels.path(), Wheels::Cpu).is_err(), needed, "{}", part.display());
        }
    }

    #[test]
    fn headers_may_be_in_another_folder() {
        let wheels = fake_wheels(VERSION);
        let (torch, headers) = (wheels.path().join("torch"), tempfile::tempdir().unwrap());
        for header in HEADERS {
            write(&headers.path().join(header), "");
        }
        fs::remove_dir_all(torch.join("include")).unwrap();
        assert!(check_version(&torch).is_err());
        check_parts(&torch, headers.path()).unwrap();
    }

    #[test]
    fn the_link_is_created_and_changed() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let place = tempfile::tempdir().unwrap();
        let link = place.path().join(".libtorch");
        for target in [&a, &b, &b] {
            point(&link, target.path()).unwrap();
            assert_eq!(fs::read_link(&link).unwrap(), target.path().canonicalize().unwrap());
        }
        assert!(point(&link, Path::new("nowhere")).is_err());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
