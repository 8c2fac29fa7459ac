//! `[[stages]]` of a run: progressive distillation as several runs, each of which inherits from the previous one.

use toml::{Table, Value};

use super::load::merge;
use crate::{Error, Result};

/// A run of a recipe file before it is parsed.
pub(super) struct Draft {
    /// Its settings.
    pub(super) table: Table,
    /// Name of the run to which the stage belongs; `None` for a run without stages.
    pub(super) run: Option<String>,
}

/// Replaces a run with stages by one run per stage: `NAME-1`, `NAME-2`, …. A run without stages stays unchanged.
///
/// A stage's table is merged over the run's. From the second stage on, the student inherits from the previous stage,
/// unless the stage names another model. The run's own `student.inherit` applies to the first stage. After a stage that
/// prunes, a stage without a student continues with the pruned model, because no preset has its shape. The length of a
/// stage, in steps or in epochs, replaces the run's length.
pub(super) fn expand(mut run: Table, origin: &str) -> Result<Vec<Draft>> {
    let fail = |reason: &str| Err(Error::recipe(origin, reason));
    let stages = match run.remove("stages") {
        None => return Ok(vec![Draft { table: run, run: None }]),
        Some(Value::Array(stages)) if stages.is_empty() => {
            return Ok(vec![Draft { table: run, run: None }]);
        }
        Some(Value::Array(stages)) => stages,
        Some(_) => return fail("stages: expected a list of tables; write [[stages]]"),
    };
    let name = run.get("name").and_then(Value::as_str).unwrap_or_default().to_string();
    let mut drafts = Vec::with_capacity(stages.len());
    let mut pruned = false;
    for (index, stage) in stages.into_iter().enumerate() {
        let Value::Table(stage) = stage else {
            return fail("stages: expected a list of tables; write [[stages]]");
        };
        if stage.contains_key("name") {
            return fail("stages.name: a stage has no `name`: its name is that of the run, with a number");
        }
        let mut table = run.clone();
        if index > 0 {
            let student = table.get_mut("student").and_then(Value::as_table_mut);
            student.into_iter().for_each(|student| {
                remove_keys(student, &INHERITED);
                // The keys limit or replace what the first stage inherits. Later stages inherit everything.
                remove_keys(student, &["inherit_tokens", "image_weights"]);
            });
        }
        let names_model =
            stage.get("student").and_then(Value::as_table).is_some_and(|keys| keys.contains_key("model"));
        merge(&mut table, stage);
        if index > 0 {
            let student = table.entry("student").or_insert_with(|| Table::new().into());
            if let Some(student) = student.as_table_mut().filter(|student| !has_any(student, &INHERITED)) {
                let continues = pruned && !names_model;
                let key = if continues { "run" } else { "inherit_run" };
                remove_keys(student, if continues { &["model"] } else { &[] });
                student.insert(key.into(), format!("{name}-{index}").into());
            }
        }
        pruned = table.contains_key("prune");
        table.insert("name".into(), format!("{name}-{}", index + 1).into());
        drafts.push(Draft { table, run: Some(name.clone()) });
    }
    Ok(drafts)
}

/// The keys of `[student]` that name the model to start from, other than `model`.
const INHERITED: [&str; 3] = ["inherit", "inherit_run", "run"];

fn has_any(table: &Table, keys: &[&str]) -> bool {
    keys.iter().any(|key| table.contains_key(*key))
}

fn remove_keys(table: &mut Table, keys: &[&str]) {
    keys.iter().for_each(|key| drop(table.remove(*key)));
}

#[cfg(test)]
mod tests {
    use crate::recipe::{Job, ModelRef, parse};

    const BASE: &str = r#"
        name = "thin"
        student.model = "ViT-small-32px"
        student.inherit = "models/large"
        losses.task = 1.0
        train = { batch_size = 8, steps = 3 }
        [[data.train]]
        source = "emoji"
    "#;

    fn job(more: &str, settings: &[&str]) -> crate::Result<Job> {
        let settings = settings.iter().map(ToString::to_string).collect::<Vec<_>>();
        parse(&format!("{BASE}{more}"), &settings, "test")
    }

