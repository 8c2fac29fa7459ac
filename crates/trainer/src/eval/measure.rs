//! Final evaluation of a student and its teacher.

use tch::Device;
use zeroshot_eval::{Evaluation, Report, StoredOptions};

use crate::Result;
use crate::eval::encoder::ModelEncoder;
use crate::eval::suite::{self, Cache};
use crate::recipe::Models;
use crate::recipe::{Eval, Recipe};
use crate::teacher::teachers::open_teacher;

/// Returns the scores of a finished student, the scores of the teacher (if it is not one of the recipe's own runs, or
/// if the two are compared), and all details.
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
