//! Markers: frame and scan headers, tables, and the segments that define the colour space.

use super::damaged;
use super::huffman::Table;
use crate::DamageKind;
use crate::image::decode::{DecodeError, check_size};

/// Zigzag order: position in the block, in row-major order, of each coefficient in the file.
#[rustfmt::skip]
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55,
    62, 63,
];

/// Largest number of blocks in an MCU of an interleaved scan.
const MAX_BLOCKS_PER_GROUP: usize = 10;

/// A component of the frame.
#[derive(Clone, Debug)]
pub(super) struct Component {
    pub(super) id: u8,
    /// Sampling factors: blocks per MCU, horizontally and vertically.
    pub(super) h: usize,
    pub(super) v: usize,
    /// Index of its quantization table.
    table: usize,
    /// Size in samples.
    pub(super) width: usize,
    pub(super) height: usize,
}

/// The frame header.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) progressive: bool,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) components: Vec<Component>,
    pub(super) max_h: usize,
    pub(super) max_v: usize,
    /// MCUs per row and column in interleaved scans.
    pub(super) groups_x: usize,
    pub(super) groups_y: usize,
}

/// A component of a scan, with its Huffman tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScanComponent {
    pub(super) index: usize,
    pub(super) dc: usize,
    pub(super) ac: usize,
}

/// A scan header.
#[derive(Clone, Debug)]
pub(super) struct Scan {
    pub(super) components: Vec<ScanComponent>,
    /// First and last coefficient, in zigzag order.
    pub(super) start: usize,
    pub(super) end: usize,
    /// Low bits that the coefficients lack before this scan, 0 if this is their first scan.
    pub(super) high: u32,
    /// Low bits that the coefficients lack after this scan.
    pub(super) low: u32,
}

/// Colour space of the components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colors {
    Grey,
    Rgb,
    YCbCr,
    Cmyk,
    Ycck,
}

/// State that markers change.
#[derive(Default)]
pub(super) struct Header {
    pub(super) frame: Option<Frame>,
    /// Quantization tables in row-major order.
    quant: [Option<[i16; 64]>; 4],
    pub(super) dc: [Option<Table>; 4],
    pub(super) ac: [Option<Table>; 4],
    /// MCUs between restart markers, 0 without restart markers.
    pub(super) restart_interval: usize,
    is_jfif: bool,
    /// The colour transform in the Adobe segment.
    adobe: Option<u8>,
}

/// The marker that ends a call of [`Header::read`].
pub(super) enum Stop {
    /// A scan, and the offset of its data.
    Scan(Scan, usize),
    EndOfImage,
}

impl Header {
    /// Reads markers from `at` to the next scan or the end of the image.
    pub(super) fn read(&mut self, bytes: &[u8], mut at: usize) -> Result<Stop, DecodeError> {
        let truncated = || DecodeError::new(DamageKind::TruncatedJpeg, "the file ends before the image does");
        loop {
            // As in libjpeg, bytes between segments are skipped.
            let rest = bytes.get(at..).ok_or_else(truncated)?;
            let (skipped, marker) = marker(rest).ok_or_else(truncated)?;
            at += skipped;
            if marker == 0xD9 {
                return Ok(Stop::EndOfImage);
            }
            if marker == 0xD8 {
                return Err(damaged("a second start-of-image marker"));
            }
            // Markers without content: TEM and restarts.
            if marker == 0x01 || (0xD0..=0xD7).contains(&marker) {
                continue;
            }
            let [high, low, ..] = bytes[at..] else { return Err(truncated()) };
            let length = usize::from(u16::from_be_bytes([high, low]));
            if length < 2 {
                return Err(damaged("a segment with an invalid length"));
            }
            let content = bytes.get(at + 2..at + length).ok_or_else(truncated)?;
            at += length;
            match marker {
                0xC0..=0xC2 => self.read_frame(marker == 0xC2, content)?,
                0xC4 => self.read_huffman(content)?,
                0xC3 | 0xC5..=0xCF | 0xDE | 0xDF => return Err(unsupported(variant(marker))),
                0xDA => return Ok(Stop::Scan(self.read_scan(content)?, at)),
                0xDB => self.read_quant(content)?,
                0xDC => return Err(unsupported("a height after the pixels (DNL)")),
                0xDD => match content {
                    [high, low] => self.restart_interval = usize::from(u16::from_be_bytes([*high, *low])),
                    _ => return Err(damaged("a restart interval with an invalid length")),
                },
                0xE0 => self.is_jfif |= content.len() >= 14 && content.starts_with(b"JFIF\0"),
                0xEE if content.len() >= 12 && content.starts_with(b"Adobe") => {
                    self.adobe = Some(content[11])
                }
                _ => {}
            }
        }
    }

