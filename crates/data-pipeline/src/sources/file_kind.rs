//! Recognises image files by their extensions, or by their first bytes if the extension is missing or unknown.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Extensions of images that can be decoded; `jpe`, `jif` and `jfif` also stand for JPEG.
const READ: [&str; 9] = ["jpg", "jpeg", "jpe", "jif", "jfif", "png", "webp", "bmp", "gif"];

/// Extensions of image formats that cannot be decoded.
const NOT_READ: [&str; 31] = [
    "tif", "tiff", "avif", "heic", "heif", "jp2", "j2k", "jpx", "jxl", "svg", "ico", "ppm", "pgm", "pbm",
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

/// Whether the first 32 bytes are those of a JPEG, PNG, GIF, WebP or BMP file.
fn is_decoded(start: &[u8]) -> bool {
    let bmp = |start: &[u8]| {
        // A text may start with `BM`. In a bitmap, the two reserved fields are 0, and the length of a header follows.
        start.starts_with(b"BM")
            && start.get(6..10) == Some(&[0; 4])
            && matches!(start.get(14..18), Some([12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0]))
    };
    start.starts_with(&[0xFF, 0xD8, 0xFF])
        || start.starts_with(b"\x89PNG\r\n\x1A\n")
        || start.starts_with(b"GIF87a")
        || start.starts_with(b"GIF89a")
        || (start.starts_with(b"RIFF") && start.get(8..12) == Some(b"WEBP"))
        || bmp(start)
}

/// Whether the first bytes are those of a TIFF, AVIF, HEIF, JPEG 2000, JPEG XL or Photoshop file.
fn is_other_image(start: &[u8]) -> bool {
    let brand = start.get(8..12).filter(|_| start.get(4..8) == Some(b"ftyp"));
    start.starts_with(b"II*\0")
        || start.starts_with(b"MM\0*")
        || start.starts_with(b"8BPS")
        || start.starts_with(b"\0\0\0\x0CjP  ")
        || start.starts_with(b"\0\0\0\x0CJXL ")
        || brand
            .is_some_and(|brand| [b"avif", b"avis", b"heic", b"heix", b"mif1"].iter().any(|b| brand == *b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_ignore_case() {
        assert!(["a.JPG", "b.jfif", "c.d.jpe", "e.JIF", "f.webp"].iter().all(|name| is_image(name)));
        assert!(!["jpg", ".jpg", "a.tif", "a.jpg.txt", "a."].iter().any(|name| is_image(name)));
        assert_eq!(ending("a.seg.PNG").as_deref(), Some("png"));
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
            ("c.image", &bmp),
            ("named.jpg", b"whatever"),
        ] {
            assert_eq!(found(name, bytes), FileKind::Image, "{name}");
        }
        assert_eq!(
            found("BMW", b"BMW cars are not bitmaps, whatever"),
            FileKind::Other("without an extension".into())
        );
        assert_eq!(found("scan", b"II*\0\x08\0\0\0"), FileKind::OtherImage("without an extension".into()));
        assert_eq!(found("phone.bak", b"\0\0\0\x18ftypheic"), FileKind::OtherImage(".bak".into()));
        assert_eq!(found("x.TIF", b""), FileKind::OtherImage(".tif".into()));
        // A known extension is trusted.
        assert_eq!(found("notes.txt", b"\xFF\xD8\xFF\xE0"), FileKind::Other(".txt".into()));
        assert_eq!(found("empty", b""), FileKind::Other("without an extension".into()));
    }
}
