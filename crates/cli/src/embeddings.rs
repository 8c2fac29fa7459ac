//! Files of embeddings that were made elsewhere.

use std::path::Path;

use anyhow::{Context, bail};
use ndarray::Array2;
use safetensors::{Dtype, SafeTensors};
use zeroshot_eval::{Evaluation, Labels, StoredOptions, StoredRows, StoredSet, evaluate_stored};

/// More classes than any list of labels has.
const MAX_CLASSES: usize = 1_000_000;

/// What one model made of one data set.
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

/// Reads a file; the help of `evaluate` says what is in it. Class names may stand in its metadata, as a JSON list
/// under `class_names`.
pub(crate) fn read(path: &Path) -> anyhow::Result<Embeddings> {
    let broken = || format!("`{}` is not a file of embeddings", path.display());
    let bytes = std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let (_, header) = SafeTensors::read_metadata(&bytes).with_context(broken)?;
    let tensors = SafeTensors::deserialize(&bytes).with_context(broken)?;
    let rows = |name: &str| tensors.tensor(name).ok().map(|view| matrix(name, &view)).transpose();
    let numbers = |name: &str| tensors.tensor(name).ok().map(|view| indices(name, &view)).transpose();
    let images = rows("images").with_context(broken)?;
    let labels = numbers("labels").with_context(broken)?;
    let classes = rows("classes").with_context(broken)?;
    let train_labels = numbers("train_labels").with_context(broken)?;
    let listed = header.metadata().as_ref().and_then(|map| map.get("class_names"));
    let class_names = match listed {
        Some(text) => {
            serde_json::from_str(text).context("its class_names are no JSON list").with_context(broken)?
        }
        None => {
            let most =
                labels.iter().chain(&train_labels).flatten().max().map_or(0, |most| most.saturating_add(1));
            let count = classes.as_ref().map_or(most, Array2::nrows);
            if count > MAX_CLASSES {
                bail!(
                    "`{}` counts {count} classes: more than {MAX_CLASSES} are no class list",
                    path.display()
                );
            }
            (0..count).map(|class| format!("class {class}")).collect()
        }
    };
    Ok(Embeddings {
        images: images.context("it has no `images`").with_context(broken)?,
        labels,
        classes,
        class_names,
        texts: rows("texts").with_context(broken)?,
        image_of: numbers("image_of").with_context(broken)?,
        train_images: rows("train_images").with_context(broken)?,
        train_labels,
    })
}

impl Embeddings {
    /// All figures that there are rows for.
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
            bail!("the teacher's file is of other samples: its `labels` or `image_of` differ");
        }
        let set = StoredSet { name, labels, image_of: self.image_of.as_deref() };
        let teacher = teacher.map(Embeddings::rows);
        Ok(evaluate_stored(&set, &self.rows(), teacher.as_ref(), options)?)
    }

    fn rows(&self) -> StoredRows<'_> {
        StoredRows {
            images: self.images.view(),
            classes: self.classes.as_ref().map(|rows| rows.view()),
            texts: self.texts.as_ref().map(|rows| rows.view()),
            train_images: self.train_images.as_ref().map(|rows| rows.view()),
            logit_scale: None,
        }
    }
}

fn matrix(name: &str, view: &safetensors::tensor::TensorView<'_>) -> anyhow::Result<Array2<f32>> {
    let [rows, width] = *view.shape() else { bail!("`{name}` is not [rows, width] but {:?}", view.shape()) };
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
        other => bail!("`{name}` has numbers of kind {other:?}: write float32"),
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
        other => bail!("`{name}` has numbers of kind {other:?}: write int64"),
    };
    let index =
        |value: i64| usize::try_from(value).with_context(|| format!("`{name}` has the value {value}"));
    values.into_iter().map(index).collect()
}
