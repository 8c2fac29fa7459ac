//! The teachers of a run: opened models, or the store that replaces them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clip_model::Precision;
use data_pipeline::loader::{Batch, InputSpec};
use data_pipeline::order::Permutation;
use data_pipeline::sources::Source;
use data_pipeline::store::{Store, VariantPass, Variants, manifest};
use kd_losses::Embeddings;
use ndarray::Array2;
use tch::{Device, Tensor};

use crate::model::locate::{Need, locate};
use crate::model::processor::{Processor, image_tensor};
use crate::recipe::{Models, Recipe, TeacherConfig};
use crate::run::layout::Options;
use crate::step::batch::TeacherInput;
use crate::teacher::classes::{ensemble, prompts};
use crate::teacher::frozen::{Teacher, without_weights};
use crate::teacher::signal::TeacherSignal;
use crate::teacher::store;
use crate::{Error, Result};

/// Batch size of a teacher outside of training.
pub(crate) const BATCH: usize = 256;

/// The teachers of one run.
pub(crate) struct Teachers {
    /// The teachers for the training step.
    pub(crate) guides: Vec<TeacherSignal>,
    readers: Vec<Processor>,
    store: Option<Store>,
    /// The loader's view of each teacher; `None` uses the student's view.
    views: Vec<Option<usize>>,
    device: Device,
}

impl Teachers {
    /// Opens the recipe's teachers. A missing store is created.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if that was stopped, and the errors of [`open_teacher`], [`Store::open`] and
    /// [`store::check`].
    pub(crate) fn open(
        recipe: &Recipe,
        models: Models<'_>,
        sources: &[Arc<dyn Source>],
        device: Device,
        options: &Options<'_>,
    ) -> Result<Self> {
        let stored = recipe.teachers.iter().find_map(|teacher| Some((teacher, teacher.store.as_deref()?)));
        let none =
            Teachers { guides: Vec::new(), readers: Vec::new(), store: None, views: Vec::new(), device };
        match stored {
            Some((config, folder)) => {
                if config.names_a_model() && !Store::is_finished(folder) {
                    let making = store::Making {
                        folder,
                        stop: Some(options.stop),
                        progress: options.progress,
                        // Runs that share a store may have different class lists, because [`Teachers::prompts`] can use
                        // the model itself.
                        class_list: recipe.teachers.len() > 1,
                        ..store::Making::default()
                    };
                    make_or_wait(recipe, models, sources, device, &making)?;
                }
                let store = Store::open(folder)?;
                store::check(&store, recipe, models, sources, device)?;
                let guide = |teacher: &data_pipeline::store::StoredTeacher| {
                    TeacherSignal::stored(teacher.scale, teacher.width as i64, device)
                        .with_scale(config.logit_scale)
                };
                let guides = store.manifest().teachers.iter().map(guide).collect();
                Ok(Teachers { guides, store: Some(store), ..none })
            }
            None => {
                let opened = recipe.teachers.iter().map(|config| {
                    let (teacher, reader) = open_teacher(config, models, device)?;
                    Ok((TeacherSignal::live(teacher).with_scale(config.logit_scale), reader))
                });
                let (guides, readers) = opened.collect::<Result<Vec<_>>>()?.into_iter().unzip();
                Ok(Teachers { guides, readers, ..none })
            }
        }
    }

    /// Sets the precision of the teachers in memory from now on.
    pub(crate) fn compute_in(&self, precision: Precision) {
        for teacher in self.guides.iter().filter_map(TeacherSignal::teacher) {
            teacher.model().mode().set_precision(precision);
        }
    }

    /// Logs a message if a teacher reads object boxes but the data has none.
    pub(crate) fn warn_of_boxes(&self, recipe: &Recipe) {
        let reads = self.guides.iter().filter_map(TeacherSignal::teacher).any(Teacher::reads_boxes);
        if reads && !recipe.data.train.iter().any(|own| own.source.has_boxes()) {
            tracing::warn!(
                "{}: the teacher reads object boxes, but no source has any: each whole image is used as one region",
                recipe.name
            );
        }
    }

    /// Widths of the teachers' embeddings.
    pub(crate) fn widths(&self) -> Vec<i64> {
        self.guides.iter().map(TeacherSignal::width).collect()
    }

    /// The processors of the teachers in memory.
    pub(crate) fn readers(&self) -> impl Iterator<Item = &Processor> {
        self.readers.iter()
    }

    /// The augmentations that the loader applies.
    pub(crate) fn variants(&self, recipe: &Recipe) -> Option<Variants> {
        match &self.store {
            Some(store) => Some(store.manifest().variants),
            None => store::variants(recipe),
        }
    }

