//! One tar shard: its samples and their positions, the members that belong to none, and whether the shard is complete.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::sources::group::{Group, split_key};
use crate::sources::left_out::LeftOut;
use crate::{Error, Result};

/// Header, end mark and padding of tars come in blocks of this many bytes.
const BLOCK: u64 = 512;
/// Writers fill up with zeros behind the end mark, to a megabyte at most.
const MAX_PADDING: u64 = 1 << 20;

/// Offset and length in a shard.
pub(super) type Span = (u64, u64);

/// The members of one sample.
#[derive(Default)]
pub(super) struct Members {
    pub(super) key: String,
    pub(super) image: Option<Span>,
    pub(super) txt: Option<Span>,
    pub(super) json: Option<Span>,
}

/// What the headers of a shard say.
pub(super) struct Index {
    pub(super) samples: Vec<Members>,
    /// Members that belong to no sample.
    pub(super) left_out: LeftOut,
    /// Bytes of the file.
    pub(super) length: u64,
    /// Everything before this byte is whole.
    pub(super) whole: u64,
    pub(super) flaw: Option<Corruption>,
}

/// What is wrong with a shard from [`Index::whole`] on.
pub(super) struct Corruption {
    pub(super) reason: String,
    /// Bytes the shard had at least, where it is shorter than it was.
    pub(super) cut_from: Option<u64>,
}

impl Index {
    /// Reads the headers; the contents are not looked at.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read. A shard that is not whole is no error here.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
        let left_out = LeftOut::default();
        let mut index = Index { samples: Vec::new(), left_out, length, whole: 0, flaw: None };
        index.flaw = match index.members(path, &file) {
            Some(flaw) => Some(flaw),
            None => index.flaw_at_end(&file).map_err(|e| Error::io(path, e))?,
        };
        Ok(index)
    }

    /// Collects the samples up to the end mark, or to what is broken.
    fn members(&mut self, path: &Path, file: &File) -> Option<Corruption> {
        let mut archive = tar::Archive::new(file);
        let mut group = Group::default();
        let mut flaw = None;
        let entries = match archive.entries_with_seek() {
            Ok(entries) => entries,
            Err(e) => return Some(self.broken_header(&e)),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) => {
                    flaw = Some(self.broken_header(&e));
                    break;
                }
            };
            let (start, size) = (entry.raw_file_position(), entry.size());
            let end = start.saturating_add(size);
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if end > self.length {
                group.cut(&name);
                let reason = format!("the shard ends inside `{name}`");
                flaw = Some(Corruption { reason, cut_from: Some(end) });
                break;
            }
            // A sparse member's size is not what it takes up, but such members hold no samples.
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
                _ if !kind.is_file() => self.left_out.add("links or special files", || shown(&name)),
                None => self.left_out.add("without a key and an ending", || shown(&name)),
                Some((key, _)) => {
                    if key != group.key() {
                        let whole = std::mem::replace(&mut group, Group::new(key));
                        whole.finish(path, &mut self.samples, &mut self.left_out);
                    }
                    group.add(&name, (start, size));
                }
            }
        }
        group.finish(path, &mut self.samples, &mut self.left_out);
        flaw
    }

    fn broken_header(&self, error: &std::io::Error) -> Corruption {
        if self.length < self.whole + BLOCK {
            let reason = format!("the shard ends inside a header ({error})");
            return Corruption { reason, cut_from: Some(self.whole + BLOCK) };
        }
        let what = if self.whole == 0 { "it is no tar" } else { "the header is broken" };
        Corruption { reason: format!("{what} ({error})"), cut_from: None }
    }

    /// A tar ends in a block of zeros. Without it the shard was cut between two members, and what
    /// follows it would be passed over in silence.
    fn flaw_at_end(&mut self, file: &File) -> std::io::Result<Option<Corruption>> {
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
            let reason = format!("{behind} bytes lie behind a tar's end mark and cannot be read");
            return Ok(Some(Corruption { reason, cut_from: None }));
        }
        Ok(None)
    }
}
