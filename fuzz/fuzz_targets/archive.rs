//! A zip archive with the input as its directory, behind a valid pickle and storage.

#![no_main]

use clip_distill_fuzz::{STATE, zip};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let good = zip(&[("x/data.pkl", STATE), ("x/data/0", &[1; 16])]);
    // The last record holds the start and the length of the directory.
    let end = good.len() - 22;
    let start = u32::from_le_bytes([good[end + 16], good[end + 17], good[end + 18], good[end + 19]]) as usize;
    let _ = clip_model::Checkpoint::from_bytes(&[&good[..start], bytes].concat());
    let mut last = good[end..].to_vec();
    last[12..16].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
    let _ = clip_model::Checkpoint::from_bytes(&[&good[..start], bytes, &last].concat());
});
