//! JPEG decoder that is bit-identical to libjpeg-turbo, and therefore to PIL.
//!
//! It reads baseline, extended sequential and progressive files (ITU T.81) with 8 bits per sample and 1, 3 or 4
//! components. Colour conversion, upsampling and rounding follow libjpeg-turbo's default settings.
//!
//! In names, `mean` is a DC coefficient, `details` are AC coefficients, and `group` is an MCU.

mod bits;
mod coefficients;
mod color;
mod entropy;
mod header;
mod huffman;
mod idct;
mod output;
mod progressive;
mod scan;
mod sequential;
mod upsample;

use self::header::{Colors, Header, Stop};
use self::output::Output;
use super::decode::{DecodeError, Decoded, Mode};
use crate::DamageKind;

impl Colors {
    fn mode(self) -> Mode {
        match self {
            Colors::Grey => Mode::L,
            Colors::Rgb | Colors::YCbCr => Mode::Rgb,
            Colors::Cmyk | Colors::Ycck => Mode::Cmyk,
        }
    }

    fn channels(self) -> usize {
        self.mode().channels()
    }
}

fn damaged(reason: &str) -> DecodeError {
    DecodeError::new(DamageKind::DamagedJpeg, reason)
}

fn truncated() -> DecodeError {
    DecodeError::new(DamageKind::TruncatedJpeg, "the file ends before the image does")
}

/// Decodes a JPEG file. CMYK pixels have 255 for full ink.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let mut header = Header::default();
    let Stop::Scan(scan, start) = header.read(bytes, 2)? else {
        return Err(damaged("the file has no image"));
    };
    let frame = header.frame.clone().ok_or_else(|| damaged("no frame header"))?;
    let colors = header.colors(&frame);
    let mut output = Output::new(&frame, colors)?;
    if frame.progressive || scan.components.len() < frame.components.len() {
        coefficients::decode(&mut header, &frame, (scan, start), bytes, &mut output)?;
    } else {
        let end = scan::whole(&header, &frame, &scan, (bytes, start), &mut output)?;
        if !bytes[end..].windows(2).any(|pair| pair == [0xFF, 0xD9]) {
            return Err(truncated());
        }
    }
    Ok(Decoded::new((frame.width, frame.height), colors.mode(), output.finish()))
}
