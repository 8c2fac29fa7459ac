//! Tables (CSV or TSV) of image paths and captions.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::FileFormat;
use crate::sample::RawSample;
use crate::sources::captions::Problem;
use crate::sources::file_kind::{is_image, refuse_binary};
use crate::sources::pairs::{CAPTIONS, IMAGES, Pair, PairFile, Pairs, find_column};
use crate::sources::paths::Paths;
use crate::sources::{IN_FILE, Source};
use crate::text::TextEncoding;
use crate::{DamageKind, Error, Result, notice, text};

const IMAGE: &str = "filepath";
const CAPTION: &str = "title";

/// Separators that are tried if the setting is absent.
const SEPARATORS: [char; 4] = [',', '\t', ';', '|'];

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
    /// Table with column names in its first row, or a list of tables.
    pub path: Paths,
    /// Folder of the images, or a list with one folder for each table. Default: the folder of each table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Paths>,
    /// Column of image paths. If the table lacks the default column, another common name such as `image` is used and
    /// logged.
    #[serde(default = "default_image_column")]
    pub image: String,
    /// Column of captions. If the table lacks the default column, another common name such as `caption` or `text` is
    /// used and logged.
    #[serde(default = "default_caption_column")]
    pub caption: String,
    /// Column separator, one character. Default: inferred from the first row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<char>,
    /// Encoding of the tables. Default: UTF-16 if the first bytes indicate it, else UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<TextEncoding>,
    /// Join the captions of rows with the same image into one sample, for retrieval with several captions per image.
    #[cfg_attr(feature = "schema", schemars(extend("default" = false)))]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub group_by_image: bool,
}

impl CsvConfig {
    /// Creates settings for a table with the columns `filepath` and `title`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        CsvConfig {
            path: Paths::One(path.into()),
            root: None,
            image: default_image_column(),
            caption: default_caption_column(),
            separator: None,
            encoding: None,
            group_by_image: false,
        }
    }

    /// Sets several tables.
    #[must_use]
    pub fn with_paths(mut self, paths: Vec<PathBuf>) -> Self {
        self.path = Paths::Many(paths);
        self
    }

    /// Sets the folder of the images, or one folder for each table.
    #[must_use]
    pub fn with_root(mut self, root: impl Into<Paths>) -> Self {
        self.root = Some(root.into());
        self
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

    /// Sets the encoding.
    #[must_use]
    pub fn with_encoding(mut self, encoding: TextEncoding) -> Self {
        self.encoding = Some(encoding);
        self
    }

    /// Sets whether rows with the same image are one sample.
    #[must_use]
    pub fn with_group_by_image(mut self, group: bool) -> Self {
        self.group_by_image = group;
        self
    }
}

fn default_image_column() -> String {
    IMAGE.into()
}

fn default_caption_column() -> String {
    CAPTION.into()
}

/// Tables with one sample per row. Several rows may name the same image.
pub struct Csv {
    pairs: Pairs,
}

impl Csv {
    /// Reads the tables. Images are read with their samples.
    ///
    /// A row with more fields than the header is a damaged sample, because a separator would truncate its caption.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read, [`Error::NotUtf8`] if it is in another encoding, [`Error::Format`] if a
    /// column is missing or a row is malformed.
    pub fn open(config: &CsvConfig, base: impl AsRef<Path>) -> Result<Self> {
        let files = PairFile::list(base.as_ref(), &config.path, config.root.as_ref())?;
        let mut pairs = Vec::new();
        for (number, file) in files.iter().enumerate() {
            read_table(config, &file.path, number as u32, &mut pairs)?;
        }
        Ok(Csv { pairs: Pairs::new(files, pairs, config.group_by_image) })
    }
}

impl Source for Csv {
    fn name(&self) -> &str {
        &self.pairs.name
    }

    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn read(&self, index: usize, _draw: u64) -> Result<RawSample> {
        self.pairs.read(index)
    }
}

