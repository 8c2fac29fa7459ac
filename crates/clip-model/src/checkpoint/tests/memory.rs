//! How much memory a piece of code asks for at once, for tests of files that claim too much.
//!
//! Tensors are made by the tensor library with memory of its own; their bytes pass through a buffer of
//! Rust's first, so that a claim that is believed shows here too.
#![expect(unsafe_code, reason = "an allocator cannot be written without it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

struct Watched;

// Tests run side by side: each thread counts its own requests.
fn note(size: usize) {
    // A thread that ends asks for memory after its counter is gone.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

// SAFETY: everything is passed on to the system's allocator; noting a number asks for no memory.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static WATCHED: Watched = Watched;

/// The largest number of bytes that this thread asks for at once in `work`.
pub(super) fn largest_request(work: impl FnOnce()) -> usize {
    LARGEST.set(0);
    work();
    LARGEST.get()
}

#[test]
fn requests_are_seen() {
    let largest = largest_request(|| drop(std::hint::black_box(vec![1u8; 12_345])));
    assert_eq!(largest, 12_345);
    let largest = largest_request(|| drop(std::hint::black_box(vec![0u64; 1000])));
    assert_eq!(largest, 8000);
}
