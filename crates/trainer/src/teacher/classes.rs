//! A class list for student and teacher: the zero-shot classifier of soft targets.

use clip_model::{Clip, Tape};
use data_pipeline::order::Permutation;
use kd_losses::embeddings::normalize;
use tch::{Device, Kind, Tensor};
use zeroshot_eval::prompts::fill;

use crate::model::processor::Processor;
use crate::{Error, Result};

/// Classes with their prompts, tokenised for a student.
#[derive(Debug)]
pub struct ClassList {
    tokens: Tensor, // [classes, prompts, length]
    per_step: usize,
}

/// The prompts of each class: `[class][template]`.
pub fn prompts(names: &[String], templates: &[String]) -> Vec<String> {
    names.iter().flat_map(|name| templates.iter().map(move |text| fill(text, name))).collect()
}

/// Mean of unit rows `[classes * prompts, width]` over each class's prompts, as unit rows `[classes, width]`.
pub(crate) fn ensemble(rows: &Tensor, prompts: i64) -> Result<Tensor> {
    let width = rows.size()[1];
    Ok(normalize(&normalize(rows).f_view([-1, prompts, width])?.f_mean_dim(1, false, None::<Kind>)?))
}

impl ClassList {
    /// Creates a class list from which a step draws `per_step` classes, or uses all if `None`.
    ///
    /// # Errors
    /// [`Error::Recipe`] if `per_step` exceeds the number of classes.
    pub fn new(
        processor: &Processor,
        names: &[String],
        templates: &[String],
        per_step: Option<usize>,
        device: Device,
    ) -> Result<Self> {
        let per_step = per_step.unwrap_or(names.len());
        if per_step > names.len() {
            let reason = format!("{per_step} per step is more than the {} classes of the list", names.len());
            return Err(Error::recipe("classes_per_step", reason));
        }
        let tokens = processor.tokens(&prompts(names, templates), device)?;
        let length = tokens.size()[1];
        let tokens = tokens.f_view([names.len() as i64, templates.len() as i64, length])?;
        Ok(ClassList { tokens, per_step })
    }

    /// Returns the indices of the classes of one pass, as a function of `seed`.
    pub(crate) fn draw(&self, seed: u64, device: Device) -> Result<Tensor> {
        let classes = self.tokens.size()[0] as u64;
        let order = Permutation::new(classes, seed);
        let all = self.per_step as u64 == classes;
        let places = (0..self.per_step as u64).map(|place| if all { place } else { order.at(place) } as i64);
        Ok(Tensor::f_from_slice(&places.collect::<Vec<_>>())?.f_to_device(device)?)
    }

    /// Returns the student's unit class weights `[drawn, width]`, with gradient.
    pub(crate) fn encode<'a>(
        &self,
        student: &'a Clip,
        places: &Tensor,
        tape: &mut Tape<'a>,
    ) -> Result<Tensor> {
        let drawn = self.tokens.f_index_select(0, places)?;
        let prompts = drawn.size()[1];
        ensemble(&student.encode_text_taped(&drawn.flatten(0, 1), tape)?, prompts)
    }
}
