//! The learned parts of some losses: projections to the teacher's width, and scales.

use tch::{Device, Kind, Tensor};

use crate::embeddings::{Embeddings, normalize};
use crate::fusion::{Affine, Fusion};
use crate::tokens::{BlockPairs, TokenWidths};
use crate::{Error, Result, Term};

/// ln(1/0.07): CLIP-KD's initial logit scales, which multiply the similarities without an exponential.
const INITIAL_SCALE: f64 = 2.659_260_036_932_778;
/// SigLIP's initial bias.
const INITIAL_BIAS: f64 = -10.0;

/// A kind of learned part of a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Maps of the student's embeddings to the teacher's width, if the widths differ.
    Projections,
    /// AFD's fusion and its scale.
    Fusion,
    /// The scale of the logits between the models.
    CrossScale,
    /// One scale for images and one for texts.
    ModalityScales,
    /// SigLIP's bias.
    LogitBias,
    /// Map of patch tokens to the teacher's width, if the widths differ.
    PatchMap,
    /// Maps of block outputs to the teacher's widths, if the widths differ.
    BlockMaps,
}

/// Tensors that are trained with the student and dropped after training.
#[derive(Debug, Default)]
pub(crate) struct LearnedParts {
    projections: Option<Projections>,
    fusion: Option<(Fusion, Tensor)>,
    cross_logit_scale: Option<Tensor>,
    modality_logit_scales: Option<(Tensor, Tensor)>,
    logit_bias: Option<Tensor>,
    tokens: TokenMaps,
    named: Vec<(String, Tensor)>,
}

#[derive(Debug)]
struct Projections {
    visual: Affine, // [teacher, student]
    text: Affine,
}

/// Maps of token states `[teacher, student]`; absent if the widths are equal.
#[derive(Debug, Default)]
struct TokenMaps {
    patches: Option<Affine>,
    image_blocks: Vec<Affine>,
    text_blocks: Vec<Affine>,
}

