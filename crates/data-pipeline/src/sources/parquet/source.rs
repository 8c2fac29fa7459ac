//! The rows of Parquet files as samples.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{FileReader, SerializedFileReader};

use super::ParquetConfig;
use super::columns::{Cells, Columns, class_names};
use super::file::{self, ReopenedFile, guarded};
use crate::error::FileFormat;
use crate::sample::{RawImage, RawSample};
use crate::sources::caption_problems::CaptionProblems;
use crate::sources::captions::{Problem, is_blank};
use crate::sources::classes::Classes;
use crate::sources::paths::{Files, resolve};
use crate::sources::{IN_FILE, Source, check_templates};
use crate::{DamageKind, Error, Result, notice};

const FILES: Files = Files { setting: "path", extension: "parquet" };
/// Maximum number of files whose metadata stays in memory.
const OPEN_FILES: usize = 64;
/// Maximum number of readers that keep their position in a row group, and of the bytes that they may hold.
const CURSORS: usize = 32;
const CURSOR_BYTES: u64 = 256 << 20;

/// Rows of Parquet files.
///
/// A row is found by the row counts in the metadata. Reading it skips the pages before it, and reads and decompresses
/// the page with its image. Writers put about 1 MB into a page, but Hugging Face's files of images have one page per row
/// group, which is 100 rows by default. A random sample then costs a read of its whole row group, and smaller row groups
/// make shuffled reading faster. Readers keep their places, so consecutive rows cost one pass.
pub struct Parquet {
    name: String,
    files: Vec<DataFile>,
    /// Number of rows before each row group, and the file and number of that group.
    groups: Vec<(usize, u32, u32)>,
    len: usize,
    classes: Option<Classes>,
    problems: CaptionProblems,
    opened: Mutex<Vec<(usize, Arc<SerializedFileReader<ReopenedFile>>)>>,
    cursors: Mutex<Vec<Cursor>>,
}

/// A file with the columns that are read.
struct DataFile {
    path: PathBuf,
    columns: Columns,
}

/// Readers of the columns of a row group, at a row.
struct Cursor {
    file: usize,
    group: usize,
    /// The next row of the group.
    next: usize,
    /// Maximum number of bytes that the readers hold.
    bytes: u64,
    image: Cells,
    image_path: Option<Cells>,
    caption: Option<Cells>,
    label: Option<Cells>,
}

/// The columns of one row.
struct RowValues {
    image: Option<Vec<u8>>,
    image_path: Option<String>,
    captions: Vec<Result<String, std::str::Utf8Error>>,
    /// Number of null captions.
    nulls: u64,
    label: Option<i64>,
}

impl Parquet {
    /// Opens the files and reads their metadata. Rows are read with their samples.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read, [`Error::Format`] if it is truncated, damaged, not Parquet, or lacks a
    /// column, [`Error::Setting`] for a folder with several splits.
    pub fn open(config: &ParquetConfig, base: impl AsRef<Path>) -> Result<Self> {
        let base = base.as_ref();
        check_templates(&config.templates)?;
        let paths = find(base, &config.path)?;
        let mut source = Parquet {
            name: config.path.clone(),
            files: Vec::new(),
            groups: Vec::new(),
            len: 0,
            classes: None,
            problems: CaptionProblems::new(&config.path),
            opened: Mutex::new(Vec::new()),
            cursors: Mutex::new(Vec::new()),
        };
        let mut names = None;
        for path in paths {
            let format = |reason| Error::Format { path: path.clone(), format: FileFormat::Parquet, reason };
            let reader = file::open(&path)?;
            let metadata = reader.metadata();
            let columns = Columns::find(config, metadata).map_err(format)?;
            if let Some(column) = &columns.label_name {
                let found = class_names(metadata, column);
                if source.files.is_empty() {
                    names = found;
                } else if found != names {
                    return Err(format(format!(
                        "its class names of `{column}` differ from those of the first file: set `classes` in a recipe or suite file, or read the files as separate sources"
                    )));
                }
            }
            let number = source.files.len() as u32;
            for (group, rows) in metadata.row_groups().iter().map(|group| group.num_rows()).enumerate() {
                let rows = usize::try_from(rows)
                    .map_err(|_| format(format!("row group {group} has {rows} rows: download it again")))?;
                if rows > 0 {
                    source.groups.push((source.len, number, group as u32));
                    source.len += rows;
                }
            }
            source.files.push(DataFile { path, columns });
        }
        source.set_classes(config, base, names)?;
        source.log_columns(config);
        Ok(source)
    }