/// Adds the rows of a table.
fn read_table(config: &CsvConfig, path: &Path, file: u32, pairs: &mut Vec<Pair>) -> Result<()> {
    let format = |reason: String| Error::Format { path: path.into(), format: FileFormat::Table, reason };
    refuse_binary(path).map_err(format)?;
    let (text, encoding) = text::read_as(path, config.encoding)?;
    if text.trim().is_empty() {
        return Err(format("the file is empty".into()));
    }
    let (text, named) = after_separator_line(&text);
    let layout = Layout::find(config, named, path, text).map_err(format)?;
    layout.log_guesses(config, path, encoding);
    check_quotes(text, layout.separator as u8).map_err(format)?;
    let mut reader = builder(layout.separator).from_reader(text.as_bytes());
    let columns = reader.headers().map_err(|e| format(e.to_string()))?.len();
    let remedy =
        format!("enclose captions that contain `{}` in double quotes", layout.separator.escape_default());
    let (first, mut at, mut line) = (pairs.len(), 0, 1);
    let mut cut_rows = (0, 0);
    for record in reader.records() {
        let record = record.map_err(|e| format(e.to_string()))?;
        let field = |index| record.get(index).unwrap_or_default().to_string();
        // After two line breaks, the reader reports the line of the break before the record.
        let start = record.position().map_or(0, |start| start.byte() as usize);
        let skipped =
            text.as_bytes()[start..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        line += text.as_bytes()[at..start + skipped].iter().filter(|byte| **byte == b'\n').count();
        at = start + skipped;
        // A trailing separator adds no field.
        let is_cut = record.iter().skip(columns).any(|field| !field.trim().is_empty());
        if is_cut {
            cut_rows = (cut_rows.0 + 1, if cut_rows.0 == 0 { line } else { cut_rows.1 });
        }
        let problem = is_cut.then(|| {
            let reason = format!("line {line} has {} fields, the header {columns}: {remedy}", record.len());
            Box::new(Problem::new(DamageKind::ExtraFields, reason))
        });
        // A line with white space only, or the end mark of DOS.
        let is_blank =
            |field: &str| field.trim_matches(|c: char| c.is_whitespace() || c == '\u{1A}').is_empty();
        if columns > 1 && record.len() == 1 && record.iter().all(is_blank) {
            continue;
        }
        let (image, captions) = (field(layout.image), vec![field(layout.caption)]);
        pairs.push(Pair { file, row: pairs.len() - first + 1, image, captions, problem });
    }
    if let (count @ 1.., line) = cut_rows {
        notice::warn_once(&format!(
            "`{}`: {count} of {} rows have more fields than the header and are damaged samples, first in line {line}: {remedy}",
            path.display(),
            pairs.len() - first
        ));
    }
    Ok(())
}

fn builder(separator: char) -> csv::ReaderBuilder {
    let mut builder = csv::ReaderBuilder::new();
    builder.delimiter(separator as u8).flexible(true);
    builder
}

/// Returns the text after Excel's first line `sep=;`, and the separator that it names. The line's end is kept, so that
/// lines keep their numbers.
fn after_separator_line(text: &str) -> (&str, Option<char>) {
    let end = text.find(['\r', '\n']).unwrap_or(text.len());
    let line = text[..end].trim_matches('"');
    let Some((key, value)) = line.split_at_checked("sep=".len()) else { return (text, None) };
    let mut value = value.chars();
    match (value.next(), value.next()) {
        (Some(separator), None) if key.eq_ignore_ascii_case("sep=") && separator.is_ascii() => {
            (&text[end..], Some(separator))
        }
        _ => (text, None),
    }
}

/// The separator and the columns of a table.
struct Layout {
    separator: char,
    image: usize,
    caption: usize,
    /// Names of the two columns.
    names: [String; 2],
}

impl Layout {
    /// Finds the columns. `named` is the separator that the table names.
    fn find(config: &CsvConfig, named: Option<char>, path: &Path, text: &str) -> Result<Self, String> {
        let tab = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("tsv"));
        let usual = if tab { '\t' } else { ',' };
        let candidates = match config.separator.or(named) {
            Some(separator) => vec![separator],
            None => [usual].into_iter().chain(SEPARATORS.into_iter().filter(|c| *c != usual)).collect(),
        };
        let mut widest: Vec<String> = Vec::new();
        for separator in candidates {
            if !separator.is_ascii() {
                return Err(format!("`{separator}` cannot separate columns: use an ASCII character"));
            }
            let mut reader = builder(separator).from_reader(text.as_bytes());
            let header = reader.headers().map_err(|e| e.to_string())?.clone();
            let names = header.iter().collect::<Vec<_>>();
            let image = find_column(&names, &config.image, IMAGE, &IMAGES);
            let caption = find_column(&names, &config.caption, CAPTION, &CAPTIONS);
            if let (Some(image), Some(caption)) = (image, caption) {
                let names = [image, caption].map(|column| names[column].trim().to_string());
                return Ok(Layout { separator, image, caption, names });
            }
            if names.len() > widest.len() {
                widest = names.iter().map(|name| name.trim().to_string()).collect();
            }
        }
        Err(missing_column(config, text, &widest))
    }

    /// Logs the inferred settings.
    fn log_guesses(&self, config: &CsvConfig, path: &Path, encoding: TextEncoding) {
        let mut guesses = Vec::new();
        let tab = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("tsv"));
        if config.separator.is_none() && self.separator != if tab { '\t' } else { ',' } {
            guesses.push(format!("separator = \"{}\"", self.separator.escape_default()));
        }
        for (key, wanted, found) in
            [("image", &config.image, &self.names[0]), ("caption", &config.caption, &self.names[1])]
        {
            if wanted != found {
                guesses.push(format!("{key} = \"{found}\""));
            }
        }
        if config.encoding.is_none() && encoding == TextEncoding::Utf16 {
            guesses.push("encoding = \"utf-16\"".into());
        }
        if !guesses.is_empty() {
            notice::info_once(&format!("`{}`: inferred {}", path.display(), guesses.join(", ")));
        }
    }
}

/// Explains which column is missing; `columns` lists the existing ones.
fn missing_column(config: &CsvConfig, text: &str, columns: &[String]) -> String {
    let shown = columns.join("`, `");
    if text.trim_start().starts_with(['[', '{']) {
        return format!(
            "it is JSON: name it `.json` or `.jsonl`, or read it with `source = \"json\"` {IN_FILE}"
        );
    }
    let first = columns.first().map(String::as_str).unwrap_or_default();
    if columns.iter().any(|column| is_image(column)) {
        return format!(
            "its first row is data (`{first}`), not column names: add a first row such as `{IMAGE},{CAPTION}`"
        );
    }
    let names = columns.iter().map(String::as_str).collect::<Vec<_>>();
    let has_image = find_column(&names, &config.image, IMAGE, &IMAGES).is_some();
    let (key, wanted) = if has_image { ("caption", &config.caption) } else { ("image", &config.image) };
    let separator = match config.separator {
        Some(separator) => format!("; `separator` is `{}`", separator.escape_default()),
        None => String::new(),
    };
    let url = columns.iter().any(|column| column.eq_ignore_ascii_case("url"));
    let hint = if !has_image && url {
        "; it contains the URLs of images: download them with img2dataset"
    } else {
        ""
    };
    format!(
        "it has no column `{wanted}`, only `{shown}`{separator}{hint}; rename a column, or set `{key} = \"COLUMN\"` {IN_FILE}"
    )
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
