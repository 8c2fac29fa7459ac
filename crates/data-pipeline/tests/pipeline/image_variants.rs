//! Images found in practice: truncated files, rare variants, TIFF, other bit depths, EXIF orientation.

use std::io::Cursor;
use std::sync::Arc;

use crate::common::png;
use data_pipeline::Preprocess;
use data_pipeline::image::{AugmentParams, ResizeMode, augment_into, decode, eval_pixels};
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

/// A PNG of these rows of bytes, each with its filter 0, and further chunks before the pixels.
fn png_file(size: [u32; 2], depth: u8, color: u8, chunks: &[(&[u8; 4], &[u8])], rows: &[Vec<u8>]) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1A\n".to_vec();
    let mut chunk = |kind: &[u8; 4], content: &[u8]| {
        file.extend((content.len() as u32).to_be_bytes());
        let mut checked = flate2::Crc::new();
        checked.update(kind);
        checked.update(content);
        file.extend_from_slice(kind);
        file.extend_from_slice(content);
        file.extend(checked.sum().to_be_bytes());
    };
    let [width, height] = size.map(u32::to_be_bytes);
    chunk(b"IHDR", &[&width[..], &height, &[depth, color, 0, 0, 0]].concat());
    chunks.iter().for_each(|(kind, content)| chunk(kind, content));
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    for row in rows {
        std::io::Write::write_all(&mut packed, &[&[0][..], row].concat()).unwrap();
    }
    chunk(b"IDAT", &packed.finish().unwrap());
    chunk(b"IEND", &[]);
    file
}

#[test]
fn transparent_color_is_opaque_and_an_alpha_channel_is_not() {
    // Left half 200 (or red), right half 100 (or blue); the left one is transparent.
    let side = 8;
    let row = |left: &[u8], right: &[u8]| [left.repeat(side / 2), right.repeat(side / 2)].concat();
    let file = |depth, color, chunks: &[(&[u8; 4], &[u8])], left: &[u8], right: &[u8]| {
        png_file([side as u32; 2], depth, color, chunks, &vec![row(left, right); side])
    };
    let (red, blue) = (&[255u8, 0, 0][..], &[0u8, 0, 255][..]);
    let palette = [red, blue].concat();
    let wide = |value: u8| [value, value];
    let mut gif = Vec::new();
    let frame = image::RgbaImage::from_fn(side as u32, side as u32, |x, _| {
        image::Rgba(if x < side as u32 / 2 { [255, 0, 0, 255] } else { [0, 0, 255, 255] })
    });
    image::codecs::gif::GifEncoder::new(&mut gif).encode_frame(image::Frame::new(frame)).unwrap();
    let opaque_gif = decode(&gif).unwrap();
    // Marks the colour of the first pixel as transparent, in a graphic control extension before the frame.
    let red_index = {
        let table = &gif[13..];
        let local = gif.windows(3).position(|rgb| rgb == [255, 0, 0]).unwrap();
        assert!(local >= 13 && table.len() > 6);
        let blue = gif.windows(3).position(|rgb| rgb == [0, 0, 255]).unwrap();
        u8::from(local > blue)
    };
    let control = gif.windows(3).position(|bytes| bytes == [0x21, 0xF9, 4]).unwrap();
    (gif[control + 3], gif[control + 6]) = (gif[control + 3] | 1, red_index);
    let keyed = [
        ("grey", file(8, 0, &[(b"tRNS", &[0, 200])], &[200], &[100]), file(8, 0, &[], &[200], &[100])),
        ("RGB", file(8, 2, &[(b"tRNS", &[0, 255, 0, 0, 0, 0])], red, blue), file(8, 2, &[], red, blue)),
        (
            "palette",
            file(8, 3, &[(b"PLTE", &palette), (b"tRNS", &[0, 128])], &[0], &[1]),
            file(8, 3, &[(b"PLTE", &palette)], &[0], &[1]),
        ),
        (
            "16-bit grey",
            file(16, 0, &[(b"tRNS", &wide(200))], &wide(200), &wide(100)),
            file(16, 0, &[], &wide(200), &wide(100)),
        ),
    ];
    let mut pairs =
        keyed.map(|(name, keyed, plain)| (name, decode(&keyed).unwrap(), decode(&plain).unwrap())).to_vec();
    pairs.push(("GIF", decode(&gif).unwrap(), opaque_gif));
    let preprocess = Preprocess::new(5);
    for (name, keyed, plain) in &pairs {
        assert_eq!(keyed.to_rgb(), plain.to_rgb(), "{name}");
        assert_eq!(eval_pixels(keyed, &preprocess), eval_pixels(plain, &preprocess), "{name}");
        let params = AugmentParams { crop: [1, 0, 7, 8], flip: true, jitter: Vec::new(), erase: None };
        let augmented = |image| {
            let mut out = vec![0.0; 3 * 25];
            augment_into(image, &params, &preprocess, &mut out);
            out
        };
        assert_eq!(augmented(keyed), augmented(plain), "{name}");
    }
    // An alpha channel is premultiplied: the transparent colour does not bleed.
    for (alpha, opaque) in [
        (file(8, 6, &[], &[255, 0, 0, 0], &[0, 0, 255, 255]), file(8, 2, &[], red, blue)),
        (file(8, 4, &[], &[200, 0], &[100, 255]), file(8, 0, &[], &[200], &[100])),
        (
            file(16, 6, &[], &[255, 255, 0, 0, 0, 0, 0, 0], &[0, 0, 0, 0, 255, 255, 255, 255]),
            file(8, 2, &[], red, blue),
        ),
    ] {
        let [alpha, opaque] = [alpha, opaque].map(|bytes| eval_pixels(&decode(&bytes).unwrap(), &preprocess));
        assert_ne!(alpha, opaque);
        assert_eq!(alpha.pixels[3 * 4..3 * 5], opaque.pixels[3 * 4..3 * 5], "the opaque side");
    }
}

