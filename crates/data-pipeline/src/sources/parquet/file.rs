//! Parquet files opened by path: metadata, and readers of single rows.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{ChunkReader, Length, SerializedFileReader};
use bytes::Bytes;

use crate::error::FileFormat;
use crate::sources::file_kind::describe;
use crate::{Error, Result};

/// Marks at the start and end of a Parquet file; the second one ends a file with an encrypted footer.
const MARK: &[u8] = b"PAR1";
const ENCRYPTED: &[u8] = b"PARE";

/// A file that is opened for each read, because data sets have more files than a process may hold open, and because
/// handles that share a position cannot be used by several threads.
pub(super) struct ReopenedFile {
    path: PathBuf,
    length: u64,
}

impl Length for ReopenedFile {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for ReopenedFile {
    type T = BufReader<File>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        Ok(BufReader::new(file))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let end = start.checked_add(length as u64).filter(|end| *end <= self.length);
        if end.is_none() {
            return Err(ParquetError::EOF(format!(
                "{length} bytes at byte {start} are beyond the end of the file"
            )));
        }
        let mut bytes = vec![0; length];
        File::open(&self.path)?.read_exact_at(&mut bytes, start)?;
        Ok(Bytes::from(bytes))
    }
}

/// Opens a file and reads its metadata.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is not a complete Parquet file.
pub(super) fn open(path: &Path) -> Result<SerializedFileReader<ReopenedFile>> {
    let io = |e| Error::io(path, e);
    let file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let mut start = Vec::new();
    file.take(64).read_to_end(&mut start).map_err(io)?;
    let mut end = [0; 4];
    if length >= 4 {
        File::open(path).and_then(|file| file.read_exact_at(&mut end, length - 4)).map_err(io)?;
    }
    let format = |reason: String| Error::Format { path: path.into(), format: FileFormat::Parquet, reason };
    if start.starts_with(ENCRYPTED) || end == ENCRYPTED {
        return Err(format("it is encrypted, which is not supported".into()));
    }
    if !start.starts_with(MARK) {
        let reason = match describe(&start) {
            _ if length == 0 => "the file is empty".into(),
            Some(other) => format!("it does not start with `PAR1`: {other}"),
            None => "it does not start with `PAR1`".into(),
        };
        return Err(format(reason));
    }
    if end != MARK {
        return Err(format(format!(
            "it ends without `PAR1`, so it was truncated to {length} bytes: copy or download it again"
        )));
    }
    let reader = || SerializedFileReader::new(ReopenedFile { path: path.into(), length });
    guarded(reader)
        .map_err(|reason| format(format!("its metadata is damaged ({reason}): copy or download it again")))
}

/// Runs a reader on a file that may be damaged, and turns a panic into an error.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(ParquetError::General("the reader panicked on this file".into())))
        .map_err(|e| e.to_string())
}