    /// Sets the class names, from a file or from the metadata.
    fn set_classes(&mut self, config: &ParquetConfig, base: &Path, names: Option<Vec<String>>) -> Result<()> {
        let Some(first) = self.files.first() else { return Ok(()) };
        if first.columns.label.is_some() {
            self.classes = match (&config.classes, names) {
                (Some(path), _) => Some(Classes::read(&resolve(base, path), &config.templates)?),
                (None, Some(names)) => Some(Classes { names, templates: config.templates.clone() }),
                (None, None) => None,
            };
        }
        if let (None, Some(column), None) = (first.columns.caption, &first.columns.label_name, &self.classes)
        {
            let reason = format!(
                "it has no column of captions, and the class names of `{column}` are unknown: set a column of captions with `caption = \
                 \"COLUMN\"` or the class names with `classes = \"FILE\"` {IN_FILE}, or pass --class-names to `evaluate`"
            );
            return Err(Error::Format { path: first.path.clone(), format: FileFormat::Parquet, reason });
        }
        Ok(())
    }

    /// Logs the inferred columns.
    fn log_columns(&self, config: &ParquetConfig) {
        let Some(Columns { image_name, caption_name, label_name, .. }) =
            self.files.first().map(|f| &f.columns)
        else {
            return;
        };
        let mut inferred = Vec::new();
        if *image_name != config.image {
            inferred.push(format!("image = \"{image_name}\""));
        }
        if let (None, Some(name)) = (&config.caption, caption_name) {
            inferred.push(format!("caption = \"{name}\""));
        }
        if let (None, Some(name), Some(_)) = (&config.label, label_name, &self.classes) {
            inferred.push(format!("label = \"{name}\""));
        }
        if !inferred.is_empty() {
            notice::info_once(&format!("`{}`: inferred {}", self.name, inferred.join(", ")));
        }
    }

    /// Whether the rows have classes and no captions.
    pub fn has_only_classes(&self) -> bool {
        self.classes.is_some() && self.files.iter().all(|file| file.columns.caption.is_none())
    }

    /// Returns the metadata and reader of a file.
    fn file(&self, number: usize) -> Result<Arc<SerializedFileReader<ReopenedFile>>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = opened.iter().position(|(other, _)| *other == number) {
            let found = opened.remove(at);
            let reader = Arc::clone(&found.1);
            opened.push(found);
            return Ok(reader);
        }
        let reader = Arc::new(file::open(&self.files[number].path)?);
        if opened.len() == OPEN_FILES {
            opened.remove(0);
        }
        opened.push((number, Arc::clone(&reader)));
        Ok(reader)
    }

    /// Takes the cursor that is closest before a row of a row group, or creates one at its start.
    fn cursor(&self, file: usize, group: usize, row: usize) -> Result<Cursor, String> {
        {
            let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
            let fits = |cursor: &&(usize, usize)| cursor.1 <= row;
            let places = cursors.iter().enumerate().filter(|(_, c)| (c.file, c.group) == (file, group));
            let places = places.map(|(at, cursor)| (at, cursor.next)).collect::<Vec<_>>();
            if let Some((at, _)) = places.iter().filter(fits).max_by_key(|(_, next)| *next) {
                return Ok(cursors.swap_remove(*at));
            }
        }
        let reader = self.file(file).map_err(|e| e.to_string())?;
        guarded(|| Cursor::new(&reader, &self.files[file].columns, file, group))
    }

    /// Keeps a cursor for later rows of its group.
    fn keep(&self, cursor: Cursor) {
        let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        cursors.push(cursor);
        // At least one cursor stays, however large its pages are.
        while cursors.len() > 1
            && (cursors.len() > CURSORS || cursors.iter().map(|c| c.bytes).sum::<u64>() > CURSOR_BYTES)
        {
            cursors.remove(0);
        }
    }

    fn values(&self, file: usize, group: usize, row: usize) -> Result<RowValues, String> {
        let mut cursor = self.cursor(file, group, row)?;
        let values = guarded(|| cursor.read(row))?;
        self.keep(cursor);
        Ok(values)
    }

    fn sample(&self, key: &str, values: RowValues, columns: &Columns) -> Result<RawSample, Problem> {
        let RowValues { image, image_path, captions, nulls, label } = values;
        let image = image.filter(|bytes| !bytes.is_empty()).ok_or_else(|| {
            let reason = match &image_path {
                Some(path) => format!("the row has the path `{path}` and no image bytes"),
                None => format!("`{}` is empty", columns.image_name),
            };
            Problem::new(DamageKind::NoImage, reason)
        })?;
        let label = match (&self.classes, label) {
            (Some(classes), Some(class)) => Some(classes.label(class)?),
            _ => None,
        };
        let (mut texts, mut others) = (Vec::new(), nulls);
        let name = columns.caption_name.as_deref().unwrap_or_default();
        for caption in captions {
            let caption =
                caption.map_err(|_| Problem::new(DamageKind::NotUtf8, format!("`{name}` is not UTF-8")))?;
            if is_blank(&caption) {
                others += 1;
            } else {
                texts.push(caption);
            }
        }
        // A row without any caption is damaged, or has the captions of its class.
        if others > 0 && !texts.is_empty() {
            self.problems.entries(others, name, key);
        }
        if texts.is_empty() {
            texts = match (&self.classes, label) {
                (Some(classes), Some(label)) => classes.captions(label),
                _ => {
                    let name = columns.caption_name.as_ref().or(columns.label_name.as_ref());
                    let name = name.map_or("caption", String::as_str);
                    return Err(Problem::new(DamageKind::NoCaption, format!("`{name}` is empty")));
                }
            };
        }
        let mut sample = RawSample::new(key, RawImage::Encoded(image)).with_captions(texts);
        sample.label = label;
        Ok(sample)
    }
}

