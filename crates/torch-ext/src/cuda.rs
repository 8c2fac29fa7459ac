//! Loads the CUDA half of libtorch at run time, and explains why no device is visible.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// The CPU library of libtorch, with which every program is linked.
const CPU_LIBRARY: &str = "libtorch_cpu.so";
/// The CUDA library of libtorch, which registers devices and kernels when it is loaded.
const CUDA_LIBRARY: &str = "libtorch_cuda.so";
/// Oldest driver for programs built for CUDA 13, the CUDA version of libtorch 2.11.0's wheels (CUDA Toolkit release
/// notes, table of minimum driver versions).
pub const MIN_DRIVER: u32 = 580;
/// File with the version of NVIDIA's kernel module.
const DRIVER_FILE: &str = "/proc/driver/nvidia/version";

/// Folder with one folder per GPU, which contains the file `information`.
const DEVICES_FOLDER: &str = "/proc/driver/nvidia/gpus";

/// Outcome of loading `libtorch_cuda`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CudaLibrary {
    /// The library is loaded from this file.
    Loaded(PathBuf),
    /// libtorch in this folder is a CPU build.
    NotInstalled(PathBuf),
    /// A dependency of the file is missing. This happens in a CPU installation, whose wheel contains only this file.
    Incomplete {
        /// The file.
        path: PathBuf,
        /// The first missing library, such as `libcudnn.so.9`.
        missing: String,
    },
    /// The system cannot load the file.
    Broken {
        /// The file.
        path: PathBuf,
        /// Message of the dynamic loader.
        reason: String,
    },
    /// libtorch is not among the libraries of this process, or the system is not Linux.
    NoLibtorch,
}

impl fmt::Display for CudaLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CudaLibrary::Loaded(path) => write!(f, "loaded `{}`", path.display()),
            CudaLibrary::NotInstalled(folder) => write!(
                f,
                "libtorch in `{}` is a CPU build: install one with CUDA by `cargo xtask setup --cuda`",
                folder.display()
            ),
            CudaLibrary::Incomplete { path, missing } => write!(
                f,
                "`{}` needs {missing}, which is not installed: for an NVIDIA GPU run `cargo xtask setup --cuda`",
                path.display()
            ),
            CudaLibrary::Broken { path, reason } => {
                write!(
                    f,
                    "cannot load `{}`: {reason}; install it again by `cargo xtask setup --cuda`",
                    path.display()
                )
            }
            CudaLibrary::NoLibtorch => f.write_str("not supported on this system"),
        }
    }
}

/// Loads `libtorch_cuda` from the folder of `libtorch_cpu`, once per process; later calls return the first outcome.
///
/// Call it before the first use of libtorch: libtorch looks for devices once and caches the result.
pub fn load() -> &'static CudaLibrary {
    static OUTCOME: OnceLock<CudaLibrary> = OnceLock::new();
    OUTCOME.get_or_init(|| match libtorch_folder() {
        Some(folder) => load_from(&folder),
        None => CudaLibrary::NoLibtorch,
    })
}

/// Explains in one line why no CUDA device is visible and how to fix it. `count` is the number of devices that libtorch
/// sees. Returns `None` unless it is 0.
pub fn explain(count: usize) -> Option<String> {
    let library = load();
    match library {
        _ if count > 0 => None,
        CudaLibrary::Loaded(_) => Some(explain_driver(driver_version())),
        _ => Some(library.to_string()),
    }
}

/// Whether the machine needs no CUDA library: it has no driver of NVIDIA, and libtorch was installed for CPUs.
pub fn is_for_cpus() -> bool {
    let installed_for_cpus = matches!(load(), CudaLibrary::NotInstalled(_) | CudaLibrary::Incomplete { .. });
    driver_version().is_none() && installed_for_cpus
}

/// Returns the version of NVIDIA's driver, such as `580.65.06`, if it is loaded.
pub fn driver_version() -> Option<String> {
    parse_driver(&std::fs::read_to_string(DRIVER_FILE).ok()?)
}

