//! The training loop: reads batches, performs steps, and writes metrics, checkpoints and evaluations.

pub mod card;
pub mod checkpoint;
mod evaluation;
pub mod job;
pub mod layout;
pub mod metrics;
pub mod plan;
pub mod status;
mod tensorboard;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use clip_model::{CrossModal, PreprocessConfig, seeded};
use data_pipeline::loader::{Loader, LoaderConfig, Position};
use data_pipeline::mixture::Mixture;
use data_pipeline::policy::SkipCounts;
use data_pipeline::sources;
use kd_losses::Loss;

use crate::eval::suite;
use crate::model::device::device;
use crate::model::locate::{Need, locate};
use crate::model::processor::Processor;
use crate::model::student::{self, Resumed};
use crate::optim::schedule::LrSchedule;
use crate::progress::Progress;
use crate::recipe::Models;
use crate::recipe::sources::open_sources;
use crate::recipe::{LossConfig, Recipe};
use crate::run::checkpoint::State;
use crate::run::evaluation::measure_again;
use crate::run::layout::CHECKPOINTS;
pub use crate::run::layout::{
    BEST_FOLDER, Best, MODEL_FOLDER, Options, Outcome, RECIPE_FILE, REPORT_FILE, Results,
};
use crate::run::metrics::{MetricsFile, StepStats};
use crate::run::status::RunStatus;
use crate::step::TrainState;
use crate::step::batch::MicroBatch;
use crate::step::objective::objective;
use crate::step::prune::Pruner;
use crate::teacher::classes::ClassList;
use crate::teacher::teachers::{self, Teachers, class_list};
use crate::{Error, Result};

/// Performs one run in `folder`. `models` finds the model folder of the run named by `teacher.run`.
///
/// # Errors
/// The [`Error`] of the operation that fails. Written checkpoints stay valid.
pub fn run(recipe: &Recipe, folder: &Path, models: Models<'_>, options: &Options<'_>) -> Result<Outcome> {
    let _lock = status::lock(folder)?;
    match status::status(recipe, folder, options.resume)? {
        RunStatus::Finished(results) => {
            tracing::info!("run {} is finished already: {}", recipe.name, folder.display());
            return Ok(Outcome::Finished(results));
        }
        RunStatus::MeasuredElsewhere(results) => {
            tracing::info!("run {} is finished already; evaluating it on the current sets", recipe.name);
            return measure_again(recipe, folder, models, results).map(Outcome::Finished);
        }
        RunStatus::Open => {}
    }
    let mut session = match Session::open(recipe, folder, models, options) {
        Err(Error::Interrupted) => return Ok(Outcome::Stopped { step: 0 }),
        session => session?,
    };
    if session.train(options)? {
        session.finish(models).map(Outcome::Finished)
    } else {
        Ok(Outcome::Stopped { step: session.trainee.step })
    }
}

/// Checks everything that does not depend on the run folder, before the folder is changed.
///
/// # Errors
/// The errors of [`device`]; [`Error::Data`] if a store is missing, or if an evaluation set cannot be opened, which
/// would otherwise fail only after the training; [`Error::Recipe`] if a store is for another recipe, a class list
/// cannot be read, or a teacher is a preset, which has no weights.
pub fn check(recipe: &Recipe) -> Result<()> {
    device(&recipe.train.device)?;
    teachers::check(recipe)?;
    recipe.eval.sets.iter().try_for_each(|set| suite::check(set, &recipe.data.root))
}

