//! Index of a tar shard: its samples with their positions, its other members, and its first damage.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::FileFormat;
use crate::notice;
use crate::sources::file_kind::{describe, foreign_format};
use crate::sources::group::{Group, Members, split_key};
use crate::sources::skipped::SkippedItems;
use crate::{Error, Result};

/// Size of a tar block in bytes. Headers, end-of-archive marker and padding consist of blocks.
const BLOCK: u64 = 512;
/// Maximum number of zero bytes that writers append to the end-of-archive marker.
const MAX_PADDING: u64 = 1 << 20;

/// A range of bytes in a shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// The content of a shard according to its headers.
pub(super) struct Index {
    pub(super) samples: Vec<Members<Span>>,
    /// Members without a sample.
    pub(super) skipped: SkippedItems,
    /// Length of the file in bytes.
    pub(super) length: u64,
    /// Number of bytes before the damage.
    pub(super) whole: u64,
    pub(super) corruption: Option<Corruption>,
    /// Whether the members of a key are not consecutive.
    is_scattered: bool,
}

/// The damage of a shard from the byte [`Index::whole`].
pub(super) struct Corruption {
    pub(super) reason: String,
    /// Minimum original length of a truncated shard.
    pub(super) cut_from: Option<u64>,
    /// What the file is instead of a tar, if that is known.
    pub(super) foreign: Option<String>,
}

/// The groups of a shard while its headers are read.
enum Groups {
    /// The current group, and hashes of the keys of the finished ones. Writers of WebDataset keep the members of a key
    /// together.
    Consecutive { current: Group<Span>, finished: HashSet<u64> },
    /// All groups, for a tar whose members are in another order.
    Scattered { groups: Vec<Group<Span>>, places: HashMap<String, usize> },
}

impl Index {
    /// Reads the headers but not the contents. `text` is the extension of caption files.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Format`] for a file of another known format. Damage is not an
    /// error here.
    pub(super) fn read(path: &Path, text: &str) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
        let mut start = [0; BLOCK as usize];
        let read = file.read_at(&mut start, 0).map_err(|e| Error::io(path, e))?;
        let start = &start[..read];
        let format = |reason| Error::Format { path: path.into(), format: FileFormat::Shard, reason };
        if let Some(reason) = foreign_format(start) {
            return Err(format(reason));
        }
        let consecutive = Groups::Consecutive { current: Group::new("", text), finished: HashSet::new() };
        let mut index = Index::members(path, &file, length, text, consecutive);
        if index.is_scattered {
            let path_shown = path.display();
            notice::info_once(&format!(
                "`{path_shown}`: its members are not grouped by key, so they are matched by key"
            ));
            let scattered = Groups::Scattered { groups: Vec::new(), places: HashMap::new() };
            index = Index::members(path, &file, length, text, scattered);
        }
        // A tar may start with a member whose name looks like another file.
        if let Some(corruption) = &mut index.corruption
            && index.whole == 0
            && let Some(reason) = describe(start)
        {
            let reason_here = format!("it is not a tar: {reason}");
            *corruption = Corruption { reason: reason_here, cut_from: None, foreign: Some(reason) };
        }
        if index.corruption.is_none() {
            index.corruption = index.corruption_at_end(path, &file).map_err(|e| Error::io(path, e))?;
        }
        Ok(index)
    }

    /// Collects the samples up to the end-of-archive marker or the first damage.
    fn members(path: &Path, file: &File, length: u64, text: &str, mut groups: Groups) -> Self {
        let (samples, skipped) = (Vec::new(), SkippedItems::default());
        let mut index = Index { samples, skipped, length, whole: 0, corruption: None, is_scattered: false };
        let label = label_length(file);
        let mut members = Behind { file, first: label };
        // The second pass starts at the beginning again.
        let mut archive = match members.rewind() {
            Ok(()) => tar::Archive::new(members),
            Err(e) => {
                index.corruption = Some(index.broken_header(&e));
                return index;
            }
        };
        let entries = match archive.entries_with_seek() {
            Ok(entries) => entries,
            Err(e) => {
                index.corruption = Some(index.broken_header(&e));
                return index;
            }
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) => {
                    index.corruption = Some(index.broken_header(&e));
                    break;
                }
            };
            let (start, size) = (label + entry.raw_file_position(), entry.size());
            let end = start.saturating_add(size);
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if end > length {
                if let Some(group) = split_key(&name).and_then(|(key, _)| groups.find(key)) {
                    group.cut(&name);
                }
                let reason = format!("the shard ends inside `{name}`");
                index.corruption = Some(Corruption { reason, cut_from: Some(end), foreign: None });
                break;
            }
            // A sparse member occupies fewer bytes than its size. Such members are not part of samples.
            let stored = if entry.header().entry_type().is_gnu_sparse() {
                entry.header().entry_size().unwrap_or(size)
            } else {
                size
            };
            index.whole = start + stored.next_multiple_of(BLOCK);
            let kind = entry.header().entry_type();
            let shown = |name: &str| format!("{}:{name}", path.display());
            match split_key(&name) {
                _ if kind.is_dir() || kind.is_pax_global_extensions() => {}
                _ if !kind.is_file() => index.skipped.add("links or special files", || shown(&name)),
                None => index.skipped.add("without a key and an extension", || shown(&name)),
                Some((key, _)) => {
                    index.is_scattered |= groups.start(key, text, |whole| {
                        whole.finish(shown, &mut index.samples, &mut index.skipped);
                    });
                    if let Some(group) = groups.find(key) {
                        group.add(&name, Span { offset: start, length: size });
                    }
                }
            }
        }
        let shown = |name: &str| format!("{}:{name}", path.display());
        match groups {
            Groups::Consecutive { current, .. } => {
                current.finish(shown, &mut index.samples, &mut index.skipped);
            }
            Groups::Scattered { groups, .. } => {
                groups
                    .into_iter()
                    .for_each(|group| group.finish(shown, &mut index.samples, &mut index.skipped));
            }
        }
        index
    }

    fn broken_header(&self, error: &std::io::Error) -> Corruption {
        if self.length < self.whole + BLOCK {
            let reason = "the shard ends inside a header".to_string();
            return Corruption { reason, cut_from: Some(self.whole + BLOCK), foreign: None };
        }
        let what = if self.whole == 0 { "it is not a tar" } else { "the header is broken" };
        // The error of a text or of random bytes quotes them.
        let error = error.to_string();
        let has_words = error.len() < 200 && !error.contains(|c: char| c.is_control() || c == '\u{FFFD}');
        let detail = if has_words { format!(" ({error})") } else { String::new() };
        Corruption { reason: format!("{what}{detail}"), cut_from: None, foreign: None }
    }

    /// Checks the end-of-archive marker, two blocks of zeros. Bytes after it would be ignored.
    ///
    /// A shard without the marker may be complete, because some writers omit it, or truncated between two members. All
    /// of its members are complete, so this is only a warning.
    fn corruption_at_end(&mut self, path: &Path, file: &File) -> std::io::Result<Option<Corruption>> {
        if self.length == 0 {
            return Ok(Some(Corruption {
                reason: "the file is empty".into(),
                cut_from: Some(1),
                foreign: None,
            }));
        }
        if self.length < self.whole + BLOCK {
            self.whole = self.whole.min(self.length);
            notice::warn_once(&format!(
                "`{}` has no end-of-archive marker: all its members are read; if it was truncated, download it again",
                path.display()
            ));
            return Ok(None);
        }
        let behind = self.length - self.whole;
        let mut tail = vec![0; behind.min(MAX_PADDING) as usize];
        file.read_exact_at(&mut tail, self.whole)?;
        if behind > MAX_PADDING || tail.iter().any(|byte| *byte != 0) {
            let reason = format!("{behind} bytes follow the tar's end-of-archive marker and cannot be read");
            return Ok(Some(Corruption { reason, cut_from: None, foreign: None }));
        }
        Ok(None)
    }
}

