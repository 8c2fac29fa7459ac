//! Reads text files of users. For text that is not UTF-8, the error names the line and the likely encoding.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

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
    /// UTF-32, recognised by its byte order mark or by its zero bytes.
    Utf32,
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
            Encoding::Utf32 => "it is probably UTF-32; convert it with `iconv -f UTF-32 -t UTF-8 FILE > NEW`",
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
    if is_utf32(bytes) {
        return Err(NotUtf8 { line: 1, likely: Encoding::Utf32 });
    }
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
    let text = decode(&bytes).map_err(|problem| Error::NotUtf8 { path: path.into(), problem, remedy: "" });
    Ok(text?.to_string())
}

/// Encoding of a text file in the settings.
///
/// ```
/// use data_pipeline::text::TextEncoding;
/// let encoding: TextEncoding = serde_json::from_str("\"latin-1\"")?;
/// assert_eq!(encoding, TextEncoding::Latin1);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub enum TextEncoding {
    /// UTF-8, with or without a byte order mark.
    #[serde(rename = "utf-8")]
    Utf8,
    /// UTF-16 in the order of its byte order mark, else little-endian.
    #[serde(rename = "utf-16")]
    Utf16,
    /// The encoding Windows-1252, a superset of Latin-1.
    #[serde(rename = "latin-1")]
    Latin1,
}

/// Reads a whole text file in an encoding, without a byte order mark. If `encoding` is `None`, the file is UTF-16 if
/// its first bytes indicate it, else UTF-8. Returns the text and its encoding.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::NotUtf8`] if it is not UTF-8 and no encoding is given,
/// [`Error::Setting`] if it is not in the given encoding.
pub(crate) fn read_as(path: &Path, encoding: Option<TextEncoding>) -> Result<(String, TextEncoding)> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let encoding = match encoding {
        Some(encoding) => encoding,
        // UTF-32 is an error of `decode`.
        None if is_utf16(&bytes) && !is_utf32(&bytes) => TextEncoding::Utf16,
        None => TextEncoding::Utf8,
    };
    let text = match encoding {
        TextEncoding::Utf8 => decode(&bytes).map(str::to_string).map_err(|problem| {
            let remedy = match problem.likely {
                Encoding::Western => ", or set `encoding = \"latin-1\"` in a recipe or suite file",
                _ => "",
            };
            Error::NotUtf8 { path: path.into(), problem, remedy }
        })?,
        TextEncoding::Utf16 => utf16(&bytes).ok_or_else(|| {
            Error::setting(
                "encoding",
                format!(
                    "`{}` is not valid UTF-16: copy or export it again, or correct `encoding`",
                    path.display()
                ),
            )
        })?,
        TextEncoding::Latin1 => bytes.iter().map(|byte| windows_1252(*byte)).collect(),
    };
    Ok((text, encoding))
}

/// Decodes UTF-16. Returns `None` for an odd number of bytes or an unpaired surrogate.
fn utf16(bytes: &[u8]) -> Option<String> {
    let (order, bytes): (fn([u8; 2]) -> u16, _) = match bytes {
        [0xFE, 0xFF, rest @ ..] => (u16::from_be_bytes, rest),
        [0xFF, 0xFE, rest @ ..] => (u16::from_le_bytes, rest),
        [0, ..] => (u16::from_be_bytes, bytes),
        _ => (u16::from_le_bytes, bytes),
    };
    if bytes.len() % 2 != 0 {
        return None;
    }
    String::from_utf16(&bytes.chunks_exact(2).map(|pair| order([pair[0], pair[1]])).collect::<Vec<_>>()).ok()
}

/// Returns the character of a Windows-1252 byte. Undefined bytes keep their value, as in Latin-1.
fn windows_1252(byte: u8) -> char {
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8D}', 'Ž', '\u{8F}',
        '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9D}', 'ž', 'Ÿ',
    ];
    match byte {
        0x80..=0x9F => HIGH[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
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

/// Detects a byte order mark of UTF-32, or ASCII letters of four bytes each.
fn is_utf32(bytes: &[u8]) -> bool {
    match bytes {
        [0xFF, 0xFE, 0, 0, ..] | [0, 0, 0xFE, 0xFF, ..] => true,
        [a, 0, 0, 0, b, 0, 0, 0, ..] | [0, 0, 0, a, 0, 0, 0, b, ..] => *a != 0 && *b != 0,
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
        for bytes in
            [&b"\xFF\xFE\0\0a\0\0\0"[..], b"\0\0\xFE\xFF\0\0\0a", b"a\0\0\0b\0\0\0", b"\0\0\0a\0\0\0b"]
        {
            assert_eq!(found(bytes), Err((1, Encoding::Utf32)), "{bytes:?}");
        }
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

    #[test]
    fn encodings_are_detected_or_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.csv");
        let found = |bytes: &[u8], encoding| {
            std::fs::write(&path, bytes).unwrap();
            read_as(&path, encoding).map_err(|e| e.to_string())
        };
        let wide = |order: fn(u16) -> [u8; 2], mark: &[u8]| {
            [mark, &"a,é😀\n".encode_utf16().flat_map(order).collect::<Vec<_>>()].concat()
        };
        let text = "a,é😀\n".to_string();
        for bytes in [
            wide(u16::to_le_bytes, b"\xFF\xFE"),
            wide(u16::to_be_bytes, b"\xFE\xFF"),
            wide(u16::to_le_bytes, b""),
            wide(u16::to_be_bytes, b""),
        ] {
            assert_eq!(found(&bytes, None).unwrap(), (text.clone(), TextEncoding::Utf16));
        }
        assert_eq!(found("\u{FEFF}a,é😀\n".as_bytes(), None).unwrap(), (text, TextEncoding::Utf8));
        let error = found(b"\xFF\xFE\0\0a\0\0\0", None).unwrap_err();
        assert!(error.contains("UTF-32") && !error.contains('\0'), "{error}");
        let western = b"caf\xE9 \x93x\x94 \x80";
        let error = found(western, None).unwrap_err();
        assert!(error.contains("line 1") && error.contains("encoding = \"latin-1\""), "{error}");
        assert_eq!(found(western, Some(TextEncoding::Latin1)).unwrap().0, "café “x” €");
        assert!(found(b"\xFF\xFEa\0b", None).unwrap_err().contains("UTF-16"));
    }
}