    fn read_frame(&mut self, progressive: bool, content: &[u8]) -> Result<(), DecodeError> {
        let [precision, h1, h0, w1, w0, count, rows @ ..] = content else {
            return Err(damaged("a frame header that is too short"));
        };
        if self.frame.is_some() {
            return Err(damaged("two frame headers"));
        }
        if *precision != 8 {
            return Err(unsupported(format!("{precision} bits per sample")));
        }
        let width = usize::from(u16::from_be_bytes([*w1, *w0]));
        let height = usize::from(u16::from_be_bytes([*h1, *h0]));
        check_size(width as u64, height as u64)?;
        if !matches!(count, 1 | 3 | 4) {
            return Err(unsupported(format!("{count} components")));
        }
        if rows.len() != 3 * usize::from(*count) {
            return Err(damaged("a frame header with an invalid length"));
        }
        let mut components = Vec::new();
        for row in rows.chunks_exact(3) {
            let (h, v) = (usize::from(row[1] >> 4), usize::from(row[1] & 15));
            if !(1..=4).contains(&h) || !(1..=4).contains(&v) || row[2] > 3 {
                return Err(damaged("a component with invalid sampling factors or tables"));
            }
            components.push(Component { id: row[0], h, v, table: usize::from(row[2]), width: 0, height: 0 });
        }
        if let [only] = &mut components[..] {
            // A single component is never interleaved, so its sampling factors have no effect.
            (only.h, only.v) = (1, 1);
        }
        let max_h = components.iter().map(|c| c.h).max().unwrap_or(1);
        let max_v = components.iter().map(|c| c.v).max().unwrap_or(1);
        for component in &mut components {
            if max_h % component.h != 0 || max_v % component.v != 0 {
                return Err(unsupported("fractional sampling factors"));
            }
            component.width = (width * component.h).div_ceil(max_h);
            component.height = (height * component.v).div_ceil(max_v);
        }
        let (groups_x, groups_y) = (width.div_ceil(8 * max_h), height.div_ceil(8 * max_v));
        self.frame = Some(Frame { progressive, width, height, components, max_h, max_v, groups_x, groups_y });
        Ok(())
    }

    fn read_huffman(&mut self, mut content: &[u8]) -> Result<(), DecodeError> {
        while let [kind, rest @ ..] = content {
            let (counts, rest) =
                rest.split_first_chunk::<16>().ok_or_else(|| damaged("a short Huffman table"))?;
            let total = counts.iter().map(|&count| usize::from(count)).sum::<usize>();
            let table = rest.get(..total).and_then(|symbols| Table::new(counts, symbols));
            let table = table.ok_or_else(|| damaged("an invalid Huffman table"))?;
            match kind {
                0..=3 if table.fits_dc() => self.dc[usize::from(*kind)] = Some(table),
                0x10..=0x13 => self.ac[usize::from(kind & 3)] = Some(table),
                _ => return Err(damaged("an invalid Huffman table")),
            }
            content = &rest[total..];
        }
        Ok(())
    }

    fn read_quant(&mut self, mut content: &[u8]) -> Result<(), DecodeError> {
        while let [kind, rest @ ..] = content {
            let size = if kind >> 4 == 0 { 1 } else { 2 };
            let values = rest.get(..64 * size).ok_or_else(|| damaged("a short quantization table"))?;
            let slot = self.quant.get_mut(usize::from(kind & 15));
            let slot = slot.ok_or_else(|| damaged("a quantization table with an invalid index"))?;
            let mut table = [0; 64];
            for (value, &place) in values.chunks_exact(size).zip(&ZIGZAG) {
                let value = value.iter().fold(0, |high, &low| high << 8 | u16::from(low));
                table[usize::from(place)] = value as i16;
            }
            *slot = Some(table);
            content = &rest[64 * size..];
        }
        Ok(())
    }