impl Groups {
    /// Opens the group of a key unless it is open already, and passes the group that it replaces to `finish`. Returns
    /// whether the key's group was closed before.
    fn start(&mut self, key: &str, text: &str, finish: impl FnOnce(Group<Span>)) -> bool {
        match self {
            Groups::Consecutive { current, .. } if current.key() == key => false,
            Groups::Consecutive { current, finished } => {
                let whole = std::mem::replace(current, Group::new(key, text));
                finished.insert(hash(whole.key()));
                finish(whole);
                finished.contains(&hash(key))
            }
            Groups::Scattered { groups, places } => {
                if !places.contains_key(key) {
                    places.insert(key.to_string(), groups.len());
                    groups.push(Group::new(key, text));
                }
                false
            }
        }
    }

    /// Returns the open group of a key.
    fn find(&mut self, key: &str) -> Option<&mut Group<Span>> {
        match self {
            Groups::Consecutive { current, .. } => (current.key() == key).then_some(current),
            Groups::Scattered { groups, places } => places.get(key).map(|place| &mut groups[*place]),
        }
    }
}

/// Returns the number of bytes before the members of a tar: GNU tar's volume label occupies the first block.
fn label_length(file: &File) -> u64 {
    let mut header = tar::Header::new_old();
    // Labels have no magic number, so the checksum has to be right.
    let stored = match file.read_exact_at(header.as_mut_bytes(), 0) {
        Ok(()) if header.as_bytes()[156] == b'V' => header.cksum().ok(),
        _ => None,
    };
    header.set_cksum();
    if stored.is_some() && stored == header.cksum().ok() { BLOCK } else { 0 }
}

/// The part of a file from a byte on.
struct Behind<'a> {
    file: &'a File,
    first: u64,
}

impl Read for Behind<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Seek for Behind<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => SeekFrom::Start(at.saturating_add(self.first)),
            other => other,
        };
        Ok(self.file.seek(to)?.saturating_sub(self.first))
    }
}

/// Returns a hash of a key. Keys with equal hashes only cost a second pass over the headers.
fn hash(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
