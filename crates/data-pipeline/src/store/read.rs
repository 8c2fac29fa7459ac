//! Reads a store: image embeddings by row, text embeddings by caption.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use ndarray::Array2;
use rayon::prelude::*;
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

use super::write::{CHECKSUM, checksum_of};
use super::{MANIFEST_FILE, Manifest, StoreKind, StoreProblem, encoding, error, shard_file};
use crate::{Error, Result};

/// A finished store. Embeddings are read from its files on demand. Memory holds about 50 bytes per caption, and the
/// scales of [`StoreKind::Int8`].
///
/// ```no_run
/// use data_pipeline::store::Store;
/// let store = Store::open("stores/cc3m")?;
/// let images = store.images(0, &[0, 1, 2])?;
/// let texts = store.texts(0, &["a photo of a dog"])?;
/// assert_eq!(images.ncols(), texts.ncols());
/// # Ok::<(), data_pipeline::Error>(())
/// ```
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    manifest: Manifest,
    shards: Vec<ShardFile>,
    captions: HashMap<u128, Place>,
}

/// The shard and row of an embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    shard: u32,
    row: u32,
}

/// A verified shard.
#[derive(Debug)]
pub(super) struct ShardFile {
    path: PathBuf,
    images: Vec<Block>,
    texts: Vec<Block>,
    captions: Vec<String>,
}

/// Position and size of a tensor in the file.
#[derive(Debug)]
struct Block {
    offset: u64,
    rows: usize,
    width: usize,
    scales: Option<Vec<f32>>,
}

/// Reads the manifest of a store without its shards.
///
/// ```no_run
/// let manifest = data_pipeline::store::manifest("stores/cc3m")?;
/// println!("{} samples", manifest.samples());
/// # Ok::<(), data_pipeline::Error>(())
/// ```
///
/// # Errors
/// [`Error::Store`] if the folder is not a store or its manifest is damaged.
pub fn manifest(folder: impl AsRef<Path>) -> Result<Manifest> {
    let folder = folder.as_ref();
    let path = folder.join(MANIFEST_FILE);
    let text = std::fs::read_to_string(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => error(
            folder,
            StoreProblem::Missing,
            format!("does not exist (no {MANIFEST_FILE} in it): create it with `clip-distill reinforce`"),
        ),
        _ => Error::io(&path, e),
    })?;
    let manifest: Manifest = serde_json::from_str(&text)
        .map_err(|e| error(&path, StoreProblem::Damaged, format!("is damaged: {e}")))?;
    manifest.check().map_err(|reason| error(folder, StoreProblem::Damaged, reason))?;
    Ok(manifest)
}

/// Hashes a caption to 16 bytes.
pub(super) fn caption_key(caption: &str) -> u128 {
    let digest = Sha256::digest(caption.as_bytes());
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    u128::from_le_bytes(key)
}

