//! The header of a safetensors file with its correct length, before 64 bytes of tensors.

#![no_main]

libfuzzer_sys::fuzz_target!(|header: &[u8]| {
    let size = (header.len() as u64).to_le_bytes();
    let _ = clip_model::Checkpoint::from_bytes(&[&size[..], header, &[0; 64]].concat());
});
