//! The input of a training step: micro-batches, with the samples in each model's format.

use data_pipeline::ViewAnnotations;
use kd_losses::Embeddings;
use tch::Tensor;

/// The input of one model: normalised images `[batch, 3, size, size]` and tokens `[batch, length]`.
#[derive(Debug)]
pub struct ViewTensors {
    /// Float32 images.
    pub images: Tensor,
    /// i64 token ids, trimmed to the longest text.
    pub tokens: Tensor,
    /// Annotations of each image; empty if the data has none.
    pub annotations: Vec<ViewAnnotations>,
}

impl ViewTensors {
    /// Creates an input without annotations.
    pub fn new(images: Tensor, tokens: Tensor) -> Self {
        ViewTensors { images, tokens, annotations: Vec::new() }
    }

    /// Returns the number of samples.
    pub fn rows(&self) -> i64 {
        self.images.size()[0]
    }

    /// Returns the samples `start..start + count`.
    #[must_use]
    pub fn narrow(&self, start: i64, count: i64) -> Self {
        ViewTensors {
            images: self.images.narrow(0, start, count),
            tokens: self.tokens.narrow(0, start, count),
            annotations: self.annotations.iter().skip(start as usize).take(count as usize).cloned().collect(),
        }
    }
}

/// A micro-batch: the samples of one forward and backward pass.
#[derive(Debug)]
pub struct MicroBatch {
    /// The student's input.
    pub student: ViewTensors,
    /// Each teacher's input.
    pub teachers: Vec<TeacherInput>,
}

/// A teacher's input for a batch.
#[derive(Debug)]
pub enum TeacherInput {
    /// The student's images and tokens.
    AsStudent,
    /// Its own images and tokens.
    Own(ViewTensors),
    /// Stored unit embeddings.
    Stored(Embeddings),
}
