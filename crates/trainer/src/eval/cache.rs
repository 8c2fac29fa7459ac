//! The cache of a model's embeddings of evaluation sets, shared by runs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use file_ext::{f32_from_le_bytes, f32_to_le_bytes, to_hex, write_atomic};
use ndarray::Array2;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::eval::open_set::OpenSet;
use crate::eval::suite::SetEmbeddings;
use crate::model::processor::Processor;
use crate::{Error, Result};

/// The cache, and the identity of the model whose embeddings it holds.
#[derive(Clone, Copy, Debug)]
pub struct Cache<'a> {
    /// The folder of the cache.
    pub folder: &'a Path,
    /// Identity of the model's weights ([`crate::teacher::frozen::Teacher::identity`]).
    pub identity: &'a str,
}

/// Returns the cache file of a model's embeddings of a set. Its name is a hash of weights, processor, data and class
/// names.
///
/// # Errors
/// The errors of [`OpenSet::identity`].
pub(super) fn cache_file(cache: Cache<'_>, processor: &Processor, set: &OpenSet) -> Result<PathBuf> {
    let preprocess = serde_json::to_string(processor.preprocess());
    let mut parts = vec![
        cache.identity.to_string(),
        preprocess.map_err(|e| Error::recipe(set.name(), e.to_string()))?,
        format!("{} {}", processor.tokenizer_name(), processor.context_length()),
    ];
    parts.extend(set.identity()?);
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let name = to_hex(&hash.finalize()[..12]);
    Ok(cache.folder.join(format!("rows-{name}.safetensors")))
}

/// Labels and class names, stored in the file's metadata.
#[derive(Serialize, Deserialize)]
struct Facts {
    labels: Option<Vec<usize>>,
    class_names: Vec<String>,
    image_of: Option<Vec<usize>>,
    train_labels: Option<Vec<usize>>,
    #[serde(default)]
    damaged: usize,
}

const FACTS: &str = "facts";

/// Writes the embeddings of a set.
///
/// # Errors
/// [`Error::Io`] if the file cannot be written.
pub(super) fn write(file: &Path, rows: &SetEmbeddings) -> Result<()> {
    let facts = Facts {
        labels: rows.labels.clone(),
        class_names: rows.class_names.clone(),
        image_of: rows.texts.as_ref().map(|(_, image_of)| image_of.clone()),
        train_labels: rows.train.as_ref().map(|(_, labels)| labels.clone()),
        damaged: rows.damaged,
    };
    let fail = |e: String| Error::recipe(file.display().to_string(), e);
    let facts = serde_json::to_string(&facts).map_err(|e| fail(e.to_string()))?;
    let arrays = [
        ("images", Some(&rows.images)),
        ("classes", rows.classes.as_ref()),
        ("texts", rows.texts.as_ref().map(|(rows, _)| rows)),
        ("train", rows.train.as_ref().map(|(rows, _)| rows)),
    ];
    let bytes = arrays
        .into_iter()
        .filter_map(|(name, rows)| Some((name, rows?)))
        .map(|(name, rows)| (name, vec![rows.nrows(), rows.ncols()], f32_to_le_bytes(rows)))
        .collect::<Vec<_>>();
    let views = bytes
        .iter()
        .map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
    let metadata = HashMap::from([(FACTS.to_string(), facts)]);
    let file_bytes = views
        .and_then(|views| safetensors::serialize(views, Some(metadata)))
        .map_err(|e| fail(e.to_string()))?;
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    Ok(write_atomic(file, &file_bytes)?)
}

/// Reads cached embeddings. Returns `None` if they are missing or unreadable; they are then computed again.
pub(super) fn read(file: &Path, logit_scale: f64) -> Option<SetEmbeddings> {
    let bytes = std::fs::read(file).ok()?;
    let (_, header) = SafeTensors::read_metadata(&bytes).ok()?;
    let facts: Facts = serde_json::from_str(header.metadata().as_ref()?.get(FACTS)?).ok()?;
    let tensors = SafeTensors::deserialize(&bytes).ok()?;
    let array = |name: &str| {
        let view = tensors.tensor(name).ok()?;
        let [rows, width] = *view.shape() else { return None };
        Array2::from_shape_vec((rows, width), f32_from_le_bytes(view.data()).collect()).ok()
    };
    Some(SetEmbeddings {
        images: array("images")?,
        labels: facts.labels,
        class_names: facts.class_names,
        classes: array("classes"),
        texts: array("texts").zip(facts.image_of),
        train: array("train").zip(facts.train_labels),
        damaged: facts.damaged,
        logit_scale,
    })
}
