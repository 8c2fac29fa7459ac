//! PNG files: the colour type, and files that are truncated after the pixels or have wrong checksums of pixels.

/// First bytes of a PNG file.
pub(super) const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1A\n";

/// Whether the bytes are a PNG file whose colour type has no alpha channel; alpha then marks a transparent colour.
pub(super) fn has_no_alpha_channel(bytes: &[u8]) -> bool {
    // Signature, length and kind of the header chunk, width, height, bit depth.
    const COLOR_TYPE: usize = 8 + 4 + 4 + 4 + 4 + 1;
    bytes.starts_with(SIGNATURE) && matches!(bytes.get(COLOR_TYPE), Some(0 | 2 | 3))
}

/// Mends a PNG file that has no end chunk (`IEND`), ends inside a chunk, or has wrong checksums of pixels. Returns `None`
/// for a file without such a fault.
///
/// Keeps complete chunks and the pixels of an incomplete one, and adds the end chunk. If pixels are missing, the result
/// cannot be decoded either.
pub(super) fn mended(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut whole = bytes.get(..SIGNATURE.len())?.to_vec();
    let mut rest = &bytes[SIGNATURE.len()..];
    let mut is_changed = false;
    while let [a, b, c, d, kind @ ..] = rest
        && kind.len() >= 4
    {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let (kind, content) = kind.split_at(4);
        if kind == b"IEND" {
            // Only its checksum may be missing.
            if content.len() >= 4 && !is_changed {
                return None;
            }
            break;
        }
        // The checksum follows the content.
        if let Some(next) = length.checked_add(4).and_then(|end| content.get(end..)) {
            if kind == b"IDAT" {
                let start = whole.len();
                add(&mut whole, b"IDAT", &content[..length]);
                is_changed |= whole[start..] != rest[..12 + length];
            } else {
                whole.extend_from_slice(&rest[..12 + length]);
            }
            rest = next;
            continue;
        }
        if kind == b"IDAT" {
            add(&mut whole, b"IDAT", &content[..length.min(content.len())]);
        }
        break;
    }
    add(&mut whole, b"IEND", &[]);
    Some(whole)
}

/// Adds a chunk: length, kind, content and checksum.
fn add(png: &mut Vec<u8>, kind: &[u8; 4], content: &[u8]) {
    png.extend_from_slice(&(content.len() as u32).to_be_bytes());
    let start = png.len();
    png.extend_from_slice(kind);
    png.extend_from_slice(content);
    let mut checksum = flate2::Crc::new();
    checksum.update(&png[start..]);
    png.extend_from_slice(&checksum.sum().to_be_bytes());
}
