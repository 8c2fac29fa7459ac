//! The loop: batches in, steps, metrics, checkpoints and evaluations out.

mod evaluation;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clip_model::{CrossModal, PreprocessConfig, seeded};
use data_pipeline::loader::{Loader, LoaderConfig, Position};
use data_pipeline::mixture::Mixture;
use data_pipeline::policy::SkipCounts;
use data_pipeline::sources;
use kd_losses::Loss;
use serde::{Deserialize, Serialize};
use tch::Device;
use zeroshot_eval::{Evaluation, Report};

use crate::checkpoint::{self, State};
use crate::classes::ClassList;
use crate::measure::measure_again;
use crate::metrics::{MetricsFile, Moment};
use crate::models::{Need, locate};
use crate::progress::Progress;
use crate::recipe::{self, LossConfig, Recipe};
use crate::run_folder::{self, Standing};
use crate::schedule::Schedule;
use crate::step::{MicroBatch, Trainee};
use crate::teaching::{self, Models, Teaching, class_list};
use crate::views::Reader;
use crate::{Error, Result, plan, student, suite, tokens};

/// The resolved recipe in a run folder.
pub const RECIPE_FILE: &str = "recipe.toml";
/// The results in a run folder; written last, so its presence says that the run is finished.
pub const REPORT_FILE: &str = "report.json";
/// The final student in a run folder.
pub const MODEL_FOLDER: &str = "model";
/// The best student in a run folder, where evaluations during training chose one.
pub const BEST_FOLDER: &str = "best";
pub(crate) const CHECKPOINTS: &str = "checkpoints";

/// What the caller decides about a run.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Set from outside (a signal) to stop after the current step.
    pub stop: &'a AtomicBool,
    /// The step after which to stop as a signal would; for slots of limited length.
    pub stop_after: Option<u64>,
    /// Whether a run that is there already continues, or is returned as it is where it is finished; else it is an
    /// error.
    pub resume: bool,
    /// Whether to draw a progress bar (on a terminal only).
    pub progress: bool,
    /// The program's version and commit, for `run.json`.
    pub version: &'a str,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one per run, so a box would save nothing")]
pub enum Outcome {
    /// All steps are done.
    Finished(Results),
    /// It was stopped, and can be resumed.
    Stopped {
        /// Finished steps.
        step: u64,
    },
}

/// What a finished run measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The student.
    pub student: Report,
    /// The teacher, where it is no run of the same recipe file, or the student was compared with it.
    pub teacher: Option<Report>,
    /// Everything that was measured on each set.
    #[serde(default)]
    pub details: Vec<Evaluation>,
    /// Seconds of training.
    pub seconds: f64,
    /// Parameters of the student: image tower, text tower.
    pub parameters: (u64, u64),
    /// Training samples that were read, and those of them that were left out because they were damaged.
    #[serde(default)]
    pub damaged: SkipCounts,
    /// The best student, where evaluations during training chose one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
}

/// The best student of a run, in its folder `best`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The step after which it was measured; the last one where the final student is the best.
    pub step: u64,
    /// Mean over the data sets of the main figure ([`zeroshot_eval::Score::main`]), 0 to 1.
    pub score: f64,
}