struct Session<'a> {
    recipe: &'a Recipe,
    folder: &'a Path,
    trainee: TrainState,
    preprocess: PreprocessConfig,
    reader: Processor,
    teaching: Teachers,
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
    fn open(recipe: &'a Recipe, folder: &'a Path, models: Models<'_>, options: &Options<'_>) -> Result<Self> {
        let device = device(&recipe.train.device)?;
        if recipe.train.threads > 0 {
            tch::set_num_threads(recipe.train.threads);
        }
        let saved = checkpoint::newest(&folder.join(CHECKPOINTS))?;
        let resumed = saved.as_ref().map(|(_, state)| Resumed { cut_to: state.pruned.as_ref() });
        let (opened, place) = student::open(recipe, models, device, resumed, options.progress)?;
        let (student, preprocess) = (opened.model, opened.preprocess);
        let tokenizer = recipe.student.tokenizer.as_deref();
        let reader = Processor::of_model(&place, student.config(), &preprocess, tokenizer)?;
        let sources = open_sources(recipe)?;
        let data =
            sources.iter().map(|(s, _)| sources::fingerprint(s.as_ref())).collect::<Result<Vec<_>, _>>()?;
        let plain = sources.iter().map(|(source, _)| Arc::clone(source)).collect::<Vec<_>>();
        let mixture = Mixture::new(sources)?;
        let (steps, steps_per_epoch) = plan::steps(recipe, mixture.len())?;

        // Models of the hub are downloaded here, with a bar. The teachers are then opened from the cache.
        for teacher in recipe.teachers.iter().filter(|teacher| teacher.store.is_none()) {
            teacher
                .model
                .as_deref()
                .map(|model| locate(model, Need::Weights, options.progress))
                .transpose()?;
        }
        recipe.check_terms(steps, &recipe.name)?;
        let mut teaching = Teachers::open(recipe, models, &plain, device, options)?;
        teaching.warn_of_boxes(recipe);
        teaching.prepare(recipe, models, &plain)?;
        let terms = recipe.terms(steps);
        let made = || objective(recipe, &terms, &student, &reader, &mut teaching);
        let (objective, taps) = seeded(recipe.seed, made)?;
        let (optimizer, ema) = (&recipe.optimizer, recipe.train.ema);
        let mut trainee = match &recipe.cross_modal {
            Some(config) => {
                let head = CrossModal::new(config, &student, recipe.seed)?;
                TrainState::with_cross_modal(student, head, objective, optimizer, ema)?
            }
            None => TrainState::new(student, objective, optimizer, ema)?,
        };
        trainee.seed = recipe.seed;
        trainee.taps = taps;
        trainee.precision = recipe.train.precision.on(device);
        teaching.compute_in(trainee.precision);
        trainee.grad_checkpointing = recipe.train.grad_checkpointing;
        let is_cut = resumed.is_some_and(|own| own.cut_to.is_some());
        trainee.pruner = Pruner::open(recipe, &trainee.student, is_cut, steps)?;
        trainee.masked_share = recipe.loss(Loss::Mfd).map_or(0.0, LossConfig::masked_share);
        if let Some((names, templates)) = class_list(recipe)? {
            let per_step = recipe.reads_classes().and_then(|config| config.classes_per_step);
            trainee.classes = Some(ClassList::new(&reader, &names, &templates, per_step, device)?);
        }

        let mut state = State { data, ..State::default() };
        if let Some((path, saved)) = saved {
            if saved.data != state.data {
                let reason = format!(
                    "the training data changed since it was written (then {:?}, now {:?})",
                    saved.data, state.data
                );
                return Err(Error::checkpoint(path, reason));
            }
            checkpoint::restore(&path, &mut trainee, &saved)?;
            tracing::info!("resumed {} after step {}", recipe.name, saved.step);
            state = saved;
            if state.best.is_some() && checkpoint::recipe(&path)?.eval.sets != recipe.eval.sets {
                tracing::warn!(
                    "{}: the evaluation sets have changed, so the best model is selected again",
                    recipe.name
                );
                state.best = None;
            }
        }
        status::write_recipe(folder, recipe)?;
        status::write_info(folder, recipe, &state, options.version, &trainee)?;
        let loader = open_loader(recipe, &reader, &mut teaching, mixture, state.position)?;
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
            trainee,
            preprocess,
            reader,
            teaching,
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
        let begun = self.trainee.step;
        let progress = Progress::new(&self.recipe.name, (begun, steps), self.state.seconds, options.progress);
        let mut since = ThroughputMeter::new();
        while self.trainee.step < steps {
            let enough = options.stop_after.is_some_and(|last| self.trainee.step >= last);
            if enough || options.stop.load(Ordering::Relaxed) {
                progress.finish();
                if self.trainee.step > self.saved_step.unwrap_or(begun) {
                    self.save()?;
                }
                return Ok(false);
            }
            let started = Instant::now();
            let batches = self.next_batches()?;
            since.waited += started.elapsed().as_secs_f64();
            let lr = self.schedule.lr_at(self.trainee.step);
            let report = self.trainee.step(&batches, &self.teaching.guides, self.recipe.targets, lr)?;
            self.state.seconds += started.elapsed().as_secs_f64();
            since.samples += (self.recipe.train.batch_size * self.recipe.train.accumulate) as u64;

            let step = self.trainee.step;
            progress.update(&self.moment(&since), &report);
            if step.is_multiple_of(self.recipe.metrics.every_steps) || step == steps {
                let at = self.moment(&since);
                self.metrics.step(&at, &report)?;
                progress.line(&at, &report);
                since = ThroughputMeter::new();
            }
            let every = self.recipe.eval.every_steps;
            // A student with masks cannot be kept as the best model.
            let whole = self.trainee.pruner.is_none() && !self.recipe.eval.sets.is_empty();
            if every > 0 && step.is_multiple_of(every) && step < steps && whole {
                progress.pause(|| self.evaluate_on_the_way())?;
                since = ThroughputMeter::new();
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
        Ok(true)
    }

    fn next_batches(&mut self) -> Result<Vec<MicroBatch>> {
        let device = self.trainee.student.device();
        let mut batches = Vec::with_capacity(self.recipe.train.accumulate);
        for _ in 0..self.recipe.train.accumulate {
            let Some(batch) = self.loader.next_batch()? else {
                return Err(Error::recipe(&self.recipe.name, "the training data ended before the last step"));
            };
            self.state.position = batch.position;
            let teachers = self.teaching.inputs(&batch)?;
            batches.push(MicroBatch { student: self.reader.tensors(&batch.views[0], device)?, teachers });
        }
        Ok(batches)
    }

    fn moment(&self, since: &ThroughputMeter) -> StepStats {
        StepStats {
            step: self.trainee.step,
            epoch: self.trainee.step as f64 / self.steps_per_epoch,
            samples: self.trainee.samples,
            seconds: self.state.seconds,
            rate: since.rate(),
            data_wait: since.waited / since.start.elapsed().as_secs_f64().max(1e-9),
        }
    }

    fn save(&mut self) -> Result<()> {
        self.state.step = self.trainee.step;
        self.state.samples = self.trainee.samples;
        self.state.updates = self.trainee.optimizer.updates();
        self.state.damaged = self.counts();
        let is_cut = self.recipe.prune.is_some() && self.trainee.pruner.is_none();
        self.state.pruned = is_cut.then(|| self.trainee.student.config().clone());
        (self.saved_step, self.saved_at) = (Some(self.state.step), Instant::now());
        let folder = self.folder.join(CHECKPOINTS);
        checkpoint::save(&folder, &self.trainee, &self.state, &self.recipe.to_toml()?)?;
        checkpoint::retain(&folder, self.recipe.checkpoint.keep, self.state.best.map(|(step, _)| step))
    }

    /// Samples read and skipped since the start of the run, over all sessions.
    fn counts(&self) -> SkipCounts {
        self.damaged_before.plus(self.loader.counts())
    }
}

/// Time and samples since the last line of metrics.
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

/// The loader over all views.
fn open_loader(
    recipe: &Recipe,
    student: &Processor,
    teaching: &mut Teachers,
    mixture: Mixture,
    position: Position,
) -> Result<Loader> {
    let views = teaching.views(student);
    let data = &recipe.data;
    let config = LoaderConfig::default()
        .with_batch_size(recipe.train.batch_size)
        .with_seed(recipe.seed)
        .with_shuffle(true)
        .with_drop_last(true)
        .with_workers(data.workers)
        .with_prefetch(data.prefetch)
        .with_augment(Some(data.augment.clone()))
        .with_views(views)
        .with_policy(data.damaged)
        .with_caption(data.caption)
        .with_variants(teaching.variants(recipe))
        .with_epochs(u64::MAX);
    Ok(Loader::new(mixture, config, position)?)
}
