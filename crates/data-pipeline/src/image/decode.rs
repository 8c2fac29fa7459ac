//! Image decoding in the file's own colour mode, because the order of resizing and conversion matters.

#[cfg(feature = "formats")]
use std::io::Cursor;

#[cfg(feature = "formats")]
use image::error::ImageFormatHint;
#[cfg(feature = "formats")]
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use crate::DamageKind;
use crate::image::{RgbImage, jpeg};
#[cfg(feature = "formats")]
use crate::image::{png, tiff};
#[cfg(feature = "formats")]
use crate::sources::foreign_format;
use crate::sources::other_image_format;

/// Maximum number of pixels. A small file can claim to be huge.
pub const MAX_PIXELS: u64 = 178_956_970;

/// An error of decoding an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct DecodeError {
    /// The kind of damage.
    pub kind: DamageKind,
    /// The problem.
    pub reason: String,
}

impl DecodeError {
    pub(super) fn new(kind: DamageKind, reason: impl ToString) -> Self {
        DecodeError { kind, reason: reason.to_string() }
    }
}

/// Colour mode of decoded pixels, 8 bits per channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "formats"), expect(dead_code, reason = "JPEG has no alpha"))]
pub(crate) enum Mode {
    L,
    La,
    Rgb,
    Rgba,
    /// 255 is full ink.
    Cmyk,
}

impl Mode {
    pub(crate) fn channels(self) -> usize {
        match self {
            Mode::L => 1,
            Mode::La => 2,
            Mode::Rgb => 3,
            Mode::Rgba | Mode::Cmyk => 4,
        }
    }
}

/// A decoded image in its file's colour mode. Palette and 16-bit images are converted to RGB or grey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) mode: Mode,
    pub(crate) pixels: Vec<u8>,
    /// Whether alpha marks a transparent colour. PIL drops such alpha before it resizes.
    pub(crate) has_color_key: bool,
}

impl Decoded {
    /// Returns the width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns the height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    pub(crate) fn new((width, height): (usize, usize), mode: Mode, pixels: Vec<u8>) -> Self {
        Decoded { width, height, mode, pixels, has_color_key: false }
    }

    /// Returns RGBA pixels; images without alpha are opaque.
    #[cfg(feature = "emoji")]
    pub(crate) fn rgba(&self) -> Vec<[u8; 4]> {
        if self.mode == Mode::Rgba {
            return self.pixels.chunks_exact(4).map(|p| [p[0], p[1], p[2], p[3]]).collect();
        }
        to_rgb(self.mode, &self.pixels).chunks_exact(3).map(|p| [p[0], p[1], p[2], 255]).collect()
    }

    /// Converts to RGB: drops alpha, and converts CMYK like PIL.
    pub fn to_rgb(&self) -> RgbImage {
        RgbImage { width: self.width, height: self.height, pixels: to_rgb(self.mode, &self.pixels) }
    }

    /// Returns the pixels that replace those of the image before it is resized, if any: RGB pixels for a model that
    /// converts first, with alpha on white as in transformers, and opaque pixels for an image with a transparent colour.
    pub(crate) fn converted_first(&self, convert_rgb: bool) -> Option<Decoded> {
        let size = (self.width, self.height);
        let rgb = |pixels| Decoded::new(size, Mode::Rgb, pixels);
        match self.mode {
            Mode::L | Mode::Rgb => None,
            Mode::Cmyk => convert_rgb.then(|| rgb(to_rgb(self.mode, &self.pixels))),
            Mode::La if convert_rgb => {
                Some(rgb(self.pixels.chunks_exact(2).flat_map(|p| [onto_white(p[0], p[1]); 3]).collect()))
            }
            Mode::Rgba if convert_rgb => {
                let on_white = |p: &[u8]| [p[0], p[1], p[2]].map(|value| onto_white(value, p[3]));
                Some(rgb(self.pixels.chunks_exact(4).flat_map(on_white).collect()))
            }
            Mode::La if self.has_color_key => {
                Some(Decoded::new(size, Mode::L, self.pixels.iter().step_by(2).copied().collect()))
            }
            Mode::Rgba if self.has_color_key => Some(rgb(to_rgb(self.mode, &self.pixels))),
            Mode::La | Mode::Rgba => None,
        }
    }
}

