//! Containers of weights: detection by the first bytes of a file, and the list of its tensors.
//!
//! Listing reads no tensor data. Once a layout has selected its tensors, each storage is read once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use tch::{Kind, Tensor};

use super::read_error::{ReadError, ReadResult, damaged, truncated};
use super::{archive, legacy, safetensors, sharded};
use crate::{Error, Result};

/// A file, or bytes in memory.
pub(crate) trait ReadSeek: BufRead + Seek {}
impl<T: BufRead + Seek> ReadSeek for T {}

/// Location of a storage's bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ByteRange {
    /// Index of the file.
    pub(crate) file: usize,
    /// First byte.
    pub(crate) start: u64,
    /// Number of bytes.
    pub(crate) length: u64,
}

/// A tensor that is listed but not yet read.
#[derive(Clone, Debug)]
pub(crate) struct TensorEntry {
    pub(crate) name: String,
    /// Index of the storage.
    pub(crate) storage: usize,
    pub(crate) kind: Kind,
    /// Offset in elements; strides are in elements too.
    pub(crate) offset: i64,
    pub(crate) size: Vec<i64>,
    pub(crate) stride: Vec<i64>,
}

/// Weights in one file, or in several that are read as one.
#[derive(Default)]
pub(crate) struct Container {
    pub(crate) files: Vec<(Box<dyn ReadSeek>, u64)>,
    pub(crate) ranges: Vec<ByteRange>,
    pub(crate) tensors: Vec<TensorEntry>,
    /// Names of the entries beside the weights that are not tensors.
    pub(crate) other: Vec<String>,
    /// Notes on decisions while reading.
    pub(crate) notes: Vec<String>,
    /// Whether it is a TorchScript archive.
    pub(crate) script: bool,
    /// The configuration stored in the file with its tensors ([`super::CONFIG_ENTRY`]).
    pub(crate) config: Option<String>,
}

/// Opens a file in any container.
///
/// # Errors
/// [`Error::Io`], or [`Error::UnsupportedFormat`] if the container is not known.
pub(crate) fn open(path: &Path) -> Result<Container> {
    let io = |e| Error::io(path, e);
    let file = File::open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    if meta.is_dir() {
        return Err(io(std::io::ErrorKind::IsADirectory.into()));
    }
    let (length, mut reader) = (meta.len(), BufReader::with_capacity(1 << 16, file));
    if first_bytes(&mut reader).map_err(|e| e.at(path))?.trim_ascii_start().starts_with(b"{") {
        return sharded::open(path, reader, length);
    }
    list(Box::new(reader), length).map_err(|e| e.at(path))
}

/// Lists the tensors of one file.
pub(crate) fn list(mut source: Box<dyn ReadSeek>, length: u64) -> ReadResult<Container> {
    let head = first_bytes(&mut source)?;
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        archive::list(source, length)
    } else if head.starts_with(&legacy::MAGIC) {
        legacy::list(source, length)
    } else if head.len() > 8 && head[8] == b'{' {
        safetensors::list(source, length)
    } else {
        Err(ReadError::Unsupported(unsupported_reason(&head)))
    }
}

/// Returns at least the first 16 bytes, or the whole file if it is shorter.
fn first_bytes<R: BufRead + Seek + ?Sized>(source: &mut R) -> ReadResult<Vec<u8>> {
    let mut head = Vec::new();
    source.take(512).read_to_end(&mut head)?;
    source.seek(SeekFrom::Start(0))?;
    Ok(head)
}

fn unsupported_reason(head: &[u8]) -> String {
    if head.is_empty() {
        return "it is empty: fetch or copy it again".into();
    }
    let what = if head.starts_with(b"version https://git-lfs") {
        "it is a git-lfs pointer, not the file itself: run `git lfs pull`"
    } else if head.starts_with(b"<") {
        "it is a web page: the download failed"
    } else if head.starts_with(b"\x1f\x8b") {
        "it is compressed with gzip: unpack it first"
    } else if head.get(257..262) == Some(b"ustar") {
        "it is a tar archive: unpack it, or (torch before 0.1.10) load and save it with a newer torch"
    } else if head.starts_with(b"\x80") {
        "it is a pickle that torch did not write"
    } else {
        "it is neither a safetensors file nor a torch archive nor a torch pickle"
    };
    what.into()
}

impl Container {
    /// Adds a tensor with its own storage.
    pub(crate) fn push(&mut self, name: String, kind: Kind, size: Vec<i64>, range: ByteRange) {
        let stride = contiguous(&size);
        self.tensors.push(TensorEntry { name, storage: self.ranges.len(), kind, offset: 0, size, stride });
        self.ranges.push(range);
    }

    /// Adds the tensors of another file.
    pub(crate) fn append(&mut self, other: Container) {
        let (files, storages) = (self.files.len(), self.ranges.len());
        self.files.extend(other.files);
        self.ranges.extend(other.ranges.into_iter().map(|r| ByteRange { file: r.file + files, ..r }));
        let moved = other.tensors.into_iter().map(|t| TensorEntry { storage: t.storage + storages, ..t });
        self.tensors.extend(moved);
        self.other.extend(other.other);
        self.notes.extend(other.notes);
        self.script |= other.script;
    }

