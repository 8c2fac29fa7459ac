//! The teachers of a run: opened models, or the store that replaces them.

use std::path::Path;
use std::sync::atomic::Ordering;

use clip_model::Precision;
use data_pipeline::loader::{Batch, InputSpec};
use data_pipeline::order::Permutation;
use data_pipeline::store::{Store, StoredTeacher, VariantPass, Variants, manifest};
use kd_losses::Embeddings;
use ndarray::Array2;
use tch::{Device, Tensor};

use crate::model::loaded;
use crate::model::locate::RunModels;
use crate::model::processor::{Processor, image_tensor};
use crate::recipe::sources::TrainingData;
use crate::recipe::{INHERIT, ModelRef, Recipe, StoreRef, TeacherConfig};
use crate::run::layout::Options;
use crate::step::batch::TeacherInput;
use crate::teacher::classes::ensemble;
use crate::teacher::frozen::Teacher;
use crate::teacher::model::{BATCH, TeacherModel};
use crate::teacher::signal::TeacherSignal;
use crate::teacher::store;
use crate::{Error, Result};

/// The teachers of one run.
pub(crate) struct Teachers {
    /// The teachers for the training step.
    pub(crate) signals: Vec<TeacherSignal>,
    /// The models of the recipe's teachers. With a store, they are opened only to check it, or for the evaluation.
    models: Vec<TeacherModel>,
    /// The model of `eval.teacher`.
    compared: Option<TeacherModel>,
    store: Option<Store>,
    /// The loader's view for each teacher in memory; `None` uses the student's view.
    views: Vec<Option<usize>>,
    device: Device,
}

impl Teachers {
    /// Opens the recipe's teachers. A missing store is created.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if that was stopped, and the errors of [`TeacherModel::open`], [`Store::open`] and
    /// [`store::check`].
    pub(crate) fn open(
        recipe: &Recipe,
        runs: &RunModels,
        data: &TrainingData,
        device: Device,
        options: &Options<'_>,
    ) -> Result<Self> {
        let model = |config: &TeacherConfig| TeacherModel::new(config, runs, device);
        let mut teachers = Teachers {
            signals: Vec::new(),
            models: recipe.teachers.iter().map(model).collect(),
            compared: recipe.eval.teacher.as_ref().map(model),
            store: None,
            views: Vec::new(),
            device,
        };
        match stored(recipe) {
            Some((config, folder)) => teachers.open_store(recipe, config, folder, data, options)?,
            None => {
                for model in &teachers.models {
                    if options.progress {
                        model.download()?;
                    }
                    let signal = TeacherSignal::live(model.open()?.teacher.clone());
                    teachers.signals.push(signal.with_scale(model.config.logit_scale));
                }
            }
        }
        Ok(teachers)
    }

    fn open_store(
        &mut self,
        recipe: &Recipe,
        config: &TeacherConfig,
        folder: &Path,
        data: &TrainingData,
        options: &Options<'_>,
    ) -> Result<()> {
        let store = match Store::open(folder) {
            Err(error) if config.model.is_some() && is_unfinished(&error) => {
                let store_options = store::StoreOptions {
                    folder,
                    stop: Some(options.stop),
                    progress: options.progress,
                    // Runs that share a store may have different class lists, because [`Teachers::prompts`] can use the
                    // model itself.
                    class_list: recipe.teachers.len() > 1,
                    ..store::StoreOptions::default()
                };
                create_or_wait(recipe, &self.models, data, self.device, &store_options)?;
                Store::open(folder)?
            }
            opened => opened?,
        };
        store::check(&store, recipe, &self.models, data)?;
        let signal = |teacher: &StoredTeacher| {
            TeacherSignal::stored(teacher.scale, teacher.width as i64, self.device)
                .with_scale(config.logit_scale)
        };
        self.signals = store.manifest().teachers.iter().map(signal).collect();
        self.store = Some(store);
        Ok(())
    }

