//! The plan of a run: its length and cost, known before it starts.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::path::Path;

use clip_model::config::TowerKind;
use clip_model::{ClipConfig, CrossModalConfig, cost, presets};
use kd_losses::Loss;
use serde::Serialize;

use crate::model::{device, loaded};
use crate::recipe::sources::SourcePool;
use crate::recipe::{INHERIT, Job, ModelRef, Recipe, TeacherConfig, Train};
use crate::run::prepare::PreparedRun;
use crate::teacher::teachers;
use crate::{Error, Result};

/// The plan of a run: its sources, steps, cost and memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Name of the run.
    pub name: String,
    /// The training sources.
    pub sources: Vec<SourcePlan>,
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
    /// Number of classes of each evaluation set that can be opened; 0 for retrieval.
    #[serde(skip)]
    pub class_counts: BTreeMap<String, usize>,
    /// The device, such as `cpu` or `cuda:0 (NVIDIA H200)`.
    pub device: String,
    /// Precision of matrix products: `float32` or `bfloat16`.
    pub precision: String,
    /// Evaluation sets, teachers and stores that are missing on this machine, with the reasons.
    pub absent: Vec<String>,
    /// Estimated bytes for weights, gradients, moments, averages and the teachers.
    pub model_bytes: u64,
    /// Estimated bytes for the activations that the forward pass stores for the backward pass.
    pub activation_bytes: u64,
}

/// A training source of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourcePlan {
    /// Its name.
    pub name: String,
    /// Number of samples.
    pub samples: usize,
    /// Visits per sample and epoch.
    pub weight: f64,
    /// Why the source is not on this machine; its number of samples is then that of the recipe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
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

    /// Returns the multiply-accumulates of one pair in a forward pass.
    pub fn macs(&self) -> f64 {
        (self.image_macs + self.text_macs) as f64
    }
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
    /// [`Error::NoDevice`] for a device that is not visible; [`Error::Data`] if a source cannot be opened and the
    /// recipe does not give its number of samples; [`Error::Model`] if a model's configuration cannot be read,
    /// [`Error::Recipe`] if the settings do not match the data or the models, [`Error::Eval`] for an invalid prompt
    /// template.
    pub fn new(recipe: &Recipe, job: &Job) -> Result<Self> {
        Self::of(&PreparedRun::open(recipe, &mut SourcePool::default())?, job)
    }

    /// Plans a run whose data is open.
    ///
    /// # Errors
    /// The errors of [`Plan::new`].
    pub(crate) fn of(prepared: &PreparedRun<'_>, job: &Job) -> Result<Self> {
        let recipe = prepared.recipe;
        let device = device::resolve(recipe.train.device)?;
        let sources = prepared.data.weighted().zip(prepared.data.missing());
        let sources = sources.map(|((source, weight), missing)| SourcePlan {
            name: source.name().to_string(),
            samples: source.len(),
            weight,
            missing: missing.clone(),
        });
        let sources = sources.collect();
        let samples_per_epoch = prepared.data.mixture()?.len();
        let (steps, steps_per_epoch) = steps(recipe, samples_per_epoch)?;
        let config = student_config(recipe, job)?;
        check_student(recipe, &config, job)?;
        let student = ModelCost::new(&recipe.student.model.to_string(), &config)?;
        let teachers = recipe.teachers.iter().filter_map(|config| Some((config, config.model.as_ref()?)));
        let teachers = teachers.map(|(config, model)| teacher_cost(config, model, job));
        let teachers = teachers.collect::<Result<Vec<_>>>()?;
        check_length(recipe, steps)?;
        let per_step = (recipe.train.batch_size as u64).checked_mul(recipe.train.accumulate as u64);
        let samples = per_step.and_then(|samples| samples.checked_mul(steps)).ok_or_else(|| {
            Error::recipe(
                &recipe.name,
                "train.batch_size x train.accumulate x steps exceeds 2^64: lower one of them",
            )
        })?;
        let sets = prepared.absent_sets.iter().map(|(name, error)| format!("evaluation set {name}: {error}"));
        let absent = absent_teachers(recipe)?.into_iter().chain(sets).collect();
        let stored = recipe.teachers.iter().any(|teacher| teacher.store.is_some());
        // Stored embeddings were computed once, before the run.
        let frozen = if stored { 0.0 } else { teachers.iter().map(ModelCost::macs).sum() };
        // A CLIP with a cross-modal head has no backward pass, and the cost of the head is small.
        let trained = match &recipe.cross_modal {
            Some(head) => with_crops(student.clone(), head).macs(),
            // Micro-batches have a second forward pass.
            None if samples_per_pass(&recipe.train) < recipe.train.batch_size as u64 => 4.0 * student.macs(),
            None => 3.0 * student.macs(),
        };
        // Weight, gradient, two moments, and the average if enabled.
        let copies = 4 + u64::from(recipe.train.ema.is_some());
        let model_bytes = 4 * (copies * student.parameters() + teacher_parameters(recipe, &teachers, stored));
        Ok(Plan {
            name: recipe.name.clone(),
            sources,
            samples_per_epoch,
            steps_per_epoch,
            steps,
            samples,
            flops: samples as f64 * 2.0 * (trained + frozen),
            model_bytes,
            activation_bytes: samples_per_pass(&recipe.train) * activation_bytes(&student),
            student,
            teachers,
            class_counts: prepared
                .sets
                .iter()
                .map(|set| (set.name().into(), set.class_names.len()))
                .collect(),
            device: device::describe(device),
            precision: recipe.train.precision.on(device).to_string(),
            absent,
        })
    }
}

