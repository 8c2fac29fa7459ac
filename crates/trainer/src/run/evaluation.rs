//! Evaluations during a run and at its end, and the best student among them.

use std::path::Path;

use clip_model::folder;
use zeroshot_eval::Report;

use super::Session;
use crate::Result;
use crate::eval::encoder::{ModelEncoder, evaluate};
use crate::eval::measure::measure;
use crate::model::device::device;
use crate::model::processor::Processor;
use crate::recipe::Models;
use crate::recipe::Recipe;
use crate::run::layout::{BEST_FOLDER, Best, MODEL_FOLDER, Results};
use crate::run::status;

impl Session<'_> {
    /// Evaluates the student in its current state.
    pub(super) fn evaluate_on_the_way(&mut self) -> Result<()> {
        let (step, steps) = (self.trainee.step, self.schedule.total_steps);
        tracing::info!("{}: evaluation after step {step} of {steps}", self.recipe.name);
        let report = self.with_final_weights(|own| own.evaluate())?;
        self.metrics.evaluation(step, &report)?;
        self.compete(&report)
    }

    /// Evaluates the finished student, and writes its folder and the results.
    pub(super) fn finish(mut self, models: Models<'_>) -> Result<Results> {
        let counts = self.counts();
        if counts.skipped() > 0 {
            tracing::warn!(
                "{} of {} samples were damaged: {}",
                counts.skipped(),
                counts.seen,
                counts.summary()
            );
        }
        if !self.recipe.eval.sets.is_empty() {
            tracing::info!("{}: evaluation after the last step", self.recipe.name);
        }
        let (student, teacher, details) = self.with_final_weights(|own| {
            own.save_model(MODEL_FOLDER)?;
            let encoder = ModelEncoder { model: &own.trainee.student, reader: &own.reader };
            measure(own.recipe, &encoder, models, own.trainee.student.device())
        })?;
        self.metrics.evaluation(self.trainee.step, &student)?;
        // A best model from an earlier session must also beat the final one.
        if self.recipe.eval.every_steps > 0 || self.state.best.is_some() {
            self.compete(&student)?;
        }
        let cost = clip_model::cost::cost(self.trainee.student.config())?;
        let parameters = (cost.image.parameters, cost.text.parameters);
        let seconds = self.state.seconds;
        let best = self.state.best.map(|(step, score)| Best { step, score });
        let results = Results { student, teacher, details, seconds, parameters, damaged: counts, best };
        status::write_report(self.folder, &results)?;
        Ok(results)
    }

    /// Saves the student as the best model, with a checkpoint, if its score exceeds all earlier ones.
    fn compete(&mut self, report: &Report) -> Result<()> {
        if report.sets.is_empty() {
            return Ok(());
        }
        let now = self.trainee.step;
        let score = report.sets.iter().map(|set| set.score.main()).sum::<f64>() / report.sets.len() as f64;
        // A model that won before a stop wins again, so its folder becomes complete.
        if self.state.best.is_some_and(|(step, best)| score <= best && step != now) {
            return Ok(());
        }
        tracing::info!(
            "{}: the best so far, with {:.1} % as the mean of the main figures",
            self.recipe.name,
            score * 100.0
        );
        self.with_final_weights(|own| own.save_model(BEST_FOLDER))?;
        if self.state.best != Some((now, score)) {
            self.state.best = Some((now, score));
            self.save()?;
        }
        Ok(())
    }

    /// Writes the student as a model folder, with its tokenizer.
    fn save_model(&self, name: &str) -> Result<()> {
        let folder = self.folder.join(name);
        let (student, tokenizer) = (&self.trainee.student, self.reader.foreign_tokenizer());
        folder::save_with(&folder, student, &self.preprocess, tokenizer)?;
        if let Some(head) = &self.trainee.cross_modal {
            head.save(&folder)?;
        }
        self.reader.save_tokenizer(&folder)
    }

    fn evaluate(&self) -> Result<Report> {
        let encoder = ModelEncoder { model: &self.trainee.student, reader: &self.reader };
        evaluate(&encoder, &self.recipe.eval.sets, &self.recipe.data.root, &self.recipe.name)
    }

    /// Runs `f` with the averaged weights in place, if the run averages weights.
    fn with_final_weights<T>(&self, f: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        match &self.trainee.ema {
            Some(ema) => ema.with_averages(|| f(self)),
            None => f(self),
        }
    }
}

/// Evaluates the finished model of a run on the recipe's sets, and replaces its earlier results.
pub(crate) fn measure_again(
    recipe: &Recipe,
    folder: &Path,
    models: Models<'_>,
    old: Results,
) -> Result<Results> {
    let device = device(&recipe.train.device)?;
    if recipe.train.threads > 0 {
        tch::set_num_threads(recipe.train.threads);
    }
    let place = folder.join(MODEL_FOLDER).display().to_string();
    let opened = folder::open(&place, device, 0)?;
    // The folder contains the tokenizer used in training.
    let reader = Processor::of_model(&place, opened.model.config(), &opened.preprocess, None)?;
    let encoder = ModelEncoder { model: &opened.model, reader: &reader };
    let (student, teacher, details) = measure(recipe, &encoder, models, device)?;
    let results = Results { student, teacher, details, ..old };
    status::write_report(folder, &results)?;
    status::write_recipe(folder, recipe)?;
    Ok(results)
}