    /// Sets the precision of the teachers in memory from now on.
    pub(crate) fn set_precision(&self, precision: Precision) {
        for teacher in self.signals.iter().filter_map(TeacherSignal::teacher) {
            teacher.model().mode().set_precision(precision);
        }
    }

    /// Logs a warning if a teacher reads object boxes but the data has none.
    pub(crate) fn warn_of_boxes(&self, recipe: &Recipe) {
        let reads = self.signals.iter().filter_map(TeacherSignal::teacher).any(Teacher::reads_boxes);
        if reads && !recipe.data.train.iter().any(|source| source.source.has_boxes()) {
            data_pipeline::log_warn!(
                "{}: the teacher reads object boxes, but no source has any: each whole image is used as one region",
                recipe.name
            );
        }
    }

    /// Returns the widths of the teachers' embeddings.
    pub(crate) fn widths(&self) -> Vec<i64> {
        self.signals.iter().map(TeacherSignal::width).collect()
    }

    /// Returns the processors of the teachers in memory.
    ///
    /// # Errors
    /// The errors of [`TeacherModel::open`].
    pub(crate) fn processors(&self) -> Result<Vec<&Processor>> {
        let live = if self.store.is_none() { self.models.as_slice() } else { &[] };
        live.iter().map(|model| Ok(&model.open()?.processor)).collect()
    }

    /// Returns the model with which the evaluation compares the student, if any; see [`Recipe::compared_teacher`].
    pub(crate) fn compared(&self, recipe: &Recipe) -> Option<&TeacherModel> {
        let config = recipe.compared_teacher()?;
        self.models.iter().chain(&self.compared).find(|model| model.config == *config)
    }

    /// Frees the models that neither the training nor the final evaluation needs. With a store, the training needs none.
    pub(crate) fn release(&mut self, recipe: &Recipe) {
        let compared = recipe.compared_teacher().filter(|_| !recipe.eval.sets.is_empty());
        if self.store.is_some() {
            self.models
                .iter_mut()
                .filter(|model| Some(&model.config) != compared)
                .for_each(TeacherModel::close);
        }
    }

    /// Returns the fixed augmentations that the loader applies, if any.
    pub(crate) fn variants(&self, recipe: &Recipe) -> Option<Variants> {
        match &self.store {
            Some(store) => Some(store.manifest().variants),
            None => store::variants(recipe),
        }
    }

    /// Returns the loader's views, the student's first. Models with the same input share a view.
    ///
    /// # Errors
    /// The errors of [`Teachers::processors`].
    pub(crate) fn assign_views(&mut self, student: &Processor) -> Result<Vec<InputSpec>> {
        let mut distinct = vec![student];
        let mut views = vec![student.view("student")];
        let mut assigned = Vec::new();
        for processor in self.processors()? {
            let equal = distinct.iter().position(|other| other.reads_the_same(processor));
            let view = equal.unwrap_or_else(|| {
                distinct.push(processor);
                views.push(processor.view(&format!("teacher {}", distinct.len() - 1)));
                distinct.len() - 1
            });
            assigned.push((view > 0).then_some(view));
        }
        self.views = assigned;
        Ok(views)
    }

    /// Returns each teacher's input for a batch.
    pub(crate) fn inputs(&self, batch: &Batch) -> Result<Vec<TeacherInput>> {
        if let Some(store) = &self.store {
            let teachers = 0..self.signals.len();
            return teachers
                .map(|teacher| {
                    let image = self.tensor(&store.images(teacher, &batch.store_rows)?)?;
                    let text = self.tensor(&store.texts(teacher, &batch.captions)?)?;
                    Ok(TeacherInput::Stored(Embeddings::new(image, text)?))
                })
                .collect();
        }
        let input = |(view, processor): (&Option<usize>, &Processor)| match view {
            None => Ok(TeacherInput::AsStudent),
            Some(view) => Ok(TeacherInput::Own(processor.tensors(&batch.views[*view], self.device)?)),
        };
        self.views.iter().zip(self.processors()?).map(input).collect()
    }

