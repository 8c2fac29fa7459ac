//! Checks of a recipe that its types cannot express.

use kd_losses::{Loss, first_gap};
use tch::Device;

use super::Recipe;
use crate::recipe::TargetRule;
use crate::{Error, Result};

/// Maximum number of micro-batches per step; more than in any published recipe.
const MAX_ACCUMULATE: usize = 1 << 20;
/// Number of steps to assume if it depends on the data.
const LONG_RUN: u64 = 1 << 40;
/// Maximum number of augmentations per image; more than in any store.
const MAX_VARIANTS: usize = 10_000;
/// Maximum number of threads; more than machines have cores.
const MAX_THREADS: i32 = 4096;

/// Parses `cpu`, `cuda` or `cuda:N` without checking that the device exists.
///
/// # Errors
/// [`Error::Recipe`] for any other name.
pub(crate) fn device_named(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "cuda" => Ok(Device::Cuda(0)),
        _ => match name.strip_prefix("cuda:").and_then(|index| index.parse::<usize>().ok()) {
            Some(index) => Ok(Device::Cuda(index)),
            None => Err(Error::recipe("train.device", format!("`{name}` is not cpu, cuda or cuda:N"))),
        },
    }
}

impl Recipe {
    /// Checks weights and temperatures in a run of `steps` steps, and that each step has a nonzero weight.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the loss or the step.
    pub(crate) fn check_terms(&self, steps: u64, origin: &str) -> Result<()> {
        let terms = self.terms(steps);
        terms.iter().try_for_each(|term| term.check()).map_err(|e| Error::recipe(origin, e.to_string()))?;
        match first_gap(&terms, steps) {
            Some(step) => Err(Error::recipe(origin, format!("no loss has a weight at step {step}"))),
            None => Ok(()),
        }
    }

