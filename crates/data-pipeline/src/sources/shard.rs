//! Index of a tar shard: its samples with their positions, its other members, and its first damage.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::sources::group::{Group, split_key};
use crate::sources::skipped::SkippedItems;
use crate::{Error, Result};

/// Size of a tar block in bytes. Headers, end mark and padding consist of blocks.
const BLOCK: u64 = 512;
/// Maximum number of zero bytes that writers append to the end mark.
const MAX_PADDING: u64 = 1 << 20;

/// A range of bytes in a shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// The members of one sample.
#[derive(Default)]
pub(super) struct Members {
    pub(super) key: String,
    pub(super) image: Option<Span>,
    pub(super) txt: Option<Span>,
    pub(super) json: Option<Span>,
    /// The class, if the index was read with labels.
    pub(super) cls: Option<Span>,
}

/// The content of a shard according to its headers.
pub(super) struct Index {
    pub(super) samples: Vec<Members>,
    /// Members without a sample.
    pub(super) skipped: SkippedItems,
    /// Length of the file in bytes.
    pub(super) length: u64,
    /// Number of bytes before the damage.
    pub(super) whole: u64,
    pub(super) corruption: Option<Corruption>,
}

/// The damage of a shard from the byte [`Index::whole`].
pub(super) struct Corruption {
    pub(super) reason: String,
    /// Minimum original length of a truncated shard.
    pub(super) cut_from: Option<u64>,
}

impl Index {
    /// Reads the headers but not the contents.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read. Damage is not an error here.
    pub(super) fn read(path: &Path) -> Result<Self> {
        Self::read_members(path, false)
    }

    /// Like [`Index::read`], with the `.cls` files of CLIP_benchmark as members of samples.
    ///
    /// # Errors
    /// The errors of [`Index::read`].
    pub(super) fn read_with_labels(path: &Path) -> Result<Self> {
        Self::read_members(path, true)
    }

    fn read_members(path: &Path, labels: bool) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
        let skipped = SkippedItems::default();
        let mut index = Index { samples: Vec::new(), skipped, length, whole: 0, corruption: None };
        index.corruption = match index.members(path, &file, labels) {
            Some(corruption) => Some(corruption),
            None => index.corruption_at_end(&file).map_err(|e| Error::io(path, e))?,
        };
        Ok(index)
    }

    /// Collects the samples up to the end mark or the first damage.
    fn members(&mut self, path: &Path, file: &File, labels: bool) -> Option<Corruption> {
        let mut archive = tar::Archive::new(file);
        let mut group = Group::default();
        let mut corruption = None;
        let entries = match archive.entries_with_seek() {
            Ok(entries) => entries,
            Err(e) => return Some(self.broken_header(&e)),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) => {
                    corruption = Some(self.broken_header(&e));
                    break;
                }
            };
            let (start, size) = (entry.raw_file_position(), entry.size());
            let end = start.saturating_add(size);
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if end > self.length {
                group.cut(&name);
                let reason = format!("the shard ends inside `{name}`");
                corruption = Some(Corruption { reason, cut_from: Some(end) });
                break;
            }
            // A sparse member occupies fewer bytes than its size. Such members are not part of samples.
            let stored = if entry.header().entry_type().is_gnu_sparse() {
                entry.header().entry_size().unwrap_or(size)
            } else {
                size
            };
            self.whole = start + stored.next_multiple_of(BLOCK);
            let kind = entry.header().entry_type();
            let shown = |name: &str| format!("{}:{name}", path.display());
            match split_key(&name) {
                _ if kind.is_dir() || kind.is_pax_global_extensions() => {}
                _ if !kind.is_file() => self.skipped.add("links or special files", || shown(&name)),
                None => self.skipped.add("without a key and an extension", || shown(&name)),
                Some((key, _)) => {
                    if key != group.key() {
                        let whole = std::mem::replace(&mut group, Group::new(key).with_labels(labels));
                        whole.finish(path, &mut self.samples, &mut self.skipped);
                    }
                    group.add(&name, Span { offset: start, length: size });
                }
            }
        }
        group.finish(path, &mut self.samples, &mut self.skipped);
        corruption
    }

    fn broken_header(&self, error: &std::io::Error) -> Corruption {
        if self.length < self.whole + BLOCK {
            let reason = format!("the shard ends inside a header ({error})");
            return Corruption { reason, cut_from: Some(self.whole + BLOCK) };
        }
        let what = if self.whole == 0 { "it is not a tar" } else { "the header is broken" };
        Corruption { reason: format!("{what} ({error})"), cut_from: None }
    }

    /// Checks the end mark, a block of zeros. Without it, the shard was truncated between two members. Bytes behind it
    /// would be ignored.
    fn corruption_at_end(&mut self, file: &File) -> std::io::Result<Option<Corruption>> {
        if self.length == 0 {
            return Ok(Some(Corruption { reason: "the file is empty".into(), cut_from: Some(1) }));
        }
        if self.length < self.whole + BLOCK {
            self.whole = self.whole.min(self.length);
            let reason = "the shard ends without a tar's end mark".to_string();
            return Ok(Some(Corruption { reason, cut_from: Some(self.whole + BLOCK) }));
        }
        let behind = self.length - self.whole;
        let mut tail = vec![0; behind.min(MAX_PADDING) as usize];
        file.read_exact_at(&mut tail, self.whole)?;
        if behind > MAX_PADDING || tail.iter().any(|byte| *byte != 0) {
            let reason = format!("{behind} bytes follow the tar's end mark and cannot be read");
            return Ok(Some(Corruption { reason, cut_from: None }));
        }
        Ok(None)
    }
}
