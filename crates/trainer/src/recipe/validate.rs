//! What the types of a recipe cannot rule out.

use super::Recipe;
use crate::{Error, Result};

/// More micro-batches per step than any published recipe has.
const MAX_ACCUMULATE: usize = 1 << 20;
/// More threads than machines have cores.
const MAX_THREADS: i32 = 4096;

impl Recipe {
    /// Checks what the types cannot; `origin` stands in messages.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the setting that cannot work.
    pub fn validate(&self, origin: &str) -> Result<()> {
        let fail = |reason: String| Err(Error::recipe(origin, reason));
        let terms = self.terms();
        if terms.is_empty() {
            return fail("no loss has a weight: give at least `losses.task = 1.0`".into());
        }
        if let Some(term) = terms.iter().find(|term| term.loss.needs_teacher() && self.teacher.is_none()) {
            return fail(format!("losses.{} needs a [teacher]", term.loss.name()));
        }
        if let Some(teacher) = &self.teacher {
            if teacher.model.is_some() == teacher.run.is_some() {
                return fail("[teacher] needs either `model` or `run`".into());
            }
            if !terms.iter().any(|term| term.loss.needs_teacher()) {
                return fail("there is a [teacher], but no loss uses it: give one such as `losses.crd = 1.0`, or remove it".into());
            }
        }
        for (tower, locked, unlocked) in [
            ("image", self.student.lock_image, self.student.lock_image_unlocked_groups),
            ("text", self.student.lock_text, self.student.lock_text_unlocked_groups),
        ] {
            if unlocked > 0 && !locked {
                return fail(format!(
                    "student.lock_{tower}_unlocked_groups needs student.lock_{tower} = true"
                ));
            }
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
                "train.accumulate = {} is outside 1..={MAX_ACCUMULATE}; 1 is no accumulation",
                train.accumulate
            ));
        }
        if !(0..=MAX_THREADS).contains(&train.threads) {
            return fail(format!("train.threads = {} is outside 0..={MAX_THREADS}", train.threads));
        }
        if let Some(decay) = train.ema.filter(|decay| !(*decay > 0.0 && *decay < 1.0)) {
            return fail(format!("train.ema = {decay}: a decay is between 0 and 1"));
        }
        if let Some((loss, weight)) =
            self.losses.iter().find(|(_, weight)| !(weight.is_finite() && **weight >= 0.0))
        {
            return fail(format!("losses.{} = {weight} is not a weight", loss.name()));
        }
        if let Some(problem) = self.data.augment.problem() {
            return fail(format!("data.augment: {problem}"));
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
        match (train.epochs, train.steps) {
            (Some(epochs), None) if epochs.is_finite() && epochs > 0.0 => {}
            (None, Some(steps)) if steps > 0 => {}
            _ => return fail("[train] needs either `epochs` or `steps`, above zero".into()),
        }
        let optimizer = &self.optimizer;
        for (name, value, good) in [
            ("lr", optimizer.lr, optimizer.lr > 0.0),
            ("weight_decay", optimizer.weight_decay, optimizer.weight_decay >= 0.0),
            ("beta1", optimizer.beta1, (0.0..1.0).contains(&optimizer.beta1)),
            ("beta2", optimizer.beta2, (0.0..1.0).contains(&optimizer.beta2)),
            ("eps", optimizer.eps, optimizer.eps > 0.0),
            ("clip_norm", optimizer.clip_norm, optimizer.clip_norm >= 0.0),
        ] {
            if !good || !value.is_finite() {
                return fail(format!("optimizer.{name} = {value} cannot work"));
            }
        }
        if self.metrics.every_steps == 0 {
            return fail("metrics.every_steps = 0: give at least 1".into());
        }
        if self.checkpoint.keep == 0 {
            return fail("checkpoint.keep = 0: at least one checkpoint has to stay".into());
        }
        let mut names = std::collections::HashSet::new();
        if let Some(set) = self.eval.sets.iter().find(|set| !names.insert(&set.name)) {
            return fail(format!("two [[eval.sets]] are called `{}`", set.name));
        }
        Ok(())
    }
}