impl ShardFile {
    /// Opens a shard and verifies its checksum.
    pub(super) fn open(path: &Path, manifest: &Manifest, number: u64) -> Result<Self> {
        let damaged = |reason: String| {
            let reason = format!("is damaged ({reason}): remove it and run `reinforce` again");
            error(path, StoreProblem::Damaged, reason)
        };
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(e.to_string()))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
        let stored = metadata.metadata().as_ref().and_then(|map| map.get(CHECKSUM)).cloned();
        let all = tensors.tensors();
        let mut parts = all.iter().map(|(name, view)| (name.as_str(), view.shape(), view.data()));
        if stored != Some(checksum_of(&mut parts)) {
            return Err(damaged("its checksum differs".into()));
        }
        let samples = manifest.shard(number);
        let images = ((samples.end - samples.start) * manifest.variants.count) as usize;
        let captions = tensors.tensor("captions").map_err(|e| damaged(e.to_string()))?;
        let captions: Vec<String> =
            serde_json::from_slice(captions.data()).map_err(|e| damaged(e.to_string()))?;
        let block = |what: &str, place: usize, rows: usize, width: usize| -> Result<Block> {
            let name = format!("{what}.{place}");
            let info = metadata.info(&name).ok_or_else(|| damaged(format!("it lacks `{name}`")))?;
            if info.shape != [rows, width] || info.dtype != manifest.kind.dtype() {
                return Err(damaged(format!("`{name}` is {:?} {:?}", info.dtype, info.shape)));
            }
            let scales = match manifest.kind {
                StoreKind::Int8 => {
                    let view =
                        tensors.tensor(&format!("{name}.factor")).map_err(|e| damaged(e.to_string()))?;
                    let scales = file_ext::f32_from_le_bytes(view.data()).collect::<Vec<_>>();
                    if scales.len() != rows {
                        return Err(damaged(format!("`{name}.factor` has {} rows", scales.len())));
                    }
                    Some(scales)
                }
                _ => None,
            };
            // The file starts with the length of the header in 8 bytes.
            let offset = (8 + header + info.data_offsets.0) as u64;
            Ok(Block { offset, rows, width, scales })
        };
        let blocks = |what: &str, rows: usize| {
            let teachers = manifest.teachers.iter().enumerate();
            teachers
                .map(|(place, teacher)| block(what, place, rows, teacher.width))
                .collect::<Result<Vec<_>>>()
        };
        Ok(ShardFile {
            images: blocks("image", images)?,
            texts: blocks("text", captions.len())?,
            captions,
            path: path.into(),
        })
    }

    pub(super) fn captions(&self) -> &[String] {
        &self.captions
    }

    fn file(&self) -> Result<File> {
        File::open(&self.path).map_err(|e| Error::io(&self.path, e))
    }

    fn read(&self, file: &File, block: &Block, row: usize, kind: StoreKind, out: &mut [f32]) -> Result<()> {
        use std::os::unix::fs::FileExt;
        let length = block.width * kind.bytes();
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, block.offset + (row * length) as u64)
            .map_err(|e| Error::io(&self.path, e))?;
        let scale = block.scales.as_ref().map_or(1.0, |scales| scales[row]);
        encoding::decode(&bytes, scale, kind, out);
        Ok(())
    }
}

