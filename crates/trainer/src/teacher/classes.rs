//! The student's zero-shot classifier of a class list, for losses that read class weights.

use clip_model::{Clip, Tape};
use data_pipeline::order::Permutation;
use kd_losses::embeddings::normalize;
use tch::{Device, Kind, Tensor};

use crate::model::processor::Processor;
use crate::recipe::ClassList;
use crate::{Error, Result};

/// A class list with its prompts, tokenised for a student.
#[derive(Debug)]
pub struct StudentClasses {
    tokens: Tensor, // [classes, prompts, length]
    per_step: usize,
}

/// Computes class weights `[classes, width]`: the normalised mean of each class's normalised prompts, from embeddings
/// `[classes * prompts, width]`.
pub(crate) fn ensemble(rows: &Tensor, prompts: i64) -> Result<Tensor> {
    let width = rows.size()[1];
    Ok(normalize(&normalize(rows).f_view([-1, prompts, width])?.f_mean_dim(1, false, None::<Kind>)?))
}

impl StudentClasses {
    /// Tokenises the prompts of a class list for a student.
    ///
    /// # Errors
    /// [`Error::Recipe`] if a step draws more classes than the list has.
    pub(crate) fn new(classes: &ClassList, processor: &Processor, device: Device) -> Result<Self> {
        let count = classes.names.len();
        let per_step = classes.per_step.unwrap_or(count);
        if per_step > count {
            let reason = format!("{per_step} per step is more than the {count} classes of the list");
            return Err(Error::recipe("classes_per_step", reason));
        }
        let tokens = processor.tokens(&classes.prompts(), device)?;
        let length = tokens.size()[1];
        let tokens = tokens.f_view([count as i64, classes.templates.len() as i64, length])?;
        Ok(StudentClasses { tokens, per_step })
    }

    /// Returns the indices of the classes of one pass, as a function of `seed`.
    pub(crate) fn draw(&self, seed: u64, device: Device) -> Result<Tensor> {
        let classes = self.tokens.size()[0] as u64;
        let order = Permutation::new(classes, seed);
        let all = self.per_step as u64 == classes;
        let indices = (0..self.per_step as u64).map(|index| if all { index } else { order.at(index) } as i64);
        Ok(Tensor::f_from_slice(&indices.collect::<Vec<_>>())?.f_to_device(device)?)
    }

    /// Returns the student's unit class weights `[drawn, width]`, with gradient.
    pub(crate) fn encode<'a>(
        &self,
        student: &'a Clip,
        indices: &Tensor,
        tape: &mut Tape<'a>,
    ) -> Result<Tensor> {
        let drawn = self.tokens.f_index_select(0, indices)?;
        let prompts = drawn.size()[1];
        ensemble(&student.encode_text_taped(&drawn.flatten(0, 1), tape)?, prompts)
    }
}
