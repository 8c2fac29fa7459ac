//! A table (CSV or TSV) of image paths and captions.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::sample::{RawImage, RawSample};
use crate::sources::Source;
use crate::sources::paths::resolve;
use crate::{Error, Result};

/// Settings of [`Csv`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsvConfig {
    /// The table; its first row names the columns.
    pub path: PathBuf,
    /// Column of image paths, relative to the table's folder.
    #[serde(default = "default_image_column")]
    pub image: String,
    /// Column of captions.
    #[serde(default = "default_caption_column")]
    pub caption: String,
    /// The separator; left out, a tab for `.tsv` and a comma otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<char>,
}

fn default_image_column() -> String {
    "filepath".into()
}

fn default_caption_column() -> String {
    "title".into()
}

/// Rows of a table; an image may stand in several.
pub struct Csv {
    name: String,
    folder: PathBuf,
    rows: Vec<(String, String)>,
}

impl Csv {
    /// Reads the table; images are read later.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::Format`] where a column is missing or a row is broken.
    pub fn open(config: &CsvConfig, base: &Path) -> Result<Self> {
        let path = resolve(base, &config.path);
        let format = |reason: String| Error::Format { path: path.clone(), kind: "table", reason };
        let tab = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("tsv"));
        let separator = config.separator.unwrap_or(if tab { '\t' } else { ',' });
        let separator =
            u8::try_from(separator).map_err(|_| format(format!("`{separator}` cannot separate columns")))?;
        let bytes = super::paths::read_to_end(&path)?;
        check_quotes(&bytes, separator).map_err(format)?;
        let mut reader =
            csv::ReaderBuilder::new().delimiter(separator).flexible(true).from_reader(&bytes[..]);
        let header = reader.byte_headers().map_err(|e| format(e.to_string()))?.clone();
        let column = |name: &str| {
            header.iter().position(|field| field == name.as_bytes()).ok_or_else(|| {
                let there = header.iter().map(String::from_utf8_lossy).collect::<Vec<_>>().join("`, `");
                format(format!("there is no column `{name}`, only `{there}`"))
            })
        };
        let (image, caption) = (column(&config.image)?, column(&config.caption)?);
        let mut rows = Vec::new();
        for record in reader.byte_records() {
            let record = record.map_err(|e| format(e.to_string()))?;
            let field = |index| String::from_utf8_lossy(record.get(index).unwrap_or_default()).into_owned();
            rows.push((field(image), field(caption)));
        }
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        Ok(Csv { name: path.display().to_string(), folder, rows })
    }
}

impl Source for Csv {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn read(&self, index: usize, _draw: u64) -> Result<RawSample> {
        let (image, caption) = &self.rows[index];
        let damaged = |kind, reason: String| Error::Sample {
            key: format!("{}: row {} ({image})", self.name, index + 1),
            kind,
            reason,
        };
        if caption.trim().is_empty() {
            return Err(damaged("no caption", "the caption is empty".into()));
        }
        let bytes =
            std::fs::read(self.folder.join(image)).map_err(|e| damaged("unreadable", e.to_string()))?;
        Ok(RawSample {
            key: image.clone(),
            image: RawImage::Encoded(bytes),
            captions: vec![caption.clone()],
            label: None,
            boxes: Vec::new(),
        })
    }
}

/// Where the reader is in a row.
enum Quoting {
    FieldStart,
    Plain,
    /// Inside quotes that opened on a line.
    Open(usize),
    /// Behind a quote inside quotes, which closes them unless another one follows.
    MaybeClosed(usize),
}

/// Says where a quote was opened by mistake: such a quote swallows the rows up to the next one.
///
/// A quoted field may hold line breaks. It is a mistake where it is open at the end of the table,
/// or where it holds line breaks and text follows its end, which in a table is the next quoted field.
pub(super) fn check_quotes(bytes: &[u8], separator: u8) -> std::result::Result<(), String> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let remedy = "close it, or double the quotes that belong to the text";
    let (mut state, mut line) = (Quoting::FieldStart, 1);
    for &byte in bytes {
        let ends_field = byte == separator || byte == b'\n' || byte == b'\r';
        state = match state {
            Quoting::FieldStart if byte == b'"' => Quoting::Open(line),
            Quoting::Open(opened) if byte == b'"' => Quoting::MaybeClosed(opened),
            Quoting::Open(opened) => Quoting::Open(opened),
            Quoting::MaybeClosed(opened) if byte == b'"' => Quoting::Open(opened),
            Quoting::MaybeClosed(opened) if !ends_field && opened < line => {
                return Err(format!(
                    "the quote that opens in line {opened} closes in the middle of a field in line {line}: {remedy}"
                ));
            }
            _ if ends_field => Quoting::FieldStart,
            _ => Quoting::Plain,
        };
        line += usize::from(byte == b'\n');
    }
    match state {
        Quoting::Open(opened) => {
            Err(format!("the quote that opens in line {opened} is never closed: {remedy}"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_may_hold_line_breaks_but_not_the_rest_of_the_table() {
        for good in [
            "a,b\nx,\"two\nlines\"\n",
            "a,\"he said \"\"yes\"\"\"\r\n",
            "a,6\" wide\n",
            "a,\"so\"called\n",
            "\"\",\"\"",
            "",
        ] {
            assert_eq!(check_quotes(good.as_bytes(), b','), Ok(()), "{good:?}");
        }
        let open = check_quotes(b"a,b\nx,y\nz,\"never\nw,v\n", b',').unwrap_err();
        assert!(open.contains("line 3"), "{open}");
        let swallowed = check_quotes(b"a,b\nx,\"open\nz,\"next\"\nw,v\n", b',').unwrap_err();
        assert!(swallowed.contains("line 2") && swallowed.contains("line 3"), "{swallowed}");
        assert!(check_quotes(b"\xEF\xBB\xBF\"a", b',').is_err());
    }
}
