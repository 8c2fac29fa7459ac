//! The terms of one batch; what several of them read is computed once.

use std::cell::OnceCell;

use tch::Tensor;

use crate::embeddings::{Embeddings, Logits, Targets};
use crate::learned::LearnedParts;
use crate::objective::Side;
use crate::structure::{self, Block};
use crate::term::{Loss, Term};
use crate::{
    Error, Result, clip_rd, contrastive, feature, fusion, gradient, interactive, logit, relation, rkd,
};

/// What depends on the student alone.
pub(crate) struct StudentTerms<'a> {
    side: &'a Side<'a>,
    targets: &'a Targets,
    own: OnceCell<Embeddings>,
    logits: OnceCell<Logits>,
}

impl<'a> StudentTerms<'a> {
    pub(crate) fn new(side: &'a Side<'a>, targets: &'a Targets) -> Self {
        StudentTerms { side, targets, own: OnceCell::new(), logits: OnceCell::new() }
    }

    /// Unit rows in the student's own width.
    fn own(&self) -> &Embeddings {
        self.own.get_or_init(|| self.side.local.normalized())
    }

    fn logits(&self) -> Result<&Logits> {
        once(&self.logits, || {
            let (rows, Side { local, all, scale, .. }) = (self.own(), *self.side);
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

/// What depends on the student and one teacher.
pub(crate) struct PairTerms<'a> {
    student: &'a StudentTerms<'a>,
    teacher: &'a Side<'a>,
    parts: &'a LearnedParts,
    projected: OnceCell<Embeddings>,
    logits: OnceCell<Logits>,
    cross_logits: OnceCell<Logits>,
}

impl<'a> PairTerms<'a> {
    pub(crate) fn new(student: &'a StudentTerms<'a>, teacher: &'a Side<'a>, parts: &'a LearnedParts) -> Self {
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
            Loss::Anchors => {
                let missing = || Error::Setting("`anchors` needs a bank of teacher embeddings".into());
                let bank = teacher.extra.anchors.ok_or_else(missing)?;
                structure::anchors(self.projected(), teacher.local, bank, term.temperatures())
            }
        }
    }

    fn gram(&self, block: Block, term: &Term) -> Result<Tensor> {
        structure::gram(self.student.own(), self.teacher.local, block, term.temperatures())
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
        let Side { local, all, scale, .. } = *self.teacher;
        once(&self.logits, || Logits::new(local, all, scale))
    }

    /// Student rows against teacher columns.
    fn cross_logits(&self) -> Result<&Logits> {
        let scale = self.parts.cross_scale()?;
        once(&self.cross_logits, || interactive::logits(self.projected(), self.teacher.all, scale))
    }
}

/// The cell's value, made by `make` where it is empty.
fn once<T>(cell: &OnceCell<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    match cell.get() {
        Some(value) => Ok(value),
        None => {
            let value = make()?;
            Ok(cell.get_or_init(|| value))
        }
    }
}

/// Scaled cosines `[rows, classes]` of unit image rows with a side's classifier.
fn class_logits(images: &Tensor, side: &Side<'_>) -> Result<Tensor> {
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