    fn read_scan(&self, content: &[u8]) -> Result<Scan, DecodeError> {
        let frame = self.frame.as_ref().ok_or_else(|| damaged("a scan before the frame header"))?;
        let invalid = || damaged("an invalid scan header");
        let [count, rest @ ..] = content else { return Err(invalid()) };
        let count = usize::from(*count);
        if !(1..=4).contains(&count) || rest.len() != 2 * count + 3 {
            return Err(invalid());
        }
        let mut components: Vec<ScanComponent> = Vec::new();
        for row in rest[..2 * count].chunks_exact(2) {
            let index =
                frame.components.iter().position(|component| component.id == row[0]).ok_or_else(invalid)?;
            let (dc, ac) = (usize::from(row[1] >> 4), usize::from(row[1] & 15));
            if dc > 3 || ac > 3 || components.iter().any(|other| other.index == index) {
                return Err(invalid());
            }
            components.push(ScanComponent { index, dc, ac });
        }
        let blocks = components.iter().map(|c| frame.components[c.index].h * frame.components[c.index].v);
        if count > 1 && blocks.sum::<usize>() > MAX_BLOCKS_PER_GROUP {
            return Err(invalid());
        }
        let [start, end, bits] = rest[2 * count..] else { return Err(invalid()) };
        let (start, end) = (usize::from(start), usize::from(end));
        let (high, low) = (u32::from(bits >> 4), u32::from(bits & 15));
        if !frame.progressive {
            // As in libjpeg, the fields that only progressive scans use are ignored.
            return Ok(Scan { components, start: 0, end: 63, high: 0, low: 0 });
        }
        let band = if start == 0 { end == 0 } else { start <= end && end < 64 && count == 1 };
        if !band || low > 13 || (high != 0 && high != low + 1) {
            return Err(invalid());
        }
        Ok(Scan { components, start, end, high, low })
    }

    /// Returns the quantization table of a component.
    pub(super) fn quant(&self, component: &Component) -> Result<[i16; 64], DecodeError> {
        self.quant[component.table].ok_or_else(|| damaged("no quantization table"))
    }

    /// Returns the colour space. Like libjpeg, it uses the JFIF and Adobe segments, or else the component ids.
    pub(super) fn colors(&self, frame: &Frame) -> Colors {
        let ids = frame.components.iter().map(|component| component.id).collect::<Vec<_>>();
        match (ids.len(), self.adobe) {
            (1, _) => Colors::Grey,
            (3, _) if self.is_jfif => Colors::YCbCr,
            (3, Some(0)) => Colors::Rgb,
            (3, None) if ids == *b"RGB" => Colors::Rgb,
            (3, _) => Colors::YCbCr,
            (_, None | Some(0)) => Colors::Cmyk,
            _ => Colors::Ycck,
        }
    }
}

/// Returns the next marker, preceded by the number of bytes up to its end.
fn marker(bytes: &[u8]) -> Option<(usize, u8)> {
    let mut at = 0;
    loop {
        at += memchr::memchr(0xFF, bytes.get(at..)?)?;
        at += bytes[at..].iter().take_while(|&&byte| byte == 0xFF).count();
        let code = *bytes.get(at)?;
        at += 1;
        if code != 0 {
            return Some((at, code));
        }
    }
}

/// Names the variant of a frame marker.
fn variant(marker: u8) -> &'static str {
    match marker {
        0xC3 => "lossless coding",
        0xC5..=0xC7 | 0xDE | 0xDF => "hierarchical coding",
        _ => "arithmetic coding",
    }
}

fn unsupported(variant: impl std::fmt::Display) -> DecodeError {
    let reason = format!("JPEG with {variant} is not supported: save it as baseline or progressive JPEG");
    DecodeError::new(DamageKind::UnsupportedImage, reason)
}
