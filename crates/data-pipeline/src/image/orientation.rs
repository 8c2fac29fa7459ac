//! EXIF orientation: how a camera was held when it took a photo.

use crate::image::RgbImage;
use crate::image::tiff::short_tag;

/// EXIF tag of the orientation.
const TAG: u16 = 0x0112;

/// Returns the EXIF orientation of an image file, 1 to 8; 1 if it has none. JPEG, PNG, WebP and TIFF files are searched.
///
/// ```
/// assert_eq!(data_pipeline::image::orientation::of_file(b"no image"), 1);
/// ```
pub fn of_file(bytes: &[u8]) -> u8 {
    let exif = if bytes.starts_with(&[0xFF, 0xD8]) {
        jpeg(bytes)
    } else if bytes.starts_with(b"\x89PNG\r\n\x1A\n") {
        chunk(&bytes[8..], b"eXIf", 4, u32::from_be_bytes, 4)
    } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        chunk(&bytes[12..], b"EXIF", 0, u32::from_le_bytes, 0)
    } else {
        Some(bytes)
    };
    exif.and_then(tiff).filter(|value| (1..=8).contains(value)).unwrap_or(1)
}

/// Returns the EXIF content of a JPEG file.
fn jpeg(bytes: &[u8]) -> Option<&[u8]> {
    let mut at = 2;
    loop {
        let [0xFF, marker, high, low, content @ ..] = bytes.get(at..)? else { return None };
        if *marker == 0xFF {
            at += 1;
            continue;
        }
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        match marker {
            0xDA => return None,
            0xE1 if content.starts_with(b"Exif\0\0") => return content.get(6..length.saturating_sub(2)),
            _ => at += 2 + length.max(2),
        }
    }
}

/// Returns the content of a chunk of PNG (the length is before the kind, a checksum follows) or WebP.
fn chunk<'a>(
    mut rest: &'a [u8],
    wanted: &[u8; 4],
    kind_at: usize,
    order: fn([u8; 4]) -> u32,
    checksum: usize,
) -> Option<&'a [u8]> {
    loop {
        let head = rest.get(..8)?;
        let length_at = 4 - kind_at;
        let length = order([head[length_at], head[length_at + 1], head[length_at + 2], head[length_at + 3]]);
        let length = length as usize;
        if &head[kind_at..kind_at + 4] == wanted {
            let content = rest.get(8..)?.get(..length)?;
            return Some(content.strip_prefix(b"Exif\0\0").unwrap_or(content));
        }
        // Chunks of WebP have an even length.
        let padding = if checksum == 0 { length % 2 } else { 0 };
        rest = rest.get(8..)?.get(length.checked_add(checksum + padding)?..)?;
    }
}

/// Returns the orientation of the first directory of a TIFF structure.
fn tiff(bytes: &[u8]) -> Option<u8> {
    u8::try_from(short_tag(bytes, TAG)?).ok()
}

/// Rotates and mirrors an image upright, as PIL's `ImageOps.exif_transpose` does.
///
/// ```
/// use data_pipeline::image::{RgbImage, orientation::upright};
/// let row = RgbImage { width: 2, height: 1, pixels: vec![1, 1, 1, 2, 2, 2] };
/// assert_eq!(upright(row, 3).pixels, [2, 2, 2, 1, 1, 1]);
/// ```
pub fn upright(image: RgbImage, orientation: u8) -> RgbImage {
    if !(2..=8).contains(&orientation) {
        return image;
    }
    let RgbImage { width, height, pixels } = image;
    let (new_width, new_height) = if orientation >= 5 { (height, width) } else { (width, height) };
    let mut turned = Vec::with_capacity(pixels.len());
    for y in 0..new_height {
        for x in 0..new_width {
            let (from_x, from_y) = match orientation {
                2 => (width - 1 - x, y),
                3 => (width - 1 - x, height - 1 - y),
                4 => (x, height - 1 - y),
                5 => (y, x),
                6 => (y, height - 1 - x),
                7 => (width - 1 - y, height - 1 - x),
                _ => (width - 1 - y, x),
            };
            let at = 3 * (from_y * width + from_x);
            turned.extend_from_slice(&pixels[at..at + 3]);
        }
    }
    RgbImage { width: new_width, height: new_height, pixels: turned }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An EXIF block with one entry.
    fn exif(orientation: u8, little: bool) -> Vec<u8> {
        let value = if little { [orientation, 0, 0, 0] } else { [0, orientation, 0, 0] };
        let head: &[u8] = if little {
            b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0"
        } else {
            b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01"
        };
        [head, &value, &[0; 4]].concat()
    }

    #[test]
    fn orientation_is_found_in_each_container() {
        for little in [true, false] {
            let exif = exif(6, little);
            let length = u16::try_from(exif.len() + 8).unwrap().to_be_bytes();
            let jpeg = [b"\xFF\xD8\xFF\xE0\0\x04xx\xFF\xE1", &length[..], b"Exif\0\0", &exif].concat();
            let size = exif.len() as u32;
            let png =
                [b"\x89PNG\r\n\x1A\n\0\0\0\x01teXtxABCD", &size.to_be_bytes()[..], b"eXIf", &exif, b"ABCD"]
                    .concat();
            let webp = [b"RIFF\0\0\0\0WEBPVP8X\x01\0\0\0x\0EXIF", &size.to_le_bytes()[..], &exif].concat();
            for file in [&jpeg, &png, &webp, &exif] {
                assert_eq!(of_file(file), 6);
                // A truncated file has either no orientation or the right one.
                for length in 0..file.len() {
                    assert!([1, 6].contains(&of_file(&file[..length])));
                }
            }
        }
        assert_eq!(of_file(&exif(9, true)), 1);
    }

    #[test]
    fn images_are_rotated_as_in_pil() {
        // Two rows of three pixels: 1 2 3 / 4 5 6.
        let image = || RgbImage { width: 3, height: 2, pixels: (1..=6).flat_map(|v| [v; 3]).collect() };
        // The results of PIL's ImageOps.exif_transpose.
        for (orientation, width, expected) in [
            (1, 3, [1, 2, 3, 4, 5, 6]),
            (2, 3, [3, 2, 1, 6, 5, 4]),
            (3, 3, [6, 5, 4, 3, 2, 1]),
            (4, 3, [4, 5, 6, 1, 2, 3]),
            (5, 2, [1, 4, 2, 5, 3, 6]),
            (6, 2, [4, 1, 5, 2, 6, 3]),
            (7, 2, [6, 3, 5, 2, 4, 1]),
            (8, 2, [3, 6, 2, 5, 1, 4]),
        ] {
            let turned = upright(image(), orientation);
            let values = turned.pixels.iter().step_by(3).copied().collect::<Vec<_>>();
            assert_eq!((turned.width, &values[..]), (width, &expected[..]), "{orientation}");
        }
    }
}
