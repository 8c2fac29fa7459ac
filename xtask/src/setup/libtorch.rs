//! What makes a folder a libtorch that this workspace can be built on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The release that the tch binding fits.
pub(crate) const VERSION: &str = "2.11.0";
/// Libraries that every program is linked with.
const LIBRARIES: [&str; 3] = ["torch", "torch_cpu", "c10"];
/// One header of each folder that the binding is compiled with.
const HEADERS: [&str; 3] =
    ["include/torch/csrc/api/include/torch/torch.h", "include/ATen/ATen.h", "include/c10/core/Device.h"];
/// What the CPU's part of the wheel loads from beside itself, on Linux x86-64.
const BESIDE: [&str; 2] = ["nvidia/cu13/lib/libcudart.so.13", "nvidia/cu13/lib/libcupti.so.13"];
/// The dependencies of `libtorch_cuda` from its `NEEDED` entries, and the solver libraries that it loads on first use.
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

/// The kind of wheels in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wheels {
    Cpu,
    Cuda,
}

/// Fails unless a folder is a whole libtorch of the version that fits.
///
/// A cache that someone cleans is often half deleted, so one library is no sign of the others.
pub(crate) fn check_version(libtorch: &Path) -> Result<()> {
    check_parts(libtorch, libtorch)
}

/// [`check_version`] of the user's own libtorch, whose headers may be elsewhere, as the binding allows.
pub(crate) fn check_own(libtorch: &Path) -> Result<()> {
    let headers = std::env::var_os("LIBTORCH_INCLUDE").map(PathBuf::from);
    check_parts(libtorch, headers.as_deref().unwrap_or(libtorch))
}

/// [`check_version`] of `torch` inside a folder of unpacked wheels, and of the wheels beside it.
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
    // Wheels say their version in version.py, zip files in build-version.
    let texts = ["version.py", "build-version"]
        .map(|file| fs::read_to_string(libtorch.join(file)).unwrap_or_default());
    if !texts.iter().any(|text| text.contains(VERSION)) {
        bail!("`{}` is not libtorch {VERSION}, which this workspace is made for", libtorch.display());
    }
    Ok(())
}

fn library(name: &str) -> PathBuf {
    use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
    Path::new("lib").join(format!("{DLL_PREFIX}{name}{DLL_SUFFIX}"))
}

fn require(folder: &Path, mut parts: impl Iterator<Item = PathBuf>) -> Result<()> {
    match parts.find(|part| !folder.join(part).exists()) {
        Some(part) => bail!("`{}` is not there", folder.join(part).display()),
        None => Ok(()),
    }
}

/// Makes the link, or changes where it points, in one go.
pub(crate) fn point(link: &Path, target: &Path) -> Result<()> {
    let target = target.canonicalize().with_context(|| format!("cannot find `{}`", target.display()))?;
    if fs::read_link(link).is_ok_and(|now| now == target) {
        return Ok(());
    }
    let fresh = link.with_extension(format!("{}", std::process::id()));
    // One of a killed process whose number came round again.
    let _ = fs::remove_file(&fresh);
    std::os::unix::fs::symlink(&target, &fresh)
        .and_then(|()| fs::rename(&fresh, link))
        .with_context(|| format!("cannot make the link `{}`", link.display()))
}

/// All files that the checks above look for, relative to a folder of unpacked wheels.
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
    fn only_the_version_that_fits_is_taken() {
        assert!(check_version(&fake_wheels("2.11.0+cu130").path().join("torch")).is_ok());
        let other = fake_wheels("2.10.0");
        assert!(check_version(&other.path().join("torch")).unwrap_err().to_string().contains("2.11.0"));
        assert!(check_version(Path::new("nowhere")).unwrap_err().to_string().contains("not there"));
    }

    #[test]
    fn each_missing_part_is_noticed_and_named() {
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
    fn headers_may_be_elsewhere() {
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
    fn the_link_is_made_and_changed() {
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