    /// Returns the loader's views, the student's first. Models with the same input share a view.
    pub(crate) fn views(&mut self, student: &Processor) -> Vec<InputSpec> {
        let mut read: Vec<&Processor> = vec![student];
        let mut views = vec![student.view("student")];
        self.views.clear();
        for reader in &self.readers {
            let place = read.iter().position(|other| other.reads_the_same(reader)).unwrap_or_else(|| {
                read.push(reader);
                views.push(reader.view(&format!("teacher {}", read.len() - 1)));
                read.len() - 1
            });
            self.views.push((place > 0).then_some(place));
        }
        views
    }

    /// Returns each teacher's input for a batch.
    pub(crate) fn inputs(&self, batch: &Batch) -> Result<Vec<TeacherInput>> {
        if let Some(store) = &self.store {
            let teachers = 0..self.guides.len();
            return teachers
                .map(|teacher| {
                    let image = self.tensor(&store.images(teacher, &batch.store_rows)?)?;
                    let text = self.tensor(&store.texts(teacher, &batch.captions)?)?;
                    Ok(TeacherInput::Stored(Embeddings::new(image, text)?))
                })
                .collect();
        }
        let input = |(view, reader): (&Option<usize>, &Processor)| match view {
            None => Ok(TeacherInput::AsStudent),
            Some(place) => Ok(TeacherInput::Own(reader.tensors(&batch.views[*place], self.device)?)),
        };
        self.views.iter().zip(&self.readers).map(input).collect()
    }

    /// Computes the teachers' data beyond the batch: anchors and class weights.
    pub(crate) fn prepare(
        &mut self,
        recipe: &Recipe,
        models: Models<'_>,
        sources: &[Arc<dyn Source>],
    ) -> Result<()> {
        if let Some(count) = recipe.anchor_count() {
            let samples = sources.iter().map(|source| source.len() as u64).sum::<u64>();
            let count = (count as u64).min(samples);
            let banks = self.anchors(recipe, sources, samples, count)?;
            for (guide, bank) in self.guides.iter_mut().zip(banks) {
                guide.anchors = Some(bank);
            }
        }
        if let Some((names, templates)) = class_list(recipe)? {
            let texts = prompts(&names, &templates);
            for place in 0..self.guides.len() {
                let rows = self.prompts(place, &texts, recipe, models)?;
                self.guides[place].classes = Some(ensemble(&rows, templates.len() as i64)?);
            }
        }
        Ok(())
    }