impl Plan {
    /// Lists everything that the run needs and that is not on this machine, with the reasons.
    pub fn missing(&self) -> Vec<String> {
        let sources = self.sources.iter().filter_map(|source| source.missing.as_ref());
        sources.map(|reason| format!("training data: {reason}")).chain(self.absent.iter().cloned()).collect()
    }
}

/// Returns the largest number of samples whose activations are in memory together.
fn samples_per_pass(train: &Train) -> u64 {
    train.micro_batch.unwrap_or(train.batch_size).min(train.batch_size) as u64
}

/// Checks the student against the parts of the recipe that depend on its architecture.
fn check_student(recipe: &Recipe, config: &ClipConfig, job: &Job) -> Result<()> {
    let head = recipe.cross_modal.as_ref().map(|head| head.validate(config.embed_dim));
    if let Some(Err(clip_model::Error::Config { reason: problem, .. })) = head {
        return Err(Error::recipe(&recipe.name, format!("cross_modal: {problem}")));
    }
    if recipe.loss(Loss::Mfd).is_some() && config.vision_cfg.tower() != TowerKind::Vit {
        let reason = "losses.mfd leaves out patches, which needs a ViT as the student's image tower: remove the loss, or choose another student";
        return Err(Error::recipe(&recipe.name, reason));
    }
    if recipe.student.image_weights.is_some() && config.vision_cfg.tower() != TowerKind::Timm {
        let reason = "student.image_weights needs a student with a timm image tower: remove it, or choose another student";
        return Err(Error::recipe(&recipe.name, reason));
    }
    let Some(larger) = inherited(recipe, job)? else { return Ok(()) };
    match recipe.student.inherit_tokens {
        true => clip_model::inherit::tokens::check(config, &larger)?,
        false => clip_model::inherit::check(config, &larger)?,
    }
    Ok(())
}

/// Checks the settings that depend on the number of steps.
fn check_length(recipe: &Recipe, steps: u64) -> Result<()> {
    recipe.check_terms(steps, &recipe.name)?;
    if let Some(prune) = &recipe.prune {
        prune.check_end(steps).map_err(|reason| Error::recipe(&recipe.name, reason))?;
    }
    if recipe.train.warmup_steps > steps {
        let warmup = recipe.train.warmup_steps;
        let reason = format!(
            "train.warmup_steps = {warmup}, but the run has only {steps} steps: lower it, or train longer"
        );
        return Err(Error::recipe(&recipe.name, reason));
    }
    Ok(())
}

