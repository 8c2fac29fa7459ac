//! Rows of an embedding table.

use std::ffi::{c_char, c_void};

use tch::{TchError, Tensor};

use crate::call;

/// Returns the rows of `table` `[rows, width]` at `indices` (i64) `[..]`: `[.., width]`.
///
/// For a float32 leaf on the CPU, the backward pass adds the rows to the gradient that the leaf stores. libtorch's own
/// function adds a tensor of the table's size in each pass. Hooks on the leaf do not see these rows.
///
/// # Errors
/// [`TchError`] if an index is outside the table, a shape or type does not match, or memory runs out.
#[expect(unsafe_code, reason = "a call of the C++ part")]
pub fn f_embedding(table: &Tensor, indices: &Tensor) -> Result<Tensor, TchError> {
    unsafe extern "C" {
        fn torch_ext_embedding(
            table: *const c_void,
            indices: *const c_void,
            error: *mut *mut c_char,
        ) -> *mut c_void;
    }
    let [table, indices] = [table, indices].map(|tensor| call::pointer(Some(tensor)));
    // SAFETY: the pointers are those of live tensors. C++ changes nothing but the gradient of the table, in the backward
    // pass, as the graphs of libtorch do.
    call::tensor(|error| unsafe { torch_ext_embedding(table, indices, error) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    const INDICES: [i64; 6] = [4, 0, 4, 2, 4, 0];

    fn table() -> Tensor {
        Tensor::arange(15, (Kind::Float, Device::Cpu)).sin().view([5, 3]).set_requires_grad(true)
    }

    /// Returns the rows and the table's gradient after `passes` backward passes.
    fn pass(passes: usize, kind: Kind, embed: impl Fn(&Tensor, &Tensor) -> Tensor) -> [Tensor; 2] {
        let (table, indices) = (table(), Tensor::from_slice(&INDICES).view([2, 3]));
        let mut rows = Tensor::new();
        for _ in 0..passes {
            rows = embed(&table.to_kind(kind), &indices);
            (&rows * rows.cos()).sum(Kind::Float).backward();
        }
        [rows.detach(), table.grad()]
    }

    #[test]
    fn rows_and_gradients_equal_those_of_libtorch() {
        let rows = |table: &Tensor, indices: &Tensor| f_embedding(table, indices).unwrap();
        let reference =
            |table: &Tensor, indices: &Tensor| Tensor::embedding(table, indices, -1, false, false);
        // A table of another type is no leaf: libtorch's own function computes its gradient.
        for kind in [Kind::Float, Kind::Double] {
            for passes in [1, 2] {
                let (expected, found) = (pass(passes, kind, reference), pass(passes, kind, rows));
                for (expected, found) in expected.iter().zip(&found) {
                    let error = (expected - found).abs().max().double_value(&[]);
                    assert!(expected.size() == found.size() && error < 1e-6, "{kind:?}, {passes}: {error}");
                }
            }
        }
    }

    #[test]
    fn an_index_outside_the_table_and_wrong_types_are_errors() {
        for index in [5, -1] {
            assert!(f_embedding(&table(), &Tensor::from_slice(&[index])).is_err(), "{index}");
        }
        assert!(f_embedding(&table(), &Tensor::from_slice(&[0.5f32])).is_err());
    }

    #[test]
    fn a_table_without_gradient_gets_none() {
        let table = table();
        let frozen = tch::no_grad(|| f_embedding(&table, &Tensor::from_slice(&INDICES)).unwrap());
        assert!(!frozen.requires_grad() && !table.grad().defined());
        let frozen = f_embedding(&table.detach(), &Tensor::from_slice(&INDICES)).unwrap();
        assert!(!frozen.requires_grad());
    }
}
