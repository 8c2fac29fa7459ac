//! Matrix products of linear layers on the CPU: the choice between libtorch's two libraries, MKL and oneDNN.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

use tch::{Device, Kind, TchError, Tensor};

/// Environment variable that selects the library: `mkl` or `onednn`.
pub const VARIABLE: &str = "CLIP_DISTILL_PRODUCTS";

/// The library that computes float32 products on the CPU.
///
/// On processors of other makers than Intel, MKL uses AVX2 at most, and oneDNN also AVX-512. Both round differently, so a
/// run resumes bit for bit only with the library of its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// Intel's Math Kernel Library, libtorch's default.
    Mkl,
    /// oneDNN.
    OneDnn,
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

/// The library in use: 0 if not chosen yet, 1 for MKL, 2 for oneDNN.
static CHOICE: AtomicU8 = AtomicU8::new(0);

/// Returns the library in use: that of [`choose`], or the faster one for this processor.
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
/// The message for an unknown name.
pub fn choose_from_environment() -> Result<(), String> {
    match std::env::var(VARIABLE) {
        Ok(name) => name.parse().map(choose),
        Err(_) => Ok(()),
    }
}

/// Selects the library for this process.
pub fn choose(library: Library) {
    CHOICE.store(if library == Library::Mkl { 1 } else { 2 }, Ordering::Relaxed);
}

/// Returns the faster library for this processor.
fn fastest() -> Library {
    #[cfg(all(onednn, target_arch = "x86_64"))]
    if std::arch::is_x86_feature_detected!("avx512f") && !is_intel() {
        return Library::OneDnn;
    }
    Library::Mkl
}

/// Whether the processor's maker is Intel.
#[cfg(all(onednn, target_arch = "x86_64"))]
fn is_intel() -> bool {
    let maker = std::arch::x86_64::__cpuid(0);
    [maker.ebx, maker.edx, maker.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
}

/// Returns what [`f_linear`] does.
///
/// # Panics
/// If shapes do not match or memory runs out, like tch's functions without `f_`.
pub fn linear(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    f_linear(input, weight, bias).unwrap_or_else(|error| panic!("{error}"))
}

/// Returns `input` `[.., in]` times the transpose of `weight` `[out, in]`, plus `bias` `[out]`, like torch's `linear`.
///
/// # Errors
/// [`TchError`] if shapes do not match or memory runs out.
pub fn f_linear(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, TchError> {
    #[cfg(onednn)]
    {
        let is_plain = |tensor: &Tensor| tensor.kind() == Kind::Float && tensor.device() == Device::Cpu;
        if library() == Library::OneDnn && is_plain(input) && is_plain(weight) && input.numel() > 0 {
            return onednn::linear(input, weight, bias);
        }
    }
    input.f_linear(weight, bias)
}

/// Calls of the C++ part.
#[cfg(onednn)]
mod onednn {
    use std::ffi::{CStr, c_char, c_void};

    use tch::{TchError, Tensor};

    #[expect(unsafe_code, reason = "the only calls of the C++ part")]
    pub(super) fn linear(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, TchError> {
        unsafe extern "C" {
            fn torch_ext_linear(
                input: *const c_void,
                weight: *const c_void,
                bias: *const c_void,
                error: *mut *mut c_char,
            ) -> *mut c_void;
            fn free(pointer: *mut c_void);
        }
        let mut error = std::ptr::null_mut();
        let pointer = |tensor: &Tensor| tensor.as_ptr().cast::<c_void>();
        // SAFETY: the pointers are those of live tensors, which C++ only reads. The result is a new tensor that `from_ptr`
        // owns. The message is a string of C's `strdup`, freed once.
        unsafe {
            let bias = bias.map_or(std::ptr::null(), pointer);
            let result = torch_ext_linear(pointer(input), pointer(weight), bias, &mut error);
            if error.is_null() {
                return Ok(Tensor::from_ptr(result.cast()));
            }
            let message = CStr::from_ptr(error).to_string_lossy().into_owned();
            free(error.cast());
            Err(TchError::Torch(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the output and the gradients of a linear layer.
    fn pass(library: Library, shape: &[i64], with_bias: bool) -> Vec<Tensor> {
        choose(library);
        let values = |shape: &[i64], offset: f64| {
            let count = shape.iter().product::<i64>();
            (Tensor::arange(count, (Kind::Float, Device::Cpu)) + offset)
                .sin()
                .view(shape)
                .set_requires_grad(true)
        };
        let (input, weight, bias) = (values(shape, 0.5), values(&[24, 16], 7.0), values(&[24], 3.0));
        let output = linear(&input, &weight, with_bias.then_some(&bias));
        (output.sin() * 2.0).sum(Kind::Float).backward();
        let gradient = |tensor: &Tensor| tensor.grad();
        let mut all = vec![output.detach(), gradient(&input), gradient(&weight)];
        all.extend(with_bias.then(|| gradient(&bias)));
        all
    }

    #[test]
    fn both_libraries_give_the_same_outputs_and_gradients() {
        for shape in [&[5, 16][..], &[2, 3, 16], &[1, 16], &[2, 7, 3, 16]] {
            for with_bias in [true, false] {
                let [mkl, onednn] =
                    [Library::Mkl, Library::OneDnn].map(|library| pass(library, shape, with_bias));
                for (expected, found) in mkl.iter().zip(&onednn) {
                    let error = (expected - found).abs().max().double_value(&[]);
                    assert!(expected.size() == found.size() && error < 1e-5, "{shape:?}: {error}");
                }
            }
        }
        choose(Library::OneDnn);
        let (input, weight) = (
            Tensor::zeros([2, 3], (Kind::Float, Device::Cpu)),
            Tensor::zeros([4, 5], (Kind::Float, Device::Cpu)),
        );
        assert!(f_linear(&input, &weight, None).is_err());
        choose(fastest());
    }

    #[test]
    fn names_are_parsed() {
        assert_eq!("onednn".parse(), Ok(Library::OneDnn));
        assert!("blas".parse::<Library>().unwrap_err().contains(VARIABLE));
    }
}
