//! The plan of a run: its length and cost, known before it starts.

use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::sync::Arc;

use clip_model::config::TowerKind;
use clip_model::folder::ConfigOverrides;
use clip_model::{ClipConfig, CrossModalConfig, cost, presets};
use data_pipeline::mixture::Mixture;
use data_pipeline::sample::RawSample;
use data_pipeline::sources::Source;
use kd_losses::Loss;
use serde::Serialize;

use crate::model::locate::{Need, locate};
use crate::recipe::sources::share;
use crate::recipe::{Job, Recipe, TeacherConfig, TrainSource};
use crate::{Error, Result};

/// Numbers of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The run.
    pub name: String,
    /// Sources: name, samples, visits per epoch and sample.
    pub sources: Vec<(String, usize, f64)>,
    /// Samples of one epoch.
    pub samples_per_epoch: u64,
    /// Steps of one epoch.
    pub steps_per_epoch: f64,
    /// Steps of the run.
    pub steps: u64,
    /// Samples of the run.
    pub samples: u64,
    /// The student.
    pub student: ModelCost,
    /// The teachers, if known; stored embeddings need none.
    pub teachers: Vec<ModelCost>,
    /// Floating-point operations of the run. A multiply-accumulate counts as two, and a backward pass as two forward
    /// passes. Texts count at full context, and locked towers as if trained. Excludes the masked pass of `mfd`, the
    /// class texts of `hinton` and the recomputation of gradient checkpointing.
    pub flops: f64,
    /// Evaluation sets that cannot be opened on this machine, with the reasons. A run needs all sets.
    pub absent: Vec<String>,
    /// Estimated bytes for weights, gradients, moments, averages and the teachers.
    pub model_bytes: u64,
    /// Estimated bytes for the activations that the forward pass stores for the backward pass.
    pub activation_bytes: u64,
}

/// Cost of one model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelCost {
    /// Preset or folder.
    pub model: String,
    /// Parameters of the image tower.
    pub image_parameters: u64,
    /// Parameters of the text tower.
    pub text_parameters: u64,
    /// Multiply-accumulates per image.
    pub image_macs: u64,
    /// Multiply-accumulates per text of full context.
    pub text_macs: u64,
    /// Output elements of all layers of both towers for one pair.
    pub outputs: u64,
}

impl ModelCost {
    /// Computes the cost from the configuration alone.
    ///
    /// # Errors
    /// [`Error::Model`] if the model cannot be built.
    pub fn new(model: &str, config: &ClipConfig) -> Result<Self> {
        let cost = cost::cost(config)?;
        Ok(ModelCost {
            model: model.into(),
            image_parameters: cost.image.parameters,
            text_parameters: cost.text.parameters,
            image_macs: cost.image.macs,
            text_macs: cost.text.macs,
            outputs: cost.image.outputs + cost.text.outputs,
        })
    }

    fn parameters(&self) -> u64 {
        self.image_parameters + self.text_parameters + 1
    }

    fn macs(&self) -> f64 {
        (self.image_macs + self.text_macs) as f64
    }
}

/// A source that is not on this machine; only its number of samples is known.
struct Absent {
    name: String,
    len: usize,
}

impl Source for Absent {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, _: usize, _: u64) -> data_pipeline::Result<RawSample> {
        Err(data_pipeline::Error::Empty(self.name.clone()))
    }
}

/// Returns the sources for a plan. A source that cannot be opened has the number of samples given in the recipe.
fn plan_sources(recipe: &Recipe) -> Result<Vec<(Arc<dyn Source>, f64)>> {
    let open = |own: &TrainSource| match (own.source.open(&recipe.data.root), own.samples) {
        (Ok(source), _) => share(own, source),
        (Err(error), Some(len)) => share(own, Arc::new(Absent { name: format!("(not here: {error})"), len })),
        (Err(error), None) => Err(error.into()),
    };
    recipe.data.train.iter().map(open).collect()
}

/// Returns the configuration for the name of a student or teacher, without reading a folder's weights.
///
/// # Errors
/// [`Error::Model`] if it is neither a folder, a checkpoint nor a preset; the errors of [`locate`].
pub fn model_config(name: &str) -> Result<ClipConfig> {
    Ok(clip_model::folder::config(&locate(name, Need::Config, false)?)?)
}

