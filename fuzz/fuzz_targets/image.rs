//! Images of all supported formats. JPEG files reach this project's decoder.

#![no_main]

use data_pipeline::DamageKind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let kind = data_pipeline::image::decode(bytes).err().map(|error| error.kind);
    // `decode` turns panics into errors. JPEG files must not cause any.
    assert!(kind != Some(DamageKind::DecoderPanic) || !bytes.starts_with(b"\xFF\xD8"));
});