impl From<RgbImage> for Decoded {
    fn from(image: RgbImage) -> Self {
        Decoded::new((image.width, image.height), Mode::Rgb, image.pixels)
    }
}

/// Converts interleaved pixels of any mode to RGB.
pub(crate) fn to_rgb(mode: Mode, pixels: &[u8]) -> Vec<u8> {
    match mode {
        Mode::Rgb => pixels.to_vec(),
        Mode::L => pixels.iter().flat_map(|&l| [l; 3]).collect(),
        Mode::La => pixels.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
        Mode::Rgba => pixels.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        Mode::Cmyk => pixels.chunks_exact(4).flat_map(|p| cmyk_to_rgb([p[0], p[1], p[2], p[3]])).collect(),
    }
}

fn cmyk_to_rgb([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let white = 255 - k;
    [c, m, y].map(|ink| white - multiply(ink, white))
}

/// Returns a value composited onto white, rounded like PIL's `alpha_composite`.
fn onto_white(value: u8, alpha: u8) -> u8 {
    let (value, alpha) = (u32::from(value), u32::from(alpha));
    // PIL keeps 7 more bits.
    let sum = ((value * alpha + 255 * (255 - alpha)) << 7) + (128 << 7);
    ((((sum >> 8) + sum) >> 8) >> 7) as u8
}

/// Returns a · b / 255, rounded like PIL's integer arithmetic.
pub(crate) fn multiply(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    (((product >> 8) + product) >> 8) as u8
}

/// Decodes JPEG and, with the feature `formats`, PNG, WebP, GIF (first frame), BMP and TIFF (first page).
///
/// All images have 8 bits per channel before they are resized: 16-bit values are divided by 257 and rounded, 1-bit and
/// palette images become grey or RGB. open_clip differs for these files only: PIL resizes palette indices and 1-bit
/// pixels without interpolation, which aliases, and its conversion of 16-bit grey depends on its version.
///
/// An alpha channel is kept. The transparent colour of a PNG or GIF file (also of a palette) does not count as one: as in
/// PIL, it is opaque when the image is resized, except for models that convert images to RGB first
/// ([`super::Preprocess::convert_rgb`]).
///
/// JPEG pixels are bit-identical to libjpeg-turbo's, and therefore to PIL's. Baseline, extended sequential and
/// progressive files with 8 bits per sample are supported. A file with invalid codes or missing parts is an error, even
/// where libjpeg-turbo would fill the gaps.
///
/// EXIF orientation is not applied, as in open_clip; [`super::orientation::upright`] applies it.
///
/// ```
/// use data_pipeline::DamageKind;
/// let error = data_pipeline::image::decode(b"a text file").unwrap_err();
/// assert_eq!(error.kind, DamageKind::NotAnImage);
/// ```
///
/// # Errors
/// [`DecodeError`] for damaged, truncated, unknown or too large files.
pub fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    guarded(|| decode_any(bytes))
}

/// Turns a panic of a decoder into an error, so that it damages one sample only.
fn guarded<T>(
    work: impl FnOnce() -> Result<T, DecodeError> + std::panic::UnwindSafe,
) -> Result<T, DecodeError> {
    std::panic::catch_unwind(work).unwrap_or_else(|_| {
        Err(DecodeError::new(DamageKind::DecoderPanic, "the decoder panicked on this file"))
    })
}

fn decode_any(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::new(DamageKind::EmptyFile, "the file is empty"));
    }
    if bytes.starts_with(&[0xFF, 0xD8]) { jpeg::decode(bytes) } else { decode_other(bytes) }
}

#[cfg(feature = "formats")]
fn decode_other(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    match decode_whole(bytes) {
        Err(error) if bytes.starts_with(png::SIGNATURE) && error.kind == DamageKind::DamagedImage => {
            // PIL reads a PNG with complete pixels, even if the chunks after them are truncated or checksums of pixels
            // are wrong.
            png::mended(bytes).and_then(|whole| decode_whole(&whole).ok()).ok_or(error)
        }
        decoded => decoded,
    }
}

