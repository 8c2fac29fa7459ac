//! Evaluates the terms of one batch. Values that several terms read are computed once.

use std::cell::OnceCell;

use tch::Tensor;

use crate::embeddings::{Embeddings, Logits, Targets};
use crate::learned::LearnedParts;
use crate::objective::ModelOutputs;
use crate::structure::{self, AnchorScope, Block, ImagesAndPrompts};
use crate::tokens::{self, TokenStates};
use crate::{Error, Loss, LossSettings, Result, clip_rd, contrastive, feature, fusion, interactive, logit};

/// Values that depend only on the student.
pub(crate) struct StudentTerms<'a> {
    side: &'a ModelOutputs<'a>,
    targets: &'a Targets,
    normalized: OnceCell<Embeddings>,
    logits: OnceCell<Logits>,
}

impl<'a> StudentTerms<'a> {
    pub(crate) fn new(side: &'a ModelOutputs<'a>, targets: &'a Targets) -> Self {
        StudentTerms { side, targets, normalized: OnceCell::new(), logits: OnceCell::new() }
    }

    /// Returns the student's unit embeddings, in its own embed dim.
    fn normalized(&self) -> &Embeddings {
        self.normalized.get_or_init(|| self.side.local.normalized())
    }

    fn logits(&self) -> Result<&Logits> {
        once(&self.logits, || {
            let (rows, ModelOutputs { local, all, scale, .. }) = (self.normalized(), *self.side);
            if std::ptr::eq(local, all) {
                Logits::new(rows, rows, scale)
            } else {
                Logits::new(rows, &all.normalized(), scale)
            }
        })
    }

    pub(crate) fn task(&self) -> Result<Tensor> {
        contrastive::task(self.logits()?, self.targets)
    }

    pub(crate) fn siglip(&self, parts: &LearnedParts) -> Result<Tensor> {
        let Targets::Diagonal { offset } = *self.targets else {
            let reason = "soft targets are not possible: use the diagonal".into();
            return Err(Error::Setting { loss: Loss::Siglip, reason });
        };
        let bias = match self.side.extra.logit_bias {
            Some(bias) => bias,
            None => parts.logit_bias()?,
        };
        contrastive::siglip(&self.logits()?.image_to_text, bias, offset)
    }
}

/// Values that depend on the student and one teacher.
pub(crate) struct PairTerms<'a> {
    student: &'a StudentTerms<'a>,
    teacher: &'a ModelOutputs<'a>,
    parts: &'a LearnedParts,
    projected: OnceCell<Embeddings>,
    logits: OnceCell<Logits>,
    cross_logits: OnceCell<Logits>,
}

impl<'a> PairTerms<'a> {
    pub(crate) fn new(
        student: &'a StudentTerms<'a>,
        teacher: &'a ModelOutputs<'a>,
        parts: &'a LearnedParts,
    ) -> Self {
        let (projected, logits, cross_logits) = Default::default();
        PairTerms { student, teacher, parts, projected, logits, cross_logits }
    }

    /// Returns the student's unit embeddings, in its own embed dim.
    pub(crate) fn student(&self) -> &Embeddings {
        self.student.normalized()
    }

    /// Returns the teacher's unit embeddings.
    pub(crate) fn teacher(&self) -> &Embeddings {
        self.teacher.local
    }

    pub(crate) fn student_scale(&self) -> &Tensor {
        self.student.side.scale
    }

    pub(crate) fn teacher_scale(&self) -> &Tensor {
        self.teacher.scale
    }

    pub(crate) fn targets(&self) -> &Targets {
        self.student.targets
    }

    /// The student's logits against itself.
    pub(crate) fn student_logits(&self) -> Result<&Logits> {
        self.student.logits()
    }

    pub(crate) fn hinton(&self, settings: &LossSettings) -> Result<Tensor> {
        let student = class_logits(&self.student().image, self.student.side)?;
        let teacher = class_logits(&self.teacher().image, self.teacher)?;
        logit::hinton(&student, &teacher, settings.temperatures()[0])
    }

    pub(crate) fn mfd(&self) -> Result<Tensor> {
        let input = "the student's masked images";
        let missing = || Error::MissingInput { loss: Loss::Mfd, input };
        let image = self.student.side.extra.masked_image.ok_or_else(missing)?;
        let text = self.projected().text.shallow_clone();
        feature::fd(&Embeddings::new(self.parts.project_image(image), text)?, self.teacher())
    }

    pub(crate) fn afd(&self) -> Result<Tensor> {
        let (fusion, scale) = self.parts.fusion()?;
        fusion::afd(self.projected(), self.teacher(), fusion, scale, self.targets())
    }

    pub(crate) fn vrd(&self) -> Result<Tensor> {
        let (image, text) = self.parts.modality_scales()?;
        clip_rd::vrd(self.projected(), self.teacher(), image, text)
    }

    pub(crate) fn vocabulary(&self, settings: &LossSettings) -> Result<Tensor> {
        let missing = || Error::MissingInput { loss: Loss::Vocabulary, input: "the prompts of a class list" };
        let student_classes = self.student.side.extra.classes.ok_or_else(missing)?;
        let teacher_classes = self.teacher.extra.classes.ok_or_else(missing)?;
        let (student, teacher) = (&self.student().image, &self.teacher().image);
        let side = |images, prompts| ImagesAndPrompts { images, prompts };
        let (student, teacher) = (side(student, student_classes), side(teacher, teacher_classes));
        structure::vocabulary(&student, &teacher, settings.temperatures())
    }