    /// Computes the anchor bank of each teacher from training samples, augmented as in training and chosen with the
    /// recipe's seed.
    fn anchors(
        &self,
        recipe: &Recipe,
        sources: &[Arc<dyn Source>],
        samples: u64,
        count: u64,
    ) -> Result<Vec<Embeddings>> {
        let variants = self.variants(recipe).unwrap_or(Variants { count: 1, seed: recipe.seed });
        let order = Permutation::new(samples, recipe.seed ^ 0x0A1C_0125);
        let rows = (0..count).map(|place| order.at(place) * variants.count).collect::<Vec<_>>();
        let views = self.readers.iter().map(|reader| reader.preprocess().clone()).collect();
        let data = &recipe.data;
        let mut pass =
            VariantPass::new(sources.to_vec(), variants, data.augment.clone(), views, data.damaged)?;
        let mut parts = self.guides.iter().map(|_| (Vec::new(), Vec::new())).collect::<Vec<_>>();
        for rows in rows.chunks(BATCH) {
            let batch = pass.batch(rows)?;
            let whole = (0..rows.len()).filter(|row| !batch.damaged[*row]).collect::<Vec<_>>();
            let captions = whole.iter().map(|row| batch.captions[*row][0].clone()).collect::<Vec<_>>();
            let index = Tensor::f_from_slice(&whole.iter().map(|row| *row as i64).collect::<Vec<_>>())?;
            for (place, (images, texts)) in parts.iter_mut().enumerate() {
                images.push(match &self.store {
                    Some(store) => {
                        let rows = whole.iter().map(|row| rows[*row]).collect::<Vec<_>>();
                        self.tensor(&store.images(place, &rows)?)?
                    }
                    None => {
                        let pixels = image_tensor(batch.images[place].view(), Device::Cpu)?;
                        let pixels = pixels.f_index_select(0, &index)?.f_to_device(self.device)?;
                        self.live(place)?.embed_images(&pixels)?
                    }
                });
                texts.push(self.texts(place, &captions)?);
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
    fn prompts(&self, place: usize, texts: &[String], recipe: &Recipe, models: Models<'_>) -> Result<Tensor> {
        match (&self.store, recipe.teachers.as_slice()) {
            // A store of several teachers has its own order, which may differ from the recipe's.
            (Some(store), [config]) if config.names_a_model() && !store.has_texts(texts) => {
                let (teacher, reader) = open_teacher(config, models, self.device)?;
                embed_texts(&teacher, &reader, texts, self.device)
            }
            _ => self.texts(place, texts),
        }
    }

    /// Returns one teacher's unit embeddings of texts.
    fn texts(&self, place: usize, texts: &[String]) -> Result<Tensor> {
        match &self.store {
            Some(store) => self.tensor(&store.texts(place, texts)?),
            None => embed_texts(self.live(place)?, &self.readers[place], texts, self.device),
        }
    }

    fn live(&self, place: usize) -> Result<&Teacher> {
        let missing = || Error::recipe("teacher", "the model itself is not in memory");
        self.guides[place].teacher().ok_or_else(missing)
    }

    fn tensor(&self, rows: &Array2<f32>) -> Result<Tensor> {
        let (count, width) = rows.dim();
        let values = rows.iter().copied().collect::<Vec<_>>();
        Ok(Tensor::f_from_slice(&values)?.f_view([count as i64, width as i64])?.f_to_device(self.device)?)
    }
}

fn embed_texts(teacher: &Teacher, reader: &Processor, texts: &[String], device: Device) -> Result<Tensor> {
    let parts = texts.chunks(BATCH).map(|texts| teacher.embed_texts(&reader.tokens(texts, device)?));
    Ok(Tensor::f_cat(&parts.collect::<Result<Vec<_>>>()?, 0)?)
}

/// Checks a recipe's teachers, stores and class lists before the run.
///
/// # Errors
/// [`Error::Recipe`] if a teacher is a preset, which has no weights, or if a store is for another recipe;
/// [`Error::Data`] if a store without a model is missing.
pub(crate) fn check(recipe: &Recipe) -> Result<()> {
    class_list(recipe)?;
    for config in &recipe.teachers {
        if let Some(name) = config.model.as_deref()
            && !Path::new(name).exists()
            && clip_model::presets::get(name).is_ok()
        {
            return Err(without_weights(name));
        }
        if let Some(folder) = config.store.as_deref()
            && (Store::is_finished(folder) || !config.names_a_model())
        {
            store::check_settings(&manifest(folder)?, recipe)?;
        }
    }
    Ok(())
}

/// Creates a store. If several runs that share it start together, the others wait for the first.
fn make_or_wait(
    recipe: &Recipe,
    models: Models<'_>,
    sources: &[Arc<dyn Source>],
    device: Device,
    making: &store::Making<'_>,
) -> Result<()> {
    loop {
        match store::make(recipe, models, sources, device, making) {
            Err(Error::Data(data_pipeline::Error::StoreBusy(path))) => {
                tracing::info!("another process writes the store `{}`; waiting for it", path.display());
                std::thread::sleep(std::time::Duration::from_secs(1));
                if making.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                    return Err(Error::Interrupted);
                }
            }
            made => {
                let (there, all) = made?.shards;
                return if there < all { Err(Error::Interrupted) } else { Ok(()) };
            }
        }
    }
}

/// Returns the names and templates of the recipe's class list, if any.
pub(crate) fn class_list(recipe: &Recipe) -> Result<Option<(Vec<String>, Vec<String>)>> {
    let Some(config) = recipe.reads_classes() else { return Ok(None) };
    let Some(classes) = &config.classes else { return Ok(None) };
    let templates = match &config.prompts {
        Some(templates) => templates.texts()?,
        None => zeroshot_eval::prompts::templates("plain")?,
    };
    Ok(Some((classes.distinct_names(&recipe.data.root)?, templates)))
}

/// Opens the teacher model of a recipe, with its processor.
pub(crate) fn open_teacher(
    config: &TeacherConfig,
    models: Models<'_>,
    device: Device,
) -> Result<(Teacher, Processor)> {
    let run = || config.run.as_deref().map(|name| models(name).display().to_string());
    let name = config.model.clone().or_else(run).ok_or_else(|| {
        Error::recipe("teacher", "only its store is named: name its `model` or `run` for this")
    })?;
    if config.model.is_none() && !Path::new(&name).exists() {
        let run = config.run.as_deref().unwrap_or_default();
        return Err(Error::recipe("teacher", format!("the run `{run}` has no model yet ({name})")));
    }
    let name = locate(&name, Need::Weights, false)?;
    let teacher = Teacher::open(&name, config.arch.as_deref(), config.image_size, device)?;
    let (own, preprocess) = (teacher.model().config(), teacher.preprocess());
    let reader = Processor::of_model(&name, own, preprocess, config.tokenizer.as_deref())?;
    Ok((teacher, reader))
}