#[test]
fn models_that_convert_first_see_transparent_parts_as_white() {
    // The bytes of Pillow's alpha_composite on white: value, alpha, result.
    let blended = [
        (0, 0, 255),
        (200, 255, 200),
        (0, 128, 127),
        (100, 1, 254),
        (37, 77, 189),
        (250, 3, 255),
        (9, 254, 10),
    ];
    let preprocess = Preprocess::new(7).with_resize_mode(ResizeMode::Squash).with_convert_rgb(true);
    let pixels = |file: Vec<u8>| eval_pixels(&decode(&file).unwrap(), &preprocess).pixels;
    let expected = blended.iter().flat_map(|(_, _, result)| [*result; 3]).collect::<Vec<u8>>().repeat(7);
    let grey = blended.iter().flat_map(|(value, alpha, _)| [*value, *alpha]).collect::<Vec<_>>();
    assert_eq!(pixels(png_file([7, 7], 8, 4, &[], &vec![grey; 7])), expected);
    let color = blended.iter().flat_map(|(value, alpha, _)| [*value, *value, *value, *alpha]);
    assert_eq!(pixels(png_file([7, 7], 8, 6, &[], &vec![color.collect(); 7])), expected);
    // A transparent colour counts too, as in transformers.
    let keyed = png_file([7, 7], 8, 0, &[(b"tRNS", &[0, 9])], &vec![vec![9; 7]; 7]);
    assert_eq!(pixels(keyed), [255; 3 * 49]);
    // The conversion precedes the resize.
    let half = |x: usize| if x < 2 { [255, 0, 0, 0] } else { [0, 0, 255, 255] };
    let row = (0..4).flat_map(half).collect::<Vec<u8>>();
    let file = decode(&png_file([4, 4], 8, 6, &[], &vec![row; 4])).unwrap();
    let white = |x: usize| if x < 2 { [255, 255, 255] } else { [0, 0, 255] };
    let row = (0..4).flat_map(white).collect::<Vec<u8>>();
    let composited = decode(&png_file([4, 4], 8, 2, &[], &vec![row; 4])).unwrap();
    for size in [1, 2, 3, 4, 9] {
        let preprocess = Preprocess::new(size).with_convert_rgb(true);
        assert_eq!(eval_pixels(&file, &preprocess), eval_pixels(&composited, &preprocess), "{size}");
    }
}

#[test]
fn png_with_wrong_checksums_of_pixels_is_read() {
    let whole = encoded(picture(), ImageFormat::Png);
    let expected = decode(&whole).unwrap();
    for (start, kind) in chunks(&whole) {
        let length = u32::from_be_bytes(whole[start..start + 4].try_into().unwrap()) as usize;
        let mut broken = whole.clone();
        broken[start + 8 + length] ^= 0xFF;
        match &kind {
            b"IDAT" => {
                assert_eq!(decode(&broken).as_ref(), Ok(&expected));
                assert_eq!(decode(&broken[..broken.len() - 12]).as_ref(), Ok(&expected));
            }
            b"IHDR" => assert_eq!(decode(&broken).unwrap_err().kind, DamageKind::DamagedImage),
            _ => {}
        }
    }
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
fn unsupported_tiff_files_are_named_by_their_variant() {
    let whole = encoded(picture(), ImageFormat::Tiff);
    assert!(whole.starts_with(b"II*\0"));
    let directory = u32::from_le_bytes(whole[4..8].try_into().unwrap()) as usize;
    let count = u16::from_le_bytes(whole[directory..directory + 2].try_into().unwrap()) as usize;
    let entry = |tag: u16| {
        let places = (0..count).map(|number| directory + 2 + 12 * number);
        places.into_iter().find(|at| whole[*at..*at + 2] == tag.to_le_bytes())
    };
    for (tag, value, words) in [
        (259u16, 50_000u16, "zstd compression"),
        (259, 34_925, "LZMA compression"),
        (259, 3, "CCITT (fax) compression"),
        (262, 8, "CIELab colours"),
        (262, 3, "palette colours"),
    ] {
        let at = entry(tag).unwrap();
        let mut other = whole.clone();
        other[at + 8..at + 10].copy_from_slice(&value.to_le_bytes());
        let error = decode(&other).unwrap_err();
        assert_eq!(error.kind, DamageKind::UnsupportedImage, "{error}");
        assert!(error.reason.contains(words) && error.reason.contains("convert it"), "{error}");
        assert!(!error.reason.contains("Unknown") && !error.reason.contains("decoder"), "{error}");
    }
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
    let file = png_file([10, 1], 1, 0, &[], &[vec![0b0101_0101, 0b0100_0000]]);
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
