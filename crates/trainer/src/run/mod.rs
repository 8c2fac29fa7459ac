//! The training loop: reads batches, performs steps, and writes metrics, checkpoints and evaluations.

pub mod card;
pub mod checkpoint;
mod evaluation;
pub mod job;
pub mod layout;
pub mod metrics;
pub mod plan;
pub(crate) mod prepare;
pub mod status;
mod tensorboard;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use clip_model::{Clip, CrossModal, PreprocessConfig, seeded};
use data_pipeline::loader::{Loader, LoaderConfig, Position};
use data_pipeline::policy::SkipCounts;
use data_pipeline::sources::Source;
use kd_losses::{Loss, MfdSettings};
use tch::Device;

use crate::eval::open_set::{OpenSet, open_sets};
use crate::model::device;
use crate::model::loaded::LoadedModel;
use crate::model::locate::RunModels;
use crate::model::processor::Processor;
use crate::model::student::{self, Resumed};
use crate::optim::schedule::LrSchedule;
use crate::progress::Progress;
use crate::recipe::sources::{SourcePool, TrainingData};
use crate::recipe::{LossConfig, Recipe};
use crate::run::checkpoint::State;
use crate::run::evaluation::measure_again;
use crate::run::layout::CHECKPOINTS;
pub use crate::run::layout::{
    BEST_FOLDER, Best, MODEL_FOLDER, Options, Outcome, RECIPE_FILE, REPORT_FILE, Results,
};
use crate::run::metrics::{MetricsFile, StepStats};
pub use crate::run::prepare::PreparedJob;
use crate::run::prepare::PreparedRun;
use crate::run::status::RunStatus;
use crate::step::batch::MicroBatch;
use crate::step::objective::objective;
use crate::step::prune::Pruner;
use crate::step::{StepSettings, TrainState};
use crate::teacher::classes::StudentClasses;
use crate::teacher::teachers::{self, Teachers};
use crate::{Error, Result};

/// Performs one run in `folder`. `models` holds the model folders of the earlier runs that the recipe names.
///
/// # Errors
/// The [`Error`] of the operation that fails. Written checkpoints stay valid.
pub fn run(recipe: &Recipe, folder: &Path, models: &RunModels, options: &Options<'_>) -> Result<Outcome> {
    let prepare = || PreparedRun::open(recipe, &mut SourcePool::default())?.check();
    perform(recipe, folder, models, options, prepare, &mut Vec::new())
}

/// Performs one run with the data that `prepare` opens. A finished run needs no data. `checked` lists the evaluation sources
/// whose images earlier runs checked.
fn perform<'a>(
    recipe: &'a Recipe,
    folder: &Path,
    models: &RunModels,
    options: &Options<'_>,
    prepare: impl FnOnce() -> Result<PreparedRun<'a>>,
    checked: &mut Vec<Arc<dyn Source>>,
) -> Result<Outcome> {
    let _lock = status::lock(folder)?;
    let earlier = match status::status(recipe, folder, options.resume)? {
        RunStatus::Finished(results) => {
            data_pipeline::log_info!("run {} is finished already: {}", recipe.name, folder.display());
            return Ok(Outcome::Finished(results));
        }
        RunStatus::EvaluatedOtherwise(results) => Some(results),
        RunStatus::Open => None,
    };
    let prepared = prepare()?;
    if let Some(results) = earlier {
        data_pipeline::log_info!(
            "run {} is finished already; evaluating it on the current sets",
            recipe.name
        );
        return measure_again(&prepared, folder, models, results).map(Outcome::Finished);
    }
    prepared.check_images(checked)?;
    let mut session = match Session::open(&prepared, folder, models, options) {
        Err(Error::Interrupted) => return Ok(Outcome::Stopped { step: 0 }),
        session => session?,
    };
    if session.train(options)? {
        session.finish().map(Outcome::Finished)
    } else {
        Ok(Outcome::Stopped { step: session.train.step })
    }
}

