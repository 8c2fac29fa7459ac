//! What a step takes: the samples of one pass as each model reads them.

use kd_losses::Embeddings;
use tch::Tensor;

/// Images `[batch, 3, size, size]` (normalised) and tokens `[batch, length]` of one model.
#[derive(Debug)]
pub struct ViewTensors {
    /// Float32 images.
    pub images: Tensor,
    /// i64 token ids; cut to the longest text.
    pub tokens: Tensor,
    /// Object boxes of each image, as [`clip_model::cross_modal::Boxes`]; empty where the data has none.
    pub boxes: Vec<Vec<[f32; 4]>>,
}

/// One forward and backward pass' worth of samples.
#[derive(Debug)]
pub struct MicroBatch {
    /// For the student.
    pub student: ViewTensors,
    /// For each teacher.
    pub teachers: Vec<TeacherInput>,
}

/// What one teacher has of a batch.
#[derive(Debug)]
pub enum TeacherInput {
    /// It reads the student's images and tokens.
    AsStudent,
    /// It has its own.
    Own(ViewTensors),
    /// Its unit embeddings are there already.
    Stored(Embeddings),
}
