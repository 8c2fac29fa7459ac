//! Damaged images give an error, never a panic.

use data_pipeline::image::decode;

fn golden(file: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/preprocess/images/");
    std::fs::read(format!("{folder}{file}")).unwrap()
}

const FILES: [&str; 7] = [
    "baseline-500x333-444.jpg",
    "progressive-512x384-420.jpg",
    "exif-rotated-480x320.jpg",
    "cmyk-300x200.jpg",
    "rgba-301x299.png",
    "palette-257x400.png",
    "lossy-300x260.webp",
];

#[test]
fn truncated_files_are_errors() {
    for file in FILES {
        let bytes = golden(file);
        assert!(decode(&bytes).is_ok(), "{file}");
        for share in 0..40 {
            let cut = bytes.len() * share / 41;
            assert!(decode(&bytes[..cut]).is_err(), "{file} cut to {cut} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn flipped_bytes_never_panic() {
    for file in FILES {
        let bytes = golden(file);
        for place in (0..bytes.len().min(2000)).step_by(7) {
            let mut broken = bytes.clone();
            broken[place] ^= 0xFF;
            let _ = std::panic::catch_unwind(|| decode(&broken).is_ok())
                .unwrap_or_else(|_| panic!("{file}: byte {place}"));
        }
    }
}

#[test]
fn other_files_are_errors() {
    for bytes in
        [&b""[..], b"x", b"GIF89a", b"\xFF\xD8", b"\xFF\xD8\xFF\xD9", b"\x89PNG\r\n\x1a\n", &[0; 4096]]
    {
        assert!(decode(bytes).is_err());
    }
    // A bitmap that claims 100,000 x 100,000 pixels.
    let mut bomb = b"BM\x36\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
    bomb.extend(100_000u32.to_le_bytes());
    bomb.extend(100_000u32.to_le_bytes());
    bomb.extend(b"\x01\0\x18\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert!(decode(&bomb).is_err());
}
