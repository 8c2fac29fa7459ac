//! Columns of a Parquet file: the images, captions and classes that a source reads, and the class names.

use ::parquet::basic::{Compression, ConvertedType, LogicalType, Type};
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::{ByteArray, DataType};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::ParquetMetaData;
use ::parquet::schema::types::ColumnDescriptor;
use serde_json::Value;

use super::ParquetConfig;
use crate::sources::IN_FILE;
use crate::sources::pairs::{CAPTIONS, find_column};

/// Maximum number of columns that a message lists.
const LISTED: usize = 20;
/// Common names of image columns.
const IMAGES: [&str; 9] =
    ["image", "img", "jpg", "image_bytes", "bytes", "image_data", "jpeg", "png", "webp"];
/// Common names of class columns.
const LABELS: [&str; 6] = ["label", "labels", "fine_label", "class", "cls", "target"];

/// Indices of the leaf columns that a source reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    pub(super) image: usize,
    /// Path of the image, for the message about an image without bytes.
    pub(super) image_path: Option<usize>,
    pub(super) caption: Option<usize>,
    pub(super) label: Option<usize>,
    /// Names of the columns, for messages.
    pub(super) image_name: String,
    pub(super) caption_name: Option<String>,
    pub(super) label_name: Option<String>,
}

impl Columns {
    /// Finds the columns of the settings.
    pub(super) fn find(config: &ParquetConfig, metadata: &ParquetMetaData) -> Result<Self, String> {
        let leaves = metadata.file_metadata().schema_descr().columns();
        let mut names = Vec::<&str>::new();
        for leaf in leaves {
            let name = leaf.path().parts()[0].as_str();
            if names.last() != Some(&name) {
                names.push(name);
            }
        }
        let column = |setting: &str, wanted: &str, default: &str, common: &[&str]| {
            find_column(&names, wanted, default, common)
                .map(|at| names[at].to_string())
                .ok_or_else(|| missing(setting, wanted, &names))
        };
        let image_name = column("image", &config.image, "image", &IMAGES)?;
        let (image, image_path) = image_columns(leaves, &image_name)?;
        // The first reason why a column with a common name is not used.
        let mut unused = None;
        let mut usual = |common: &[&str], check: fn(&Leaves, &str) -> Result<usize, String>| {
            let present = common.iter().filter_map(|name| find_column(&names, "", "", &[name]));
            let present = present.map(|at| names[at]).collect::<Vec<_>>();
            let found = present.iter().find(|name| check(leaves, name).is_ok()).map(ToString::to_string);
            if let (None, None, Some(first)) = (&found, &unused, present.first()) {
                unused = check(leaves, first).err().map(|reason| (first.to_string(), reason));
            }
            found
        };
        let caption_name = match &config.caption {
            Some(name) => Some(column("caption", name, "", &[])?),
            None => usual(&CAPTIONS, text_column),
        };
        let caption = caption_name.as_deref().map(|name| text_column(leaves, name)).transpose()?;
        let label_name = match &config.label {
            Some(name) => Some(column("label", name, "", &[])?),
            None => usual(&LABELS, number_column),
        };
        let label = label_name.as_deref().map(|name| number_column(leaves, name)).transpose()?;
        if caption.is_none() && label.is_none() {
            return Err(match unused {
                Some((name, reason)) => {
                    let column = if is_text_column(leaves, &name) { name.as_str() } else { "COLUMN" };
                    let number = if LABELS.contains(&name.as_str()) { "number the classes, or " } else { "" };
                    format!(
                        "{reason}: {number}set the column of the captions with `caption = \"{column}\"` {IN_FILE}"
                    )
                }
                None => missing("caption", "caption", &names),
            });
        }
        let used = [Some(image), caption, label].into_iter().flatten();
        check_compression(metadata, used)?;
        Ok(Columns { image, image_path, caption, label, image_name, caption_name, label_name })
    }
}

fn missing(setting: &str, wanted: &str, names: &[&str]) -> String {
    let more = if names.len() > LISTED { ", ..." } else { "" };
    let shown = names.iter().take(LISTED).copied().collect::<Vec<_>>().join("`, `");
    let hint = if setting == "image" && names.contains(&"url") {
        "; it contains the URLs of images: download them with img2dataset"
    } else {
        ""
    };
    format!("it has no column `{wanted}`, only `{shown}`{more}{hint}; set `{setting} = \"COLUMN\"` {IN_FILE}")
}