/// Returns the configuration of a model. The model of an earlier run does not exist yet, so its recipe gives the
/// configuration. Errors name the setting `key`.
fn model_config(key: &str, model: &ModelRef, job: &Job) -> Result<ClipConfig> {
    match model {
        ModelRef::Named(name) => loaded::config(name).map_err(|error| error.of_model(key)),
        // A recipe can name only earlier runs, so the recursion ends.
        ModelRef::Run(run) => student_config(earlier(run, job)?, job),
        ModelRef::Shared(_) => Err(Error::recipe(model.to_string(), "only a sweep file has shared runs")),
    }
}

fn earlier<'a>(run: &str, job: &'a Job) -> Result<&'a Recipe> {
    job.run(run).ok_or_else(|| Error::recipe(&job.name, format!("it has no run `{run}`")))
}

/// Returns the student's configuration. A student that an earlier run prunes counts as unpruned.
fn student_config(recipe: &Recipe, job: &Job) -> Result<ClipConfig> {
    Ok(recipe.student.adjust().apply(&model_config("student.model", &recipe.student.model, job)?)?)
}

/// Returns the configuration of the model from which the student inherits.
fn inherited(recipe: &Recipe, job: &Job) -> Result<Option<ClipConfig>> {
    match &recipe.student.inherit {
        // A model that is not on this machine is checked when the run starts.
        Some(ModelRef::Named(name)) if !Path::new(name).exists() => Ok(None),
        larger => larger.as_ref().map(|larger| model_config(INHERIT, larger, job)).transpose(),
    }
}

fn teacher_cost(teacher: &TeacherConfig, model: &ModelRef, job: &Job) -> Result<ModelCost> {
    let config = match (&teacher.arch, model) {
        (Some(arch), ModelRef::Named(name)) if !Path::new(name).is_dir() => presets::get(arch)?,
        _ => model_config("teacher.model", model, job)?,
    };
    let cost = ModelCost::new(&model.to_string(), &teacher.adjust().apply(&config)?)?;
    let head = model.run().map(|run| earlier(run, job)).transpose()?.and_then(|run| run.cross_modal.as_ref());
    Ok(head.into_iter().fold(cost, with_crops))
}

/// Lists the teachers, stores and models to inherit from that are not on this machine.
///
/// # Errors
/// The errors of [`teachers::check`] that do not come from missing files: a preset as teacher, or a store of another
/// recipe.
fn absent_teachers(recipe: &Recipe) -> Result<Vec<String>> {
    let mut absent = Vec::new();
    match teachers::check(recipe) {
        Err(error @ (Error::Data(_) | Error::Io { .. })) => absent.push(format!("store: {error}")),
        checked => checked?,
    }
    for teacher in &recipe.teachers {
        // Without `arch`, the plan has read the model's configuration.
        if let (Some(ModelRef::Named(name)), Some(_)) = (&teacher.model, &teacher.arch)
            && is_absent(name)
        {
            absent.push(format!("teacher `{name}`"));
        }
    }
    if let Some(ModelRef::Named(name)) = &recipe.student.inherit
        && is_absent(name)
        && presets::get(name).is_err()
    {
        absent.push(format!("student.inherit `{name}`"));
    }
    Ok(absent)
}

/// Whether a name is not on this machine and not one of the hub, which a run downloads.
fn is_absent(name: &str) -> bool {
    !Path::new(name).exists() && !name.contains(':')
}

/// Counts the parameters of the teachers that stay in memory during the training. With a store, that is only the one
/// that the final evaluation needs.
fn teacher_parameters(recipe: &Recipe, costs: &[ModelCost], stored: bool) -> u64 {
    let compared = recipe.compared_teacher().filter(|_| !recipe.eval.sets.is_empty());
    let named = recipe.teachers.iter().filter(|teacher| teacher.model.is_some()).zip(costs);
    let kept = named.filter(|(teacher, _)| !stored || Some(*teacher) == compared);
    kept.map(|(_, cost)| cost.parameters()).sum()
}