    /// Checks the settings that the types do not. Messages name `origin`.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting that cannot work.
    pub fn validate(&self, origin: &str) -> Result<()> {
        let fail = |reason: String| Err(Error::recipe(origin, reason));
        for (loss, config) in &self.losses {
            if let Some(problem) = config.is_on().then(|| config.problem(*loss)).flatten() {
                return fail(format!("losses.{}: {problem}", loss.name()));
            }
        }
        let terms = self.terms(self.train.steps.unwrap_or(LONG_RUN));
        if terms.is_empty() {
            return fail("no loss has a weight: give at least `losses.task = 1.0`".into());
        }
        if let Some(term) = terms.iter().find(|term| term.loss.needs_teacher() && self.teachers.is_empty()) {
            return fail(format!("losses.{} needs a [teacher]", term.loss.name()));
        }
        if let Some(steps) = self.train.steps {
            self.check_terms(steps, origin)?;
        }
        if terms.iter().filter(|term| term.loss.reads_classes()).count() > 1 {
            return fail("losses.hinton and losses.vocabulary each have a class list, but a run reads only one: leave one out".into());
        }
        if self.targets == TargetRule::EqualCaptions && terms.iter().any(|term| term.loss == Loss::Siglip) {
            return fail(
                "losses.siglip knows the diagonal alone: leave out targets = \"equal-captions\"".into(),
            );
        }
        if !self.teachers.is_empty() && !terms.iter().any(|term| term.loss.needs_teacher()) {
            return fail("there is a [teacher], but no loss uses it: give one such as `losses.crd = 1.0`, or remove it".into());
        }
        if let Some(term) = terms.iter().find(|term| self.cross_modal.is_some() && term.loss != Loss::Task) {
            let name = term.loss.name();
            return fail(format!("a [cross_modal] head is trained by `task` alone: leave out losses.{name}"));
        }
        let boxes = self.cross_modal.as_ref().is_some_and(|head| head.boxes > 0);
        if boxes && !self.data.train.iter().any(|own| own.source.names_boxes()) {
            return fail(
                "cross_modal.boxes reads object boxes, which no source of data.train names: give a webdataset its `boxes`".into(),
            );
        }
        let stored = self.teachers.iter().filter(|teacher| teacher.store.is_some()).count();
        if stored > 0 && self.teachers.len() > 1 {
            return fail("a store holds all its teachers: name it as the only [teacher]".into());
        }
        if let Some(term) = terms.iter().find(|term| stored > 0 && term.loss.reads_tokens()) {
            let name = term.loss.name();
            return fail(format!(
                "losses.{name} reads the teacher's tokens, and a store holds embeddings alone: name `model` or `run` without `store`"
            ));
        }
        for (tower, lock) in [("image", self.student.lock_image), ("text", self.student.lock_text)] {
            if lock.unlocked_groups > 0 && !lock.locked {
                return fail(format!(
                    "student.lock_{tower}_unlocked_groups needs student.lock_{tower} = true"
                ));
            }
        }
        if let Some(prune) = &self.prune {
            if self.student.lock_image.locked || self.student.lock_text.locked {
                return fail("[prune] changes both towers: neither can be locked".into());
            }
            if self.cross_modal.is_some() {
                return fail(
                    "[prune] changes both towers, and a [cross_modal] head needs them as they are".into(),
                );
            }
            if let Some(term) = terms.iter().find(|term| term.loss.reads_tokens()) {
                let name = term.loss.name();
                return fail(format!(
                    "losses.{name} learns maps of the student's width, which [prune] changes"
                ));
            }
            prune.validate(&self.train).or_else(fail)?;
        }
        let train = &self.train;
        if self.data.train.is_empty() {
            return fail("there is no [[data.train]]: name at least one source".into());
        }
        if train.batch_size < 2 {
            return fail(format!(
                "train.batch_size = {}: a contrastive batch needs at least 2 samples",
                train.batch_size
            ));
        }
        if !(1..=MAX_ACCUMULATE).contains(&train.accumulate) {
            return fail(format!(
                "train.accumulate = {} is outside 1..={MAX_ACCUMULATE}; 1 disables accumulation",
                train.accumulate
            ));
        }
        if !(0..=MAX_THREADS).contains(&train.threads) {
            return fail(format!("train.threads = {} is outside 0..={MAX_THREADS}", train.threads));
        }
        if let Some(decay) = train.ema.filter(|decay| !(*decay > 0.0 && *decay < 1.0)) {
            return fail(format!("train.ema = {decay}: a decay is between 0 and 1"));
        }
        if let Some(problem) = self.data.augment.problem() {
            return fail(format!("data.augment: {problem}"));
        }
        if self.data.variants > MAX_VARIANTS {
            return fail(format!("data.variants = {} is more than {MAX_VARIANTS}", self.data.variants));
        }
        if let Some(problem) = self.data.damaged.problem() {
            return fail(format!("data.damaged: {problem}"));
        }
        if !(self.checkpoint.every_minutes.is_finite() && self.checkpoint.every_minutes >= 0.0) {
            let minutes = self.checkpoint.every_minutes;
            return fail(format!("checkpoint.every_minutes = {minutes}: give 0 for never"));
        }
        let student = &self.student;
        for (name, share) in [("patch_dropout", student.patch_dropout), ("drop_path", student.drop_path)] {
            if let Some(share) = share.filter(|share| !(0.0..1.0).contains(share)) {
                return fail(format!("student.{name} = {share} is outside 0..1"));
            }
        }
        device_named(&train.device)?;
        match (train.epochs, train.steps) {
            (Some(epochs), None) if epochs.is_finite() && epochs > 0.0 => {}
            (None, Some(steps)) if steps > 0 => {}
            (Some(_), Some(_)) => {
                return fail("[train] has both `epochs` and `steps`: give one of them".into());
            }
            _ => return fail("[train] needs either `epochs` or `steps`, above zero".into()),
        }
        let optimizer = &self.optimizer;
        const ABOVE: &str = "a number above 0";
        const LEAST: &str = "0 or more";
        const SHARE: &str = "0 or more and below 1";
        for (name, value, good, wanted) in [
            ("lr", optimizer.lr, optimizer.lr > 0.0, ABOVE),
            ("weight_decay", optimizer.weight_decay, optimizer.weight_decay >= 0.0, LEAST),
            ("beta1", optimizer.beta1, (0.0..1.0).contains(&optimizer.beta1), SHARE),
            ("beta2", optimizer.beta2, (0.0..1.0).contains(&optimizer.beta2), SHARE),
            ("eps", optimizer.eps, optimizer.eps > 0.0, ABOVE),
            ("clip_norm", optimizer.clip_norm, optimizer.clip_norm >= 0.0, LEAST),
        ] {
            if !good || !value.is_finite() {
                return fail(format!("optimizer.{name} = {value} is not {wanted}"));
            }
        }
        if self.metrics.every_steps == 0 {
            return fail("metrics.every_steps = 0: give at least 1".into());
        }
        if self.checkpoint.keep == 0 {
            return fail("checkpoint.keep = 0: keep at least one checkpoint".into());
        }
        if self.eval.fidelity && self.compared_teacher().is_none() {
            return fail("eval.fidelity needs a model to compare with: [teacher] or [eval.teacher]".into());
        }
        if self.eval.teacher.as_ref().is_some_and(|teacher| !self.eval.fidelity || teacher.model.is_none()) {
            return fail(
                "eval.teacher is the model to compare with: it needs eval.fidelity = true, and a model"
                    .into(),
            );
        }
        let mut names = std::collections::HashSet::new();
        if let Some(set) = self.eval.sets.iter().find(|set| !names.insert(&set.name)) {
            return fail(format!("two [[eval.sets]] are called `{}`", set.name));
        }
        Ok(())
    }
}