/// Returns the product name of the machine's GPUs, such as `NVIDIA H200`. Returns `None` if the driver reports none, or
/// several products: CUDA may number devices in a different order than the driver.
pub fn product_name() -> Option<String> {
    let folders = std::fs::read_dir(DEVICES_FOLDER).ok()?;
    let texts =
        folders.filter_map(|folder| std::fs::read_to_string(folder.ok()?.path().join("information")).ok());
    common_product(texts)
}

/// Returns the value of the line `Model` that all texts have in common.
fn common_product(texts: impl Iterator<Item = String>) -> Option<String> {
    let mut products = texts.map(|text| {
        let name = text.lines().find_map(|line| line.strip_prefix("Model:"))?.trim();
        (!name.is_empty()).then(|| name.to_string())
    });
    let first = products.next()??;
    products.all(|product| product.as_ref() == Some(&first)).then_some(first)
}

fn explain_driver(version: Option<String>) -> String {
    let major = version.as_deref().and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    match (version, major) {
        (None, _) => format!(
            "libtorch_cuda is loaded, but NVIDIA's driver is not installed: install version {MIN_DRIVER} or newer"
        ),
        (Some(version), Some(major)) if major < MIN_DRIVER => format!(
            "NVIDIA's driver {version} is too old for CUDA 13: update it to {MIN_DRIVER} or newer, or point LIBTORCH at a libtorch 2.11.0 for CUDA 12"
        ),
        (Some(version), _) => format!(
            "libtorch_cuda is loaded and NVIDIA's driver is {version}, but no device is visible: check CUDA_VISIBLE_DEVICES and `nvidia-smi`"
        ),
    }
}

/// Returns the first version number in the `NVRM version` line. The words before it differ between the proprietary and
/// the open kernel module.
fn parse_driver(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("NVRM version"))?;
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    line.split_whitespace().find(is_version).map(str::to_string)
}

/// Returns the folder from which this process loaded `libtorch_cpu`, according to the kernel's list of mapped files.
fn libtorch_folder() -> Option<PathBuf> {
    find_library(&std::fs::read_to_string("/proc/self/maps").ok()?)
}

fn find_library(maps: &str) -> Option<PathBuf> {
    let path = maps.lines().find_map(|line| {
        let path = Path::new(&line[line.find('/')?..]);
        (path.file_name()? == CPU_LIBRARY).then_some(path)
    })?;
    path.parent().map(Path::to_path_buf)
}

fn load_from(folder: &Path) -> CudaLibrary {
    let path = folder.join(CUDA_LIBRARY);
    if !path.exists() {
        return CudaLibrary::NotInstalled(folder.to_path_buf());
    }
    // SAFETY: loading a library runs its initialisers. These belong to the libtorch that this process already uses,
    // and register kernels and device hooks, as if the linker had kept the library. The library is never unloaded, so
    // the registrations stay valid.
    #[expect(unsafe_code, reason = "the only code that loads a library at run time")]
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) };
    match library {
        Ok(library) => {
            std::mem::forget(library);
            CudaLibrary::Loaded(path)
        }
        Err(error) => classify_error(path, first_line(&error)),
    }
}

/// Classifies the message of the dynamic loader. For a missing library, glibc reports `LIBRARY: cannot open shared object file: No such
/// file or directory`.
fn classify_error(path: PathBuf, reason: String) -> CudaLibrary {
    match reason.split_once(": cannot open shared object file") {
        Some((missing, _)) => CudaLibrary::Incomplete { path, missing: missing.to_string() },
        None => CudaLibrary::Broken { path, reason },
    }
}

