//! Final evaluation of a student and its teacher.

use zeroshot_eval::{Evaluation, Report, StoredOptions};

use crate::Result;
use crate::eval::cache::Cache;
use crate::eval::encoder::ModelEncoder;
use crate::eval::open_set::OpenSet;
use crate::eval::suite;
use crate::recipe::Recipe;
use crate::teacher::model::TeacherModel;

/// The final evaluation of a run.
pub(crate) struct Measured {
    /// Scores of the student.
    pub(crate) student: Report,
    /// Scores of the teacher, unless it is a run of the same recipe file and is not compared with the student.
    pub(crate) teacher: Option<Report>,
    /// All metrics of the student on each set.
    pub(crate) details: Vec<Evaluation>,
}

/// Evaluates a finished student, and the teacher that [`Recipe::compared_teacher`] names.
pub(crate) fn measure(
    recipe: &Recipe,
    student: &ModelEncoder<'_>,
    teacher: Option<&TeacherModel>,
    sets: &[OpenSet],
) -> Result<Measured> {
    let mut rows = Vec::new();
    let mut scores = None;
    if let Some(model) = teacher.filter(|_| !sets.is_empty()) {
        data_pipeline::log_info!("{}: evaluation of the teacher", recipe.name);
        let opened = model.open()?;
        let identity = recipe.eval.cache.as_ref().map(|_| opened.teacher.identity()).transpose()?;
        let encoder = ModelEncoder { model: opened.teacher.model(), processor: &opened.processor };
        let cache = recipe.eval.cache.as_deref().zip(identity.as_deref());
        let cache = cache.map(|(folder, identity)| Cache { folder, identity });
        rows = suite::encode_sets(&encoder, sets, cache)?;
        scores = Some(suite::scores("teacher", sets, &rows)?);
    }
    let compared = recipe.eval.fidelity.then_some(rows.as_slice());
    let details = suite::evaluate_sets(student, sets, compared, &StoredOptions::default())?;
    Ok(Measured { student: suite::report(&recipe.name, &details), teacher: scores, details })
}
