//! A teacher's model: opened on first use, once per run.

use std::cell::OnceCell;
use std::path::Path;
use std::rc::Rc;

use tch::{Device, Tensor};

use crate::model::loaded::{LoadOptions, LoadedModel};
use crate::model::locate::{Need, RunModels};
use crate::model::processor::Processor;
use crate::recipe::TeacherConfig;
use crate::teacher::frozen::Teacher;
use crate::{Error, Result};

/// Batch size of a teacher outside of training.
pub(crate) const BATCH: usize = 256;

/// A teacher of a recipe with its processor. The training step, the check of a store and the final evaluation share it.
#[derive(Debug)]
pub(crate) struct TeacherModel {
    pub(crate) config: TeacherConfig,
    runs: RunModels,
    device: Device,
    opened: OnceCell<OpenedTeacher>,
}

/// The opened model.
#[derive(Debug)]
pub(crate) struct OpenedTeacher {
    pub(crate) teacher: Rc<Teacher>,
    pub(crate) processor: Processor,
}

impl TeacherModel {
    /// Creates a teacher without opening its model.
    pub(crate) fn new(config: &TeacherConfig, runs: &RunModels, device: Device) -> Self {
        TeacherModel { config: config.clone(), runs: runs.clone(), device, opened: OnceCell::new() }
    }

    /// Downloads a model of the hub, with a bar.
    ///
    /// # Errors
    /// The errors of [`RunModels::locate`].
    pub(crate) fn download(&self) -> Result<()> {
        match &self.config.model {
            Some(model) if model.run().is_none() => self.runs.locate(model, Need::Weights, true).map(drop),
            _ => Ok(()),
        }
    }

    /// Returns the model, and opens it on the first call.
    ///
    /// # Errors
    /// [`Error::Recipe`] if the recipe names only a store; [`Error::NoWeights`] for a preset; the errors of
    /// [`LoadedModel::open`].
    pub(crate) fn open(&self) -> Result<&OpenedTeacher> {
        if self.opened.get().is_none() {
            let opened = self.load()?;
            let _ = self.opened.set(opened);
        }
        let missing = || Error::recipe("teacher", "the model could not be opened");
        self.opened.get().ok_or_else(missing)
    }

    fn load(&self) -> Result<OpenedTeacher> {
        let config = &self.config;
        let model = config.model.as_ref().ok_or_else(|| {
            Error::recipe(
                "teacher",
                "the recipe names only the teacher's store, but this needs its model: name `model` or `run`",
            )
        })?;
        let origin = self.runs.locate(model, Need::Weights, false)?;
        // A model folder has a configuration; `arch` applies only to a bare weight file.
        let arch = config.arch.as_ref().filter(|_| !Path::new(&*origin).is_dir());
        let options = LoadOptions::default()
            .with_arch(arch)
            .with_adjust(config.adjust())
            .with_device(self.device)
            .with_tokenizer(config.tokenizer.as_ref());
        let loaded = LoadedModel::open_trained(&origin, &options)?;
        for note in &loaded.notes {
            data_pipeline::log_info!("teacher {origin}: {note}");
        }
        let processor = loaded.processor.clone();
        Ok(OpenedTeacher { teacher: Rc::new(loaded.into()), processor })
    }

    /// Frees the model's memory. A later [`TeacherModel::open`] opens it again.
    pub(crate) fn close(&mut self) {
        self.opened.take();
    }
}

impl OpenedTeacher {
    /// Returns the unit embeddings of texts.
    ///
    /// # Errors
    /// The errors of [`Teacher::embed_texts`].
    pub(crate) fn embed_texts(&self, texts: &[String]) -> Result<Tensor> {
        let device = self.teacher.model().device();
        let parts =
            texts.chunks(BATCH).map(|texts| self.teacher.embed_texts(&self.processor.tokens(texts, device)?));
        Ok(Tensor::f_cat(&parts.collect::<Result<Vec<_>>>()?, 0)?)
    }
}