/// Returns the steps of the run, and of one epoch.
pub(crate) fn steps(recipe: &Recipe, samples_per_epoch: u64) -> Result<(u64, f64)> {
    let train = &recipe.train;
    let batches = samples_per_epoch / train.batch_size as u64;
    if batches == 0 {
        let reason = format!(
            "{samples_per_epoch} samples per epoch are fewer than one batch of {}: lower train.batch_size",
            train.batch_size
        );
        return Err(Error::recipe(&recipe.name, reason));
    }
    let per_epoch = batches as f64 / train.accumulate as f64;
    let steps =
        train.steps.unwrap_or_else(|| (train.epochs.unwrap_or(0.0) * per_epoch).floor().max(1.0) as u64);
    Ok((steps, per_epoch))
}

impl Plan {
    /// Plans one run of a job. Opens the sources, but reads no weights. A missing source has the number of samples
    /// given in the recipe, and a missing teacher has the architecture `arch`.
    ///
    /// # Errors
    /// An error if a source or a model's configuration cannot be read.
    pub fn new(recipe: &Recipe, job: &Job) -> Result<Self> {
        let opened = plan_sources(recipe)?;
        let sources = opened.iter().map(|(s, weight)| (s.name().to_string(), s.len(), *weight)).collect();
        let mixture = Mixture::new(opened)?;
        let (steps, steps_per_epoch) = steps(recipe, mixture.len())?;
        let config = student_config(recipe, job)?;
        let head = recipe.cross_modal.as_ref();
        if let Some(Err(clip_model::Error::Config { reason, .. })) =
            head.map(|head| head.validate(config.embed_dim))
        {
            return Err(Error::recipe(&recipe.name, format!("cross_modal: {reason}")));
        }
        if recipe.loss(Loss::Mfd).is_some() && config.vision_cfg.tower() != TowerKind::Vit {
            let reason = "losses.mfd leaves out patches of a ViT, but the student's image tower is not one";
            return Err(Error::recipe(&recipe.name, reason));
        }
        let origin = recipe.student.run.as_ref().unwrap_or(&recipe.student.model);
        let student = ModelCost::new(origin, &config)?;
        if let Some(larger) = inherited(recipe, job)? {
            if recipe.student.inherit_tokens {
                clip_model::inherit::tokens::check(&config, &larger)?;
            } else {
                clip_model::inherit::check(&config, &larger)?;
            }
        }
        let named = recipe.teachers.iter().filter(|teacher| teacher.names_a_model());
        let teachers = named.map(|teacher| teacher_cost(teacher, job)).collect::<Result<Vec<_>>>()?;
        recipe.check_terms(steps, &recipe.name)?;
        if let Some(problem) = recipe.prune.as_ref().and_then(|prune| prune.too_late(steps)) {
            return Err(Error::recipe(&recipe.name, problem));
        }
        if recipe.train.warmup_steps > steps {
            let warmup = recipe.train.warmup_steps;
            let reason = format!("train.warmup_steps = {warmup}, but the run has only {steps} steps");
            return Err(Error::recipe(&recipe.name, reason));
        }
        let per_step = (recipe.train.batch_size as u64).checked_mul(recipe.train.accumulate as u64);
        let samples = per_step.and_then(|samples| samples.checked_mul(steps)).ok_or_else(|| {
            Error::recipe(&recipe.name, "batch_size x accumulate x steps is more than can be counted")
        })?;
        // An error here would otherwise appear only after the training.
        let mut absent = Vec::new();
        for set in &recipe.eval.sets {
            set.templates.texts()?;
            for source in std::iter::once(&set.source).chain(&set.train) {
                if let Err(error) = source.open(&recipe.data.root) {
                    absent.push(format!("{}: {error}", set.name));
                }
            }
        }
        let stored = recipe.teachers.iter().any(|teacher| teacher.store.is_some());
        // Stored embeddings were computed once, before the run.
        let frozen = if stored { 0.0 } else { teachers.iter().map(ModelCost::macs).sum() };
        // A CLIP with a cross-modal head has no backward pass, and the cost of the head is small.
        let passed = match &recipe.cross_modal {
            Some(head) => looked_at(student.clone(), head).macs(),
            None => 3.0 * student.macs(),
        };
        // Weight, gradient, two moments, and the average if enabled.
        let copies = 4 + u64::from(recipe.train.ema.is_some());
        let model_bytes = 4
            * (copies * student.parameters()
                + if stored { 0 } else { teachers.iter().map(ModelCost::parameters).sum() });
        Ok(Plan {
            name: recipe.name.clone(),
            sources,
            samples_per_epoch: mixture.len(),
            steps_per_epoch,
            steps,
            samples,
            flops: samples as f64 * 2.0 * (passed + frozen),
            model_bytes,
            activation_bytes: recipe.train.batch_size as u64 * activation_bytes(&student),
            student,
            teachers,
            absent,
        })
    }
}

