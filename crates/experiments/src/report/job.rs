//! The reports of a job: a Markdown table of its runs, an HTML page with charts, and an SVG chart of the main metrics.

use std::path::Path;

use file_ext::write_atomic;
use trainer::Job;
use trainer::run::job::{REPORTS, folder};
use trainer::run::metrics::{StepLine, read_steps};
use trainer::run::{BEST_FOLDER, Best, Results};
use zeroshot_eval::table::{Cell, Number};
use zeroshot_eval::{Evaluation, Table};

use super::charts::{bars, curves, escape, html_table, page, standalone};
use super::origin::{self, Origin};
use crate::Result;

/// Writes `report.md`, `report.html` and `report.svg` (the main metrics) of finished runs into `out`, the job's folder.
/// `origin` states the recipe file, and the program, machine and date of the report.
///
/// ```no_run
/// use experiments::{Origin, job};
/// use trainer::{Job, run::Results};
///
/// # fn example(job: &Job, finished: &[(String, Results)]) -> experiments::Result<()> {
/// job::write(job, "runs/mine", finished, &Origin::new("mine.toml", "my machine, today"))?;
/// println!("{}", job::table(job, finished));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`crate::Error::Io`] if a file cannot be written, [`crate::Error::Trainer`] if a run's metrics cannot be read.
pub fn write(
    job: &Job,
    out: impl AsRef<Path>,
    finished: &[(String, Results)],
    origin: &Origin,
) -> Result<()> {
    let out = out.as_ref();
    let curves = job.runs.iter().map(|recipe| {
        let steps = read_steps(&folder(job, out, &recipe.name))?;
        Ok((recipe.name.clone(), steps))
    });
    let (table, best) = (table(job, finished), best_table(job, finished));
    let head = origin::of_job(job, out, origin);
    let html = html(&job.name, &head, &table, &best, finished, &curves.collect::<Result<Vec<_>>>()?);
    let texts = [markdown(job, &head, finished), html, picture(finished)];
    for (name, text) in REPORTS.iter().zip(texts) {
        write_atomic(out.join(name), text.as_bytes())?;
    }
    Ok(())
}

/// Returns a table with the results of all runs, and of the teacher if it is not one of them.
pub fn table(job: &Job, finished: &[(String, Results)]) -> Table {
    let mut reports = finished.iter().map(|(_, results)| results.student.clone()).collect::<Vec<_>>();
    let teacher_run = job.runs.iter().find_map(|recipe| recipe.teachers.first()?.model.as_ref()?.run());
    let mut teacher = teacher_run.and_then(|name| job.runs.iter().position(|recipe| recipe.name == name));
    if teacher.is_none()
        && let Some(external) = finished.iter().find_map(|(_, results)| results.teacher.clone())
    {
        reports.insert(0, external);
        teacher = Some(0);
    }
    zeroshot_eval::report::compare(&reports, teacher)
}