/// Makes one run in `folder`; `models` finds the model folder of the run that `teacher.run` names.
///
/// # Errors
/// [`Error`] of whatever fails; checkpoints that were written stay good.
pub fn run(recipe: &Recipe, folder: &Path, models: Models<'_>, options: &Options<'_>) -> Result<Outcome> {
    let _lock = run_folder::lock(folder)?;
    match run_folder::standing(recipe, folder, options.resume)? {
        Standing::Finished(results) => {
            tracing::info!("run {} is finished already: {}", recipe.name, folder.display());
            return Ok(Outcome::Finished(results));
        }
        Standing::MeasuredElsewhere(results) => {
            tracing::info!(
                "run {} is finished already and measured on the sets that are named now",
                recipe.name
            );
            return measure_again(recipe, folder, models, results).map(Outcome::Finished);
        }
        Standing::Open => {}
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

/// Checks what does not depend on the run folder, before anything in it is changed.
///
/// # Errors
/// As [`device`]; [`Error::Data`] where an evaluation set cannot be opened, which would show only after the training,
/// or a store is not there; [`Error::Recipe`] where a store is for another recipe, a class list cannot be
/// read, or a teacher is a preset, which has no weights.
pub fn check(recipe: &Recipe) -> Result<()> {
    device(&recipe.train.device)?;
    teaching::check(recipe)?;
    recipe.eval.sets.iter().try_for_each(|set| suite::check(set, &recipe.data.root))
}

/// The device that `cpu`, `cuda` or `cuda:N` names; loads the CUDA half of libtorch if it is needed.
///
/// # Errors
/// [`Error::Recipe`] for any other name, and for a device that is not visible, with the cause and what to do.
pub fn device(name: &str) -> Result<Device> {
    let Device::Cuda(index) = recipe::device_named(name)? else { return Ok(Device::Cpu) };
    torch_ext::cuda::load();
    let count = tch::Cuda::device_count().max(0) as usize;
    if index < count {
        return Ok(Device::Cuda(index));
    }
    let cause =
        torch_ext::cuda::explain(count).unwrap_or_else(|| format!("{count} CUDA devices are visible"));
    Err(Error::recipe("train.device", format!("`{name}` is not available: {cause}")))
}

struct Session<'a> {
    recipe: &'a Recipe,
    folder: &'a Path,
    trainee: Trainee,
    preprocess: PreprocessConfig,
    reader: Reader,
    teaching: Teaching,
    loader: Loader,
    schedule: Schedule,
    state: State,
    steps_per_epoch: f64,
    metrics: MetricsFile,
    damaged_before: SkipCounts,
    /// The step of the last checkpoint of this sitting.
    saved_step: Option<u64>,
    /// When that was, or the sitting began.
    saved_at: Instant,
}

impl<'a> Session<'a> {
    fn open(recipe: &'a Recipe, folder: &'a Path, models: Models<'_>, options: &Options<'_>) -> Result<Self> {
        let device = device(&recipe.train.device)?;
        if recipe.train.threads > 0 {
            tch::set_num_threads(recipe.train.threads);
        }
        let saved = checkpoint::newest(&folder.join(CHECKPOINTS))?;
        let state = saved.as_ref().map(|(_, state)| state);
        let (opened, place) = student::open(recipe, models, device, state, options.progress)?;
        let (student, preprocess) = (opened.model, opened.preprocess);
        let tokenizer = recipe.student.tokenizer.as_deref();
        let reader = Reader::of_model(&place, student.config(), &preprocess, tokenizer)?;
        let sources = plan::open_sources(recipe)?;
        let data =
            sources.iter().map(|(s, _)| sources::fingerprint(s.as_ref())).collect::<Result<Vec<_>, _>>()?;
        let plain = sources.iter().map(|(source, _)| Arc::clone(source)).collect::<Vec<_>>();
        let mixture = Mixture::new(sources)?;
        let (steps, steps_per_epoch) = plan::steps(recipe, mixture.len())?;

        // Fetched here where they are the hub's, with a bar; the teaching finds them in the cache.
        for teacher in recipe.teachers.iter().filter(|teacher| teacher.store.is_none()) {
            teacher
                .model
                .as_deref()
                .map(|model| locate(model, Need::Weights, options.progress))
                .transpose()?;
        }
        recipe.check_terms(steps, &recipe.name)?;
        let mut teaching = Teaching::open(recipe, models, &plain, device, options)?;
        teaching.warn_of_boxes(recipe);
        teaching.prepare(recipe, models, &plain)?;
        let terms = recipe.terms(steps);
        let made = || tokens::objective(recipe, &terms, &student, &reader, &mut teaching);
        let (objective, taps) = seeded(recipe.seed, made)?;
        let (optimizer, ema) = (&recipe.optimizer, recipe.train.ema);
        let mut trainee = match &recipe.cross_modal {
            Some(config) => {
                let head = CrossModal::new(config, &student, recipe.seed)?;
                Trainee::with_cross_modal(student, head, objective, optimizer, ema)?
            }
            None => Trainee::new(student, objective, optimizer, ema)?,
        };
        trainee.seed = recipe.seed;
        trainee.taps = taps;
        trainee.precision = recipe.train.precision.on(device);
        teaching.compute_in(trainee.precision);
        trainee.grad_checkpointing = recipe.train.grad_checkpointing;
        trainee.pruner = student::pruner(recipe, &trainee.student, saved.as_ref().map(|(_, s)| s), steps)?;
        trainee.masked_share = recipe.loss(Loss::Mfd).map_or(0.0, LossConfig::masked_share);
        if let Some((names, templates)) = class_list(recipe)? {
            let per_step = recipe.reads_classes().and_then(|config| config.classes_per_step);
            trainee.classes = Some(ClassList::new(&reader, &names, &templates, per_step, device)?);
        }

        let mut state = State { data, ..State::default() };
        if let Some((path, saved)) = saved {
            if saved.data != state.data {
                let reason =
                    format!("the training data changed since (then {:?}, now {:?})", saved.data, state.data);
                return Err(Error::checkpoint(path, reason));
            }
            checkpoint::restore(&path, &mut trainee, &saved)?;
            tracing::info!("resumed {} after step {}", recipe.name, saved.step);
            state = saved;
            if state.best.is_some() && checkpoint::recipe(&path)?.eval.sets != recipe.eval.sets {
                tracing::warn!(
                    "{}: the evaluation sets have changed, so the best model is chosen anew",
                    recipe.name
                );
                state.best = None;
            }
        }
        run_folder::write_recipe(folder, recipe)?;
        run_folder::write_info(folder, recipe, &state, options.version, &trainee)?;
        let loader = open_loader(recipe, &reader, &mut teaching, mixture, state.position)?;
        let schedule = Schedule {
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

    /// Trains to the last step; false where it was stopped before.
    fn train(&mut self, options: &Options<'_>) -> Result<bool> {
        let steps = self.schedule.total_steps;
        let begun = self.trainee.step;
        let progress = Progress::new(&self.recipe.name, (begun, steps), self.state.seconds, options.progress);
        let mut since = Window::new();
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
                since = Window::new();
            }
            let every = self.recipe.eval.every_steps;
            // A student under masks is none that could be kept.
            let whole = self.trainee.pruner.is_none() && !self.recipe.eval.sets.is_empty();
            if every > 0 && step.is_multiple_of(every) && step < steps && whole {
                progress.pause(|| self.evaluate_on_the_way())?;
                since = Window::new();
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

    fn moment(&self, since: &Window) -> Moment {
        Moment {
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
        self.state.pruned = student::cut_config(self.recipe, &self.trainee);
        (self.saved_step, self.saved_at) = (Some(self.state.step), Instant::now());
        let folder = self.folder.join(CHECKPOINTS);
        checkpoint::save(&folder, &self.trainee, &self.state, &self.recipe.to_toml()?)?;
        checkpoint::retain(&folder, self.recipe.checkpoint.keep, self.state.best.map(|(step, _)| step))
    }

    /// What was read and left out since the run began, over all sittings.
    fn counts(&self) -> SkipCounts {
        self.damaged_before.plus(self.loader.counts())
    }
}

/// Time and samples since the last line of metrics.
struct Window {
    start: Instant,
    waited: f64,
    samples: u64,
}

impl Window {
    fn new() -> Self {
        Window { start: Instant::now(), waited: 0.0, samples: 0 }
    }

    fn rate(&self) -> f64 {
        self.samples as f64 / self.start.elapsed().as_secs_f64().max(1e-9)
    }
}

/// The loader over all views.
fn open_loader(
    recipe: &Recipe,
    student: &Reader,
    teaching: &mut Teaching,
    mixture: Mixture,
    position: Position,
) -> Result<Loader> {
    let views = teaching.views(student);
    let data = &recipe.data;
    let config = LoaderConfig {
        batch_size: recipe.train.batch_size,
        seed: recipe.seed,
        shuffle: true,
        drop_last: true,
        workers: data.workers,
        prefetch: data.prefetch,
        augment: Some(data.augment.clone()),
        views,
        policy: data.damaged,
        caption: data.caption,
        variants: teaching.variants(recipe),
        epochs: u64::MAX,
    };
    Ok(Loader::new(mixture, config, position)?)
}