type Leaves = [std::sync::Arc<ColumnDescriptor>];

/// Returns the leaf columns of the image's bytes and path.
fn image_columns(leaves: &Leaves, name: &str) -> Result<(usize, Option<usize>), String> {
    let path = |parts: &[&str]| leaves.iter().position(|leaf| leaf.path().parts() == parts);
    if let Some(bytes) = path(&[name, "bytes"]) {
        check_type(&leaves[bytes], Type::BYTE_ARRAY, 0, "bytes")?;
        let image_path =
            path(&[name, "path"]).filter(|at| check_type(&leaves[*at], Type::BYTE_ARRAY, 0, "text").is_ok());
        return Ok((bytes, image_path));
    }
    let bytes = path(&[name])
        .ok_or_else(|| format!("its column `{name}` is neither bytes nor a struct with `bytes`"))?;
    let leaf = &leaves[bytes];
    check_type(leaf, Type::BYTE_ARRAY, 0, "bytes")?;
    if is_text(leaf) {
        return Err(format!(
            "its column `{name}` holds texts, not images: set the column of the images with `image = \"COLUMN\"` {IN_FILE}, or \
             write paths and captions to a table (`.csv`)"
        ));
    }
    Ok((bytes, None))
}

/// Returns the leaf column of a text or of a list of texts.
fn text_column(leaves: &Leaves, name: &str) -> Result<usize, String> {
    let leaf = single_leaf(leaves, name, "a text or a list of texts")?;
    let rank = leaves[leaf].max_rep_level();
    check_type(&leaves[leaf], Type::BYTE_ARRAY, rank.min(1), "text")?;
    Ok(leaf)
}

/// Returns the leaf column of integers.
fn number_column(leaves: &Leaves, name: &str) -> Result<usize, String> {
    let leaf = single_leaf(leaves, name, "whole numbers")?;
    if leaves[leaf].physical_type() == Type::INT32 {
        check_type(&leaves[leaf], Type::INT32, 0, "whole numbers")?;
    } else {
        check_type(&leaves[leaf], Type::INT64, 0, "whole numbers")?;
    }
    Ok(leaf)
}

fn single_leaf(leaves: &Leaves, name: &str, wanted: &str) -> Result<usize, String> {
    let mut found = leaves.iter().enumerate().filter(|(_, leaf)| leaf.path().parts()[0] == name);
    match (found.next(), found.next()) {
        (Some((at, _)), None) => Ok(at),
        _ => Err(format!("its column `{name}` holds a struct, not {wanted}")),
    }
}

fn check_type(leaf: &ColumnDescriptor, wanted: Type, rank: i16, what: &str) -> Result<(), String> {
    if leaf.physical_type() == wanted && leaf.max_rep_level() == rank {
        return Ok(());
    }
    let (path, list) = (leaf.path().string(), if leaf.max_rep_level() > rank { "lists of " } else { "" });
    Err(format!("its column `{path}` holds {list}{}, not {what}", type_words(leaf)))
}

/// Describes the values of a column, with the type's name in the file.
fn type_words(leaf: &ColumnDescriptor) -> String {
    let words = match leaf.physical_type() {
        Type::BYTE_ARRAY if is_text(leaf) => return "texts".into(),
        Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY => "bytes",
        Type::BOOLEAN => "truth values",
        Type::INT32 | Type::INT64 => "whole numbers",
        Type::INT96 => "times",
        Type::FLOAT | Type::DOUBLE => "decimal numbers",
    };
    format!("{words} ({})", leaf.physical_type())
}

fn is_text_column(leaves: &Leaves, name: &str) -> bool {
    text_column(leaves, name).is_ok_and(|at| is_text(&leaves[at]))
}

/// Refuses columns whose compression this build cannot read.
fn check_compression(
    metadata: &ParquetMetaData,
    leaves: impl Iterator<Item = usize> + Clone,
) -> Result<(), String> {
    for group in metadata.row_groups() {
        for column in leaves.clone().filter_map(|leaf| group.columns().get(leaf)) {
            let codec = match column.compression() {
                Compression::LZ4 | Compression::LZ4_RAW => "LZ4",
                Compression::BROTLI(_) => "Brotli",
                Compression::LZO => "LZO",
                _ => continue,
            };
            return Err(format!(
                "its column `{}` is compressed with {codec}, which is not supported: write the file again with zstd or snappy, \
                 in Python with `pq.write_table(pq.read_table(FILE), NEW, compression=\"zstd\")` of `pyarrow.parquet`",
                column.column_path().string()
            ));
        }
    }
    Ok(())
}

