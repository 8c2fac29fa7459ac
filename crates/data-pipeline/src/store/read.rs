//! Reading a store: rows by number, texts by caption.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use ndarray::Array2;
use rayon::prelude::*;
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

use super::write::{CHECKSUM, checksum_of};
use super::{MANIFEST_FILE, Manifest, StoreKind, error, rows, shard_file};
use crate::{Error, Result};

/// A finished store. Rows are read from its files when they are asked for; what stays in memory is about 50 bytes for
/// each caption, and the factors of rows of kind [`StoreKind::Int8`].
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    manifest: Manifest,
    shards: Vec<ShardFile>,
    /// Shard and row of each caption.
    captions: HashMap<u128, (u32, u32)>,
}

/// One shard, checked.
#[derive(Debug)]
pub(super) struct ShardFile {
    path: PathBuf,
    images: Vec<Block>,
    texts: Vec<Block>,
    captions: Vec<String>,
}

/// Where the rows of one tensor lie in the file.
#[derive(Debug)]
struct Block {
    offset: u64,
    rows: usize,
    width: usize,
    factors: Option<Vec<f32>>,
}

/// Reads the manifest of a store's folder, and nothing else of it.
///
/// # Errors
/// [`Error::Store`] where there is none, or it is damaged.
pub fn manifest(folder: &Path) -> Result<Manifest> {
    let path = folder.join(MANIFEST_FILE);
    let text = std::fs::read_to_string(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            error(folder, format!("is no store: it has no {MANIFEST_FILE}; make one by `reinforce`"))
        }
        _ => Error::io(&path, e),
    })?;
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|e| error(&path, format!("is damaged: {e}")))?;
    manifest.check().map_err(|reason| error(folder, reason))?;
    Ok(manifest)
}

/// Names a caption in 16 bytes.
pub(super) fn caption_key(caption: &str) -> u128 {
    let digest = Sha256::digest(caption.as_bytes());
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    u128::from_le_bytes(key)
}

