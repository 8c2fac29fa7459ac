//! Runs before they start: their data is open and their plans are known, but nothing is written yet.

use std::path::Path;
use std::sync::Arc;

use data_pipeline::policy::ErrorPolicy;
use data_pipeline::sources::Source;
use data_pipeline::{find_damaged, notice};

use crate::eval::open_set::OpenSet;
use crate::eval::suite::damage_line;
use crate::model::device;
use crate::progress::Pace;
use crate::recipe::sources::{SourcePool, TrainingData};
use crate::recipe::{Job, Recipe};
use crate::run::job::{self, JobOutcome};
use crate::run::layout::{Options, Outcome};
use crate::run::perform;
use crate::run::plan::Plan;
use crate::teacher::teachers;
use crate::{Error, Result};

/// A run whose data is open.
pub(crate) struct PreparedRun<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) data: TrainingData,
    /// The evaluation sets that could be opened.
    pub(crate) sets: Vec<OpenSet>,
    /// The evaluation sets that could not be opened: name and reason.
    pub(crate) absent_sets: Vec<(String, Error)>,
}

impl<'a> PreparedRun<'a> {
    /// Opens the data of a run. Sources that are open in `pool` are not opened again. A missing evaluation set, and a
    /// missing source whose number of samples is known, do not fail before [`PreparedRun::check`].
    ///
    /// # Errors
    /// The errors of [`TrainingData::open`]; [`Error::Eval`] for an invalid prompt template.
    pub(crate) fn open(recipe: &'a Recipe, pool: &mut SourcePool) -> Result<Self> {
        let data = TrainingData::open(recipe, pool)?;
        let (mut sets, mut absent_sets) = (Vec::new(), Vec::new());
        for set in &recipe.eval.sets {
            set.templates.check()?;
            match OpenSet::open(set, &recipe.data.root, pool) {
                // `check_images` decides before the training. Damage that comes later must not end an evaluation.
                Ok(open) => sets.push(open.with_damaged(ErrorPolicy::Skip { max_fraction: 1.0 })),
                Err(error) => absent_sets.push((set.name.clone(), error)),
            }
        }
        Ok(PreparedRun { recipe, data, sets, absent_sets })
    }

    /// Checks everything that a run needs and that does not depend on its folder or on earlier runs.
    ///
    /// # Errors
    /// The errors of [`device::resolve`], [`teachers::check`] and [`teachers::check_paths`]; the error of a source or
    /// evaluation set that could not be opened, which would otherwise fail only during the run.
    pub(crate) fn check(mut self) -> Result<Self> {
        device::resolve(self.recipe.train.device)?;
        teachers::check(self.recipe)?;
        teachers::check_paths(self.recipe)?;
        teachers::check_compared(self.recipe)?;
        if !self.absent_sets.is_empty() {
            return Err(self.absent_sets.swap_remove(0).1);
        }
        Ok(PreparedRun { data: self.data.complete()?, ..self })
    }

    /// Reads and decodes the images of the evaluation sets once, so that damage is found before the training. `checked`
    /// lists the sources that earlier runs have checked.
    ///
    /// # Errors
    /// [`Error::Images`] or [`Error::Data`] if the recipe's policy does not allow the damage.
    pub(crate) fn check_images(&self, checked: &mut Vec<Arc<dyn Source>>) -> Result<()> {
        let policy = self.recipe.data.damaged;
        for set in &self.sets {
            for source in set.sources() {
                if checked.iter().any(|other| Arc::ptr_eq(other, source)) {
                    continue;
                }
                checked.push(Arc::clone(source));
                policy.check_shards(source.as_ref())?;
                let mut pace =
                    Pace::silent(&format!("check of {}", set.name()), "images", Some(source.len() as u64));
                let damaged = find_damaged(source.as_ref(), &mut |count| pace.add(count))?;
                damaged
                    .check(policy, source.len())
                    .map_err(|source| Error::Images { set: set.name().into(), source })?;
                if !damaged.is_empty() {
                    notice::warn_once(&damage_line(set.name(), &damaged));
                }
            }
        }
        Ok(())
    }
}

/// A job whose data is open, with the plans of its runs.
pub struct PreparedJob<'a> {
    job: &'a Job,
    runs: Vec<PreparedRun<'a>>,
    plans: Vec<Plan>,
}

impl<'a> PreparedJob<'a> {
    /// Opens the data of all runs, each source once, and plans the runs. Reads no weights.
    ///
    /// # Errors
    /// The errors of [`Plan::new`].
    pub fn new(job: &'a Job) -> Result<Self> {
        let mut pool = SourcePool::default();
        let runs = job.runs.iter().map(|recipe| PreparedRun::open(recipe, &mut pool));
        let runs = runs.collect::<Result<Vec<_>>>()?;
        let plans = runs.iter().map(|run| Plan::of(run, job)).collect::<Result<Vec<_>>>()?;
        Ok(PreparedJob { job, runs, plans })
    }

    /// The plans of the runs.
    pub fn plans(&self) -> &[Plan] {
        &self.plans
    }

    /// Checks, before any folder is changed, that all runs can start on this machine.
    ///
    /// # Errors
    /// The first error that a run would meet: a device, source, evaluation set, teacher or store that is missing or
    /// does not match.
    pub fn check(self) -> Result<Self> {
        let runs = self.runs.into_iter().map(PreparedRun::check).collect::<Result<_>>()?;
        Ok(PreparedJob { runs, ..self })
    }

    /// Performs all runs under `out`, one after the other.
    ///
    /// # Errors
    /// The [`Error`] of the run that failed.
    pub fn run(self, out: &Path, options: &Options<'_>) -> Result<JobOutcome> {
        let models = job::models(self.job, out);
        let (mut finished, mut checked) = (Vec::new(), Vec::new());
        for prepared in self.runs {
            let recipe = prepared.recipe;
            let folder = job::folder(self.job, out, &recipe.name);
            match perform(recipe, &folder, &models, options, || Ok(prepared), &mut checked)? {
                Outcome::Finished(results) => finished.push((recipe.name.clone(), results)),
                Outcome::Stopped { step } => {
                    return Ok(JobOutcome::Stopped { run: recipe.name.clone(), step });
                }
            }
        }
        Ok(JobOutcome::Finished(finished))
    }
}
