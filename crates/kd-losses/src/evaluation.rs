//! Evaluates the terms of one batch. Values that several terms read are computed once.

use std::cell::OnceCell;

use tch::Tensor;

use crate::embeddings::{Embeddings, Logits, Targets};
use crate::learned::LearnedParts;
use crate::objective::ModelOutputs;
use crate::structure::{self, AnchorScope, Block};
use crate::term::{Loss, Term};
use crate::tokens::{self, TokenStates};
use crate::{
    Error, Result, clip_rd, contrastive, feature, fusion, gradient, interactive, logit, relation, rkd,
};

/// Values that depend only on the student.
pub(crate) struct StudentTerms<'a> {
    side: &'a ModelOutputs<'a>,
    targets: &'a Targets,
    own: OnceCell<Embeddings>,
    logits: OnceCell<Logits>,
}

impl<'a> StudentTerms<'a> {
    pub(crate) fn new(side: &'a ModelOutputs<'a>, targets: &'a Targets) -> Self {
        StudentTerms { side, targets, own: OnceCell::new(), logits: OnceCell::new() }
    }

    /// Unit rows in the student's own embed dim.
    fn own(&self) -> &Embeddings {
        self.own.get_or_init(|| self.side.local.normalized())
    }

    fn logits(&self) -> Result<&Logits> {
        once(&self.logits, || {
            let (rows, ModelOutputs { local, all, scale, .. }) = (self.own(), *self.side);
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
            return Err(Error::Setting("`siglip` has no soft targets: take the diagonal".into()));
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

    pub(crate) fn term(&self, term: &Term) -> Result<Tensor> {
        let (parts, teacher, targets) = (self.parts, self.teacher, self.student.targets);
        match term.loss {
            Loss::Task => self.student.task(),
            Loss::Siglip => self.student.siglip(parts),
            Loss::Hinton => {
                let student = class_logits(&self.student.own().image, self.student.side)?;
                let teacher = class_logits(&teacher.local.image, teacher)?;
                logit::hinton(&student, &teacher, term.temperatures()[0])
            }
            Loss::Crd => relation::crd(self.student.logits()?, self.logits()?),
            Loss::Affinity => relation::affinity(self.student.logits()?, self.logits()?),
            Loss::Fd => feature::fd(self.projected(), teacher.local),
            Loss::Cosine => feature::cosine(self.projected(), teacher.local),
            Loss::PatchTokens => self.patch_tokens(),
            Loss::Hidden => self.hidden(),
            Loss::Mfd => {
                let missing = || Error::Setting("`mfd` needs the student's masked images".into());
                let image = self.student.side.extra.masked_image.ok_or_else(missing)?;
                let text = self.projected().text.shallow_clone();
                feature::fd(&Embeddings::new(parts.project_image(image), text)?, teacher.local)
            }
            Loss::Gd => gradient::gd(self.projected(), self.student.side.scale, teacher.local, teacher.scale),
            Loss::Icl => interactive::icl(self.cross_logits()?, targets),
            Loss::CrossKd => interactive::cross_kd(self.cross_logits()?, self.logits()?),
            Loss::Afd => {
                let (fusion, scale) = parts.fusion()?;
                fusion::afd(self.projected(), teacher.local, fusion, scale, targets)
            }
            Loss::RkdDistance => rkd::distance(self.student.own(), teacher.local),
            Loss::RkdAngle => rkd::angle(self.student.own(), teacher.local),
            Loss::ClipRdVrd => {
                let (image, text) = parts.modality_scales()?;
                clip_rd::vrd(self.projected(), teacher.local, image, text)
            }
            Loss::ClipRdXrd => clip_rd::xrd(self.projected(), teacher.local, parts.cross_scale()?),
            Loss::Gram => self.gram(Block::Joint, term),
            Loss::GramImageImage => self.gram(Block::ImageImage, term),
            Loss::GramTextText => self.gram(Block::TextText, term),
            Loss::GramImageText => self.gram(Block::ImageText, term),
            Loss::Anchors => self.anchors(AnchorScope::Joint, term),
            Loss::AnchorsWithin => self.anchors(AnchorScope::Within, term),
            Loss::AnchorsAcross => self.anchors(AnchorScope::Across, term),
            Loss::Vocabulary => {
                let missing = || Error::Setting("`vocabulary` needs the prompts of a class list".into());
                let own = self.student.side.extra.classes.ok_or_else(missing)?;
                let theirs = teacher.extra.classes.ok_or_else(missing)?;
                let (student, teacher) = (&self.student.own().image, &teacher.local.image);
                structure::vocabulary((student, own), (teacher, theirs), term.temperatures())
            }
        }
    }

    /// Token states of student and teacher.
    fn tokens(&self, loss: Loss) -> Result<(&TokenStates, &TokenStates)> {
        let missing = |whose: &str| {
            Error::Setting(format!("`{}` needs the states of the {whose}'s tokens", loss.name()))
        };
        let student = self.student.side.extra.tokens.ok_or_else(|| missing("student"))?;
        Ok((student, self.teacher.extra.tokens.ok_or_else(|| missing("teacher"))?))
    }

    fn patch_tokens(&self) -> Result<Tensor> {
        let (student, teacher) = self.tokens(Loss::PatchTokens)?;
        let (Some(student), Some(teacher)) = (&student.patches, &teacher.patches) else {
            return Err(Error::Setting("`patch-tokens` needs the patch tokens of both models".into()));
        };
        tokens::patch_tokens(&self.parts.project_patches(student), teacher)
    }

    /// Adds the losses of image towers and text towers, each averaged over its pairs of blocks.
    fn hidden(&self) -> Result<Tensor> {
        let (student, teacher) = self.tokens(Loss::Hidden)?;
        let image = paired(&student.image_blocks, &teacher.image_blocks, |place, student, teacher| {
            tokens::image_block(&self.parts.project_image_block(place, student), teacher)
        })?;
        let counts = student.text_counts.as_ref();
        let text = paired(&student.text_blocks, &teacher.text_blocks, |place, student, teacher| {
            tokens::text_block(&self.parts.project_text_block(place, student), teacher, counts)
        })?;
        Ok(image + text)
    }

    fn gram(&self, block: Block, term: &Term) -> Result<Tensor> {
        structure::gram(self.student.own(), self.teacher.local, block, term.temperatures())
    }

    fn anchors(&self, reach: AnchorScope, term: &Term) -> Result<Tensor> {
        let name = term.loss.name();
        let missing = || Error::Setting(format!("`{name}` needs a bank of teacher embeddings"));
        let bank = self.teacher.extra.anchors.ok_or_else(missing)?;
        structure::anchors(self.projected(), self.teacher.local, bank, reach, term.temperatures())
    }

    /// The student's unit rows in the teacher's width.
    fn projected(&self) -> &Embeddings {
        if self.parts.projects() {
            self.projected.get_or_init(|| self.parts.project(self.student.side.local))
        } else {
            self.student.own()
        }
    }

    /// The teacher's logits against itself.
    fn logits(&self) -> Result<&Logits> {
        let ModelOutputs { local, all, scale, .. } = *self.teacher;
        once(&self.logits, || Logits::new(local, all, scale))
    }

    /// Student rows against teacher columns.
    fn cross_logits(&self) -> Result<&Logits> {
        let scale = self.parts.cross_scale()?;
        once(&self.cross_logits, || interactive::logits(self.projected(), self.teacher.all, scale))
    }
}

/// Returns the cell's value, computing it with `make` if it is empty.
fn once<T>(cell: &OnceCell<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    match cell.get() {
        Some(value) => Ok(value),
        None => {
            let value = make()?;
            Ok(cell.get_or_init(|| value))
        }
    }
}

/// Computes the mean of a distance over pairs of blocks.
fn paired(
    student: &[Tensor],
    teacher: &[Tensor],
    distance: impl Fn(usize, &Tensor, &Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    if student.is_empty() || student.len() != teacher.len() {
        let (own, theirs) = (student.len(), teacher.len());
        let reason =
            format!("`hidden` compares {own} blocks of a student's tower with {theirs} of the teacher's");
        return Err(Error::Setting(reason));
    }
    let pairs = student.iter().zip(teacher).enumerate();
    let values = pairs.map(|(place, (student, teacher))| distance(place, student, teacher));
    Ok(Tensor::f_stack(&values.collect::<Result<Vec<_>>>()?, 0)?.f_mean(None::<tch::Kind>)?)
}

/// Scaled cosines `[rows, classes]` of unit image rows with a side's classifier.
fn class_logits(images: &Tensor, side: &ModelOutputs<'_>) -> Result<Tensor> {
    let missing = || Error::Setting("`hinton` needs the weights of a zero-shot classifier".into());
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