/// Checks a recipe's device, teachers, stores and evaluation sets before the run. Does not check the run folder or the
/// training data.
///
/// # Errors
/// The errors of [`device::resolve`]; [`Error::Data`] if a store is missing, or if an evaluation set cannot be opened, which
/// would otherwise fail only after the training; [`Error::StoreMismatch`]; [`Error::NoWeights`] if a teacher is a
/// preset.
pub fn check(recipe: &Recipe) -> Result<()> {
    device::resolve(recipe.train.device)?;
    teachers::check(recipe)?;
    open_sets(&recipe.eval.sets, &recipe.data.root).map(drop)
}

/// A run in progress.
struct Session<'a> {
    recipe: &'a Recipe,
    folder: &'a Path,
    sets: &'a [OpenSet],
    /// The parts of the sets that are evaluated during training.
    parts: Vec<OpenSet>,
    train: TrainState,
    preprocess: PreprocessConfig,
    processor: Processor,
    teachers: Teachers,
    loader: Loader,
    schedule: LrSchedule,
    state: State,
    steps_per_epoch: f64,
    metrics: MetricsFile,
    damaged_before: SkipCounts,
    /// The step of this session's last checkpoint.
    saved_step: Option<u64>,
    /// The time of that checkpoint, or the start of the session.
    saved_at: Instant,
}

impl<'a> Session<'a> {
    fn open(
        prepared: &'a PreparedRun<'a>,
        folder: &'a Path,
        models: &RunModels,
        options: &Options<'_>,
    ) -> Result<Self> {
        let PreparedRun { recipe, data, sets, .. } = prepared;
        let device = device::resolve(recipe.train.device)?;
        set_threads(recipe);
        let saved = checkpoint::newest(&folder.join(CHECKPOINTS))?;
        let resumed = saved.as_ref().map(|(_, state)| Resumed { pruned: state.pruned.as_ref() });
        let student = student::open(recipe, models, device, resumed, options.progress)?;
        let LoadedModel { model, processor, preprocess, .. } = student;
        let (steps, steps_per_epoch) = plan::steps(recipe, data.mixture()?.len())?;
        recipe.check_terms(steps, &recipe.name)?;
        let mut teachers = Teachers::open(recipe, models, data, device, options)?;
        teachers.warn_of_boxes(recipe);
        teachers.prepare(recipe, data)?;
        teachers.release(recipe);
        let is_pruned = resumed.is_some_and(|student| student.pruned.is_some());
        let mut train = train_state(recipe, model, &processor, &mut teachers, steps, is_pruned, device)?;
        let state = restore(recipe, data, &mut train, saved)?;
        status::write_recipe(folder, recipe)?;
        status::write_info(folder, recipe, &state, options.version, &train)?;
        let loader = open_loader(recipe, &processor, &mut teachers, data, state.position)?;
        let schedule = LrSchedule {
            base_lr: recipe.optimizer.lr,
            warmup_steps: recipe.train.warmup_steps,
            total_steps: steps,
        };
        let metrics = MetricsFile::open(folder, state.step, state.step >= steps, recipe.metrics.tensorboard)?;
        Ok(Session {
            damaged_before: state.damaged.clone(),
            saved_step: None,
            saved_at: Instant::now(),
            recipe,
            folder,
            sets,
            parts: sets.iter().map(OpenSet::part).collect::<Result<_>>()?,
            train,
            preprocess,
            processor,
            teachers,
            loader,
            schedule,
            state,
            steps_per_epoch,
            metrics,
        })
    }

