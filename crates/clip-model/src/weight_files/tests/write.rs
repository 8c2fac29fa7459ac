//! Writers of pickles, zip archives and legacy files for tests.

use tch::{Kind, Tensor};

use crate::weight_files::legacy::MAGIC;
use crate::weight_files::opcode as op;

/// A pickle under construction.
#[derive(Clone, Default)]
pub(super) struct PickleWriter(pub(super) Vec<u8>);

impl PickleWriter {
    pub(super) fn new() -> Self {
        PickleWriter(vec![op::PROTO, 2])
    }

    pub(super) fn op(mut self, code: u8) -> Self {
        self.0.push(code);
        self
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub(super) fn text(self, text: &str) -> Self {
        self.op(op::BINUNICODE).raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    pub(super) fn int(self, value: i64) -> Self {
        self.op(op::LONG1).op(8).raw(&value.to_le_bytes())
    }

    pub(super) fn global(self, module: &str, name: &str) -> Self {
        self.op(op::GLOBAL).raw(format!("{module}\n{name}\n").as_bytes())
    }

    pub(super) fn ints(self, values: &[i64]) -> Self {
        values.iter().fold(self.op(op::MARK), |pickle, value| pickle.int(*value)).op(op::TUPLE)
    }

    /// Appends a tensor as torch writes it.
    pub(super) fn tensor(
        self,
        class: &str,
        key: &str,
        count: i64,
        offset: i64,
        size: &[i64],
        stride: &[i64],
    ) -> Self {
        self.global("torch._utils", "_rebuild_tensor_v2")
            .op(op::MARK)
            .op(op::MARK)
            .text("storage")
            .global("torch", class)
            .text(key)
            .text("cpu")
            .int(count)
            .op(op::TUPLE)
            .op(op::BINPERSID)
            .int(offset)
            .ints(size)
            .ints(stride)
            .op(op::NEWFALSE)
            .global("collections", "OrderedDict")
            .op(op::EMPTY_TUPLE)
            .op(op::REDUCE)
            .op(op::TUPLE)
            .op(op::REDUCE)
    }

    /// Appends a dictionary of tensors with storages `0`, `1`, ….
    pub(super) fn state(self, state: &[(String, Tensor)]) -> Self {
        let start = self.op(op::EMPTY_DICT).op(op::MARK);
        state
            .iter()
            .enumerate()
            .fold(start, |pickle, (index, (name, tensor))| {
                let (key, count) = (index.to_string(), tensor.numel() as i64);
                let class = class(tensor.kind());
                pickle.text(name).tensor(class, &key, count, 0, &tensor.size(), &tensor.stride())
            })
            .op(op::SETITEMS)
    }

    pub(super) fn stop(self) -> Vec<u8> {
        self.op(op::STOP).0
    }
}

fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Double => "DoubleStorage",
        Kind::Half => "HalfStorage",
        Kind::BFloat16 => "BFloat16Storage",
        Kind::Int64 => "LongStorage",
        Kind::Int => "IntStorage",
        Kind::Int16 => "ShortStorage",
        Kind::Int8 => "CharStorage",
        Kind::Uint8 => "ByteStorage",
        Kind::Bool => "BoolStorage",
        _ => "FloatStorage",
    }
}

pub(super) fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.contiguous().copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

/// Writes a zip archive of stored entries.
pub(super) fn zip(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    zip_with(entries, 0)
}

/// Writes a zip archive whose entries state another compression method.
pub(super) fn zip_with(entries: &[(&str, Vec<u8>)], method: u16) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let header = bytes.len() as u32;
        let size = (content.len() as u32).to_le_bytes();
        let mut common = vec![0, 0, 0, 0];
        common.extend(method.to_le_bytes());
        common.extend([0; 8]);
        common.extend(size);
        common.extend(size);
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&common);
        bytes.extend(name.as_bytes());
        bytes.extend(content);
        directory.extend(b"PK\x01\x02\x00\x00");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(header.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\x00\x00\x00\x00");
    bytes.extend((entries.len() as u16).to_le_bytes());
    bytes.extend((entries.len() as u16).to_le_bytes());
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

/// Writes a torch archive with a pickle and the storages of a state dict.
pub(super) fn archive(pickle: Vec<u8>, state: &[(String, Tensor)]) -> Vec<u8> {
    let storages = storages(state);
    let mut entries = vec![("run/data.pkl", pickle), ("run/byteorder", b"little".to_vec())];
    entries.extend(storages.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())));
    zip(&entries)
}

/// Returns the archive entries of a state dict's storages.
pub(super) fn storages(state: &[(String, Tensor)]) -> Vec<(String, Vec<u8>)> {
    state.iter().enumerate().map(|(key, (_, t))| (format!("run/data/{key}"), bytes_of(t))).collect()
}

/// Writes a legacy file (torch before 1.6).
pub(super) fn legacy(state: &[(String, Tensor)]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(PickleWriter::new().int(1001).stop());
    let system = PickleWriter::new().op(op::EMPTY_DICT).text("little_endian").op(op::NEWTRUE).op(op::SETITEM);
    bytes.extend(system.stop());
    bytes.extend(PickleWriter::new().state(state).stop());
    let keys = PickleWriter::new().op(op::EMPTY_LIST).op(op::MARK);
    let keys = (0..state.len()).fold(keys, |pickle, key| pickle.text(&key.to_string()));
    bytes.extend(keys.op(op::APPENDS).stop());
    for (_, tensor) in state {
        bytes.extend((tensor.numel() as u64).to_le_bytes());
        bytes.extend(bytes_of(tensor));
    }
    bytes
}