impl ShardFile {
    /// Opens a shard and compares its checksum.
    pub(super) fn open(path: &Path, manifest: &Manifest, number: u64) -> Result<Self> {
        let damaged = |reason: String| {
            error(path, format!("is damaged ({reason}): remove it and run `reinforce` again"))
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
            let info = metadata.info(&name).ok_or_else(|| damaged(format!("it has no `{name}`")))?;
            if info.shape != [rows, width] || info.dtype != manifest.kind.dtype() {
                return Err(damaged(format!("`{name}` is {:?} {:?}", info.dtype, info.shape)));
            }
            let factors = match manifest.kind {
                StoreKind::Int8 => {
                    let view =
                        tensors.tensor(&format!("{name}.factor")).map_err(|e| damaged(e.to_string()))?;
                    let factors = file_ext::f32_from_le_bytes(view.data()).collect::<Vec<_>>();
                    if factors.len() != rows {
                        return Err(damaged(format!("`{name}.factor` has {} rows", factors.len())));
                    }
                    Some(factors)
                }
                _ => None,
            };
            // The header's length stands before it in 8 bytes.
            let offset = (8 + header + info.data_offsets.0) as u64;
            Ok(Block { offset, rows, width, factors })
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
        let factor = block.factors.as_ref().map_or(1.0, |factors| factors[row]);
        rows::decode(&bytes, factor, kind, out);
        Ok(())
    }
}

impl Store {
    /// Opens a store and compares all checksums.
    ///
    /// # Errors
    /// [`Error::Store`] where there is none, it is not finished, or a shard is damaged (which is named); [`Error::Io`]
    /// where one cannot be read.
    pub fn open(folder: &Path) -> Result<Self> {
        let manifest = manifest(folder)?;
        let shards = (0..manifest.shards())
            .into_par_iter()
            .map(|number| {
                let path = folder.join(shard_file(number));
                if !path.exists() {
                    let reason = format!(
                        "is not finished: shard {number} of {} is missing; run `reinforce` again, it goes on",
                        manifest.shards()
                    );
                    return Err(error(folder, reason));
                }
                let mut shard = ShardFile::open(&path, &manifest, number)?;
                // Only their keys are needed from here on.
                let captions = std::mem::take(&mut shard.captions);
                Ok((shard, captions.iter().map(|caption| caption_key(caption)).collect::<Vec<_>>()))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut captions = HashMap::new();
        let mut opened = Vec::with_capacity(shards.len());
        for (number, (shard, keys)) in shards.into_iter().enumerate() {
            captions
                .extend(keys.into_iter().enumerate().map(|(row, key)| (key, (number as u32, row as u32))));
            opened.push(shard);
        }
        Ok(Store { folder: folder.into(), manifest, shards: opened, captions })
    }

    /// Whether all shards of a store are there; whether they are whole is seen when it is opened.
    pub fn is_finished(folder: &Path) -> bool {
        let all = |manifest: Manifest| (0..manifest.shards()).all(|n| folder.join(shard_file(n)).exists());
        manifest(folder).is_ok_and(all)
    }

    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Unit image embeddings `[rows, width]` of one teacher; rows are those of [`crate::loader::Batch::store_rows`].
    ///
    /// # Errors
    /// [`Error::Store`] where a row is not there, or its sample was damaged when the store was made; [`Error::Io`] where
    /// a shard cannot be read.
    pub fn images(&self, teacher: usize, wanted: &[u64]) -> Result<Array2<f32>> {
        let per_shard = self.manifest.shard_samples * self.manifest.variants.count;
        let missing = |row: u64| error(&self.folder, format!("has no image row {row}"));
        let places = wanted.iter().map(|&row| {
            let (number, inner) = ((row / per_shard) as usize, (row % per_shard) as usize);
            let shard = self.shards.get(number).filter(|shard| inner < shard.images[0].rows);
            shard.map(|_| (number, inner)).ok_or_else(|| missing(row))
        });
        let rows = self.gather(teacher, places.collect::<Result<Vec<_>>>()?, |shard| &shard.images)?;
        if let Some(place) = rows.rows().into_iter().position(|row| row.iter().all(|x| *x == 0.0)) {
            let row = wanted[place];
            let reason = format!("has nothing for image row {row}: the sample was damaged when it was made");
            return Err(error(&self.folder, reason));
        }
        Ok(rows)
    }

    /// Whether it holds embeddings of all these texts.
    pub fn holds<S: AsRef<str>>(&self, texts: &[S]) -> bool {
        texts.iter().all(|text| self.captions.contains_key(&caption_key(text.as_ref())))
    }

    /// Unit text embeddings `[texts, width]` of one teacher.
    ///
    /// # Errors
    /// [`Error::Store`] where a text is not there, [`Error::Io`] where a shard cannot be read.
    pub fn texts<S: AsRef<str>>(&self, teacher: usize, wanted: &[S]) -> Result<Array2<f32>> {
        let places = wanted.iter().map(|text| {
            let text = text.as_ref();
            let found = self.captions.get(&caption_key(text)).ok_or_else(|| {
                error(
                    &self.folder,
                    format!(
                        "has no embedding of the text {text:?}: it was made of other captions, or by a recipe without this class list"
                    ),
                )
            })?;
            Ok((found.0 as usize, found.1 as usize))
        });
        self.gather(teacher, places.collect::<Result<Vec<_>>>()?, |shard| &shard.texts)
    }

    /// Rows at places (shard, row), each shard's file open only meanwhile.
    fn gather(
        &self,
        teacher: usize,
        places: Vec<(usize, usize)>,
        blocks: impl Fn(&ShardFile) -> &[Block],
    ) -> Result<Array2<f32>> {
        let width = self.manifest.teachers.get(teacher).map(|teacher| teacher.width);
        let width = width.ok_or_else(|| error(&self.folder, format!("has no teacher {teacher}")))?;
        let mut values = vec![0f32; places.len() * width];
        let mut order = (0..places.len()).collect::<Vec<_>>();
        order.sort_by_key(|place| places[*place]);
        let mut open = None::<(usize, File)>;
        for place in order {
            let (number, row) = places[place];
            let shard = &self.shards[number];
            let file = match open.take() {
                Some((there, file)) if there == number => file,
                _ => shard.file()?,
            };
            let out = &mut values[place * width..(place + 1) * width];
            shard.read(&file, &blocks(shard)[teacher], row, self.manifest.kind, out)?;
            open = Some((number, file));
        }
        let mut rows = Array2::from_shape_vec((places.len(), width), values)
            .map_err(|e| error(&self.folder, format!("cannot be read: {e}")))?;
        rows::normalize(&mut rows);
        Ok(rows)
    }
}
