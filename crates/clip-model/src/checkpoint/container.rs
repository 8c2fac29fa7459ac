//! The containers of weights: what a file is, told by its first bytes, and the tensors that it lists.
//!
//! Listing reads no tensor. Tensors are read when a layout has chosen its own, each storage once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use tch::{Kind, Tensor};

use super::fault::{Fault, Found, damaged, truncated};
use super::{archive, legacy, safetensors, sharded};
use crate::{Error, Result};

/// A file, or bytes in a test.
pub(crate) trait Source: BufRead + Seek {}
impl<T: BufRead + Seek> Source for T {}

/// Where the bytes of a storage lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Index of the file.
    pub(crate) file: usize,
    /// First byte.
    pub(crate) start: u64,
    /// Bytes.
    pub(crate) length: u64,
}

/// A tensor that is listed and not read.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) name: String,
    /// Index of the storage.
    pub(crate) storage: usize,
    pub(crate) kind: Kind,
    /// In elements, as are the strides.
    pub(crate) offset: i64,
    pub(crate) size: Vec<i64>,
    pub(crate) stride: Vec<i64>,
}

/// One file, or several that are read as one.
#[derive(Default)]
pub(crate) struct Container {
    pub(crate) files: Vec<(Box<dyn Source>, u64)>,
    pub(crate) places: Vec<Place>,
    pub(crate) tensors: Vec<Listed>,
    /// What stood beside the weights and is no tensor.
    pub(crate) other: Vec<String>,
    /// What was decided on the way.
    pub(crate) notes: Vec<String>,
    /// Whether it is a TorchScript archive.
    pub(crate) script: bool,
    /// The configuration stored in the file with its tensors ([`super::CONFIG_ENTRY`]).
    pub(crate) config: Option<String>,
}

/// Opens a file of any kind.
///
/// # Errors
/// [`Error::Io`], or [`Error::Format`] where it is of no kind that is known.
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
pub(crate) fn list(mut source: Box<dyn Source>, length: u64) -> Found<Container> {
    let head = first_bytes(&mut source)?;
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        archive::list(source, length)
    } else if head.starts_with(&legacy::MAGIC) {
        legacy::list(source, length)
    } else if head.len() > 8 && head[8] == b'{' {
        safetensors::list(source, length)
    } else {
        damaged(not_weights(&head))
    }
}

/// At least the first 16 bytes, where there are so many.
fn first_bytes<R: BufRead + Seek + ?Sized>(source: &mut R) -> Found<Vec<u8>> {
    let mut head = Vec::new();
    source.take(512).read_to_end(&mut head)?;
    source.seek(SeekFrom::Start(0))?;
    Ok(head)
}

fn not_weights(head: &[u8]) -> String {
    if head.is_empty() {
        return "it is empty: fetch or copy it again".into();
    }
    let what = if head.starts_with(b"version https://git-lfs") {
        "it is a pointer of git-lfs, not the file itself: run `git lfs pull`"
    } else if head.starts_with(b"<") {
        "it is a web page: the download failed"
    } else if head.starts_with(b"\x1f\x8b") {
        "it is compressed with gzip: unpack it first"
    } else if head.get(257..262) == Some(b"ustar") {
        "it is a tar archive: unpack it, or (torch before 0.1.10) load and save it with a newer torch"
    } else if head.starts_with(b"\x80") {
        "it is a pickle that torch did not write"
    } else {
        "it is no safetensors file, no torch archive and no torch pickle"
    };
    what.into()
}

impl Container {
    /// Adds a tensor that has a storage of its own.
    pub(crate) fn push(&mut self, name: String, kind: Kind, size: Vec<i64>, place: Place) {
        let stride = contiguous(&size);
        self.tensors.push(Listed { name, storage: self.places.len(), kind, offset: 0, size, stride });
        self.places.push(place);
    }

    /// Adds the tensors of another file.
    pub(crate) fn append(&mut self, other: Container) {
        let (files, storages) = (self.files.len(), self.places.len());
        self.files.extend(other.files);
        self.places.extend(other.places.into_iter().map(|p| Place { file: p.file + files, ..p }));
        let moved = other.tensors.into_iter().map(|t| Listed { storage: t.storage + storages, ..t });
        self.tensors.extend(moved);
        self.other.extend(other.other);
        self.notes.extend(other.notes);
        self.script |= other.script;
    }