impl LearnedParts {
    /// Creates only the parts that these terms need.
    ///
    /// Weights are initialised like PyTorch's linear layers, from torch's global generator (seed it first).
    ///
    /// # Errors
    /// [`Error::Torch`] if memory runs out.
    pub(crate) fn new<'a>(
        terms: impl Iterator<Item = &'a Term>,
        student_width: i64,
        teacher_width: i64,
        device: Device,
    ) -> Result<Self> {
        let losses = terms.map(|term| term.loss).collect::<Vec<_>>();
        let any = |part: Part| losses.iter().any(|loss| loss.learns(part));
        let mut parts = LearnedParts::default();
        if student_width != teacher_width && any(Part::Projections) {
            let visual = parts.affine("visual_proj", student_width, teacher_width, device)?;
            let text = parts.affine("text_proj", student_width, teacher_width, device)?;
            parts.projections = Some(Projections { visual, text });
        }
        if any(Part::Fusion) {
            let visual = parts.affine("visual_fusion_proj", 2 * teacher_width, teacher_width, device)?;
            let text = parts.affine("text_fusion_proj", 2 * teacher_width, teacher_width, device)?;
            let scale = parts.scalar("fusion_logit_scale", INITIAL_SCALE, device)?;
            parts.fusion = Some((Fusion { visual, text }, scale));
        }
        if any(Part::CrossScale) {
            parts.cross_logit_scale = Some(parts.scalar("cross_logit_scale", INITIAL_SCALE, device)?);
        }
        if any(Part::ModalityScales) {
            let image = parts.scalar("image_logit_scale", INITIAL_SCALE, device)?;
            let text = parts.scalar("text_logit_scale", INITIAL_SCALE, device)?;
            parts.modality_logit_scales = Some((image, text));
        }
        if any(Part::LogitBias) {
            parts.logit_bias = Some(parts.scalar("logit_bias", INITIAL_BIAS, device)?);
        }
        Ok(parts)
    }

    /// Adds the maps of token states that these terms need.
    ///
    /// # Errors
    /// [`Error::Torch`] if memory runs out.
    pub(crate) fn add_tokens(
        &mut self,
        terms: &[Term],
        student: TokenWidths,
        teacher: TokenWidths,
        pairs: BlockPairs,
        device: Device,
    ) -> Result<()> {
        let any = |part: Part| terms.iter().any(|term| term.loss.learns(part));
        if any(Part::PatchMap) && student.image != teacher.image {
            self.tokens.patches = Some(self.affine("patch_proj", student.image, teacher.image, device)?);
        }
        if any(Part::BlockMaps) && student.image != teacher.image {
            let maps = (0..pairs.image).map(|index| {
                self.affine(&format!("image_block_proj.{index}"), student.image, teacher.image, device)
            });
            self.tokens.image_blocks = maps.collect::<Result<_>>()?;
        }
        if any(Part::BlockMaps) && student.text != teacher.text {
            let maps = (0..pairs.text).map(|index| {
                self.affine(&format!("text_block_proj.{index}"), student.text, teacher.text, device)
            });
            self.tokens.text_blocks = maps.collect::<Result<_>>()?;
        }
        Ok(())
    }

    /// Projects patch tokens to the teacher's width.
    pub(crate) fn project_patches(&self, patches: &Tensor) -> Tensor {
        mapped(patches, self.tokens.patches.as_ref())
    }

    /// Projects the outputs of an image block to the teacher's width. `index` counts the compared blocks.
    pub(crate) fn project_image_block(&self, index: usize, states: &Tensor) -> Tensor {
        mapped(states, self.tokens.image_blocks.get(index))
    }

    /// Projects the outputs of a text block to the teacher's width. `index` counts the compared blocks.
    pub(crate) fn project_text_block(&self, index: usize, states: &Tensor) -> Tensor {
        mapped(states, self.tokens.text_blocks.get(index))
    }

    /// Returns names (those of CLIP-KD's published code) and tensors, for the optimiser and checkpoints.
    pub(crate) fn named(&self) -> &[(String, Tensor)] {
        &self.named
    }

    /// Whether the student's width differs from the teacher's and a term needs equal widths.
    pub(crate) fn projects(&self) -> bool {
        self.projections.is_some()
    }

    /// Projects the student's raw embeddings to the teacher's width, and normalises them.
    pub(crate) fn project(&self, student: &Embeddings) -> Embeddings {
        let text = |p: &Projections| normalize(&p.text.apply(&student.text));
        Embeddings {
            image: self.project_image(&student.image),
            text: self.projections.as_ref().map_or_else(|| normalize(&student.text), text),
        }
    }

    /// Projects raw image embeddings to the teacher's width, and normalises them.
    pub(crate) fn project_image(&self, image: &Tensor) -> Tensor {
        match &self.projections {
            None => normalize(image),
            Some(p) => normalize(&p.visual.apply(image)),
        }
    }

    pub(crate) fn cross_scale(&self) -> Result<&Tensor> {
        self.cross_logit_scale.as_ref().ok_or_else(|| lacking("cross_logit_scale"))
    }

    pub(crate) fn fusion(&self) -> Result<(&Fusion, &Tensor)> {
        let fusion = self.fusion.as_ref().ok_or_else(|| lacking("visual_fusion_proj"))?;
        Ok((&fusion.0, &fusion.1))
    }

    /// Returns the logit scales of images and of texts.
    pub(crate) fn modality_scales(&self) -> Result<(&Tensor, &Tensor)> {
        let scales = self.modality_logit_scales.as_ref().ok_or_else(|| lacking("image_logit_scale"))?;
        Ok((&scales.0, &scales.1))
    }

    pub(crate) fn logit_bias(&self) -> Result<&Tensor> {
        self.logit_bias.as_ref().ok_or_else(|| lacking("logit_bias"))
    }

    fn scalar(&mut self, name: &str, value: f64, device: Device) -> Result<Tensor> {
        let scalar = Tensor::f_full([0i64; 0].as_slice(), value, (Kind::Float, device))?;
        self.add(name, scalar)
    }

    fn affine(&mut self, name: &str, input: i64, output: i64, device: Device) -> Result<Affine> {
        let bound = 1.0 / (input as f64).sqrt();
        let mut uniform = |shape: &[i64], part: &str| -> Result<Tensor> {
            // Draw on the CPU, so that a seed gives the same values on any device.
            let tensor = Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?.f_uniform_(-bound, bound)?;
            self.add(&format!("{name}.{part}"), tensor.f_to_device(device)?)
        };
        Ok(Affine { weight: uniform(&[output, input], "weight")?, bias: uniform(&[output], "bias")? })
    }

    fn add(&mut self, name: &str, tensor: Tensor) -> Result<Tensor> {
        let tensor = tensor.f_set_requires_grad(true)?;
        self.named.push((name.into(), tensor.shallow_clone()));
        Ok(tensor)
    }
}

fn mapped(xs: &Tensor, map: Option<&Affine>) -> Tensor {
    map.map_or_else(|| xs.shallow_clone(), |map| map.apply(xs))
}

fn lacking(part: &str) -> Error {
    Error::Argument(format!("the learned parts belong to other terms: they lack `{part}`"))
}