/// Returns the cost of a CLIP that embeds images and, for a cross-modal head, their crops.
fn with_crops(cost: ModelCost, head: &CrossModalConfig) -> ModelCost {
    ModelCost { image_macs: cost.image_macs * head.image_passes(), ..cost }
}

/// Estimates the bytes of the activations of one pair. In addition to the outputs of the weighted layers, norms and
/// nonlinearities store activations: the weighted layers of a ViT block output 9 widths per token, and the block stores
/// about 16.
fn activation_bytes(model: &ModelCost) -> u64 {
    4 * model.outputs * 16 / 9
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "run {}", self.name)?;
        for SourcePlan { name, samples, weight, .. } in &self.sources {
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
                "  {role}     {}: image tower {:.2} M parameters, {:.3} G MACs; text tower {:.2} M parameters, {:.3} G MACs",
                model.model,
                model.image_parameters as f64 / 1e6,
                model.image_macs as f64 / 1e9,
                model.text_parameters as f64 / 1e6,
                model.text_macs as f64 / 1e9
            )?;
        }
        writeln!(f, "  device      {}, {}", self.device, self.precision)?;
        for missing in &self.absent {
            writeln!(f, "  (missing)  {missing}")?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_teacher_takes_memory_only_if_the_evaluation_needs_it() {
        let folder = tempfile::tempdir().unwrap();
        let model =
            clip_model::Clip::new(&presets::get("ViT-micro-32px").unwrap(), tch::Device::Cpu, 0).unwrap();
        clip_model::folder::save(folder.path(), &model, &clip_model::PreprocessConfig::default()).unwrap();
        let named = format!("model = '{}'", folder.path().display());
        let bytes = |teacher: &str, sets: &str| {
            let text = format!(
                "name = 'r'\nstudent.model = 'ViT-nano-32px'\nteacher = {{ {teacher} }}\nlosses.crd = 1.0\n\
                 train = {{ batch_size = 8, steps = 3 }}\ndata.train = [{{ source = 'emoji' }}]\neval.sets = [{sets}]"
            );
            let job = crate::recipe::parse(&text, &[], "test").unwrap();
            let plan = Plan::new(&job.runs[0], &job).unwrap();
            (plan.model_bytes, plan.teachers.first().map_or(0, ModelCost::parameters))
        };
        let set = "{ name = 'a', task = 'retrieval', source = 'emoji' }";
        let (alone, _) = bytes("store = 'missing'", set);
        let (unused, parameters) = bytes(&format!("{named}, store = 'missing'"), "");
        let (compared, _) = bytes(&format!("{named}, store = 'missing'"), set);
        let (live, _) = bytes(&named, "");
        assert!(parameters > 0);
        assert_eq!((unused, compared, live), (alone, alone + 4 * parameters, alone + 4 * parameters));
    }

    #[test]
    fn a_plan_names_a_missing_teacher_and_refuses_a_preset() {
        let plan = |teacher: &str| {
            let text = format!(
                "name = 'r'\nstudent.model = 'ViT-nano-32px'\nteacher = {{ {teacher} }}\nlosses.crd = 1.0\n\
                 train = {{ batch_size = 8, steps = 3 }}\ndata.train = [{{ source = 'emoji' }}]"
            );
            let job = crate::recipe::parse(&text, &[], "test").unwrap();
            Plan::new(&job.runs[0], &job)
        };
        let text = plan("model = 'nowhere', arch = 'ViT-micro-32px'").unwrap().to_string();
        assert!(text.contains("(missing)  teacher `nowhere`"), "{text}");
        assert!(matches!(plan("model = 'ViT-micro-32px'").unwrap_err(), Error::NoWeights { .. }));
    }
}
