//! The teachers of a sweep that are not runs of it, such as published models: their scores for tables and charts.

use std::path::Path;

use trainer::recipe::{ModelRef, Recipe};
use trainer::run::Results;

use super::results::CellResults;
use crate::Result;
use crate::sweep::file::{Cell, Sweep};

/// The name of a teacher, if a sweep has one.
const TEACHER: &str = "teacher";

/// The teachers found so far, by model. The first cell with a teacher gives its scores.
pub(super) struct Teachers<'a> {
    sweep: &'a Sweep,
    found: Vec<(String, CellResults)>,
}

impl<'a> Teachers<'a> {
    pub(super) fn new(sweep: &'a Sweep) -> Self {
        Teachers { sweep, found: Vec::new() }
    }

    /// Adds the teacher of a cell, unless it is a run of the sweep or known.
    pub(super) fn add(&mut self, cell: &Cell, results: &Results) -> Result<()> {
        let (Some(model), Some(scores)) = (compared(&cell.recipe), &results.teacher) else { return Ok(()) };
        let model = model.to_string();
        let is_run = self.sweep.shared.iter().any(|run| Path::new(&model).starts_with(&run.folder));
        if is_run || self.found.iter().any(|(known, _)| *known == model) {
            return Ok(());
        }
        let mut teacher = CellResults::unknown(TEACHER);
        teacher.add_scores(scores, cell, &self.sweep.mean, false)?;
        self.found.push((model, teacher));
        Ok(())
    }

    /// Returns the teachers. Several teachers, or one beside a run of that name, are named by their models.
    pub(super) fn into_results(self) -> Vec<CellResults> {
        let runs = self.sweep.shared.iter().chain(&self.sweep.cells);
        let is_clear = self.found.len() == 1 && runs.into_iter().all(|run| run.name != TEACHER);
        let named = |(model, teacher): (String, CellResults)| {
            let name = if is_clear { TEACHER.into() } else { format!("{TEACHER} {model}") };
            CellResults { name, ..teacher }
        };
        self.found.into_iter().map(named).collect()
    }
}

/// Returns the model that is evaluated as the teacher of a run.
fn compared(recipe: &Recipe) -> Option<&ModelRef> {
    let own = recipe.eval.teacher.iter().filter(|_| recipe.eval.fidelity);
    own.chain(&recipe.teachers).find_map(|teacher| teacher.model.as_ref())
}

#[cfg(test)]
mod tests {
    use zeroshot_eval::{Classification, Report, Score, SetScore};

    use super::*;

    const RECIPE: &str = "name = 'base'\nstudent.model = 'ViT-nano-32px'\nlosses = { task = 1.0, fd = 1.0 }\n\
                          train = { batch_size = 8, steps = 3 }\ndata.train = [{ source = 'emoji' }]\n\
                          eval.sets = [{ name = 'toys', source = 'emoji' }]";

    /// Returns the teachers' names and main metrics of a sweep with these entries.
    fn teachers(entries: &str) -> Vec<(String, Option<f64>)> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("base.toml"), RECIPE).unwrap();
        let path = folder.path().join("sweep.toml");
        std::fs::write(&path, format!("name = 's'\nrecipe = 'base.toml'\n{entries}")).unwrap();
        let sweep = Sweep::load(&path, &[], "out").unwrap();
        let report = |model: &str, top1| {
            let found = Classification {
                top1,
                top5: None,
                mean_per_class_recall: top1,
                samples: 4,
                per_class: vec![],
            };
            Report { model: model.into(), sets: vec![SetScore::new("toys", Score::Classification(found))] }
        };
        let results = Results {
            student: report("student", 0.25),
            teacher: Some(report("teacher", 0.5)),
            details: Vec::new(),
            seconds: 1.0,
            parameters: (1, 1),
            damaged: Default::default(),
            best: None,
        };
        let mut teachers = Teachers::new(&sweep);
        for cell in &sweep.cells {
            teachers.add(cell, &results).unwrap();
        }
        let found = teachers.into_results().into_iter();
        found.map(|cell| (cell.name.clone(), cell.main_metric("toys").map(|values| values[&0]))).collect()
    }

    const CELL: &str = "[[cells]]\nname = 'a'\nsettings.teacher.model = ";

    #[test]
    fn a_published_teacher_is_listed_once() {
        let published = format!("seeds = [0, 1]\n{CELL}'ViT-B-32:openai'\n");
        assert_eq!(teachers(&published), [("teacher".to_string(), Some(0.5))]);
    }

    #[test]
    fn a_teacher_that_is_a_run_of_the_sweep_is_not_listed_again() {
        let shared = format!("[[shared]]\nname = 'teacher'\nsettings.losses.fd = 0.0\n{CELL}'@teacher'\n");
        assert_eq!(teachers(&shared), []);
    }

    #[test]
    fn several_teachers_are_named_by_their_models() {
        let two = format!("{CELL}'ViT-B-32:openai'\n{}'ViT-B-16:openai'\n", CELL.replace("'a'", "'b'"));
        let names = teachers(&two).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names, ["teacher ViT-B-32:openai", "teacher ViT-B-16:openai"]);
    }
}
