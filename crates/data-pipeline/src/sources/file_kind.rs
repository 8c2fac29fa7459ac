//! Recognises image files by their extensions, or by their first bytes if the extension is missing or unknown.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Extensions of images that can be decoded; `jpe`, `jif` and `jfif` are also JPEG.
const READ: [&str; 11] = ["jpg", "jpeg", "jpe", "jif", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// Extensions of image formats that cannot be decoded.
const NOT_READ: [&str; 31] = [
    "avif", "avifs", "jpf", "heic", "heif", "jp2", "j2k", "jpx", "jxl", "svg", "ico", "ppm", "pgm", "pbm",
    "pnm", "psd", "exr", "hdr", "tga", "dds", "eps", "dng", "cr2", "cr3", "nef", "arw", "orf", "raf", "rw2",
    "dcm", "xcf",
];

/// Extensions of non-image files that are common in data sets. Such files are not opened to look for an image.
const OTHER: [&str; 30] = [
    "txt", "json", "jsonl", "csv", "tsv", "parquet", "npy", "npz", "md", "xml", "html", "yaml", "yml",
    "toml", "log", "zip", "gz", "tar", "tgz", "7z", "mat", "pt", "pth", "pkl", "h5", "py", "sh", "pdf",
    "mp4", "db",
];

/// The kind of a file for a source of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    /// An image that can be decoded.
    Image,
    /// An image in this format, which cannot be decoded.
    OtherImage(String),
    /// Another file, of this kind.
    Other(String),
}

/// Returns the extension of a file name after its last dot, in lower case, or `None` if it has none.
pub(super) fn ending(name: &str) -> Option<String> {
    let (stem, ending) = name.rsplit_once('.')?;
    (!stem.is_empty() && !ending.is_empty()).then(|| ending.to_ascii_lowercase())
}

/// Whether a file name has the extension of an image that can be decoded.
pub(super) fn is_image(name: &str) -> bool {
    ending(name).is_some_and(|ending| READ.contains(&ending.as_str()))
}

/// Determines the kind of a file. It is opened only if its name does not show the kind.
pub(super) fn file_kind(path: &Path) -> FileKind {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let ending = ending(&name);
    let shown =
        ending.as_ref().map_or_else(|| "without an extension".to_string(), |ending| format!(".{ending}"));
    match ending.as_deref() {
        Some(ending) if READ.contains(&ending) => return FileKind::Image,
        Some(ending) if NOT_READ.contains(&ending) => return FileKind::OtherImage(shown),
        Some(ending) if OTHER.contains(&ending) => return FileKind::Other(shown),
        _ => {}
    }
    let mut start = Vec::new();
    let opened = File::open(path).and_then(|file| file.take(32).read_to_end(&mut start));
    match opened {
        Ok(_) if is_decoded(&start) => FileKind::Image,
        Ok(_) if is_other_image(&start) => FileKind::OtherImage(shown),
        Ok(_) => FileKind::Other(shown),
        Err(_) => FileKind::Other("unreadable".into()),
    }
}

/// Whether the first 32 bytes are those of a JPEG, PNG, GIF, WebP, BMP or TIFF file.
fn is_decoded(start: &[u8]) -> bool {
    decoded_format(start).is_some()
}

/// Returns the name of an image format that can be decoded, from the first 32 bytes of a file.
fn decoded_format(start: &[u8]) -> Option<&'static str> {
    let bmp = |start: &[u8]| {
        // A text may start with `BM`. In a bitmap, the two reserved fields are 0, and the length of a header follows.
        start.starts_with(b"BM")
            && start.get(6..10) == Some(&[0; 4])
            && matches!(start.get(14..18), Some([12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0]))
    };
    let found = match start {
        [0xFF, 0xD8, 0xFF, ..] => "JPEG",
        _ if start.starts_with(b"\x89PNG\r\n\x1A\n") => "PNG",
        _ if start.starts_with(b"GIF87a") || start.starts_with(b"GIF89a") => "GIF",
        _ if start.starts_with(b"II*\0") || start.starts_with(b"MM\0*") => "TIFF",
        _ if start.starts_with(b"RIFF") && start.get(8..12) == Some(b"WEBP") => "WebP",
        _ if bmp(start) => "BMP",
        _ => return None,
    };
    Some(found)
}