    /// Trains to the last step. Returns `false` if it stopped earlier.
    fn train(&mut self, options: &Options<'_>) -> Result<bool> {
        let steps = self.schedule.total_steps;
        let first = self.train.step;
        let progress = Progress::new(&self.recipe.name, (first, steps), self.state.seconds, options.progress);
        let (mut meter, mut waited, seconds_before) = (ThroughputMeter::new(), 0.0, self.state.seconds);
        while self.train.step < steps {
            let reached_limit = options.stop_after.is_some_and(|last| self.train.step >= last);
            if reached_limit || options.stop.load(Ordering::Relaxed) {
                progress.finish();
                if self.train.step > self.saved_step.unwrap_or(first) {
                    self.save()?;
                }
                return Ok(false);
            }
            let started = Instant::now();
            let batches = self.next_batches()?;
            meter.waited += started.elapsed().as_secs_f64();
            waited += started.elapsed().as_secs_f64();
            let lr = self.schedule.lr_at(self.train.step);
            let report = self.train.step(&batches, &self.teachers.signals, self.recipe.targets, lr)?;
            self.state.seconds += started.elapsed().as_secs_f64();
            meter.samples += (self.recipe.train.batch_size * self.recipe.train.accumulate) as u64;

            let step = self.train.step;
            progress.update(&self.stats(&meter), &report);
            if step.is_multiple_of(self.recipe.metrics.every_steps) || step == steps {
                let at = self.stats(&meter);
                self.metrics.step(&at, &report)?;
                progress.line(&at, &report);
                meter = ThroughputMeter::new();
            }
            // A student with masks is not a usable model, so it cannot become the best one.
            let can_evaluate = self.train.pruner.is_none() && !self.sets.is_empty();
            if self.recipe.eval.is_due(step, self.steps_per_epoch) && step < steps && can_evaluate {
                progress.pause(|| self.evaluate_during_training())?;
                meter = ThroughputMeter::new();
            }
            let config = &self.recipe.checkpoint;
            let minutes = self.saved_at.elapsed().as_secs_f64() / 60.0;
            let due = config.every_steps > 0 && step.is_multiple_of(config.every_steps)
                || config.every_minutes > 0.0 && minutes >= config.every_minutes
                || step == steps;
            if due && self.saved_step != Some(step) {
                self.save()?;
            }
        }
        progress.finish();
        let seconds = self.state.seconds - seconds_before;
        if seconds > 0.0 {
            let share = 100.0 * waited / seconds;
            data_pipeline::log_info!(
                "{}: {share:.1} % of the training time ({seconds:.0} s) was spent waiting for data",
                self.recipe.name
            );
        }
        Ok(true)
    }

    fn next_batches(&mut self) -> Result<Vec<MicroBatch>> {
        let device = self.train.student.device();
        let mut batches = Vec::with_capacity(self.recipe.train.accumulate);
        for _ in 0..self.recipe.train.accumulate {
            let Some(batch) = self.loader.next_batch()? else {
                return Err(Error::recipe(&self.recipe.name, "the training data ended before the last step"));
            };
            self.state.position = batch.position;
            let teachers = self.teachers.inputs(&batch)?;
            batches.push(MicroBatch { student: self.processor.tensors(&batch.views[0], device)?, teachers });
            self.loader.recycle(batch);
        }
        Ok(batches)
    }

    fn stats(&self, meter: &ThroughputMeter) -> StepStats {
        StepStats {
            step: self.train.step,
            epoch: self.train.step as f64 / self.steps_per_epoch,
            samples: self.train.samples,
            seconds: self.state.seconds,
            rate: meter.rate(),
            data_wait: meter.waited / meter.start.elapsed().as_secs_f64().max(1e-9),
        }
    }

    fn save(&mut self) -> Result<()> {
        self.state.step = self.train.step;
        self.state.samples = self.train.samples;
        self.state.updates = self.train.optimizer.updates();
        self.state.damaged = self.counts();
        let is_pruned = self.recipe.prune.is_some() && self.train.pruner.is_none();
        self.state.pruned = is_pruned.then(|| self.train.student.config().clone());
        (self.saved_step, self.saved_at) = (Some(self.state.step), Instant::now());
        let folder = self.folder.join(CHECKPOINTS);
        checkpoint::save(&folder, &self.train, &self.state, &self.recipe.to_toml()?)?;
        checkpoint::retain(&folder, self.recipe.checkpoint.keep, self.state.best.map(|(step, _)| step))
    }

    /// Returns the numbers of samples read and skipped since the start of the run, over all sessions.
    fn counts(&self) -> SkipCounts {
        self.damaged_before.plus(self.loader.counts())
    }
}

