//! A teacher in a training step: a model or stored embeddings, with anchors and class weights.

use std::rc::Rc;

use kd_losses::{AuxOutputs, Embeddings, ModelOutputs, TokenStates};
use tch::{Device, Kind, Tensor};

use crate::model::features::FeatureHooks;
use crate::step::batch::{TeacherInput, ViewTensors};
use crate::teacher::frozen::Teacher;
use crate::{Error, Result};

/// A teacher in the training step: a model in memory, or stored embeddings.
#[derive(Debug)]
pub struct TeacherSignal {
    teacher: Option<Rc<Teacher>>,
    scale: Tensor,
    width: i64,
    /// Its unit embeddings of pairs beyond the batch.
    pub anchors: Option<Embeddings>,
    /// Its class weights `[classes, width]` for the class list, as unit rows.
    pub classes: Option<Tensor>,
    /// The features to read in addition to its embeddings.
    pub hooks: FeatureHooks,
}

/// The outputs of a teacher for a batch.
#[derive(Debug)]
pub(crate) struct TeacherOutputs {
    embeddings: Embeddings,
    classes: Option<Tensor>,
    tokens: TokenStates,
}

impl TeacherSignal {
    /// Creates a teacher from a model in memory.
    pub fn live(teacher: impl Into<Rc<Teacher>>) -> Self {
        let teacher = teacher.into();
        let (scale, width) = (teacher.scale().shallow_clone(), teacher.model().config().embed_dim);
        TeacherSignal {
            teacher: Some(teacher),
            scale,
            width,
            anchors: None,
            classes: None,
            hooks: FeatureHooks::default(),
        }
    }

    /// Creates a teacher from stored embeddings that come with each batch. `scale` is the teacher's exp(logit scale).
    pub fn stored(scale: f64, width: i64, device: Device) -> Self {
        let scale = scalar(scale, device);
        TeacherSignal {
            teacher: None,
            scale,
            width,
            anchors: None,
            classes: None,
            hooks: FeatureHooks::default(),
        }
    }

    /// Replaces its exp(logit scale), if `scale` is given.
    #[must_use]
    pub fn with_scale(mut self, scale: Option<f64>) -> Self {
        if let Some(scale) = scale {
            self.scale = scalar(scale, self.scale.device());
        }
        self
    }

    /// Returns the width of its embeddings.
    pub fn width(&self) -> i64 {
        self.width
    }

    /// Returns the model, if it is in memory.
    pub fn teacher(&self) -> Option<&Teacher> {
        self.teacher.as_deref()
    }

    /// Returns its embeddings of a batch, and its weights of the classes with these indices.
    pub(crate) fn read(
        &self,
        student: &ViewTensors,
        input: &TeacherInput,
        class_indices: Option<&Tensor>,
    ) -> Result<TeacherOutputs> {
        let live = || {
            let missing =
                || Error::recipe("teacher", "a batch without stored embeddings needs the model itself");
            self.teacher.as_deref().ok_or_else(missing)
        };
        let (embeddings, tokens) = match input {
            TeacherInput::AsStudent => live()?.embed(student, &self.hooks)?,
            TeacherInput::Own(view) => live()?.embed(view, &self.hooks)?,
            TeacherInput::Stored(stored) => {
                let copy = Embeddings::new(stored.image.shallow_clone(), stored.text.shallow_clone())?;
                (copy, TokenStates::default())
            }
        };
        let classes = match (&self.classes, class_indices) {
            (Some(classes), Some(indices)) => Some(classes.f_index_select(0, indices)?),
            _ => None,
        };
        Ok(TeacherOutputs { embeddings, classes, tokens })
    }

    /// Like [`TeacherSignal::read`], but a live teacher embeds one span `(first row, rows)` at a time.
    pub(crate) fn read_in_chunks(
        &self,
        student: &ViewTensors,
        input: &TeacherInput,
        class_indices: Option<&Tensor>,
        spans: impl Iterator<Item = (i64, i64)>,
    ) -> Result<TeacherOutputs> {
        let view = match input {
            TeacherInput::Stored(_) => return self.read(student, input, class_indices),
            TeacherInput::AsStudent => student,
            TeacherInput::Own(view) => view,
        };
        let parts = spans
            .map(|(start, count)| {
                let chunk = TeacherInput::Own(view.narrow(start, count));
                self.read(student, &chunk, class_indices)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(TeacherOutputs {
            embeddings: Embeddings::cat(parts.iter().map(|part| &part.embeddings))?,
            tokens: TokenStates::cat(parts.iter().map(|part| &part.tokens))?,
            classes: parts.into_iter().find_map(|part| part.classes),
        })
    }

    /// Returns the outputs of `rows`, with those of the `whole` batch as columns, in the form that the objective takes.
    pub(crate) fn model_outputs_of_rows<'a>(
        &'a self,
        rows: &'a TeacherOutputs,
        whole: &'a TeacherOutputs,
    ) -> ModelOutputs<'a> {
        let all = if rows.embeddings.rows() == whole.embeddings.rows() { rows } else { whole };
        ModelOutputs { all: &all.embeddings, ..self.model_outputs(rows) }
    }

    /// Returns the outputs in the form that the objective takes.
    pub(crate) fn model_outputs<'a>(&'a self, outputs: &'a TeacherOutputs) -> ModelOutputs<'a> {
        let extra = AuxOutputs {
            classes: outputs.classes.as_ref(),
            anchors: self.anchors.as_ref(),
            tokens: Some(&outputs.tokens),
            ..AuxOutputs::default()
        };
        ModelOutputs { extra, ..ModelOutputs::new(&outputs.embeddings, &self.scale) }
    }
}

impl TeacherOutputs {
    /// Returns the outputs of the rows `start..start + count`.
    pub(crate) fn narrow(&self, start: i64, count: i64) -> Self {
        TeacherOutputs {
            embeddings: self.embeddings.narrow(start, count),
            classes: self.classes.as_ref().map(Tensor::shallow_clone),
            tokens: self.tokens.narrow(start, count),
        }
    }
}

fn scalar(value: f64, device: Device) -> Tensor {
    Tensor::full([0i64; 0].as_slice(), value, (Kind::Float, device))
}