    /// Reads the tensors at these indices of [`Container::tensors`], in order, to the CPU.
    ///
    /// Tensors of the same storage share memory, as in torch, so a file that names a storage many times does not fill
    /// the memory.
    pub(crate) fn load(&mut self, indices: &[usize]) -> ReadResult<Vec<Tensor>> {
        let wanted = indices.iter().filter_map(|index| self.tensors.get(*index).cloned()).collect::<Vec<_>>();
        let mut storages = HashMap::new();
        let mut budget = self.files.iter().map(|(_, length)| length).sum::<u64>();
        for tensor in &wanted {
            let key = (tensor.storage, tensor.kind);
            if let std::collections::hash_map::Entry::Vacant(entry) = storages.entry(key) {
                let Some(range) = self.ranges.get(tensor.storage) else {
                    return damaged(format!("`{}` has no storage", tensor.name));
                };
                budget = match budget.checked_sub(range.length) {
                    Some(rest) => rest,
                    None => return damaged("its storages overlap"),
                };
                entry.insert(read_storage(&mut self.files, *range, tensor.kind)?);
            }
        }
        wanted
            .iter()
            .map(|tensor| {
                let key = (tensor.storage, tensor.kind);
                let Some(storage) = storages.get(&key) else { return damaged("a storage was not read") };
                check_bounds(tensor, storage.numel() as i64)?;
                Ok(storage.f_as_strided(&tensor.size, &tensor.stride, tensor.offset)?)
            })
            .collect()
    }
}

/// Reads a storage as a one-dimensional tensor.
fn read_storage(files: &mut [(Box<dyn ReadSeek>, u64)], range: ByteRange, kind: Kind) -> ReadResult<Tensor> {
    let Some((file, length)) = files.get_mut(range.file) else { return damaged("a file is missing") };
    if range.start.checked_add(range.length).is_none_or(|end| end > *length) {
        return damaged(truncated());
    }
    file.seek(SeekFrom::Start(range.start))?;
    // The range lies within the file, so the allocation is no larger than the file.
    let mut bytes = vec![0; range.length as usize];
    file.read_exact(&mut bytes)?;
    let count = bytes.len() / kind.elt_size_in_bytes();
    bytes.truncate(count * kind.elt_size_in_bytes());
    if kind == Kind::Bool {
        // A boolean tensor may only contain 0 and 1.
        return Ok(Tensor::f_from_data_size(&bytes, &[count as i64], Kind::Uint8)?.f_ne(0)?);
    }
    Ok(Tensor::f_from_data_size(&bytes, &[count as i64], kind)?)
}

/// Checks that a tensor lies within its storage.
fn check_bounds(tensor: &TensorEntry, available: i64) -> ReadResult<()> {
    let TensorEntry { name, offset, size, stride, .. } = tensor;
    let outside = || damaged(format!("`{name}` of shape {size:?} does not lie within its storage"));
    if size.len() != stride.len() || size.len() > 16 || *offset < 0 {
        return outside();
    }
    let (mut last, mut count) = (*offset, 1i64);
    for (size, stride) in size.iter().zip(stride) {
        if *size < 0 || *stride < 0 {
            return outside();
        }
        let Some(end) = (size - 1).max(0).checked_mul(*stride).and_then(|reach| last.checked_add(reach))
        else {
            return outside();
        };
        let Some(product) = count.checked_mul(*size) else { return outside() };
        (last, count) = (end, product);
    }
    // A tensor with stride 0 repeats its storage and could claim any size.
    if count > available || (count > 0 && last >= available) || (count == 0 && *offset > available) {
        return outside();
    }
    Ok(())
}

/// Returns the strides of a contiguous tensor. Sizes whose product overflows fail [`check_bounds`] anyway.
fn contiguous(size: &[i64]) -> Vec<i64> {
    let mut strides = vec![1i64; size.len()];
    for axis in (1..size.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(size[axis].max(1));
    }
    strides
}

/// Lists the tensors that a pickle names, with the byte ranges of their storages.
pub(crate) fn from_pickle(
    source: Box<dyn ReadSeek>,
    length: u64,
    pickle: &super::value::Pickle,
    ranges: &HashMap<std::rc::Rc<str>, ByteRange>,
    script: bool,
) -> ReadResult<Container> {
    let mut state_dict = super::state::find_state_dict(pickle, script)?;
    let mut container = Container { files: vec![(source, length)], script, ..Container::default() };
    container.other = std::mem::take(&mut state_dict.other);
    container.notes = std::mem::take(&mut state_dict.notes);
    let mut index = HashMap::new();
    for (name, tensor) in state_dict.tensors {
        let Some(range) = ranges.get(&tensor.storage) else {
            return Err(ReadError::Damaged(format!(
                "the storage of `{name}` is missing: fetch or copy it again"
            )));
        };
        let storage = *index.entry(tensor.storage.clone()).or_insert_with(|| {
            container.ranges.push(*range);
            container.ranges.len() - 1
        });
        let super::value::TensorRef { kind, offset, size, stride, .. } = tensor.clone();
        container.tensors.push(TensorEntry { name, storage, kind, offset, size, stride });
    }
    Ok(container)
}
