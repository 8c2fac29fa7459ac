//! The learned parts that some losses bring along: projections to the teacher's width, and scales.

use tch::{Device, Kind, Tensor};

use crate::embeddings::Embeddings;
use crate::objective::{Loss, Term};
use crate::{Error, Result};

/// ln(1/0.07): CLIP-KD's initial factors, which multiply the similarities as they are.
const INITIAL_FACTOR: f64 = 2.659_260_036_932_778;

/// Tensors that are trained with the student and dropped from it afterwards.
#[derive(Debug, Default)]
pub struct LearnedParts {
    projections: Option<Projections>,
    cross_logit_scale: Option<Tensor>,
    named: Vec<(String, Tensor)>,
}

#[derive(Debug)]
struct Projections {
    visual: (Tensor, Tensor), // weight [teacher, student], bias [teacher]
    text: (Tensor, Tensor),
}

impl LearnedParts {
    /// Creates what these terms need, and only that.
    ///
    /// Weights start as PyTorch's linear layers do, from torch's global generator (seed it first).
    ///
    /// # Errors
    /// [`Error::Torch`] where memory runs out.
    pub fn new(terms: &[Term], student_width: i64, teacher_width: i64, device: Device) -> Result<Self> {
        let mut parts = LearnedParts::default();
        if student_width != teacher_width && terms.iter().any(|t| t.loss.works_in_teacher_width()) {
            let visual = parts.affine("visual_proj", student_width, teacher_width, device)?;
            let text = parts.affine("text_proj", student_width, teacher_width, device)?;
            parts.projections = Some(Projections { visual, text });
        }
        if terms.iter().any(|t| t.loss == Loss::Icl) {
            let scale = Tensor::f_full([0i64; 0].as_slice(), INITIAL_FACTOR, (Kind::Float, device))?;
            parts.cross_logit_scale = Some(parts.add("cross_logit_scale", scale)?);
        }
        Ok(parts)
    }

    /// Names (those of CLIP-KD's published code) and tensors, for the optimiser and checkpoints.
    pub fn named(&self) -> &[(String, Tensor)] {
        &self.named
    }

    /// The student's raw embeddings in the teacher's width, with unit rows.
    pub(crate) fn project(&self, student: &Embeddings) -> Embeddings {
        match &self.projections {
            None => student.normalized(),
            Some(p) => Embeddings {
                image: student.image.linear(&p.visual.0, Some(&p.visual.1)),
                text: student.text.linear(&p.text.0, Some(&p.text.1)),
            }
            .normalized(),
        }
    }

    pub(crate) fn cross_scale(&self) -> Result<&Tensor> {
        self.cross_logit_scale.as_ref().ok_or_else(|| {
            Error::Setting(
                "the learned parts were made for other terms: they lack `cross_logit_scale`".into(),
            )
        })
    }

    fn affine(&mut self, name: &str, input: i64, output: i64, device: Device) -> Result<(Tensor, Tensor)> {
        let bound = 1.0 / (input as f64).sqrt();
        let mut uniform = |shape: &[i64], part: &str| -> Result<Tensor> {
            let tensor = Tensor::f_empty(shape, (Kind::Float, device))?.f_uniform_(-bound, bound)?;
            self.add(&format!("{name}.{part}"), tensor)
        };
        Ok((uniform(&[output, input], "weight")?, uniform(&[output], "bias")?))
    }

    fn add(&mut self, name: &str, tensor: Tensor) -> Result<Tensor> {
        let tensor = tensor.f_set_requires_grad(true)?;
        self.named.push((name.into(), tensor.shallow_clone()));
        Ok(tensor)
    }
}