/// Measures throughput and data wait since the last line of metrics.
struct ThroughputMeter {
    start: Instant,
    waited: f64,
    samples: u64,
}

impl ThroughputMeter {
    fn new() -> Self {
        ThroughputMeter { start: Instant::now(), waited: 0.0, samples: 0 }
    }

    fn rate(&self) -> f64 {
        self.samples as f64 / self.start.elapsed().as_secs_f64().max(1e-9)
    }
}

/// Sets the number of threads of the tensor library, if the recipe gives one.
fn set_threads(recipe: &Recipe) {
    if recipe.train.threads > 0 {
        tch::set_num_threads(recipe.train.threads);
    }
}

/// Builds the state of a run before its first step.
fn train_state(
    recipe: &Recipe,
    student: Clip,
    processor: &Processor,
    teachers: &mut Teachers,
    steps: u64,
    is_pruned: bool,
    device: Device,
) -> Result<TrainState> {
    let terms = recipe.terms(steps);
    let built = || objective(recipe, &terms, &student, processor, teachers);
    let (objective, hooks) = seeded(recipe.seed, built)?;
    let settings = StepSettings {
        seed: recipe.seed,
        precision: recipe.train.precision.on(device),
        grad_checkpointing: recipe.train.grad_checkpointing,
        masked_share: recipe.loss(Loss::Mfd).and_then(LossConfig::mfd).map_or(0.0, MfdSettings::masked),
        hooks,
        micro_batch: recipe.train.micro_batch,
    };
    teachers.set_precision(settings.precision);
    let pruner = Pruner::open(recipe, &student, is_pruned, steps)?;
    let classes = recipe.class_list()?.map(|classes| StudentClasses::new(&classes, processor, device));
    let (optimizer, ema) = (&recipe.optimizer, recipe.train.ema);
    let train = match &recipe.cross_modal {
        Some(config) => {
            let head = CrossModal::new(config, &student, recipe.seed)?;
            TrainState::with_cross_modal(student, head, objective, optimizer, ema)?
        }
        None => TrainState::new(student, objective, optimizer, ema)?,
    };
    Ok(train.with_settings(settings).with_classes(classes.transpose()?).with_pruner(pruner))
}

/// Restores the checkpoint, if any, and returns the state with which the run continues.
fn restore(
    recipe: &Recipe,
    data: &TrainingData,
    train: &mut TrainState,
    saved: Option<(std::path::PathBuf, State)>,
) -> Result<State> {
    let data = data.fingerprints()?;
    let Some((path, mut state)) = saved else { return Ok(State { data: data.to_vec(), ..State::default() }) };
    if state.data != data {
        let reason =
            format!("the training data changed since it was written (then {:?}, now {data:?})", state.data);
        return Err(Error::checkpoint(path, reason));
    }
    checkpoint::restore(&path, train, &state)?;
    data_pipeline::log_info!("resumed {} after step {}", recipe.name, state.step);
    if state.best.is_some() && checkpoint::recipe(&path)?.eval.sets != recipe.eval.sets {
        data_pipeline::log_warn!(
            "{}: the evaluation sets have changed, so the best model is selected again",
            recipe.name
        );
        state.best = None;
    }
    Ok(state)
}

/// Opens the loader, with one view for each distinct input of student and teachers.
fn open_loader(
    recipe: &Recipe,
    student: &Processor,
    teachers: &mut Teachers,
    data: &TrainingData,
    position: Position,
) -> Result<Loader> {
    let settings = &recipe.data;
    let config = LoaderConfig::default()
        .with_batch_size(recipe.train.batch_size)
        .with_seed(recipe.seed)
        .with_shuffle(true)
        .with_drop_last(true)
        .with_workers(settings.workers)
        .with_prefetch(settings.prefetch)
        .with_augment(Some(settings.augment.clone()))
        .with_views(teachers.assign_views(student)?)
        .with_policy(settings.damaged)
        .with_caption(settings.caption)
        .with_variants(teachers.variants(recipe))
        .with_epochs(u64::MAX);
    Ok(Loader::new(data.mixture()?, config, position)?)
}
