//! Tables (CSV or TSV) of image paths and captions.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::FileFormat;
use crate::sample::{RawImage, RawSample};
use crate::sources::Source;
use crate::sources::paths::resolve;
use crate::{DamageKind, Error, Result, notice, text};

/// Settings of [`Csv`].
///
/// ```
/// use data_pipeline::sources::CsvConfig;
/// let config = CsvConfig::new("captions.tsv").with_caption("text");
/// assert_eq!((config.image.as_str(), config.caption.as_str()), ("filepath", "text"));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CsvConfig {
    /// Table with column names in its first row.
    pub path: PathBuf,
    /// Column of image paths, relative to the table's folder.
    #[serde(default = "default_image_column")]
    pub image: String,
    /// Column of captions.
    #[serde(default = "default_caption_column")]
    pub caption: String,
    /// Separator of columns, one character. Default: a tab for `.tsv`, else a comma.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<char>,
}

impl CsvConfig {
    /// Creates settings for a table with the columns `filepath` and `title`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        CsvConfig {
            path: path.into(),
            image: default_image_column(),
            caption: default_caption_column(),
            separator: None,
        }
    }

    /// Sets the column of image paths.
    #[must_use]
    pub fn with_image(mut self, column: impl Into<String>) -> Self {
        self.image = column.into();
        self
    }

    /// Sets the column of captions.
    #[must_use]
    pub fn with_caption(mut self, column: impl Into<String>) -> Self {
        self.caption = column.into();
        self
    }

    /// Sets the separator of columns.
    #[must_use]
    pub fn with_separator(mut self, separator: char) -> Self {
        self.separator = Some(separator);
        self
    }
}

fn default_image_column() -> String {
    "filepath".into()
}

fn default_caption_column() -> String {
    "title".into()
}

/// A table with one sample per row. Several rows may name the same image.
pub struct Csv {
    name: String,
    folder: PathBuf,
    separator: char,
    columns: usize,
    rows: Vec<Row>,
}

struct Row {
    image: String,
    caption: String,
    /// Line in the file, from 1.
    line: usize,
    /// Number of fields.
    fields: usize,
    /// Whether a field beyond the header's columns contains text.
    is_cut: bool,
}

impl Csv {
    /// Reads the table. Images are read with their samples.
    ///
    /// A row with more fields than the header is a damaged sample, because a separator would truncate its caption.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::NotUtf8`] if it is not UTF-8, [`Error::Format`] if a column
    /// is missing or a row is malformed.
    pub fn open(config: &CsvConfig, base: impl AsRef<Path>) -> Result<Self> {
        let base = base.as_ref();
        let path = resolve(base, &config.path);
        let format = |reason: String| Error::Format { path: path.clone(), format: FileFormat::Table, reason };
        let tab = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("tsv"));
        let separator = config.separator.unwrap_or(if tab { '\t' } else { ',' });
        let delimiter =
            u8::try_from(separator).map_err(|_| format(format!("`{separator}` cannot separate columns")))?;
        let text = text::read(&path)?;
        check_quotes(&text, delimiter).map_err(format)?;
        let mut reader =
            csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(text.as_bytes());
        let header = reader.headers().map_err(|e| format(e.to_string()))?.clone();
        let column = |name: &str| {
            header.iter().position(|field| field == name).ok_or_else(|| {
                let there = header.iter().collect::<Vec<_>>().join("`, `");
                format(format!("it has no column `{name}`, only `{there}`"))
            })
        };
        let (image, caption) = (column(&config.image)?, column(&config.caption)?);
        let (mut rows, mut at, mut line) = (Vec::new(), 0, 1);
        for record in reader.records() {
            let record = record.map_err(|e| format(e.to_string()))?;
            let field = |index| record.get(index).unwrap_or_default().to_string();
            // After two line breaks, the reader reports the line of the break before the record.
            let start = record.position().map_or(0, |start| start.byte() as usize);
            let skipped =
                text.as_bytes()[start..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            line += text.as_bytes()[at..start + skipped].iter().filter(|byte| **byte == b'\n').count();
            at = start + skipped;
            rows.push(Row {
                image: field(image),
                caption: field(caption),
                line,
                fields: record.len(),
                // A separator at the end of a line truncates nothing.
                is_cut: record.iter().skip(header.len()).any(|field| !field.trim().is_empty()),
            });
        }
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let table = Csv { name: path.display().to_string(), folder, separator, columns: header.len(), rows };
        table.warn_of_cut_rows();
        Ok(table)
    }

    fn warn_of_cut_rows(&self) {
        let mut cut = self.rows.iter().filter(|row| row.is_cut);
        let Some(first) = cut.next() else { return };
        notice::warn_once(&format!(
            "`{}`: {} of {} rows have more fields than the header and are damaged samples, first in line {}: {}",
            self.name,
            1 + cut.count(),
            self.rows.len(),
            first.line,
            self.remedy()
        ));
    }

    fn remedy(&self) -> String {
        format!("enclose captions that contain `{}` in double quotes", self.separator.escape_default())
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
        let Row { image, caption, line, fields, is_cut } = &self.rows[index];
        let damaged = |kind, reason: String| Error::Sample {
            key: format!("{}: row {} ({image})", self.name, index + 1),
            kind,
            reason,
        };
        if *is_cut {
            let (columns, remedy) = (self.columns, self.remedy());
            let reason = format!("line {line} has {fields} fields, the header {columns}: {remedy}");
            return Err(damaged(DamageKind::ExtraFields, reason));
        }
        if caption.trim().is_empty() {
            return Err(damaged(DamageKind::NoCaption, "the caption is empty".into()));
        }
        let bytes = std::fs::read(self.folder.join(image))
            .map_err(|e| damaged(DamageKind::Unreadable, e.to_string()))?;
        Ok(RawSample::new(image.clone(), RawImage::Encoded(bytes)).with_captions([caption.clone()]))
    }
}

/// State of the quote checker within a row.
enum Quoting {
    FieldStart,
    Plain,
    /// Inside quotes that opened on a line.
    Open(usize),
    /// After a quote inside quotes. It closes them unless another quote follows.
    MaybeClosed(usize),
}

/// Finds a quote that was opened by mistake. Such a quote swallows the rows up to the next quote.
///
/// A quoted field may contain line breaks. It is a mistake if the table ends inside of it, or if it contains line breaks
/// and text follows its closing quote: that quote then opens the next quoted field.
pub(super) fn check_quotes(text: &str, separator: u8) -> std::result::Result<(), String> {
    let remedy = "close it, or double the quotes that belong to the text";
    let (mut state, mut line) = (Quoting::FieldStart, 1);
    for byte in text.bytes() {
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
    fn quotes_may_contain_line_breaks_but_not_further_rows() {
        for good in [
            "a,b\nx,\"two\nlines\"\n",
            "a,\"he said \"\"yes\"\"\"\r\n",
            "a,6\" wide\n",
            "a,\"so\"called\n",
            "\"\",\"\"",
            "",
        ] {
            assert_eq!(check_quotes(good, b','), Ok(()), "{good:?}");
        }
        let open = check_quotes("a,b\nx,y\nz,\"never\nw,v\n", b',').unwrap_err();
        assert!(open.contains("line 3"), "{open}");
        let swallowed = check_quotes("a,b\nx,\"open\nz,\"next\"\nw,v\n", b',').unwrap_err();
        assert!(swallowed.contains("line 2") && swallowed.contains("line 3"), "{swallowed}");
        assert!(check_quotes("\"a", b',').is_err());
    }
}
