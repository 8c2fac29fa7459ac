//! Images found in practice: truncated files, rare variants, TIFF, other bit depths, EXIF orientation.

use std::io::Cursor;
use std::sync::Arc;

use crate::common::png;
use data_pipeline::image::decode;
use data_pipeline::sources::{Images, Source, Upright};
use data_pipeline::{DamageKind, RawImage};
use image::{DynamicImage, ImageFormat};

/// A picture in which every pixel differs from its neighbours.
fn picture() -> image::RgbImage {
    image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * 6) as u8, (y * 8) as u8, (x * y) as u8]))
}

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.into().write_to(&mut Cursor::new(&mut bytes), format).unwrap();
    bytes
}

/// The start of each chunk of a PNG, with its kind.
fn chunks(png: &[u8]) -> Vec<(usize, [u8; 4])> {
    let (mut found, mut at) = (Vec::new(), 8);
    while at < png.len() {
        let length = u32::from_be_bytes(png[at..at + 4].try_into().unwrap()) as usize;
        found.push((at, png[at + 4..at + 8].try_into().unwrap()));
        at += 12 + length;
    }
    found
}

#[test]
fn png_whose_pixels_are_complete_is_read_without_its_end() {
    for image in [DynamicImage::from(picture()), DynamicImage::from(picture()).into_luma8().into()] {
        let whole = encoded(image, ImageFormat::Png);
        let expected = decode(&whole).unwrap();
        let (end, kind) = *chunks(&whole).last().unwrap();
        assert_eq!(&kind, b"IEND");
        // Before the end chunk, inside it, and inside the checksum of the pixels.
        for length in [end, end + 3, end + 8, whole.len() - 1, end - 1, end - 4] {
            assert_eq!(decode(&whole[..length]).as_ref(), Ok(&expected), "{length} of {}", whole.len());
        }
        // Rows are missing.
        for length in [end - 40, end / 2, 60, 40, 20] {
            let error = decode(&whole[..length]).unwrap_err();
            assert_eq!(error.kind, DamageKind::DamagedImage, "{length}: {error}");
        }
    }
}

#[test]
fn variants_and_formats_that_are_not_supported_are_named() {
    let jpeg = encoded(picture(), ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    for (marker, words) in [
        (0xC9, "arithmetic coding is not supported"),
        (0xCA, "arithmetic"),
        (0xC3, "lossless"),
        (0xC5, "hierarchical"),
    ] {
        let mut other = jpeg.clone();
        other[frame + 1] = marker;
        let error = decode(&other).unwrap_err();
        assert_eq!(error.kind, DamageKind::UnsupportedImage);
        assert!(error.reason.contains(words), "{error}");
    }
    for (bytes, name) in [
        (&b"\0\0\0\x1Cftypavif\0\0\0\0avifmif1"[..], "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x0CjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xFF\x4F\xFF\x51\0\x2F", "JPEG 2000"),
        (b"\0\0\0\x0CJXL \r\n\x87\n", "JPEG XL"),
        (b"<svg xmlns=\"x\">", "SVG"),
    ] {
        let error = decode(bytes).unwrap_err();
        assert_eq!(error.kind, DamageKind::UnsupportedImage, "{name}");
        assert!(error.reason.contains(name), "{error}");
    }
    let error = decode(b"<!DOCTYPE html><html>Not found</html>").unwrap_err();
    assert!(error.kind == DamageKind::NotAnImage && error.reason.contains("web page"), "{error}");
}

#[test]
fn tiff_has_the_same_pixels_as_png() {
    for image in [
        DynamicImage::from(picture()),
        DynamicImage::from(picture()).into_luma8().into(),
        DynamicImage::from(picture()).into_rgba8().into(),
        DynamicImage::from(picture()).into_rgb16().into(),
    ] {
        let (tiff, png) = (encoded(image.clone(), ImageFormat::Tiff), encoded(image, ImageFormat::Png));
        assert_eq!(decode(&tiff).unwrap(), decode(&png).unwrap());
    }
    let tiff = encoded(picture(), ImageFormat::Tiff);
    for share in 0..40 {
        assert!(decode(&tiff[..tiff.len() * share / 41]).is_err());
    }
}

#[test]
fn other_bit_depths_are_scaled_to_8_bits_before_resizing() {
    // 16-bit values are divided by 257 and rounded, so white stays white and nothing is clipped.
    let values = [0u16, 128, 129, 257, 300, 32_768, 65_406, 65_407, 65_535];
    let grey = image::ImageBuffer::<image::Luma<u16>, _>::from_raw(9, 1, values.to_vec()).unwrap();
    let found = decode(&encoded(grey, ImageFormat::Png)).unwrap().to_rgb();
    let expected = values.map(|value| (f64::from(value) / 257.0).round() as u8);
    assert_eq!(found.pixels.iter().step_by(3).copied().collect::<Vec<_>>(), expected);
    // A 1-bit image: 10 pixels of alternating black and white, in one row of 2 bytes.
    let mut bit = encoded(image::GrayImage::new(10, 1), ImageFormat::Png);
    let header = 16;
    bit[header + 8] = 1;
    let mut file = bit[..8].to_vec();
    let mut chunk = |kind: &[u8; 4], content: &[u8]| {
        file.extend((content.len() as u32).to_be_bytes());
        let mut checked = flate2::Crc::new();
        checked.update(kind);
        checked.update(content);
        file.extend_from_slice(kind);
        file.extend_from_slice(content);
        file.extend(checked.sum().to_be_bytes());
    };
    chunk(b"IHDR", &bit[header..header + 13]);
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, &[0, 0b0101_0101, 0b0100_0000]).unwrap();
    chunk(b"IDAT", &packed.finish().unwrap());
    chunk(b"IEND", &[]);
    let found = decode(&file).unwrap().to_rgb();
    let values = found.pixels.iter().step_by(3).copied().collect::<Vec<_>>();
    assert_eq!(values, [0, 255, 0, 255, 0, 255, 0, 255, 0, 255]);
}

#[test]
fn exif_orientation_is_ignored_unless_it_is_enabled() {
    let folder = tempfile::tempdir().unwrap();
    let jpeg = encoded(picture(), ImageFormat::Jpeg);
    let exif = b"\xFF\xE1\0\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let rotated = [&jpeg[..2], exif, &jpeg[2..]].concat();
    std::fs::write(folder.path().join("a.jpg"), &rotated).unwrap();
    std::fs::write(folder.path().join("b.png"), png([1, 2, 3], 5, 4)).unwrap();
    let source: Arc<dyn Source> = Arc::new(Images::open(folder.path()).unwrap());
    let upright = Upright::new(source.clone());
    let pixels = |source: &dyn Source, index| source.read(index, 0).unwrap().image.into_pixels("x").unwrap();
    let plain = pixels(source.as_ref(), 0).to_rgb();
    assert_eq!((plain.width, plain.height), (40, 30));
    let turned = pixels(&upright, 0).to_rgb();
    assert_eq!((turned.width, turned.height), (30, 40));
    // Orientation 6: the left column becomes the top row, from bottom to top.
    let at = |image: &data_pipeline::image::RgbImage, x: usize, y: usize| {
        image.pixels[3 * (y * image.width + x)..][..3].to_vec()
    };
    assert_eq!(at(&turned, 0, 0), at(&plain, 0, 29));
    assert_eq!(at(&turned, 29, 0), at(&plain, 0, 0));
    // An image without an orientation stays encoded.
    assert!(matches!(upright.read(1, 0).unwrap().image, RawImage::Encoded(_)));
}