/// Returns the name of an image format that cannot be decoded, from the first bytes of a file.
pub(crate) fn other_image_format(start: &[u8]) -> Option<&'static str> {
    let brand = start.get(8..12).filter(|_| start.get(4..8) == Some(b"ftyp"));
    let found = match brand {
        Some(b"avif" | b"avis") => "AVIF",
        Some(b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"mif1" | b"msf1") => "HEIC",
        _ if start.starts_with(b"\0\0\0\x0CjP  ") || start.starts_with(b"\xFF\x4F\xFF\x51") => "JPEG 2000",
        _ if start.starts_with(b"\0\0\0\x0CJXL ") || start.starts_with(b"\xFF\x0A") => "JPEG XL",
        _ if start.starts_with(b"8BPS") => "Photoshop",
        _ if start.starts_with(b"<svg") => "SVG",
        _ if start.starts_with(b"v/1\x01") => "OpenEXR",
        _ if matches!(start, [b'P', b'1'..=b'6', b' ' | b'\n' | b'\r' | b'\t', ..]) => "PNM",
        _ => return None,
    };
    Some(found)
}

/// Whether the first bytes are those of an image that cannot be decoded.
fn is_other_image(start: &[u8]) -> bool {
    other_image_format(start).is_some()
}

/// Describes a file of another known format that was given instead of a data file, from its first bytes.
pub(crate) fn foreign_format(start: &[u8]) -> Option<String> {
    let text = start.trim_ascii_start();
    let found = match start {
        [0x1F, 0x8B, ..] => "it is compressed with gzip: unpack it with `gunzip`",
        [0x28, 0xB5, 0x2F, 0xFD, ..] => "it is compressed with zstd: unpack it with `unzstd`",
        [0xFD, b'7', b'z', b'X', b'Z', 0, ..] => "it is compressed with xz: unpack it with `unxz`",
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => "it is compressed with bzip2: unpack it with `bunzip2`",
        [b'P', b'K', 3, 4, ..] => "it is a zip archive: unpack it",
        [b'7', b'z', 0xBC, 0xAF, ..] => "it is a 7z archive: unpack it",
        _ if start.starts_with(b"PAR1") => {
            "it is a Parquet file: name it `.parquet`, or read it with `source = \"parquet\"` in a recipe or suite file"
        }
        _ if start.starts_with(b"version https://git-lfs") => {
            "it is a pointer of Git LFS, not the file: fetch it with `git lfs pull`"
        }
        _ if text.len() > 5
            && (text[..5].eq_ignore_ascii_case(b"<html") || text[..5].eq_ignore_ascii_case(b"<!doc")) =>
        {
            "it is a web page, perhaps an error message of the server: download the file again"
        }
        _ => return None,
    };
    Some(found.into())
}

/// Describes a file that is not in the expected binary format, from its first bytes: [`foreign_format`], an image, or a
/// text.
pub(super) fn describe(start: &[u8]) -> Option<String> {
    let image = || decoded_format(start).or_else(|| other_image_format(start));
    foreign_format(start)
        .or_else(|| image().map(|format| format!("it is an image ({format})")))
        .or_else(|| Some(format!("it is {}", other_content(start)?)))
}

/// Returns the kind of a file that is neither an image nor packed, from its first bytes.
fn other_content(start: &[u8]) -> Option<&'static str> {
    let found = match start {
        _ if start.starts_with(b"%PDF") => "a PDF file",
        _ if start.starts_with(b"\x93NUMPY") => "a NumPy array",
        _ if start.starts_with(b"\x89HDF") => "an HDF5 file",
        _ if start.starts_with(b"SQLite format 3") => "an SQLite database",
        _ if is_text(start) => match start.trim_ascii_start().first() {
            Some(b'{' | b'[') => "a JSON file",
            _ => "a text file",
        },
        _ => return None,
    };
    Some(found)
}

/// Whether the first bytes of a file are a text in UTF-8, or in an encoding of single bytes.
fn is_text(start: &[u8]) -> bool {
    let is_control = |byte: &u8| *byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x0C);
    let ascii = start.iter().filter(|byte| byte.is_ascii()).count();
    let is_utf8 = match std::str::from_utf8(start) {
        Ok(_) => true,
        // The first bytes may end inside a character.
        Err(error) => error.error_len().is_none(),
    };
    !start.is_empty() && !start.iter().any(is_control) && (is_utf8 || 4 * ascii > 3 * start.len())
}