/// Returns the student's configuration. A student that an earlier run prunes counts as unpruned.
fn student_config(recipe: &Recipe, job: &Job) -> Result<ClipConfig> {
    let own = &recipe.student;
    // A recipe can name only earlier runs, so the recursion ends.
    let earlier = own.run.as_ref().and_then(|run| job.runs.iter().find(|other| other.name == *run));
    let config = match earlier {
        Some(run) => student_config(run, job)?,
        None => model_config(&own.model)?,
    };
    Ok(own.adjust().apply(&config)?)
}

/// Returns the configuration of the model from which the student inherits.
fn inherited(recipe: &Recipe, job: &Job) -> Result<Option<ClipConfig>> {
    let own = &recipe.student;
    if let Some(run) = own.inherit_run.as_ref().and_then(|run| job.runs.iter().find(|own| own.name == *run)) {
        return student_config(run, job).map(Some);
    }
    // A model that is not on this machine is checked when the run starts.
    let here = own.inherit.as_deref().filter(|larger| Path::new(larger).exists());
    here.map(model_config).transpose()
}

fn teacher_cost(teacher: &TeacherConfig, job: &Job) -> Result<ModelCost> {
    if let Some(run) = teacher.run.as_ref().and_then(|run| job.runs.iter().find(|own| own.name == *run)) {
        let cost = ModelCost::new(&run.name, &student_config(run, job)?)?;
        return Ok(run.cross_modal.iter().fold(cost, looked_at));
    }
    let name = teacher.model.as_deref().unwrap_or_default();
    let config = match &teacher.arch {
        Some(arch) if !Path::new(name).is_dir() => presets::get(arch)?,
        _ => model_config(name)?,
    };
    let overrides = ConfigOverrides::default().with_image_size(teacher.image_size);
    ModelCost::new(name, &overrides.apply(&config)?)
}

/// Returns the cost of a CLIP that embeds images and the crops for a head.
fn looked_at(cost: ModelCost, head: &CrossModalConfig) -> ModelCost {
    ModelCost { image_macs: cost.image_macs * head.image_passes(), ..cost }
}

/// Norms and nonlinearities store about as much again as the outputs of the weighted layers: a ViT block outputs 9
/// widths per token and stores about 16.
fn activation_bytes(model: &ModelCost) -> u64 {
    4 * model.outputs * 16 / 9
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "run {}", self.name)?;
        for (name, samples, weight) in &self.sources {
            writeln!(f, "  source      {name}: {samples} samples, weight {weight}")?;
        }
        writeln!(
            f,
            "  steps       {} ({:.1} per epoch of {} samples), {} samples in all",
            self.steps, self.steps_per_epoch, self.samples_per_epoch, self.samples
        )?;
        let teachers = self.teachers.iter().map(|teacher| ("teacher", teacher));
        for (role, model) in std::iter::once(("student", &self.student)).chain(teachers) {
            writeln!(
                f,
                "  {role}     {}: {:.2} M parameters in the image tower and {:.2} M in the text tower, {:.3} G and {:.3} G MACs",
                model.model,
                model.image_parameters as f64 / 1e6,
                model.text_parameters as f64 / 1e6,
                model.image_macs as f64 / 1e9,
                model.text_macs as f64 / 1e9
            )?;
        }
        for set in &self.absent {
            writeln!(f, "  evaluation  (not here) {set}")?;
        }
        writeln!(f, "  compute     {:.3e} FLOPs", self.flops)?;
        writeln!(
            f,
            "  memory      about {:.0} MiB for models and optimiser, {:.0} MiB for activations",
            mebibytes(self.model_bytes),
            mebibytes(self.activation_bytes)
        )
    }
}
