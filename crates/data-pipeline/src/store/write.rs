//! Writing a store shard by shard, so that what was interrupted goes on.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};

use file_ext::{f32_to_le_bytes, to_hex, write_atomic};
use ndarray::{Array2, ArrayView2};
use safetensors::{Dtype, tensor::TensorView};
use sha2::{Digest, Sha256};

use super::read::{ShardFile, caption_key};
use super::{MANIFEST_FILE, Manifest, error, rows, shard_file};
use crate::{Error, Result};

/// Name of the checksum in a shard's metadata.
pub(super) const CHECKSUM: &str = "sha256";

/// The embeddings of one shard.
#[derive(Debug, Default)]
pub struct ShardRows {
    /// Unit rows `[samples * variants, width]` of each teacher.
    pub images: Vec<Array2<f32>>,
    /// Captions that no earlier shard has.
    pub captions: Vec<String>,
    /// Unit rows `[captions, width]` of each teacher.
    pub texts: Vec<Array2<f32>>,
}

/// A store in the making.
#[derive(Debug)]
pub struct StoreWriter {
    folder: PathBuf,
    manifest: Manifest,
    /// Shards that are still to be written, in their order.
    missing: VecDeque<u64>,
    known: HashSet<u128>,
    _lock: File,
}

impl StoreWriter {
    /// Begins a store, or goes on with one: shards that are there and whole are kept. A store that was begun with more
    /// texts than its captions holds them also where `manifest` asks for none.
    ///
    /// # Errors
    /// [`Error::Store`] where the folder holds a store of something else (which is named), [`Error::StoreBusy`] where
    /// another process writes it, [`Error::Io`] where it cannot be read or written.
    pub fn open(folder: &Path, mut manifest: Manifest) -> Result<Self> {
        manifest.check().map_err(|reason| error(folder, reason))?;
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let lock = lock(folder)?;
        let path = folder.join(MANIFEST_FILE);
        if path.exists() {
            let begun = super::read::manifest(folder)?;
            if manifest.extra_texts.is_empty() {
                manifest.extra_texts.clone_from(&begun.extra_texts);
            }
            if let Some(difference) = begun.difference(&manifest) {
                let reason =
                    format!("was begun for something else: {difference}; name another folder, or remove it");
                return Err(error(folder, reason));
            }
        } else {
            let json = serde_json::to_string_pretty(&manifest)
                .map_err(|e| error(&path, format!("cannot be described: {e}")))?;
            write_atomic(&path, json.as_bytes())?;
        }
        let (mut missing, mut known) = (VecDeque::new(), HashSet::new());
        for number in 0..manifest.shards() {
            let path = folder.join(shard_file(number));
            if !path.exists() {
                missing.push_back(number);
                continue;
            }
            match ShardFile::open(&path, &manifest, number) {
                Ok(shard) => known.extend(shard.captions().iter().map(|caption| caption_key(caption))),
                Err(broken @ Error::Store { .. }) => {
                    tracing::warn!("{broken}; it is made again");
                    missing.push_back(number);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(StoreWriter { folder: folder.into(), manifest, missing, known, _lock: lock })
    }

    /// What the store is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Number of shards that are there.
    pub fn written(&self) -> u64 {
        self.manifest.shards() - self.missing.len() as u64
    }

    /// Number of samples in the missing shards.
    pub fn missing_samples(&self) -> u64 {
        let samples = |number: &u64| self.manifest.shard(*number);
        self.missing.iter().map(samples).map(|samples| samples.end - samples.start).sum()
    }

    /// The shard that is to be written next; none where all are there.
    pub fn next(&self) -> Option<u64> {
        self.missing.front().copied()
    }

    /// Of these texts those that no shard has yet, each once, in their order.
    pub fn unknown<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let mut seen = HashSet::new();
        let new = |text: &&str| {
            let key = caption_key(text);
            !self.known.contains(&key) && seen.insert(key)
        };
        texts.into_iter().filter(new).map(String::from).collect()
    }

    /// Writes the next shard; it is there as a whole or not at all.
    ///
    /// # Errors
    /// [`Error::Store`] where rows, widths or their number do not fit, or a row is no unit row;
    /// [`Error::Io`] where it cannot be written.
    pub fn write(&mut self, shard: &ShardRows) -> Result<()> {
        let Some(number) = self.next() else { return Err(error(&self.folder, "has all its shards")) };
        let path = self.folder.join(shard_file(number));
        let samples = self.manifest.shard(number);
        let images = ((samples.end - samples.start) * self.manifest.variants.count) as usize;
        let teachers = self.manifest.teachers.len();
        if shard.images.len() != teachers || shard.texts.len() != teachers {
            return Err(error(&path, format!("needs the rows of {teachers} teachers")));
        }
        let mut tensors = Vec::new();
        for (place, teacher) in self.manifest.teachers.iter().enumerate() {
            for (what, rows, count) in
                [("image", &shard.images[place], images), ("text", &shard.texts[place], shard.captions.len())]
            {
                if rows.dim() != (count, teacher.width) {
                    let (found, wanted) = (rows.dim(), (count, teacher.width));
                    return Err(error(
                        &path,
                        format!("needs {what} rows {wanted:?} of `{}`, not {found:?}", teacher.name),
                    ));
                }
                check_unit(rows.view(), what == "image").map_err(|reason| {
                    error(&path, format!("cannot hold the {what} rows of `{}`: {reason}", teacher.name))
                })?;
                let (bytes, factors) = rows::encode(rows.view(), self.manifest.kind);
                tensors.push((
                    format!("{what}.{place}"),
                    self.manifest.kind.dtype(),
                    vec![count, teacher.width],
                    bytes,
                ));
                if let Some(factors) = factors {
                    let bytes = f32_to_le_bytes(&factors);
                    tensors.push((format!("{what}.{place}.factor"), Dtype::F32, vec![count], bytes));
                }
            }
        }
        let captions = serde_json::to_vec(&shard.captions)
            .map_err(|e| error(&path, format!("cannot hold its captions: {e}")))?;
        tensors.push(("captions".into(), Dtype::U8, vec![captions.len()], captions));
        let metadata = HashMap::from([(CHECKSUM.to_string(), checksum(&tensors))]);
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| {
                Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
        let bytes = views
            .and_then(|views| safetensors::serialize(views, Some(metadata)))
            .map_err(|e| error(&path, format!("cannot be written: {e}")))?;
        write_atomic(&path, &bytes)?;
        self.known.extend(shard.captions.iter().map(|caption| caption_key(caption)));
        self.missing.pop_front();
        Ok(())
    }
}

/// A damaged sample leaves a row of zeros; anything else is a unit row.
fn check_unit(rows: ArrayView2<'_, f32>, zeros: bool) -> Result<(), String> {
    for (number, row) in rows.rows().into_iter().enumerate() {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        if !((norm - 1.0).abs() < 1e-3 || (zeros && norm == 0.0)) {
            return Err(format!("row {number} has length {norm}"));
        }
    }
    Ok(())
}

/// SHA-256 over names, shapes and bytes in the order of names.
fn checksum(tensors: &[(String, Dtype, Vec<usize>, Vec<u8>)]) -> String {
    let mut parts =
        tensors.iter().map(|(name, _, shape, bytes)| (name.as_str(), shape.as_slice(), bytes.as_slice()));
    checksum_of(&mut parts)
}

/// The same of parts, which need no order.
pub(super) fn checksum_of<'a>(parts: &mut dyn Iterator<Item = (&'a str, &'a [usize], &'a [u8])>) -> String {
    let mut parts = parts.collect::<Vec<_>>();
    parts.sort_by_key(|(name, ..)| *name);
    let mut hash = Sha256::new();
    for (name, shape, bytes) in parts {
        hash.update(format!("{name}{shape:?}"));
        hash.update(bytes);
    }
    to_hex(hash.finalize())
}

fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(".lock");
    let file = File::create(&path).map_err(|e| Error::io(&path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::StoreBusy(folder.into())),
        Err(std::fs::TryLockError::Error(e)) => Err(Error::io(&path, e)),
    }
}
