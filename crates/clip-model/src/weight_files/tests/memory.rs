//! Allocator that records the largest request of a thread, for tests of files that claim too much memory.
//!
//! Tensors live in memory of the tensor library. Their bytes pass through a Rust buffer first, so a claim that is
//! trusted still shows.
#![expect(unsafe_code, reason = "an allocator needs unsafe code")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

struct Recorder;

// Tests run in parallel, so each thread counts its own requests.
fn record(size: usize) {
    // A thread may allocate after its counter was dropped.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

// SAFETY: every call is forwarded to the system's allocator; recording a number does not allocate.
unsafe impl GlobalAlloc for Recorder {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        record(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        record(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        record(size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static RECORDER: Recorder = Recorder;

/// Returns the size of the largest single allocation of this thread during `work`.
pub(super) fn largest_request(work: impl FnOnce()) -> usize {
    LARGEST.set(0);
    work();
    LARGEST.get()
}

#[test]
fn allocations_are_recorded() {
    let largest = largest_request(|| drop(std::hint::black_box(vec![1u8; 12_345])));
    assert_eq!(largest, 12_345);
    let largest = largest_request(|| drop(std::hint::black_box(vec![0u64; 1000])));
    assert_eq!(largest, 8000);
}
