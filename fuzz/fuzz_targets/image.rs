//! Images of any format; JPEG has a decoder of its own.

#![no_main]

use data_pipeline::DamageKind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let kind = data_pipeline::image::decode(bytes).err().map(|error| error.kind);
    // The decoder turns a panic into an error.
    assert!(kind != Some(DamageKind::DecoderPanic) || !bytes.starts_with(b"\xFF\xD8"));
});