/// Returns the first line of the dynamic loader's message, which is the source of the error.
fn first_line(error: &libloading::Error) -> String {
    let text = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    text.lines().next().unwrap_or_default().trim().to_string()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Builds a shared library in `folder` that depends on the libraries `needs`.
    fn build(folder: &Path, name: &str, needs: &[&str]) {
        let source = folder.join("empty.c");
        std::fs::write(&source, "int nothing_in_particular;\n").unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN", "-o"]);
        cc.arg(folder.join(name)).arg(&source).arg("-L").arg(folder);
        cc.args(needs.iter().map(|needed| format!("-l:{needed}")));
        assert!(cc.status().unwrap().success());
    }

    #[test]
    fn a_complete_folder_loads_and_a_missing_library_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        assert_eq!(load_from(folder), CudaLibrary::NotInstalled(folder.to_path_buf()));
        build(folder, "libdeep.so.9", &[]);
        build(folder, CUDA_LIBRARY, &["libdeep.so.9"]);
        std::fs::rename(folder.join("libdeep.so.9"), folder.join("away")).unwrap();
        let incomplete = load_from(folder);
        let text = incomplete.to_string();
        let missing = "libdeep.so.9".to_string();
        assert_eq!(incomplete, CudaLibrary::Incomplete { path: folder.join(CUDA_LIBRARY), missing });
        assert!(text.contains("libdeep.so.9") && text.contains("setup --cuda"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        std::fs::rename(folder.join("away"), folder.join("libdeep.so.9")).unwrap();
        assert_eq!(load_from(folder), CudaLibrary::Loaded(folder.join(CUDA_LIBRARY)));
    }

    #[test]
    fn a_file_that_is_not_a_library_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(CUDA_LIBRARY), "not ELF").unwrap();
        let text = load_from(dir.path()).to_string();
        assert!(text.contains(CUDA_LIBRARY) && text.contains("cannot load"), "{text}");
    }

    #[test]
    fn the_folder_of_the_loaded_library_is_found() {
        let maps = "\
7f00-7f01 r--p 00000000 fe:00 12 /usr/lib/libc.so.6\n\
7f02-7f03 rw-p 00000000 00:00 0 \n\
7f04-7f05 r-xp 00000000 fe:00 13 /some where/torch/lib/libtorch_cpu.so\n";
        assert_eq!(find_library(maps), Some("/some where/torch/lib".into()));
        assert_eq!(find_library("7f00-7f01 r--p 0 fe:00 12 /lib/libtorch_cpu.so.bak\n"), None);
    }

    #[test]
    fn driver_versions_are_parsed_and_explained() {
        let proprietary = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\nGCC version: gcc 12.2.0\n";
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (user@host)  Sun Jul 27\n";
        assert_eq!(parse_driver(proprietary).as_deref(), Some("550.54.14"));
        assert_eq!(parse_driver(open).as_deref(), Some("580.65.06"));
        assert_eq!(parse_driver(""), None);
        assert!(explain_driver(None).contains("not installed"));
        let old = explain_driver(parse_driver(proprietary));
        assert!(old.contains("too old") && old.contains("580") && old.contains("CUDA 12"), "{old}");
        assert!(explain_driver(parse_driver(open)).contains("CUDA_VISIBLE_DEVICES"));
    }

    #[test]
    fn a_product_that_all_devices_share_is_found() {
        let device = |name: &str| format!("Model: \t\t {name}\nIRQ:   \t\t 42\n");
        let product = |names: &[&str]| common_product(names.iter().map(|name| device(name)));
        assert_eq!(product(&["NVIDIA H200"]).as_deref(), Some("NVIDIA H200"));
        assert_eq!(product(&["NVIDIA H200", "NVIDIA H200"]).as_deref(), Some("NVIDIA H200"));
        assert_eq!(product(&["NVIDIA H200", "NVIDIA L4"]), None);
        assert_eq!(product(&[]), None);
        assert_eq!(product(&[""]), None);
    }

    #[test]
    fn visible_devices_need_no_explanation() {
        assert_eq!(explain(2), None);
        // The tests are linked with libtorch, so its folder is found.
        assert_ne!(*load(), CudaLibrary::NoLibtorch);
        assert!(explain(0).is_some_and(|cause| !cause.is_empty()));
        assert!(CudaLibrary::NoLibtorch.to_string().contains("not supported"));
    }
}
