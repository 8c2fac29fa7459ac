//! The choice of the library for matrix products on the CPU: MKL or oneDNN, which libtorch both contains.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// Environment variable that selects the library: `mkl` or `onednn`.
pub const VARIABLE: &str = "CLIP_DISTILL_PRODUCTS";

/// The library that computes float32 matrix products of linear layers on the CPU.
///
/// On non-Intel processors, MKL is limited to AVX2, while oneDNN also uses AVX-512. The two round differently, so a run
/// resumes bit for bit only with the library it started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// Intel's Math Kernel Library, the default of libtorch.
    Mkl,
    /// oneDNN.
    OneDnn,
}

impl Library {
    /// All libraries.
    pub const ALL: [Library; 2] = [Library::Mkl, Library::OneDnn];

    /// Whether the library is available on this machine. oneDNN requires Linux on x86-64 with AVX-512.
    pub fn is_available(self) -> bool {
        self == Library::Mkl || onednn_runs()
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Library::Mkl => "MKL",
            Library::OneDnn => "oneDNN",
        })
    }
}

impl FromStr for Library {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "mkl" => Ok(Library::Mkl),
            "onednn" => Ok(Library::OneDnn),
            other => Err(format!("{VARIABLE} = `{other}` is neither `mkl` nor `onednn`")),
        }
    }
}

/// The library in use: 0 before the choice, 1 for MKL, 2 for oneDNN.
static CHOICE: AtomicU8 = AtomicU8::new(0);

/// Returns the library in use: the one that [`choose`] selected, or the default for this processor.
pub fn library() -> Library {
    match CHOICE.load(Ordering::Relaxed) {
        1 => Library::Mkl,
        2 => Library::OneDnn,
        _ => {
            let library = fastest();
            choose(library);
            library
        }
    }
}

/// Selects the library that [`VARIABLE`] names, if it is set.
///
/// # Errors
/// An error message if the name is unknown or the library is not available on this machine.
pub fn choose_from_environment() -> Result<(), String> {
    let Ok(name) = std::env::var(VARIABLE) else { return Ok(()) };
    let library = name.parse::<Library>()?;
    if !library.is_available() {
        return Err(format!(
            "{VARIABLE} = `{name}`: {library} needs Linux on an x86-64 processor with AVX-512; use `mkl`"
        ));
    }
    choose(library);
    Ok(())
}

/// Selects the library for this process.
///
/// # Panics
/// If the library is not available on this machine.
pub fn choose(library: Library) {
    assert!(library.is_available(), "{library} is not available on this machine");
    CHOICE.store(if library == Library::Mkl { 1 } else { 2 }, Ordering::Relaxed);
}

/// Returns the default for this processor: oneDNN if MKL would be limited to AVX2 and oneDNN can use AVX-512, else MKL.
pub(crate) fn fastest() -> Library {
    if onednn_runs() && !is_intel() { Library::OneDnn } else { Library::Mkl }
}

#[cfg(onednn)]
fn onednn_runs() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx512bw") && has!("avx512vl") && has!("avx512dq")
}

#[cfg(not(onednn))]
fn onednn_runs() -> bool {
    false
}

/// Whether the processor is made by Intel.
#[cfg(onednn)]
fn is_intel() -> bool {
    let maker = std::arch::x86_64::__cpuid(0);
    [maker.ebx, maker.edx, maker.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
}

#[cfg(not(onednn))]
fn is_intel() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_available_cannot_be_chosen() {
        for library in Library::ALL {
            let chosen = std::panic::catch_unwind(|| choose(library)).is_ok();
            assert_eq!(chosen, library.is_available(), "{library}");
        }
        choose(fastest());
    }

    #[test]
    fn names_are_parsed() {
        assert_eq!("onednn".parse(), Ok(Library::OneDnn));
        assert!("blas".parse::<Library>().unwrap_err().contains(VARIABLE));
    }
}