    /// Token states of student and teacher.
    fn tokens(&self, loss: Loss) -> Result<(&TokenStates, &TokenStates)> {
        let missing = |input| Error::MissingInput { loss, input };
        let student = self.student.side.extra.tokens.ok_or_else(|| missing("the student's token states"))?;
        Ok((student, self.teacher.extra.tokens.ok_or_else(|| missing("the teacher's token states"))?))
    }

    pub(crate) fn patch_tokens(&self) -> Result<Tensor> {
        let (student, teacher) = self.tokens(Loss::PatchTokens)?;
        let (Some(student), Some(teacher)) = (&student.patches, &teacher.patches) else {
            let input = "the patch tokens of both models";
            return Err(Error::MissingInput { loss: Loss::PatchTokens, input });
        };
        tokens::patch_tokens(&self.parts.project_patches(student), teacher)
    }

    /// Adds the losses of image towers and text towers, each averaged over its pairs of blocks.
    pub(crate) fn hidden(&self) -> Result<Tensor> {
        let (student, teacher) = self.tokens(Loss::Hidden)?;
        let image = paired(&student.image_blocks, &teacher.image_blocks, |index, student, teacher| {
            tokens::image_block(&self.parts.project_image_block(index, student), teacher)
        })?;
        let counts = student.text_counts.as_ref();
        let text = paired(&student.text_blocks, &teacher.text_blocks, |index, student, teacher| {
            tokens::text_block(&self.parts.project_text_block(index, student), teacher, counts)
        })?;
        Ok(image + text)
    }

    pub(crate) fn gram(&self, block: Block, settings: &LossSettings) -> Result<Tensor> {
        structure::gram(self.student(), self.teacher(), block, settings.temperatures())
    }

    pub(crate) fn anchors(&self, loss: Loss, scope: AnchorScope, settings: &LossSettings) -> Result<Tensor> {
        let missing = || Error::MissingInput { loss, input: "a bank of teacher embeddings" };
        let bank = self.teacher.extra.anchors.ok_or_else(missing)?;
        structure::anchors(self.projected(), self.teacher(), bank, scope, settings.temperatures())
    }

    /// Returns the student's unit embeddings, projected to the teacher's width.
    pub(crate) fn projected(&self) -> &Embeddings {
        if self.parts.projects() {
            self.projected.get_or_init(|| self.parts.project(self.student.side.local))
        } else {
            self.student.normalized()
        }
    }

    /// The teacher's logits against itself.
    pub(crate) fn teacher_logits(&self) -> Result<&Logits> {
        let ModelOutputs { local, all, scale, .. } = *self.teacher;
        once(&self.logits, || Logits::new(local, all, scale))
    }

    /// The learned scale of the logits between the models.
    pub(crate) fn cross_scale(&self) -> Result<&Tensor> {
        self.parts.cross_scale()
    }

    /// Student rows against teacher columns.
    pub(crate) fn cross_logits(&self) -> Result<&Logits> {
        let scale = self.cross_scale()?;
        once(&self.cross_logits, || interactive::logits(self.projected(), self.teacher.all, scale))
    }
}

/// Returns the cell's value. Computes it with `compute` if the cell is empty.
fn once<T>(cell: &OnceCell<T>, compute: impl FnOnce() -> Result<T>) -> Result<&T> {
    match cell.get() {
        Some(value) => Ok(value),
        None => {
            let value = compute()?;
            Ok(cell.get_or_init(|| value))
        }
    }
}

/// Averages a distance over pairs of blocks.
fn paired(
    student: &[Tensor],
    teacher: &[Tensor],
    distance: impl Fn(usize, &Tensor, &Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    if student.is_empty() || student.len() != teacher.len() {
        let (ours, theirs) = (student.len(), teacher.len());
        let reason =
            format!("{ours} blocks of the student's tower do not pair with {theirs} of the teacher's");
        return Err(Error::Setting { loss: Loss::Hidden, reason });
    }
    let pairs = student.iter().zip(teacher).enumerate();
    let values = pairs.map(|(index, (student, teacher))| distance(index, student, teacher));
    Ok(Tensor::f_stack(&values.collect::<Result<Vec<_>>>()?, 0)?.f_mean(None::<tch::Kind>)?)
}

/// Returns the class logits `[rows, classes]` of unit image embeddings: scaled cosines with a model's classifier.
fn class_logits(images: &Tensor, side: &ModelOutputs<'_>) -> Result<Tensor> {
    let missing =
        || Error::MissingInput { loss: Loss::Hinton, input: "the weights of a zero-shot classifier" };
    let classes = side.extra.classes.ok_or_else(missing)?;
    if classes.dim() != 2 || classes.size()[1] != images.size()[1] {
        return Err(Error::Shapes {
            left: "the classifier",
            left_shape: classes.size(),
            right: "the image embeddings",
            right_shape: images.size(),
            rule: "class weights are [classes, width] in the images' width",
        });
    }
    Ok((images * side.scale).matmul(&classes.tr()))
}
