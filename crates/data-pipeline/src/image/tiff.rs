//! Tags of TIFF structures, and the names of TIFF variants that the decoder does not support.

/// Tags of the first directory.
#[cfg(feature = "formats")]
const BITS: u16 = 258;
#[cfg(feature = "formats")]
const COMPRESSION: u16 = 259;
#[cfg(feature = "formats")]
const PHOTOMETRIC: u16 = 262;
#[cfg(feature = "formats")]
const SAMPLE_FORMAT: u16 = 339;

/// Describes an unsupported TIFF file by the property that is not supported.
#[cfg(feature = "formats")]
pub(super) fn describe(bytes: &[u8]) -> String {
    let tag = |tag| short_tag(bytes, tag);
    let compression = match tag(COMPRESSION) {
        Some(2..=4) => Some("CCITT (fax)"),
        Some(6) => Some("old JPEG"),
        Some(34_712) => Some("JPEG 2000"),
        Some(34_887) => Some("LERC"),
        Some(34_925) => Some("LZMA"),
        Some(50_000) => Some("zstd"),
        Some(50_001) => Some("WebP"),
        _ => None,
    };
    let colors = match tag(PHOTOMETRIC) {
        Some(3) => Some("palette"),
        Some(6) => Some("YCbCr"),
        Some(8..=10) => Some("CIELab"),
        Some(32_803) => Some("raw sensor"),
        _ => None,
    };
    let bits = tag(BITS).map_or(String::new(), |bits| format!("{bits}-bit "));
    match (compression, tag(SAMPLE_FORMAT), colors) {
        (Some(compression), ..) => format!("TIFF with {compression} compression"),
        (None, Some(3), _) => format!("TIFF with {bits}floating-point samples"),
        (None, Some(2), _) => format!("TIFF with {bits}signed samples"),
        (None, _, Some(colors)) => format!("TIFF with {colors} colours"),
        _ => format!("TIFF with this combination of {bits}samples, colours and compression"),
    }
}

/// Returns the first value of a tag in the first directory of a TIFF structure, if it is a 16-bit number.
pub(super) fn short_tag(bytes: &[u8], tag: u16) -> Option<u16> {
    let little = match bytes.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short = |at: usize| {
        let pair = [*bytes.get(at)?, *bytes.get(at + 1)?];
        Some(if little { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) })
    };
    let long = |at: usize| {
        let (low, high) = if little { (short(at)?, short(at + 2)?) } else { (short(at + 2)?, short(at)?) };
        Some(usize::from(high) << 16 | usize::from(low))
    };
    let directory = long(4)?;
    let entries = usize::from(short(directory)?);
    // Entries: tag, type, count (4 bytes), value, or the place of more than two values.
    let entry = (0..entries).map(|number| directory + 2 + 12 * number).find(|at| short(*at) == Some(tag))?;
    if long(entry + 4)? > 2 { short(long(entry + 8)?) } else { short(entry + 8) }
}
