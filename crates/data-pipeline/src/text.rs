//! Reads text files of users. For text that is not UTF-8, the error names the line and the likely encoding.

use std::fmt;
use std::path::Path;

use crate::{Error, Result};

const BOM: &str = "\u{FEFF}";

/// The problem of bytes that are not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUtf8 {
    /// Line, from 1.
    pub line: usize,
    /// Likely encoding of the text.
    pub likely: Encoding,
}

/// The likely encoding of bytes that are not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Encoding {
    /// Single accented letters among ASCII: Latin-1, or Windows-1252, which contains it.
    Western,
    /// UTF-16, recognised by its byte order mark or by its zero bytes.
    Utf16,
    /// UTF-8 that ends inside a character.
    Cut,
    /// An encoding that the bytes do not show.
    Unknown,
}

impl fmt::Display for NotUtf8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} is not UTF-8: ", self.line)?;
        f.write_str(match self.likely {
            Encoding::Western => {
                "it is probably Latin-1 or Windows-1252; convert it with `iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW`"
            }
            Encoding::Utf16 => "it is probably UTF-16; convert it with `iconv -f UTF-16 -t UTF-8 FILE > NEW`",
            Encoding::Cut => "it ends inside a character; copy or write the file again",
            Encoding::Unknown => {
                "its bytes do not show the encoding; convert it with `iconv -f ENCODING -t UTF-8 FILE > NEW`"
            }
        })
    }
}

impl std::error::Error for NotUtf8 {}

/// Decodes UTF-8 bytes, without a byte order mark at their start.
///
/// ```
/// use data_pipeline::text::{Encoding, decode};
/// assert_eq!(decode(b"caf\xC3\xA9").unwrap(), "café");
/// assert_eq!(decode(b"caf\xE9").unwrap_err().likely, Encoding::Western);
/// ```
///
/// # Errors
/// [`NotUtf8`] with the first line that is not UTF-8.
pub fn decode(bytes: &[u8]) -> Result<&str, NotUtf8> {
    if is_utf16(bytes) {
        return Err(NotUtf8 { line: 1, likely: Encoding::Utf16 });
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix(BOM).unwrap_or(text)),
        Err(error) => {
            let good = &bytes[..error.valid_up_to()];
            let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
            // A Latin-1 letter at the end also looks like a truncated character, but then no text before it was
            // multi-byte UTF-8.
            let is_cut = error.error_len().is_none() && !good.is_ascii();
            Err(NotUtf8 { line, likely: if is_cut { Encoding::Cut } else { western_or_unknown(bytes) } })
        }
    }
}

/// Reads a whole text file, without a byte order mark at its start.
///
/// ```no_run
/// let names = data_pipeline::text::read("classes.txt")?;
/// println!("{} classes", names.lines().count());
/// # Ok::<(), data_pipeline::Error>(())
/// ```
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::NotUtf8`] if it is not UTF-8.
pub fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    Ok(decode(&bytes).map_err(|problem| Error::NotUtf8 { path: path.into(), problem })?.to_string())
}

/// Detects a byte order mark, or ASCII letters of two bytes each. The latter are valid UTF-8, with zeros between the
/// letters.
fn is_utf16(bytes: &[u8]) -> bool {
    match bytes {
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => true,
        [a, b, c, d, ..] => {
            let zeros = [a, b, c, d].map(|byte| *byte == 0);
            zeros == [false, true, false, true] || zeros == [true, false, true, false]
        }
        _ => false,
    }
}

/// Detects Western texts, which are ASCII with isolated non-ASCII letters. Cyrillic and East Asian texts have runs of
/// non-ASCII bytes.
fn western_or_unknown(bytes: &[u8]) -> Encoding {
    // Windows-1252 has no characters at these bytes.
    let free = bytes.iter().any(|byte| matches!(byte, 0x81 | 0x8D | 0x8F | 0x90 | 0x9D));
    let high = bytes.iter().filter(|byte| !byte.is_ascii()).count();
    let pairs = bytes.windows(2).filter(|pair| !pair[0].is_ascii() && !pair[1].is_ascii()).count();
    if free || 2 * pairs > high { Encoding::Unknown } else { Encoding::Western }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_mark_is_skipped() {
        assert_eq!(decode(b"caf\xC3\xA9\n"), Ok("café\n"));
        assert_eq!(decode(b"\xEF\xBB\xBFfolder,name\n"), Ok("folder,name\n"));
        assert_eq!(decode(b""), Ok(""));
        // A byte order mark elsewhere is a character of the text.
        assert_eq!(decode("a\u{FEFF}b".as_bytes()), Ok("a\u{FEFF}b"));
    }

    #[test]
    fn line_and_likely_encoding_are_named() {
        let found = |bytes: &[u8]| decode(bytes).map(String::from).map_err(|e| (e.line, e.likely));
        assert_eq!(found(b"a\nb\ncaf\xE9 cr\xE8me\n"), Err((3, Encoding::Western)));
        assert_eq!(found(b"caf\xE9"), Err((1, Encoding::Western)));
        assert_eq!(found(b"\x93quoted\x94"), Err((1, Encoding::Western)));
        assert_eq!(found(b"\xFF\xFEa\0\n\0"), Err((1, Encoding::Utf16)));
        assert_eq!(found(b"\xFE\xFF\0a\0\n"), Err((1, Encoding::Utf16)));
        assert_eq!(found(b"a\0b\0\n\0"), Err((1, Encoding::Utf16)));
        // Windows-1251 and Shift-JIS.
        assert_eq!(
            found(b"x\n\xEA\xEE\xF8\xEA\xE0 \xE8 \xF1\xEE\xE1\xE0\xEA\xE0"),
            Err((2, Encoding::Unknown))
        );
        assert_eq!(found(b"\x94L\x82\xC6\x8C\xA2"), Err((1, Encoding::Unknown)));
        assert_eq!(found(b"caf\xC3\xA9, caf\xC3"), Err((1, Encoding::Cut)));
        let said = decode(b"caf\xE9").unwrap_err().to_string();
        for part in ["line 1", "Latin-1", "Windows-1252", "iconv"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }

    #[test]
    fn error_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("names.txt");
        std::fs::write(&path, b"\xEF\xBB\xBFcat\n").unwrap();
        assert_eq!(read(&path).unwrap(), "cat\n");
        std::fs::write(&path, b"cat\nch\xE2t\n").unwrap();
        let error = read(&path).unwrap_err();
        assert!(matches!(&error, Error::NotUtf8 { problem: NotUtf8 { line: 2, .. }, .. }));
        assert!(error.to_string().contains("names.txt") && error.to_string().contains("line 2"), "{error}");
        assert!(matches!(read(folder.path()), Err(Error::Io { .. })));
    }
}