    #[test]
    fn each_stage_is_a_run_that_inherits_from_the_previous_one() {
        let stages = "
            [[stages]]
            optimizer.lr = 1e-3
            [[stages]]
            student.model = 'ViT-micro-32px'
            train.epochs = 2.0
            losses = { task = 0.5 }
            [[stages]]
            student.inherit = 'models/other'
        ";
        let job = job(stages, &["runs.thin.seed=4", "runs.thin-2.optimizer.lr=0.1"]).unwrap();
        let [a, b, c] = job.runs.as_slice() else { panic!("{} runs", job.runs.len()) };
        assert_eq!([&a.name, &b.name, &c.name], ["thin-1", "thin-2", "thin-3"]);
        let named = |name: &str| ModelRef::Named(name.into());
        assert_eq!(a.student.inherit, Some(named("models/large")));
        assert_eq!(b.student.inherit, Some(ModelRef::Run("thin-1".into())));
        assert_eq!(c.student.inherit, Some(named("models/other")));
        assert_eq!((b.train.epochs, b.train.steps, c.train.steps), (Some(2.0), None, Some(3)));
        assert_eq!(b.student.model, named("ViT-micro-32px"));
        assert_eq!(c.student.model, named("ViT-small-32px"));
        assert_eq!((a.optimizer.lr, b.optimizer.lr, c.optimizer.lr), (1e-3, 0.1, 5e-4));
        assert_eq!((a.seed, c.seed), (4, 4));
        assert_eq!(b.loss(kd_losses::Loss::Task).map(|task| task.weight.start), Some(0.5));
    }

    #[test]
    fn only_the_first_stage_inherits_token_embeddings() {
        let run = BASE.replace("losses.task", "student.inherit_tokens = true\nlosses.task");
        let job = parse(&format!("{run}\n[[stages]]\n[[stages]]"), &[], "test").unwrap();
        let inherited = job.runs.iter().map(|run| run.student.inherit_tokens).collect::<Vec<_>>();
        assert_eq!(inherited, [true, false]);
    }

    #[test]
    fn a_file_may_have_runs_with_and_without_stages() {
        let runs = "
            [[runs]]
            name = 'teacher'
            [[runs]]
            name = 'student'
            [[runs.stages]]
            [[runs.stages]]
            teacher.run = 'teacher'
            losses.crd = 1.0
        ";
        let job = job(runs, &[]).unwrap();
        let names = job.runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>();
        assert_eq!(names, ["teacher", "student-1", "student-2"]);
        assert!(job.runs[1].teachers.is_empty() && job.runs[2].teachers.len() == 1);
    }

    #[test]
    fn a_stage_after_pruning_continues_with_the_pruned_model() {
        let stages = "
            prune = { sparsity = 0.25, warmup_steps = 1, at_step = 2 }
            [[stages]]
            [[stages]]
            [[stages]]
            student.model = 'ViT-micro-32px'
        ";
        let (base, data) = BASE.split_once("[[data.train]]").unwrap();
        let text = format!("{base}{stages}[[data.train]]{data}");
        let job = parse(&text, &[], "test").unwrap();
        let student = |run: usize| &job.runs[run].student;
        let run = |name: &str| ModelRef::Run(name.into());
        assert_eq!(student(0).model, ModelRef::Named("ViT-small-32px".into()));
        assert_eq!((&student(1).model, &student(1).inherit), (&run("thin-1"), &None));
        assert_eq!(student(2).model, ModelRef::Named("ViT-micro-32px".into()));
        assert_eq!(student(2).inherit, Some(run("thin-2")));
        let neither = text.replace("student.model = \"ViT-small-32px\"", "");
        assert!(parse(&neither, &[], "test").unwrap_err().to_string().contains("either `model` or `run`"));
    }

    #[test]
    fn invalid_stages_are_errors() {
        let error = |more: &str| job(more, &[]).unwrap_err().to_string();
        assert!(error("\n[stages]\na = 1").contains("list of tables"));
        assert!(error("\n[[stages]]\nname = 'mine'").contains("a stage has no `name`"));
        assert!(error("\n[[stages]]\nstudent.models = 'x'").contains("models"));
        assert!(error("\n[[stages]]\n[[stages]]\nstudent.inherit_run = 'thin-9'").contains("earlier run"));
    }
}
