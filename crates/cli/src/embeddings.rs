//! Reads embeddings that another program computed.

use std::path::Path;

use anyhow::{Context, bail};
use ndarray::Array2;
use safetensors::{Dtype, SafeTensors};
use zeroshot_eval::{Evaluation, Labels, StoredEmbeddings, StoredOptions, StoredSet, evaluate_stored};

/// Maximum number of classes. A larger label is taken for an error of the file.
const MAX_CLASSES: usize = 1_000_000;

/// The embeddings of one data set by one model.
pub(crate) struct Embeddings {
    images: Array2<f32>,
    labels: Option<Vec<usize>>,
    classes: Option<Array2<f32>>,
    class_names: Vec<String>,
    texts: Option<Array2<f32>>,
    image_of: Option<Vec<usize>>,
    train_images: Option<Array2<f32>>,
    train_labels: Option<Vec<usize>>,
}

/// Reads a safetensors file with the tensors that the help of `evaluate --embeddings` lists.
pub(crate) fn read(path: &Path) -> anyhow::Result<Embeddings> {
    let invalid = || {
        let path = path.display();
        format!("`{path}` is not a valid file of embeddings (see `clip-distill help evaluate`)")
    };
    let bytes = std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let (_, header) = SafeTensors::read_metadata(&bytes).with_context(invalid)?;
    let tensors = SafeTensors::deserialize(&bytes).with_context(invalid)?;
    if tensors.tensor("embeddings").is_ok() && tensors.tensor("images").is_err() {
        bail!(
            "`{}` is the output of `clip-distill embed`, which has embeddings but no labels or captions to score them: \
             evaluate the model itself with `clip-distill evaluate MODEL --data DATA`, or write a file with the tensors \
             that `clip-distill help evaluate` lists under --embeddings",
            path.display()
        );
    }
    let rows = |name: &str| tensors.tensor(name).ok().map(|view| matrix(name, &view)).transpose();
    let numbers = |name: &str| tensors.tensor(name).ok().map(|view| indices(name, &view)).transpose();
    let images = rows("images").with_context(invalid)?;
    let labels = numbers("labels").with_context(invalid)?;
    let classes = rows("classes").with_context(invalid)?;
    let train_labels = numbers("train_labels").with_context(invalid)?;
    let listed = header.metadata().as_ref().and_then(|map| map.get("class_names"));
    let class_names = match listed {
        Some(text) => serde_json::from_str(text)
            .context("the metadata entry `class_names` is not a JSON list of names")
            .with_context(invalid)?,
        None => {
            let from_labels = labels
                .iter()
                .chain(&train_labels)
                .flatten()
                .max()
                .map_or(0, |largest| largest.saturating_add(1));
            let count = classes.as_ref().map_or(from_labels, Array2::nrows);
            if count > MAX_CLASSES {
                bail!(
                    "the labels of `{}` imply {count} classes, more than the maximum of {MAX_CLASSES}: check `labels` \
                     and `train_labels`",
                    path.display()
                );
            }
            (0..count).map(|class| format!("class {class}")).collect()
        }
    };
    Ok(Embeddings {
        images: images.context("the tensor `images` is missing").with_context(invalid)?,
        labels,
        classes,
        class_names,
        texts: rows("texts").with_context(invalid)?,
        image_of: numbers("image_of").with_context(invalid)?,
        train_images: rows("train_images").with_context(invalid)?,
        train_labels,
    })
}

impl Embeddings {
    /// Computes all metrics for which the file has embeddings, and fidelity if a teacher is given.
    pub(crate) fn measure(
        &self,
        name: &str,
        teacher: Option<&Embeddings>,
        options: &StoredOptions,
    ) -> anyhow::Result<Evaluation> {
        let labels = self.labels.as_ref().map(|test| Labels {
            classes: &self.class_names,
            test,
            train: self.train_labels.as_deref(),
        });
        if let Some(teacher) = teacher
            && (teacher.labels != self.labels || teacher.image_of != self.image_of)
        {
            bail!(
                "the teacher's file has other `labels` or `image_of`: both files must hold the same samples in the same \
                 order"
            );
        }
        let set = StoredSet { name, labels, image_of: self.image_of.as_deref() };
        let teacher = teacher.map(Embeddings::rows);
        Ok(evaluate_stored(&set, &self.rows(), teacher.as_ref(), options)?)
    }

    fn rows(&self) -> StoredEmbeddings<'_> {
        StoredEmbeddings {
            images: self.images.view(),
            classes: self.classes.as_ref().map(|rows| rows.view()),
            texts: self.texts.as_ref().map(|rows| rows.view()),
            train_images: self.train_images.as_ref().map(|rows| rows.view()),
            logit_scale: None,
        }
    }
}

fn matrix(name: &str, view: &safetensors::tensor::TensorView<'_>) -> anyhow::Result<Array2<f32>> {
    let [rows, width] = *view.shape() else {
        bail!("the tensor `{name}` must have two dimensions, but has the shape {:?}", view.shape())
    };
    let data = view.data();
    let values = match view.dtype() {
        Dtype::F32 => file_ext::f32_from_le_bytes(data).collect(),
        Dtype::F64 => {
            let value =
                |b: &[u8]| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32;
            data.chunks_exact(8).map(value).collect()
        }
        Dtype::F16 => data.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::BF16 => {
            data.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
        }
        other => bail!("the tensor `{name}` has the type {other:?}: write it as float32"),
    };
    Ok(Array2::from_shape_vec((rows, width), values)?)
}

fn indices(name: &str, view: &safetensors::tensor::TensorView<'_>) -> anyhow::Result<Vec<usize>> {
    let data = view.data();
    let values = match view.dtype() {
        Dtype::I64 => {
            let value = |b: &[u8]| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
            data.chunks_exact(8).map(value).collect::<Vec<_>>()
        }
        Dtype::I32 => {
            data.chunks_exact(4).map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
        }
        other => bail!("the tensor `{name}` has the type {other:?}: write it as int64"),
    };
    let index = |value: i64| {
        usize::try_from(value).with_context(|| format!("the tensor `{name}` has the negative value {value}"))
    };
    values.into_iter().map(index).collect()
}