/// Describes a file that no source reads, such as a text or an image, in words such as `a text file`. Returns `None` for
/// any other file, and for packed files, whose errors say how to unpack them.
///
/// ```no_run
/// assert_eq!(data_pipeline::sources::other_file("captions.txt").as_deref(), Some("a text file"));
/// ```
pub fn other_file(path: impl AsRef<Path>) -> Option<String> {
    let mut start = Vec::new();
    File::open(path).and_then(|file| file.take(512).read_to_end(&mut start)).ok()?;
    if start.is_empty() {
        return Some("an empty file".into());
    }
    if foreign_format(&start).is_some() {
        return None;
    }
    let image = decoded_format(&start).or_else(|| other_image_format(&start));
    image.map(|format| format!("an image ({format})")).or_else(|| Some(other_content(&start)?.into()))
}

/// Refuses a table or list of another known format. An unreadable file is an error later.
pub(super) fn refuse_binary(path: &Path) -> Result<(), String> {
    let mut start = Vec::new();
    if File::open(path).and_then(|file| file.take(512).read_to_end(&mut start)).is_err() {
        return Ok(());
    }
    match describe(&start) {
        Some(reason) if !is_text(&start) || foreign_format(&start).is_some() => Err(reason),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_ignore_case() {
        assert!(
            ["a.JPG", "b.jfif", "c.d.jpe", "e.JIF", "f.webp", "g.TIFF"].iter().all(|name| is_image(name))
        );
        assert!(!["jpg", ".jpg", "a.avif", "a.jpg.txt", "a."].iter().any(|name| is_image(name)));
        assert_eq!(ending("a.seg.PNG").as_deref(), Some("png"));
    }

    #[test]
    fn files_of_other_kinds_are_described() {
        for (bytes, words) in [
            (&b"\x89PNG\r\n\x1A\n\0\0"[..], "an image (PNG)"),
            (b"\0\0\0\x1Cftypavif", "an image (AVIF)"),
            (b"a photo of a cat\na dog\n", "a text file"),
            ("schön, ein Bär".as_bytes(), "a text file"),
            (&"schön, ein Bär".as_bytes()[..13], "a text file"),
            (b"caf\xE9 au lait, one more cup", "a text file"),
            (b" {\"a\": 1}", "a JSON file"),
            (b"%PDF-1.7\n\0", "a PDF file"),
            (b"\x1F\x8B\x08", "gunzip"),
        ] {
            assert!(describe(bytes).is_some_and(|found| found.contains(words)), "{words}");
        }
        assert_eq!(describe(b"00001.jpg\0\0\0\0"), None);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for (bytes, found) in [
            (&b""[..], Some("an empty file")),
            (b"a\nb", Some("a text file")),
            (b"\x1F\x8B", None),
            (b"\0\x01", None),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(other_file(&path).as_deref(), found);
        }
    }

    #[test]
    fn first_bytes_decide_for_names_without_a_known_extension() {
        let folder = tempfile::tempdir().unwrap();
        let found = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            file_kind(&path)
        };
        let bmp = [&b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0"[..], &[0; 14]].concat();
        for (name, bytes) in [
            ("plain", &b"\xFF\xD8\xFF\xE0"[..]),
            ("photo.3264", b"\x89PNG\r\n\x1A\n"),
            ("a.bin", b"RIFF\x10\0\0\0WEBPVP8 "),
            ("b", b"GIF89a"),
            ("scan", b"II*\0\x08\0\0\0"),
            ("c.image", &bmp),
            ("named.jpg", b"whatever"),
        ] {
            assert_eq!(found(name, bytes), FileKind::Image, "{name}");
        }
        assert_eq!(
            found("BMW", b"BMW cars are not bitmaps, whatever"),
            FileKind::Other("without an extension".into())
        );
        assert_eq!(found("page", b"\0\0\0\x0CjP  "), FileKind::OtherImage("without an extension".into()));
        assert_eq!(found("phone.bak", b"\0\0\0\x18ftypheic"), FileKind::OtherImage(".bak".into()));
        assert_eq!(found("x.AVIF", b""), FileKind::OtherImage(".avif".into()));
        // A known extension is trusted.
        assert_eq!(found("notes.txt", b"\xFF\xD8\xFF\xE0"), FileKind::Other(".txt".into()));
        assert_eq!(found("empty", b""), FileKind::Other("without an extension".into()));
    }
}
