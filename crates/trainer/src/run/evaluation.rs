//! Evaluations during a run and at its end, and the best student among them.

use std::path::Path;

use clip_model::{Precision, folder};
use zeroshot_eval::{Report, SetScore};

use super::{Session, set_threads};
use crate::Result;
use crate::eval::encoder::{ModelEncoder, evaluate};
use crate::eval::measure::{Measured, measure};
use crate::eval::open_set::OpenSet;
use crate::model::device;
use crate::model::loaded::{LoadOptions, LoadedModel};
use crate::model::locate::RunModels;
use crate::run::layout::{BEST_FOLDER, Best, MODEL_FOLDER, Results};
use crate::run::prepare::PreparedRun;
use crate::run::status;
use crate::teacher::model::TeacherModel;

impl Session<'_> {
    /// Evaluates the student in its current state.
    pub(super) fn evaluate_during_training(&mut self) -> Result<()> {
        let (step, steps) = (self.train.step, self.schedule.total_steps);
        data_pipeline::log_info!("{}: evaluation after step {step} of {steps}", self.recipe.name);
        let report = self.with_final_weights(|session| session.evaluate())?;
        self.metrics.evaluation(step, &report)?;
        self.save_if_best(&report)
    }

    /// Evaluates the finished student, and writes its folder and the results.
    pub(super) fn finish(mut self) -> Result<Results> {
        let counts = self.counts();
        if counts.skipped() > 0 {
            data_pipeline::log_warn!(
                "{} of {} samples were damaged: {}",
                counts.skipped(),
                counts.seen,
                counts.summary()
            );
        }
        if !self.sets.is_empty() {
            data_pipeline::log_info!("{}: evaluation after the last step", self.recipe.name);
        }
        // The evaluation uses float32.
        self.teachers.set_precision(Precision::Float32);
        let Measured { student, teacher, details } = self.with_final_weights(|session| {
            session.save_model(MODEL_FOLDER)?;
            measure(
                session.recipe,
                &session.encoder(),
                session.teachers.compared(session.recipe),
                session.sets,
            )
        })?;
        self.metrics.evaluation(self.train.step, &student)?;
        // The final model also competes with a best model from an earlier session.
        if self.recipe.eval.is_repeated() || self.state.best.is_some() {
            // Scores on a part and on the whole set are not comparable.
            let limited = self.sets.iter().any(OpenSet::is_limited);
            let part = limited.then(|| self.with_final_weights(|session| session.evaluate())).transpose()?;
            self.save_if_best(part.as_ref().unwrap_or(&student))?;
        }
        let cost = clip_model::cost::cost(self.train.student.config())?;
        let parameters = (cost.image.parameters, cost.text.parameters);
        let seconds = self.state.seconds;
        let best = self.state.best.map(|(step, score)| Best { step, score });
        let results = Results { student, teacher, details, seconds, parameters, damaged: counts, best };
        status::write_report(self.folder, self.recipe, &results)?;
        Ok(results)
    }

    /// Saves the student as the best model, with a checkpoint, if its score exceeds all earlier ones.
    fn save_if_best(&mut self, report: &Report) -> Result<()> {
        if report.sets.is_empty() {
            return Ok(());
        }
        let now = self.train.step;
        let score = report.sets.iter().map(SetScore::main).sum::<f64>() / report.sets.len() as f64;
        // Evaluating the best step again writes its folder again, which a stop may have left incomplete.
        if self.state.best.is_some_and(|(step, best)| score <= best && step != now) {
            return Ok(());
        }
        data_pipeline::log_info!(
            "{}: the best model so far, with a mean main metric of {:.1} %",
            self.recipe.name,
            score * 100.0
        );
        self.with_final_weights(|session| session.save_model(BEST_FOLDER))?;
        if self.state.best != Some((now, score)) {
            self.state.best = Some((now, score));
            self.save()?;
        }
        Ok(())
    }

    /// Writes the student as a model folder, with its tokenizer.
    fn save_model(&self, name: &str) -> Result<()> {
        let folder = self.folder.join(name);
        let (student, tokenizer) = (&self.train.student, self.processor.foreign_tokenizer());
        folder::save_with(&folder, student, &self.preprocess, tokenizer)?;
        if let Some(head) = &self.train.cross_modal {
            head.save(&folder)?;
        }
        self.processor.save_tokenizer(&folder)
    }

    /// Evaluates the student on the parts of the sets for evaluations during training.
    fn evaluate(&self) -> Result<Report> {
        evaluate(&self.encoder(), &self.parts, &self.recipe.name)
    }

    fn encoder(&self) -> ModelEncoder<'_> {
        ModelEncoder { model: &self.train.student, processor: &self.processor }
    }

    /// Runs `f` with the averaged weights in place, if the run averages weights.
    fn with_final_weights<T>(&self, f: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        match &self.train.ema {
            Some(ema) => ema.with_averages(|| f(self)),
            None => f(self),
        }
    }
}

/// Evaluates the finished model of a run on the recipe's sets, and replaces its earlier results.
pub(super) fn measure_again(
    prepared: &PreparedRun<'_>,
    folder: &Path,
    models: &RunModels,
    earlier: Results,
) -> Result<Results> {
    let recipe = prepared.recipe;
    let device = device::resolve(recipe.train.device)?;
    set_threads(recipe);
    // The folder contains the tokenizer used in training.
    let model = folder.join(MODEL_FOLDER).display().to_string();
    let loaded = LoadedModel::open(&model, &LoadOptions::default().with_device(device))?;
    let teacher = recipe.compared_teacher().map(|config| TeacherModel::new(config, models, device));
    let Measured { student, teacher, details } =
        measure(recipe, &(&loaded).into(), teacher.as_ref(), &prepared.sets)?;
    let results = Results { student, teacher, details, ..earlier };
    status::write_report(folder, recipe, &results)?;
    status::write_recipe(folder, recipe)?;
    Ok(results)
}
