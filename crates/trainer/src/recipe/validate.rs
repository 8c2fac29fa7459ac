//! Validation of a recipe: checks that its types cannot express.

use kd_losses::{Loss, Term, first_gap};

use super::{EvalSet, Recipe};
use crate::recipe::TargetRule;
use crate::{Error, Result};

/// Maximum number of micro-batches per step; more than in any published recipe.
const MAX_ACCUMULATE: usize = 1 << 20;
/// Maximum number of visits per sample and epoch.
const MAX_WEIGHT: f64 = 1e6;
/// Number of steps to assume if the number depends on the data.
const LONG_RUN: u64 = 1 << 40;
/// Maximum number of augmentations per image; more than in any store.
const MAX_VARIANTS: usize = 10_000;
/// Maximum number of threads; more than machines have cores.
const MAX_THREADS: i32 = 4096;

/// The result of a check. The error names the invalid setting and the reason.
type Check = Result<(), String>;

/// Fails with a reason unless a condition holds.
fn require(holds: bool, reason: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(reason()) }
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
            Some(step) => Err(Error::recipe(origin, format!("losses: no loss has a weight at step {step}"))),
            None => Ok(()),
        }
    }

    /// Checks the settings that the types do not. Messages name `origin`.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the invalid setting.
    pub fn validate(&self, origin: &str) -> Result<()> {
        let fail = |reason: String| Error::recipe(origin, reason);
        for (loss, config) in self.losses.iter().filter(|(_, config)| config.is_on()) {
            config.validate(*loss).map_err(|reason| fail(format!("losses.{loss}: {reason}")))?;
        }
        let terms = self.terms(self.train.steps.unwrap_or(LONG_RUN));
        require(!terms.is_empty(), || {
            "losses: no loss has a weight; give at least `losses.task = 1.0`".into()
        })
        .map_err(fail)?;
        if let Some(term) = terms.iter().find(|term| term.loss.needs_teacher() && self.teachers.is_empty()) {
            return Err(fail(format!("losses.{} needs a [teacher]", term.loss)));
        }
        if let Some(steps) = self.train.steps {
            self.check_terms(steps, origin)?;
        }
        self.check_losses(&terms).map_err(fail)?;
        self.check_teachers(&terms).map_err(fail)?;
        self.check_student(&terms).map_err(fail)?;
        self.check_data().map_err(fail)?;
        self.check_train().map_err(fail)?;
        self.check_optimizer().map_err(fail)?;
        self.check_output().map_err(fail)
    }

    /// Checks combinations of losses.
    fn check_losses(&self, terms: &[Term]) -> Check {
        let lists = terms.iter().filter(|term| term.loss.reads_classes()).count();
        require(lists <= 1, || {
            "losses.hinton and losses.vocabulary each have a class list, but a run reads only one: leave one out"
                .into()
        })?;
        let siglip = terms.iter().any(|term| term.loss == Loss::Siglip);
        require(self.targets == TargetRule::Diagonal || !siglip, || {
            "losses.siglip supports only the diagonal: leave out targets = \"equal-captions\"".into()
        })?;
        let Some(head) = &self.cross_modal else { return Ok(()) };
        if let Some(term) = terms.iter().find(|term| term.loss != Loss::Task) {
            return Err(format!(
                "a [cross_modal] head is trained by `task` alone: leave out losses.{}",
                term.loss
            ));
        }
        let has_boxes = self.data.train.iter().any(|source| source.source.has_boxes());
        require(head.boxes == 0 || has_boxes, || {
            "cross_modal.boxes reads object boxes, but no source of data.train has any: give a webdataset its `boxes`"
                .into()
        })
    }

    /// Checks teachers against the losses and each other.
    fn check_teachers(&self, terms: &[Term]) -> Check {
        let used = terms.iter().any(|term| term.loss.needs_teacher());
        require(self.teachers.is_empty() || used, || {
            "[teacher] is set, but no loss uses it: give one such as `losses.crd = 1.0`, or remove it".into()
        })?;
        if !self.teachers.iter().any(|teacher| teacher.store.is_some()) {
            return Ok(());
        }
        require(self.teachers.len() == 1, || {
            "a store contains all its teachers: name it as the only [teacher]".into()
        })?;
        match terms.iter().find(|term| term.loss.reads_tokens()) {
            Some(term) => Err(format!(
                "losses.{} reads the teacher's tokens, but a store contains only embeddings: name `model` or `run` without `store`",
                term.loss
            )),
            None => Ok(()),
        }
    }

    /// Checks the student's locks, rates and masks.
    fn check_student(&self, terms: &[Term]) -> Check {
        let student = &self.student;
        let locks = [("image", student.lock_image), ("text", student.lock_text)];
        for (tower, lock) in locks {
            require(lock.unlocked_groups == 0 || lock.locked, || {
                format!("student.lock_{tower}_unlocked_groups needs student.lock_{tower} = true")
            })?;
        }
        for (name, rate) in [("patch_dropout", student.patch_dropout), ("drop_path", student.drop_path)] {
            require(rate.is_none_or(|rate| (0.0..1.0).contains(&rate)), || {
                format!("student.{name} = {} is outside 0..1", rate.unwrap_or_default())
            })?;
        }
        let Some(prune) = &self.prune else { return Ok(()) };
        require(locks.iter().all(|(_, lock)| !lock.locked), || {
            "[prune] changes both towers: neither can be locked".into()
        })?;
        require(self.cross_modal.is_none(), || {
            "[prune] changes both towers, but a [cross_modal] head needs them unchanged".into()
        })?;
        if let Some(term) = terms.iter().find(|term| term.loss.reads_tokens()) {
            return Err(format!(
                "losses.{} learns maps of the student's width, which [prune] changes",
                term.loss
            ));
        }
        prune.validate(&self.train)
    }

    /// Checks sources and augmentation.
    fn check_data(&self) -> Check {
        let data = &self.data;
        require(!data.train.is_empty(), || "[[data.train]] is missing: name at least one source".into())?;
        for (index, source) in data.train.iter().enumerate() {
            let key = format!("data.train[{index}]");
            let (weight, share) = (source.weight, source.share);
            require(weight > 0.0 && weight <= MAX_WEIGHT, || {
                format!("{key}.weight = {weight} is not above 0 and at most {MAX_WEIGHT}")
            })?;
            require(share > 0.0 && share <= 1.0, || {
                format!("{key}.share = {share} is not above 0 and at most 1")
            })?;
        }
        data.augment.validate().map_err(|error| format!("data.augment: {error}"))?;
        require(data.variants <= MAX_VARIANTS, || {
            format!("data.variants = {} is more than {MAX_VARIANTS}", data.variants)
        })?;
        data.damaged.validate().map_err(|error| format!("data.damaged: {error}"))
    }

    /// Checks the length and the batches of the run.
    fn check_train(&self) -> Check {
        let train = &self.train;
        require(train.batch_size >= 2, || {
            format!("train.batch_size = {}: a contrastive batch needs at least 2 samples", train.batch_size)
        })?;
        require((1..=MAX_ACCUMULATE).contains(&train.accumulate), || {
            format!(
                "train.accumulate = {} is outside 1..={MAX_ACCUMULATE}; 1 disables accumulation",
                train.accumulate
            )
        })?;
        require(train.micro_batch != Some(0), || {
            "train.micro_batch = 0: set it to at least 1, or remove it to encode whole batches".into()
        })?;
        require((0..=MAX_THREADS).contains(&train.threads), || {
            format!("train.threads = {} is outside 0..={MAX_THREADS}", train.threads)
        })?;
        let ema = train.ema.unwrap_or(0.5);
        require(ema > 0.0 && ema < 1.0, || format!("train.ema = {ema}: a decay is between 0 and 1"))?;
        match (train.epochs, train.steps) {
            (Some(epochs), None) if epochs.is_finite() && epochs > 0.0 => Ok(()),
            (None, Some(steps)) if steps > 0 => Ok(()),
            (Some(_), Some(_)) => Err("[train] has both `epochs` and `steps`: give one of them".into()),
            _ => Err("[train] needs either `epochs` or `steps`, above zero".into()),
        }
    }

    /// Checks the optimiser.
    fn check_optimizer(&self) -> Check {
        const ABOVE: &str = "a number above 0";
        const LEAST: &str = "0 or more";
        const SHARE: &str = "0 or more and below 1";
        let optimizer = &self.optimizer;
        for (name, value, good, wanted) in [
            ("lr", optimizer.lr, optimizer.lr > 0.0, ABOVE),
            ("weight_decay", optimizer.weight_decay, optimizer.weight_decay >= 0.0, LEAST),
            ("beta1", optimizer.beta1, (0.0..1.0).contains(&optimizer.beta1), SHARE),
            ("beta2", optimizer.beta2, (0.0..1.0).contains(&optimizer.beta2), SHARE),
            ("eps", optimizer.eps, optimizer.eps > 0.0, ABOVE),
            ("clip_norm", optimizer.clip_norm, optimizer.clip_norm >= 0.0, LEAST),
        ] {
            require(good && value.is_finite(), || format!("optimizer.{name} = {value} is not {wanted}"))?;
        }
        Ok(())
    }

    /// Checks checkpoints, metrics and evaluations.
    fn check_output(&self) -> Check {
        let minutes = self.checkpoint.every_minutes;
        require(minutes.is_finite() && minutes >= 0.0, || {
            format!("checkpoint.every_minutes = {minutes}: give 0 for never")
        })?;
        require(self.checkpoint.keep > 0, || "checkpoint.keep = 0: keep at least one checkpoint".into())?;
        require(self.metrics.every_steps > 0, || "metrics.every_steps = 0: give at least 1".into())?;
        require(!self.eval.fidelity || self.compared_teacher().is_some(), || {
            "eval.fidelity needs a model to compare with: [teacher] or [eval.teacher]".into()
        })?;
        let compared = self.eval.teacher.as_ref();
        require(compared.is_none_or(|teacher| self.eval.fidelity && teacher.model.is_some()), || {
            "eval.teacher is the model to compare with: it needs eval.fidelity = true, and a model".into()
        })?;
        let epochs = self.eval.every_epochs;
        require(epochs.is_finite() && epochs >= 0.0, || {
            format!("eval.every_epochs = {epochs}: give a number above 0, or 0 for never")
        })?;
        check_sets("eval.sets", &self.eval.sets)
    }
}

/// Checks the evaluation sets of a list, which `key` names. Reasons begin with the set, as `key[1]`.
///
/// # Errors
/// The invalid set, and the reason.
pub(crate) fn check_sets(key: &str, sets: &[EvalSet]) -> Check {
    let mut names = std::collections::HashSet::new();
    sets.iter().enumerate().try_for_each(|(index, set)| {
        set.validate().map_err(|reason| format!("{key}[{index}]: {reason}"))?;
        let is_new = names.insert(&set.name);
        require(is_new, || format!("{key}[{index}]: two sets are called `{}`: rename one", set.name))
    })
}