#[cfg(feature = "formats")]
fn decode_whole(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    if let Some(format) = other_image_format(bytes) {
        let reason = format!("{format} is not supported: convert it to JPEG, PNG, WebP, GIF, BMP or TIFF");
        return Err(DecodeError::new(DamageKind::UnsupportedImage, reason));
    }
    let reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|e| DecodeError::new(DamageKind::NotAnImage, e))?;
    if reader.format().is_none() {
        let reason = match foreign_format(&bytes[..bytes.len().min(64)]) {
            Some(other) => format!("not an image: {other}"),
            None => "neither JPEG, PNG, WebP, GIF, BMP nor TIFF".into(),
        };
        return Err(DecodeError::new(DamageKind::NotAnImage, reason));
    }
    let damaged = |error| damaged(error, bytes);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    check_size(u64::from(width), u64::from(height))?;
    // Enough for 16-bit RGBA of the largest image.
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_PIXELS * 16);
    decoder.set_limits(limits).map_err(|e| DecodeError::new(DamageKind::TooLarge, e))?;
    let original = decoder.color_type();
    let image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    let (mode, pixels) = match (original, image) {
        (ColorType::L8, DynamicImage::ImageLuma8(image)) => (Mode::L, image.into_raw()),
        (ColorType::La8 | ColorType::La16, image) => (Mode::La, image.into_luma_alpha8().into_raw()),
        (ColorType::Rgba8 | ColorType::Rgba16, image) => (Mode::Rgba, image.into_rgba8().into_raw()),
        (_, image) => (Mode::Rgb, image.into_rgb8().into_raw()),
    };
    let has_color_key = matches!(mode, Mode::La | Mode::Rgba)
        && (bytes.starts_with(b"GIF8") || png::has_no_alpha_channel(bytes));
    Ok(Decoded { has_color_key, ..Decoded::new((width as usize, height as usize), mode, pixels) })
}

/// Distinguishes damaged files from variants of a format that the decoder does not support.
#[cfg(feature = "formats")]
fn damaged(error: ImageError, bytes: &[u8]) -> DecodeError {
    let ImageError::Unsupported(error) = error else {
        return DecodeError::new(DamageKind::DamagedImage, error);
    };
    let variant = match error.format_hint() {
        ImageFormatHint::Exact(ImageFormat::Tiff) => tiff::describe(bytes),
        ImageFormatHint::Exact(format) => format!("this variant of {format:?}"),
        _ => "this variant of its format".into(),
    };
    let reason = format!("{variant} is not supported: convert it to JPEG or PNG with 8 bits per sample");
    DecodeError::new(DamageKind::UnsupportedImage, reason)
}

#[cfg(not(feature = "formats"))]
fn decode_other(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let is_webp = bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP");
    let starts = [&b"\x89PNG"[..], b"GIF8", b"BM", b"II*\0", b"MM\0*"];
    if is_webp || starts.iter().any(|start| bytes.starts_with(start)) {
        let reason = "only JPEG is built in: build data-pipeline with the feature `formats`";
        return Err(DecodeError::new(DamageKind::FormatNotBuilt, reason));
    }
    if let Some(format) = other_image_format(bytes) {
        return Err(DecodeError::new(DamageKind::UnsupportedImage, format!("{format} is not supported")));
    }
    Err(DecodeError::new(DamageKind::NotAnImage, "not a JPEG file"))
}

/// Checks that an image has pixels, and at most [`MAX_PIXELS`].
pub(super) fn check_size(width: u64, height: u64) -> Result<(), DecodeError> {
    if width == 0 || height == 0 {
        return Err(DecodeError::new(
            DamageKind::EmptyImage,
            format!("the image has {width} x {height} pixels"),
        ));
    }
    if width * height > MAX_PIXELS {
        return Err(DecodeError::new(
            DamageKind::TooLarge,
            format!("{width} x {height} pixels are more than {MAX_PIXELS}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_of_a_decoder_is_an_error() {
        let broken: Vec<u8> = Vec::new();
        let error = guarded(|| Ok(broken[1])).unwrap_err();
        assert_eq!(error.kind, DamageKind::DecoderPanic);
        assert_eq!(guarded(|| Ok(5)), Ok(5));
    }
}
