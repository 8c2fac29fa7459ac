//! Writes a store shard by shard; an interrupted store resumes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};

use file_ext::{f32_to_le_bytes, to_hex, write_atomic};
use ndarray::{Array2, ArrayView2};
use safetensors::{Dtype, tensor::TensorView};
use sha2::{Digest, Sha256};

use super::read::{ShardFile, caption_key};
use super::{MANIFEST_FILE, Manifest, StoreProblem, encoding, error, shard_file};
use crate::{Error, Result};

/// Name of the checksum in a shard's metadata.
pub(super) const CHECKSUM: &str = "sha256";

/// The embeddings of one shard.
#[derive(Debug, Default)]
pub struct ShardEmbeddings {
    /// Unit image embeddings `[samples * variants, width]` of each teacher; zeros for damaged samples.
    pub images: Vec<Array2<f32>>,
    /// Captions that earlier shards lack.
    pub captions: Vec<String>,
    /// Unit text embeddings `[captions, width]` of each teacher.
    pub texts: Vec<Array2<f32>>,
}

/// Writer of a store. It holds a lock on the folder.
///
/// ```
/// use data_pipeline::AugmentConfig;
/// use data_pipeline::store::{Manifest, ShardEmbeddings, StoreWriter, StoredSource, StoredTeacher, Variants};
/// # use data_pipeline::Preprocess;
/// let source = StoredSource { samples: 2, fingerprint: "2-00000000".into() };
/// # let teacher = StoredTeacher {
/// #     name: "teacher".into(), identity: "0".into(), width: 2, scale: 100.0, image: Preprocess::new(224),
/// #     tokenizer: "clip".into(), context_length: 77,
/// # };
/// let variants = Variants { count: 1, seed: 0 };
/// let manifest = Manifest::new(variants, AugmentConfig::default(), vec![source], vec![teacher]);
/// # let folder = tempfile::tempdir()?;
/// let mut writer = StoreWriter::open(folder.path(), manifest)?;
/// writer.write(&ShardEmbeddings {
///     images: vec![ndarray::arr2(&[[1.0, 0.0], [0.0, 1.0]])],
///     captions: vec!["a cat".into()],
///     texts: vec![ndarray::arr2(&[[1.0, 0.0]])],
/// })?;
/// assert_eq!(writer.next(), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct StoreWriter {
    folder: PathBuf,
    manifest: Manifest,
    /// Missing shards, in their order.
    missing: VecDeque<u64>,
    known: HashSet<u128>,
    _lock: File,
}