    /// Computes the teachers' data beyond the batch: anchors and class weights.
    pub(crate) fn prepare(&mut self, recipe: &Recipe, data: &TrainingData) -> Result<()> {
        if let Some(count) = recipe.anchor_count() {
            let samples = data.sources().iter().map(|source| source.len() as u64).sum::<u64>();
            let count = (count as u64).min(samples);
            let banks = self.anchors(recipe, data, samples, count)?;
            for (signal, bank) in self.signals.iter_mut().zip(banks) {
                signal.anchors = Some(bank);
            }
        }
        if let Some(classes) = recipe.class_list()? {
            let texts = classes.prompts();
            for teacher in 0..self.signals.len() {
                let embeddings = self.prompts(teacher, &texts)?;
                let weights = ensemble(&embeddings, classes.templates.len() as i64)?;
                self.signals[teacher].classes = Some(weights);
            }
        }
        Ok(())
    }

    /// Computes the anchor bank of each teacher from training samples, augmented as in training and chosen with the
    /// recipe's seed.
    fn anchors(
        &self,
        recipe: &Recipe,
        data: &TrainingData,
        samples: u64,
        count: u64,
    ) -> Result<Vec<Embeddings>> {
        let variants = self.variants(recipe).unwrap_or(Variants { count: 1, seed: recipe.seed });
        let order = Permutation::new(samples, recipe.seed ^ 0x0A1C_0125);
        let rows = (0..count).map(|index| order.at(index) * variants.count).collect::<Vec<_>>();
        let views = self.processors()?.iter().map(|processor| processor.preprocess().clone()).collect();
        let augment = recipe.data.augment.clone();
        let mut pass =
            VariantPass::new(data.sources().to_vec(), variants, augment, views, recipe.data.damaged)?;
        let mut parts = self.signals.iter().map(|_| (Vec::new(), Vec::new())).collect::<Vec<_>>();
        for rows in rows.chunks(BATCH) {
            let batch = pass.batch(rows)?;
            let intact = (0..rows.len()).filter(|row| !batch.damaged[*row]).collect::<Vec<_>>();
            let captions = intact.iter().map(|row| batch.captions[*row][0].clone()).collect::<Vec<_>>();
            let index = Tensor::f_from_slice(&intact.iter().map(|row| *row as i64).collect::<Vec<_>>())?;
            for (teacher, (images, texts)) in parts.iter_mut().enumerate() {
                images.push(match &self.store {
                    Some(store) => {
                        let rows = intact.iter().map(|row| rows[*row]).collect::<Vec<_>>();
                        self.tensor(&store.images(teacher, &rows)?)?
                    }
                    None => {
                        let pixels = image_tensor(batch.images[teacher].view(), Device::Cpu)?;
                        let pixels = pixels.f_index_select(0, &index)?.f_to_device(self.device)?;
                        self.models[teacher].open()?.teacher.embed_images(&pixels)?
                    }
                });
                texts.push(self.texts(teacher, &captions)?);
            }
        }
        pass.finish()?;
        let bank = |(images, texts): (Vec<Tensor>, Vec<Tensor>)| {
            Ok(Embeddings::new(Tensor::f_cat(&images, 0)?, Tensor::f_cat(&texts, 0)?)?)
        };
        parts.into_iter().map(bank).collect()
    }

    /// Returns the unit embeddings of a class list's prompts. A store of one teacher may lack them if the recipe names
    /// its model.
    fn prompts(&self, teacher: usize, texts: &[String]) -> Result<Tensor> {
        match (&self.store, self.models.as_slice()) {
            // A store of several teachers has its own order, which may differ from the recipe's.
            (Some(store), [model]) if model.config.model.is_some() && !store.has_texts(texts) => {
                model.open()?.embed_texts(texts)
            }
            _ => self.texts(teacher, texts),
        }
    }

    /// Returns one teacher's unit embeddings of texts.
    fn texts(&self, teacher: usize, texts: &[String]) -> Result<Tensor> {
        match &self.store {
            Some(store) => self.tensor(&store.texts(teacher, texts)?),
            None => self.models[teacher].open()?.embed_texts(texts),
        }
    }