/// Returns a line for each evaluated set with its numbers of images, classes, prompts and texts.
pub fn counts(finished: &[(String, Results)]) -> String {
    let mut lines = Vec::new();
    for Evaluation { set, counts, .. } in finished.iter().flat_map(|(_, results)| &results.details) {
        let line = format!("{set}: {counts}\n");
        // Results of older versions have no counts.
        if counts.images > 0 && !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.concat()
}

/// Returns a table of the runs with a best model from evaluations during training.
fn best_table(job: &Job, finished: &[(String, Results)]) -> Table {
    let mut table = Table::new(["run", "best model"]).with_numbers(["step", "score"]);
    for (run, results) in finished {
        let Some(Best { step, score }) = results.best else { continue };
        let folder = folder(job, Path::new(""), run).join(BEST_FOLDER).display().to_string();
        table.push([run.as_str().into(), folder.into(), step.into(), Cell::percent(score)]);
    }
    table
}

/// Returns a table of sizes and training times.
fn cost_table(finished: &[(String, Results)]) -> Table {
    let mut table = Table::new(["run"]).with_numbers(["image tower", "text tower", "training time"]);
    for (name, results) in finished {
        let (image, text) = results.parameters;
        let millions = |count: u64| Number::new(count as f64 / 1e6, 2).with_unit("M").into();
        let time = Number::new(results.seconds, 0).with_unit("s").into();
        table.push([Cell::from(name.as_str()), millions(image), millions(text), time]);
    }
    table
}

fn markdown(job: &Job, head: &[(String, String)], finished: &[(String, Results)]) -> String {
    let head = head.iter().map(|(label, line)| format!("- {label}: {line}\n")).collect::<String>();
    let mut text = format!("# {}\n\n{head}\nResults in percent.\n\n{}\n", job.name, table(job, finished));
    let counts = counts(finished).lines().map(|line| format!("- {line}\n")).collect::<String>();
    if !counts.is_empty() {
        text.push_str(&format!("{counts}\n"));
    }
    let best = best_table(job, finished);
    if !best.is_empty() {
        text.push_str(&format!("{BEST}\n\n{best}\n"));
    }
    text + &cost_table(finished).to_markdown()
}

/// Maximum number of points of a curve; more could not be distinguished.
const POINTS: usize = 300;

/// The caption of the table of best models.
pub(crate) const BEST: &str = "Best model of the evaluations during and after training; score: mean over the data sets of their main metrics.";

/// Returns the HTML page: the lines of `head`, the tables of results and of best models (may be empty), bars of the main metrics, and the
/// loss curves of each run.
fn html(
    name: &str,
    head: &[(String, String)],
    table: &Table,
    best: &Table,
    results: &[(String, Results)],
    curves_of: &[(String, Vec<StepLine>)],
) -> String {
    let head = head.iter().map(|(label, line)| format!("<p>{}: {}</p>", escape(label), escape(line)));
    let head = head.collect::<String>();
    let mut body = format!("<h1>{}</h1>{head}<p>Results in percent.</p>{}", escape(name), html_table(table));
    if !best.is_empty() {
        body.push_str(&format!("<p>{BEST}</p>{}", html_table(best)));
    }
    for line in counts(results).lines() {
        body.push_str(&format!("<p>{}</p>", escape(line)));
    }
    body.push_str("<h2>Main metric of each data set</h2>");
    body.push_str(&main_metrics(results));
    for (title, term) in [("Task loss", Some("task")), ("Total loss", None)] {
        let lines =
            curves_of.iter().map(|(run, steps)| (run.clone(), points(steps, term))).collect::<Vec<_>>();
        if lines.iter().any(|(_, points)| points.len() > 1) {
            body.push_str(&format!("<h2>{title} by samples seen</h2>{}", curves(&lines)));
        }
    }
    page(name, &body)
}

/// Draws one group of bars per data set, with one bar per run.
fn main_metrics(results: &[(String, Results)]) -> String {
    let Some((_, first)) = results.first() else { return String::new() };
    let names = results.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let groups = first.student.sets.iter().map(|set| {
        let value = |(_, result): &(String, Results)| {
            let found = result.student.sets.iter().find(|other| other.set == set.set)?;
            Some((found.main() * 100.0, 0.0))
        };
        (set.set.clone(), results.iter().map(value).collect())
    });
    bars(&names, &groups.collect::<Vec<_>>())
}

/// Returns the main metrics as a standalone SVG, for pages that show only images.
fn picture(results: &[(String, Results)]) -> String {
    standalone(&main_metrics(results))
}

/// Returns the points of a loss curve: samples seen, and the unweighted value of `term`, or the total loss for `None`.
pub(crate) fn points(steps: &[StepLine], term: Option<&str>) -> Vec<(f64, f64)> {
    let value = |line: &StepLine| {
        let loss = match term {
            Some(name) => line.term(name)?.raw,
            None => line.loss,
        };
        Some((line.at.samples as f64, loss))
    };
    let all = steps.iter().filter_map(value).collect::<Vec<_>>();
    // Average neighbouring points, so that noise does not hide the trend.
    let group = all.len().div_ceil(POINTS).max(1);
    let mean = |part: &[(f64, f64)]| {
        let count = part.len() as f64;
        (part.iter().map(|p| p.0).sum::<f64>() / count, part.iter().map(|p| p.1).sum::<f64>() / count)
    };
    all.chunks(group).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(samples: u64, loss: f64, terms: &str) -> StepLine {
        let line = format!(r#"{{"step": 1, "samples": {samples}, "loss": {loss}, "terms": {{{terms}}}}}"#);
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn a_page_has_tables_and_curves_without_external_files() {
        let task = r#""task": {"raw": 1.0, "weighted": 1.0}"#;
        let steps = (1..=10).map(|i| step(i * 8, 3.0 / i as f64, task));
        let mut results = Table::new(["a", "b"]).with_numbers(["c"]);
        results.push([Cell::from("x"), "y".into(), Cell::number(1.5, 1)]);
        let mut best = Table::new(["run", "best model"]).with_numbers(["step"]);
        best.push([Cell::from("x"), "best".into(), 7u64.into()]);
        let head = [("Recipe".to_string(), "a <file>.toml".to_string())];
        let page = html("a <job>", &head, &results, &best, &[], &[("run".into(), steps.collect())]);
        assert!(page.contains(BEST) && page.contains("<td class=\"n\">7</td>"));
        assert!(page.contains("<p>Recipe: a &lt;file&gt;.toml</p>"));
        assert!(page.contains("a &lt;job&gt;") && page.contains("<td class=\"n\">1.5</td>"));
        assert_eq!(page.matches("<polyline").count(), 2);
        assert!(!page.contains("http") && !page.contains("NaN"));
    }

    #[test]
    fn reports_state_recipe_losses_seed_program_and_machine() {
        let text = "name = 'r'\nseed = 7\nstudent.model = 'ViT-nano-32px'\nlosses.task = 1.0\ntrain = { batch_size = 8, steps = 3 }\n\
                    data.train = [{ source = 'emoji' }]";
        let job = trainer::recipe::parse(text, &[], "test").unwrap();
        let out = tempfile::tempdir().unwrap();
        let info = r#"{"program": "clip-distill 1 abc", "seed": 7,
            "machine": {"cpu": "a CPU", "cores": 2, "device": "cpu", "precision": "Float32"}}"#;
        std::fs::write(out.path().join("run.json"), info).unwrap();
        std::fs::write(out.path().join("metrics.jsonl"), "").unwrap();
        write(&job, out.path(), &[], &Origin::new("recipes/r.toml", "clip-distill 2 def; 2026-01-01"))
            .unwrap();
        let read = |name: &str| std::fs::read_to_string(out.path().join(name)).unwrap();
        for report in [read("report.md"), read("report.html")] {
            for part in [
                "Recipe: recipes/r.toml",
                "Losses: 1 × task; seed 7",
                "Trained: clip-distill 1 abc; a CPU, 2 cores; cpu, float32; runs: 1",
                "Report: clip-distill 2 def; 2026-01-01",
            ] {
                assert!(report.contains(part), "{part}: {report}");
            }
        }
    }

    #[test]
    fn the_svg_is_a_standalone_file() {
        let score = zeroshot_eval::Score::Classification(zeroshot_eval::Classification {
            top1: 0.25,
            top5: None,
            mean_per_class_recall: 0.25,
            samples: 4,
            per_class: vec![],
        });
        let sets = vec![zeroshot_eval::SetScore::new("<toys>", score)];
        let student = zeroshot_eval::Report { model: "m".into(), sets };
        let results = Results {
            student,
            teacher: None,
            details: Vec::new(),
            seconds: 1.0,
            parameters: (1, 1),
            damaged: Default::default(),
            best: None,
        };
        let svg = picture(&[("run".into(), results)]);
        assert!(
            svg.starts_with("<svg xmlns=") && svg.contains("&lt;toys&gt;") && svg.contains(">25.0<"),
            "{svg}"
        );
        assert!(picture(&[]).is_empty());
    }

    #[test]
    fn long_curves_are_averaged_to_few_points() {
        let steps = (0..10_000).map(|i| step(i, 1.0, "")).collect::<Vec<_>>();
        assert!(points(&steps, None).len() <= POINTS);
    }
}