impl StoreWriter {
    /// Creates or resumes a store. Complete shards are kept. A resumed store keeps its extra texts if `manifest` has
    /// none.
    ///
    /// # Errors
    /// [`Error::Store`] if the folder contains another store, [`Error::StoreBusy`] if another process is writing it,
    /// [`Error::Io`] if it cannot be read or written.
    pub fn open(folder: impl AsRef<Path>, mut manifest: Manifest) -> Result<Self> {
        let folder = folder.as_ref();
        manifest.check().map_err(|reason| error(folder, StoreProblem::Shape, reason))?;
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
                    format!("was begun for other settings: {difference}; name another folder, or remove it");
                return Err(error(folder, StoreProblem::Mismatch, reason));
            }
        } else {
            let json = serde_json::to_string_pretty(&manifest)
                .map_err(|e| error(&path, StoreProblem::Shape, format!("cannot be described: {e}")))?;
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
                    crate::log_warn!("{broken}; it is computed again");
                    missing.push_back(number);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(StoreWriter { folder: folder.into(), manifest, missing, known, _lock: lock })
    }

    /// Returns the manifest of the store.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the number of written shards.
    pub fn written(&self) -> u64 {
        self.manifest.shards() - self.missing.len() as u64
    }

    /// Returns the number of samples in the missing shards.
    pub fn missing_samples(&self) -> u64 {
        let samples = |number: &u64| self.manifest.shard(*number);
        self.missing.iter().map(samples).map(|samples| samples.end - samples.start).sum()
    }

    /// Returns the number of the next missing shard, or `None` if the store is finished.
    pub fn next(&self) -> Option<u64> {
        self.missing.front().copied()
    }

    /// Returns the texts that no shard contains yet, each once and in their order.
    pub fn unknown<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let mut seen = HashSet::new();
        let new = |text: &&str| {
            let key = caption_key(text);
            !self.known.contains(&key) && seen.insert(key)
        };
        texts.into_iter().filter(new).map(String::from).collect()
    }

    /// Writes the next shard atomically.
    ///
    /// # Errors
    /// [`Error::Store`] if an array has the wrong shape or an embedding does not have length 1; [`Error::Io`] if the
    /// shard cannot be written.
    pub fn write(&mut self, shard: &ShardEmbeddings) -> Result<()> {
        let Some(number) = self.next() else {
            return Err(error(&self.folder, StoreProblem::Shape, "already has all its shards"));
        };
        let path = self.folder.join(shard_file(number));
        let samples = self.manifest.shard(number);
        let images = ((samples.end - samples.start) * self.manifest.variants.count) as usize;
        let teachers = self.manifest.teachers.len();
        if shard.images.len() != teachers || shard.texts.len() != teachers {
            let reason = format!("needs the embeddings of {teachers} teachers");
            return Err(error(&path, StoreProblem::Shape, reason));
        }
        let mut tensors = Vec::new();
        for (place, teacher) in self.manifest.teachers.iter().enumerate() {
            for (what, rows, count) in
                [("image", &shard.images[place], images), ("text", &shard.texts[place], shard.captions.len())]
            {
                if rows.dim() != (count, teacher.width) {
                    let (found, wanted) = (rows.dim(), (count, teacher.width));
                    let reason =
                        format!("needs {what} embeddings {wanted:?} of `{}`, not {found:?}", teacher.name);
                    return Err(error(&path, StoreProblem::Shape, reason));
                }
                check_unit(rows.view(), what == "image").map_err(|reason| {
                    let reason = format!("cannot hold the {what} embeddings of `{}`: {reason}", teacher.name);
                    error(&path, StoreProblem::Shape, reason)
                })?;
                let encoding::Encoded { bytes, scales } = encoding::encode(rows.view(), self.manifest.kind);
                tensors.push((
                    format!("{what}.{place}"),
                    self.manifest.kind.dtype(),
                    vec![count, teacher.width],
                    bytes,
                ));
                if let Some(scales) = scales {
                    let bytes = f32_to_le_bytes(&scales);
                    tensors.push((format!("{what}.{place}.factor"), Dtype::F32, vec![count], bytes));
                }
            }
        }
        let captions = serde_json::to_vec(&shard.captions)
            .map_err(|e| error(&path, StoreProblem::Shape, format!("cannot hold its captions: {e}")))?;
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
            .map_err(|e| error(&path, StoreProblem::Shape, format!("cannot be written: {e}")))?;
        write_atomic(&path, &bytes)?;
        self.known.extend(shard.captions.iter().map(|caption| caption_key(caption)));
        self.missing.pop_front();
        Ok(())
    }
}

/// Checks that embeddings have length 1, or length 0 for damaged samples if `zeros`.
fn check_unit(rows: ArrayView2<'_, f32>, zeros: bool) -> Result<(), String> {
    for (number, row) in rows.rows().into_iter().enumerate() {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        if !((norm - 1.0).abs() < 1e-3 || (zeros && norm == 0.0)) {
            return Err(format!("row {number} has length {norm}"));
        }
    }
    Ok(())
}

/// Returns the SHA-256 over names, shapes and bytes of tensors.
fn checksum(tensors: &[(String, Dtype, Vec<usize>, Vec<u8>)]) -> String {
    let mut parts =
        tensors.iter().map(|(name, _, shape, bytes)| (name.as_str(), shape.as_slice(), bytes.as_slice()));
    checksum_of(&mut parts)
}

/// Returns the SHA-256 over names, shapes and bytes, sorted by name.
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
