//! What is measured of a finished student, and of its teacher.

use std::path::Path;

use clip_model::folder;
use tch::Device;
use zeroshot_eval::{Evaluation, Report, StoredOptions};

use crate::Result;
use crate::eval::encoder::ModelEncoder;
use crate::eval::suite::{self, Cache};
use crate::model::processor::Reader;
use crate::recipe::{Eval, Recipe};
use crate::run::layout;
use crate::run::{MODEL_FOLDER, Results, device};
use crate::teacher::teachers::{Models, open_teacher};

/// Measures the finished model of a run on the recipe's sets, in place of its earlier results.
pub(crate) fn measure_again(
    recipe: &Recipe,
    folder: &Path,
    models: Models<'_>,
    old: Results,
) -> Result<Results> {
    let device = device(&recipe.train.device)?;
    if recipe.train.threads > 0 {
        tch::set_num_threads(recipe.train.threads);
    }
    let place = folder.join(MODEL_FOLDER).display().to_string();
    let opened = folder::open(&place, device, 0)?;
    // The folder has the tokenizer that the student was trained with.
    let reader = Reader::of_model(&place, opened.model.config(), &opened.preprocess, None)?;
    let encoder = ModelEncoder { model: &opened.model, reader: &reader };
    let (student, teacher, details) = measure(recipe, &encoder, models, device)?;
    let results = Results { student, teacher, details, ..old };
    layout::write_report(folder, &results)?;
    layout::write_recipe(folder, recipe)?;
    Ok(results)
}

/// The scores of a finished student, those of the teacher (where it is none of the recipe's own runs, or the two
/// are compared), and all details.
pub(crate) fn measure(
    recipe: &Recipe,
    student: &ModelEncoder<'_>,
    models: Models<'_>,
    device: Device,
) -> Result<(Report, Option<Report>, Vec<Evaluation>)> {
    let Eval { sets, fidelity, teacher, cache, .. } = &recipe.eval;
    let root = &recipe.data.root;
    let mut compared = teacher.iter().chain(&recipe.teachers);
    let config = match fidelity {
        true => compared.find(|config| config.names_a_model()),
        false => recipe.teachers.iter().find(|config| config.model.is_some()),
    };
    let options = StoredOptions::default();
    let mut rows = Vec::new();
    let mut teacher = None;
    if let (Some(config), false) = (config, sets.is_empty()) {
        tracing::info!("{}: evaluation of the teacher", recipe.name);
        let (model, reader) = open_teacher(config, models, device)?;
        let identity = cache.as_ref().map(|_| model.identity()).transpose()?;
        let encoder = ModelEncoder { model: model.model(), reader: &reader };
        let cache = cache.as_deref().zip(identity.as_deref());
        let cache = cache.map(|(folder, identity)| Cache { folder, identity });
        rows = suite::encode_sets(&encoder, sets, root, cache)?;
        teacher = Some(suite::scores("teacher", sets, &rows)?);
    }
    let compared = fidelity.then_some(rows.as_slice());
    let details = suite::evaluate_sets(student, sets, root, compared, &options)?;
    Ok((suite::report(&recipe.name, &details), teacher, details))
}