    /// Reads the tensors of these places in [`Container::tensors`], in order, onto the CPU.
    ///
    /// Tensors of one storage share memory, as they do in torch, so that a file can name a storage often
    /// without filling the memory.
    pub(crate) fn load(&mut self, wanted: &[usize]) -> Found<Vec<Tensor>> {
        let wanted = wanted.iter().filter_map(|index| self.tensors.get(*index).cloned()).collect::<Vec<_>>();
        let mut storages = HashMap::new();
        let mut budget = self.files.iter().map(|(_, length)| length).sum::<u64>();
        for tensor in &wanted {
            let key = (tensor.storage, tensor.kind);
            if let std::collections::hash_map::Entry::Vacant(entry) = storages.entry(key) {
                let Some(place) = self.places.get(tensor.storage) else {
                    return damaged(format!("`{}` has no storage", tensor.name));
                };
                budget = match budget.checked_sub(place.length) {
                    Some(rest) => rest,
                    None => return damaged("its parts lie on top of each other"),
                };
                entry.insert(read_storage(&mut self.files, *place, tensor.kind)?);
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

/// A storage as a tensor of one dimension.
fn read_storage(files: &mut [(Box<dyn Source>, u64)], place: Place, kind: Kind) -> Found<Tensor> {
    let Some((file, length)) = files.get_mut(place.file) else { return damaged("a file is missing") };
    if place.start.checked_add(place.length).is_none_or(|end| end > *length) {
        return damaged(truncated());
    }
    file.seek(SeekFrom::Start(place.start))?;
    // The length is within the file, so the claim is no larger than what there is.
    let mut bytes = vec![0; place.length as usize];
    file.read_exact(&mut bytes)?;
    let count = bytes.len() / kind.elt_size_in_bytes();
    bytes.truncate(count * kind.elt_size_in_bytes());
    if kind == Kind::Bool {
        // Other bytes than 0 and 1 are no booleans.
        return Ok(Tensor::f_from_data_size(&bytes, &[count as i64], Kind::Uint8)?.f_ne(0)?);
    }
    Ok(Tensor::f_from_data_size(&bytes, &[count as i64], kind)?)
}

/// Checks that a tensor lies within its storage.
fn check_bounds(tensor: &Listed, available: i64) -> Found<()> {
    let Listed { name, offset, size, stride, .. } = tensor;
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
    // A tensor that repeats its storage (stride 0) could claim any size.
    if count > available || (count > 0 && last >= available) || (count == 0 && *offset > available) {
        return outside();
    }
    Ok(())
}

/// The strides of a tensor without gaps; sizes whose product overflows fail [`check_bounds`] either way.
fn contiguous(size: &[i64]) -> Vec<i64> {
    let mut strides = vec![1i64; size.len()];
    for axis in (1..size.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(size[axis].max(1));
    }
    strides
}

/// Places a file's storages and lists the tensors that a pickle gives names to.
pub(crate) fn from_pickle(
    source: Box<dyn Source>,
    length: u64,
    pickle: &super::value::Pickle,
    places: &HashMap<std::rc::Rc<str>, Place>,
    script: bool,
) -> Found<Container> {
    let mut chosen = super::state::choose(pickle, script)?;
    let mut container = Container { files: vec![(source, length)], script, ..Container::default() };
    container.other = std::mem::take(&mut chosen.other);
    container.notes = std::mem::take(&mut chosen.notes);
    let mut index = HashMap::new();
    for (name, tensor) in chosen.tensors {
        let Some(place) = places.get(&tensor.storage) else {
            return Err(Fault::Damaged(format!(
                "the storage of `{name}` is missing: fetch or copy it again"
            )));
        };
        let storage = *index.entry(tensor.storage.clone()).or_insert_with(|| {
            container.places.push(*place);
            container.places.len() - 1
        });
        let super::value::TensorRef { kind, offset, size, stride, .. } = tensor.clone();
        container.tensors.push(Listed { name, storage, kind, offset, size, stride });
    }
    Ok(container)
}
