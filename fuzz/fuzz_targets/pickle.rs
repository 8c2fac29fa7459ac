//! The pickle of an otherwise valid archive, with one storage of four floats under the key `0`.

#![no_main]

use clip_distill_fuzz::zip;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let storage = [1u8; 16];
    let _ = clip_model::Checkpoint::from_bytes(&zip(&[("x/data.pkl", bytes), ("x/data/0", &storage)]));
    // A TorchScript archive, from whose modules the reader takes the weights.
    let entries = [("x/data.pkl", bytes), ("x/constants.pkl", &[][..]), ("x/data/0", &storage[..])];
    let _ = clip_model::Checkpoint::from_bytes(&zip(&entries));
});