fn is_text(leaf: &ColumnDescriptor) -> bool {
    matches!(leaf.logical_type_ref(), Some(LogicalType::String))
        || leaf.converted_type() == ConvertedType::UTF8
}

/// Returns the class names that the metadata of Hugging Face's datasets lists for a column.
pub(super) fn class_names(metadata: &ParquetMetaData, column: &str) -> Option<Vec<String>> {
    let pairs = metadata.file_metadata().key_value_metadata()?;
    let text = pairs.iter().find(|pair| pair.key == "huggingface")?.value.as_ref()?;
    let json: Value = serde_json::from_str(text).ok()?;
    let names = json.pointer("/info/features")?.get(column)?.get("names")?;
    // Older versions wrote a list, and YAML-like metadata a table of numbers and names.
    let texts = match names {
        Value::Array(list) => list.iter().map(|name| name.as_str().map(str::to_string)).collect(),
        Value::Object(table) => {
            let name = |number: usize| table.get(&number.to_string())?.as_str().map(str::to_string);
            (0..table.len()).map(name).collect()
        }
        _ => None,
    };
    texts.filter(|names: &Vec<String>| !names.is_empty())
}

/// Reads the values of one column of a row group, in order.
pub(super) enum Cells {
    Bytes(ColumnReaderImpl<::parquet::data_type::ByteArrayType>, i16),
    Int32(ColumnReaderImpl<::parquet::data_type::Int32Type>, i16),
    Int64(ColumnReaderImpl<::parquet::data_type::Int64Type>, i16),
}

impl Cells {
    pub(super) fn new(reader: ColumnReader, leaf: &ColumnDescriptor) -> Result<Self, ParquetError> {
        let present = leaf.max_def_level();
        match reader {
            ColumnReader::ByteArrayColumnReader(reader) => Ok(Cells::Bytes(reader, present)),
            ColumnReader::Int32ColumnReader(reader) => Ok(Cells::Int32(reader, present)),
            ColumnReader::Int64ColumnReader(reader) => Ok(Cells::Int64(reader, present)),
            _ => Err(ParquetError::General("the type of a column changed".into())),
        }
    }

    /// Skips rows.
    pub(super) fn skip(&mut self, rows: usize) -> Result<(), ParquetError> {
        let skipped = match self {
            Cells::Bytes(reader, _) => reader.skip_records(rows)?,
            Cells::Int32(reader, _) => reader.skip_records(rows)?,
            Cells::Int64(reader, _) => reader.skip_records(rows)?,
        };
        if skipped == rows { Ok(()) } else { Err(short()) }
    }

    /// Reads the byte strings of the next row: one, none if it is null, or those of its list. Also returns the number
    /// of null entries.
    pub(super) fn bytes(&mut self) -> Result<(Vec<ByteArray>, u64), ParquetError> {
        match self {
            Cells::Bytes(reader, present) => {
                let (values, levels) = row(reader, *present)?;
                Ok((values, levels))
            }
            _ => Err(ParquetError::General("the column holds numbers".into())),
        }
    }

    /// Reads the number of the next row, if it is not null.
    pub(super) fn number(&mut self) -> Result<Option<i64>, ParquetError> {
        match self {
            Cells::Int32(reader, present) => {
                Ok(row(reader, *present)?.0.first().map(|value| i64::from(*value)))
            }
            Cells::Int64(reader, present) => Ok(row(reader, *present)?.0.first().copied()),
            Cells::Bytes(..) => Err(ParquetError::General("the column holds bytes".into())),
        }
    }
}

/// Reads one row: its values, and the number of its null entries.
fn row<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    present: i16,
) -> Result<(Vec<T::T>, u64), ParquetError> {
    let (mut values, mut definitions, mut repetitions) = (Vec::new(), Vec::new(), Vec::new());
    let (rows, _, _) = reader.read_records(1, Some(&mut definitions), Some(&mut repetitions), &mut values)?;
    let nulls = definitions.iter().filter(|level| **level < present).count() as u64;
    if rows == 1 { Ok((values, nulls)) } else { Err(short()) }
}

fn short() -> ParquetError {
    ParquetError::EOF("the row group has fewer rows than its metadata states".into())
}