impl Store {
    /// Opens a store and verifies all checksums.
    ///
    /// # Errors
    /// [`Error::Store`] if the folder is not a finished store or a shard is damaged; [`Error::Io`] if a shard cannot be
    /// read.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let manifest = manifest(folder)?;
        let shards = (0..manifest.shards())
            .into_par_iter()
            .map(|number| {
                let path = folder.join(shard_file(number));
                if !path.exists() {
                    let reason = format!(
                        "is not finished: shard {number} of {} is missing; run `reinforce` again to resume",
                        manifest.shards()
                    );
                    return Err(error(folder, StoreProblem::Unfinished, reason));
                }
                let mut shard = ShardFile::open(&path, &manifest, number)?;
                // Keep only the hashes of the captions.
                let captions = std::mem::take(&mut shard.captions);
                Ok((shard, captions.iter().map(|caption| caption_key(caption)).collect::<Vec<_>>()))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut captions = HashMap::new();
        let mut opened = Vec::with_capacity(shards.len());
        for (number, (shard, keys)) in shards.into_iter().enumerate() {
            let place = |row: usize| Place { shard: number as u32, row: row as u32 };
            captions.extend(keys.into_iter().enumerate().map(|(row, key)| (key, place(row))));
            opened.push(shard);
        }
        Ok(Store { folder: folder.into(), manifest, shards: opened, captions })
    }

    /// Whether all shards of a store exist. [`Store::open`] verifies them.
    pub fn is_finished(folder: impl AsRef<Path>) -> bool {
        let folder = folder.as_ref();
        let all = |manifest: Manifest| (0..manifest.shards()).all(|n| folder.join(shard_file(n)).exists());
        manifest(folder).is_ok_and(all)
    }

    /// Returns the manifest of the store.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the unit image embeddings `[rows, width]` of one teacher for [`crate::loader::Batch::store_rows`].
    ///
    /// # Errors
    /// [`Error::Store`] if a row is missing, or if its sample was damaged when the store was created; [`Error::Io`] if a
    /// shard cannot be read.
    pub fn images(&self, teacher: usize, wanted: &[u64]) -> Result<Array2<f32>> {
        let per_shard = self.manifest.shard_samples * self.manifest.variants.count;
        let missing =
            |row: u64| error(&self.folder, StoreProblem::Lacking, format!("has no image row {row}"));
        let places = wanted.iter().map(|&row| {
            let (number, inner) = ((row / per_shard) as usize, (row % per_shard) as usize);
            let shard = self.shards.get(number).filter(|shard| inner < shard.images[0].rows);
            let place = Place { shard: number as u32, row: inner as u32 };
            shard.map(|_| place).ok_or_else(|| missing(row))
        });
        let rows = self.gather(teacher, places.collect::<Result<Vec<_>>>()?, |shard| &shard.images)?;
        if let Some(place) = rows.rows().into_iter().position(|row| row.iter().all(|x| *x == 0.0)) {
            let row = wanted[place];
            let reason = format!(
                "has no embedding of image row {row}: the sample was damaged when the store was created"
            );
            return Err(error(&self.folder, StoreProblem::Lacking, reason));
        }
        Ok(rows)
    }

    /// Whether the store has embeddings of all these texts.
    pub fn has_texts<S: AsRef<str>>(&self, texts: &[S]) -> bool {
        texts.iter().all(|text| self.captions.contains_key(&caption_key(text.as_ref())))
    }

    /// Returns the unit text embeddings `[texts, width]` of one teacher.
    ///
    /// # Errors
    /// [`Error::Store`] if a text is missing, [`Error::Io`] if a shard cannot be read.
    pub fn texts<S: AsRef<str>>(&self, teacher: usize, wanted: &[S]) -> Result<Array2<f32>> {
        let places = wanted.iter().map(|text| {
            let text = text.as_ref();
            self.captions.get(&caption_key(text)).copied().ok_or_else(|| {
                let reason = format!(
                    "has no embedding of the text {text:?}: it was created from other captions, or by a recipe without this class list"
                );
                error(&self.folder, StoreProblem::Lacking, reason)
            })
        });
        self.gather(teacher, places.collect::<Result<Vec<_>>>()?, |shard| &shard.texts)
    }

    /// Reads embeddings in the order of the shards, one open file at a time.
    fn gather(
        &self,
        teacher: usize,
        places: Vec<Place>,
        blocks: impl Fn(&ShardFile) -> &[Block],
    ) -> Result<Array2<f32>> {
        let width = self.manifest.teachers.get(teacher).map(|teacher| teacher.width);
        let width = width
            .ok_or_else(|| error(&self.folder, StoreProblem::Lacking, format!("has no teacher {teacher}")))?;
        let mut values = vec![0f32; places.len() * width];
        let mut order = (0..places.len()).collect::<Vec<_>>();
        order.sort_by_key(|place| places[*place]);
        let mut open = None::<(usize, File)>;
        for place in order {
            let (number, row) = (places[place].shard as usize, places[place].row as usize);
            let shard = &self.shards[number];
            let file = match open.take() {
                Some((current, file)) if current == number => file,
                _ => shard.file()?,
            };
            let out = &mut values[place * width..(place + 1) * width];
            shard.read(&file, &blocks(shard)[teacher], row, self.manifest.kind, out)?;
            open = Some((number, file));
        }
        let mut rows = Array2::from_shape_vec((places.len(), width), values)
            .map_err(|e| error(&self.folder, StoreProblem::Shape, format!("cannot be read: {e}")))?;
        encoding::normalize(&mut rows);
        Ok(rows)
    }
}
