//! Calls to the C++ code: tensor pointers in, a new tensor or an error message out.

use std::ffi::{CStr, c_char, c_void};

use tch::{TchError, Tensor};

/// Returns the pointer of a tensor, or null for `None`.
pub(crate) fn pointer(tensor: Option<&Tensor>) -> *const c_void {
    tensor.map_or(std::ptr::null(), |tensor| tensor.as_ptr().cast::<c_void>())
}

/// Returns the tensor that `call` creates, or its error message as an error.
#[expect(unsafe_code, reason = "takes ownership of what C++ allocated")]
pub(crate) fn tensor(call: impl FnOnce(*mut *mut c_char) -> *mut c_void) -> Result<Tensor, TchError> {
    unsafe extern "C" {
        fn free(pointer: *mut c_void);
    }
    let mut error = std::ptr::null_mut();
    let result = call(&mut error);
    // SAFETY: each C++ function either returns a new tensor, which `from_ptr` owns, or writes a string from `strdup`,
    // which is freed once.
    unsafe {
        if error.is_null() {
            return Ok(Tensor::from_ptr(result.cast()));
        }
        let message = CStr::from_ptr(error).to_string_lossy().into_owned();
        free(error.cast());
        Err(TchError::Torch(message))
    }
}