impl Source for Parquet {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, index: usize, _draw: u64) -> Result<RawSample> {
        let at = self.groups.partition_point(|(start, ..)| *start <= index) - 1;
        let (start, number, group) = self.groups[at];
        let (row, number, group) = (index - start, number as usize, group as usize);
        let file = &self.files[number];
        let key = format!("{}: row {row} of row group {group}", file.path.display());
        let values = self.values(number, group, row).map_err(|reason| Error::Sample {
            key: key.clone(),
            kind: DamageKind::Unreadable,
            reason,
        })?;
        self.sample(&key, values, &file.columns).map_err(|problem| problem.of_sample(&key))
    }

    fn class_names(&self) -> Option<&[String]> {
        self.classes.as_ref().map(|classes| &classes.names[..])
    }
}

impl Cursor {
    fn new(
        reader: &SerializedFileReader<ReopenedFile>,
        columns: &Columns,
        file: usize,
        group: usize,
    ) -> Result<Self, ParquetError> {
        let rows = reader.get_row_group(group)?;
        let schema = reader.metadata().file_metadata().schema_descr();
        let cells = |leaf: usize| Cells::new(rows.get_column_reader(leaf)?, &schema.column(leaf));
        let bytes = rows.metadata().column(columns.image).uncompressed_size();
        Ok(Cursor {
            file,
            group,
            next: 0,
            bytes: u64::try_from(bytes).unwrap_or(0),
            image: cells(columns.image)?,
            image_path: columns.image_path.map(cells).transpose()?,
            caption: columns.caption.map(cells).transpose()?,
            label: columns.label.map(cells).transpose()?,
        })
    }

    /// Reads a row at or after the current position.
    fn read(&mut self, row: usize) -> Result<RowValues, ParquetError> {
        let skipped = row - self.next;
        let columns =
            [Some(&mut self.image), self.image_path.as_mut(), self.caption.as_mut(), self.label.as_mut()];
        for column in columns.into_iter().flatten() {
            column.skip(skipped)?;
        }
        self.next = row + 1;
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_string);
        let image = self.image.bytes()?.0.first().map(|bytes| bytes.data().to_vec());
        let path = self.image_path.as_mut().map(Cells::bytes).transpose()?;
        let path = path.and_then(|(values, _)| values.first().and_then(|path| text(path.data()).ok()));
        let (captions, nulls) = self.caption.as_mut().map(Cells::bytes).transpose()?.unwrap_or_default();
        let captions = captions.iter().map(|caption| text(caption.data())).collect();
        let label = self.label.as_mut().map(Cells::number).transpose()?.flatten();
        Ok(RowValues { image, image_path: path, captions, nulls, label })
    }
}

/// Finds the files of a pattern. A folder must contain a single split; otherwise a test split would become part of the
/// training data.
fn find(base: &Path, pattern: &str) -> Result<Vec<PathBuf>> {
    // Hugging Face's repositories keep their files in `data`.
    let folder = resolve(base, pattern);
    let inner = folder.join("data");
    let has_files = |folder: &Path| FILES.find(folder, ".").is_ok();
    let paths = if folder.is_dir() && !has_files(&folder) && inner.is_dir() && has_files(&inner) {
        FILES.find(&inner, ".")?
    } else {
        FILES.find(base, pattern)?
    };
    if folder.is_dir() {
        // Files are named `SPLIT-00000-of-00005.parquet`.
        let split = |path: &PathBuf| {
            let stem = path.file_stem()?.to_str()?;
            let (split, number) = stem.split_once('-').unwrap_or((stem, ""));
            let is_part =
                number.split("-of-").all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_alphanumeric()));
            (is_part || number.is_empty()).then(|| split.to_string())
        };
        let known = ["train", "test", "validation", "val", "valid", "dev", "unlabeled", "extra"];
        let mut splits = paths.iter().filter_map(split).collect::<Vec<_>>();
        splits.sort();
        splits.dedup();
        if splits.len() > 1 && splits.iter().any(|split| known.contains(&split.as_str())) {
            let reason = format!(
                "the folder `{}` contains the splits `{}`: choose one, for example `path = \"{pattern}/{}-*.parquet\"`",
                folder.display(),
                splits.join("`, `"),
                splits[0]
            );
            return Err(Error::setting("path", reason));
        }
    }
    Ok(paths)
}