    fn tensor(&self, rows: &Array2<f32>) -> Result<Tensor> {
        let (count, width) = rows.dim();
        let values = rows.iter().copied().collect::<Vec<_>>();
        Ok(Tensor::f_from_slice(&values)?.f_view([count as i64, width as i64])?.f_to_device(self.device)?)
    }
}

/// Whether a store is missing or lacks shards.
fn is_unfinished(error: &data_pipeline::Error) -> bool {
    use data_pipeline::error::StoreProblem::{Missing, Unfinished};
    matches!(error, data_pipeline::Error::Store { problem: Missing | Unfinished, .. })
}

/// Returns the teacher with a store, if any, and the store's folder.
fn stored(recipe: &Recipe) -> Option<(&TeacherConfig, &Path)> {
    recipe.teachers.iter().find_map(|config| Some((config, config.store.as_ref()?.folder()?)))
}

/// Checks a recipe's teachers, stores and class lists before the run.
///
/// # Errors
/// [`Error::NoWeights`] if a teacher is a preset; [`Error::StoreMismatch`] for a store of another recipe; [`Error::Data`] if
/// a store without a model is missing.
pub(crate) fn check(recipe: &Recipe) -> Result<()> {
    recipe.class_list()?;
    for config in &recipe.teachers {
        if let Some(ModelRef::Named(name)) = &config.model
            && !Path::new(name).exists()
            && clip_model::presets::get(name).is_ok()
        {
            return Err(Error::NoWeights { name: name.clone() });
        }
        if let Some(folder) = config.store.as_ref().and_then(StoreRef::folder)
            && (Store::is_finished(folder) || config.model.is_none())
        {
            store::check_settings(&manifest(folder)?, recipe)?;
        }
    }
    Ok(())
}

/// Checks that the models that a recipe names by a path exist. A resumed run no longer needs the model from which its
/// student inherited, so that one is checked when a run starts.
///
/// # Errors
/// [`Error::NoModel`] with the setting.
pub(crate) fn check_paths(recipe: &Recipe) -> Result<()> {
    for (key, model) in recipe.models() {
        if let ModelRef::Named(name) = model
            && key != INHERIT
            && clip_model::presets::is_path(name)
            && !name.contains(':')
            && !Path::new(name).exists()
        {
            clip_model::presets::get(name).map_err(|error| Error::from(error).of_model(key))?;
        }
    }
    Ok(())
}

/// Checks the model of `eval.teacher`, which is opened only after the training.
///
/// # Errors
/// [`Error::NoWeights`] for a preset; [`Error::Model`] and [`Error::Data`] if its configuration cannot be read.
pub(crate) fn check_compared(recipe: &Recipe) -> Result<()> {
    let compared = recipe.eval.teacher.as_ref().filter(|teacher| teacher.arch.is_none());
    let Some(ModelRef::Named(name)) = compared.and_then(|teacher| teacher.model.as_ref()) else {
        return Ok(());
    };
    if !Path::new(name).exists() && clip_model::presets::get(name).is_ok() {
        return Err(Error::NoWeights { name: name.clone() });
    }
    loaded::config(name).map(drop).map_err(|error| error.of_model("eval.teacher.model"))
}

/// Creates a store, or waits until another process has created it. Runs that share a store may start together.
fn create_or_wait(
    recipe: &Recipe,
    models: &[TeacherModel],
    data: &TrainingData,
    device: Device,
    options: &store::StoreOptions<'_>,
) -> Result<()> {
    loop {
        match store::make(recipe, models, data, device, options) {
            Err(Error::Data(data_pipeline::Error::StoreBusy(path))) => {
                data_pipeline::log_info!(
                    "another process writes the store `{}`; waiting for it",
                    path.display()
                );
                std::thread::sleep(std::time::Duration::from_secs(1));
                if options.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                    return Err(Error::Interrupted);
                }
            }
            created => {
                let (written, all) = created?.shards;
                return if written < all { Err(Error::Interrupted) } else { Ok(()) };
            }
        }
    }
}
