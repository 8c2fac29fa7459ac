//! A file of any container, which the reader recognises by its first bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = clip_model::Checkpoint::from_bytes(bytes);
});
