//! The reports of a job: a Markdown table of its runs, an HTML page with charts, and an SVG chart of the main metrics.

use std::fmt;
use std::path::Path;

use file_ext::write_atomic;
use trainer::Job;
use trainer::run::job::{REPORTS, folder};
use trainer::run::metrics::{StepLine, read_steps};
use trainer::run::{BEST_FOLDER, Best, Results};
use zeroshot_eval::table::{Cell, Number};
use zeroshot_eval::{Evaluation, Report, Table};

use super::charts::{Axes, Series, bars, curves, escape, html_table, page, standalone};
use super::origin::{self, Origin};
use crate::{Error, Result};

/// Writes `report.md`, `report.html` and `report.svg` (the main metrics) of finished runs into `out`, the job's folder.
/// `origin` states the recipe file, and the program, machine and date of the report. Without evaluation sets, there is
/// no `report.svg`.
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
    let metrics = main_metrics(&reports(job, finished).0);
    let tables = [&table, &best];
    let html = html(&job.name, &head, tables, &metrics, finished, &curves.collect::<Result<Vec<_>>>()?);
    let texts = [markdown(job, &head, finished), html, standalone(&metrics)];
    for (name, text) in REPORTS.iter().zip(texts) {
        let path = out.join(name);
        match text.is_empty() {
            false => write_atomic(path, text.as_bytes())?,
            // An earlier report, before the recipe lost its evaluation sets, would be out of date.
            true if path.exists() => std::fs::remove_file(&path).map_err(|e| Error::io(&path, e))?,
            true => {}
        }
    }
    Ok(())
}

/// Returns a table with the results of all runs, and of the teacher if it is not one of them.
pub fn table(job: &Job, finished: &[(String, Results)]) -> Table {
    let (reports, teacher) = reports(job, finished);
    zeroshot_eval::report::compare(&reports, teacher)
}

/// Returns the results of all runs, with those of the teacher, and the index of the teacher.
fn reports(job: &Job, finished: &[(String, Results)]) -> (Vec<Report>, Option<usize>) {
    let mut reports = finished.iter().map(|(_, results)| results.student.clone()).collect::<Vec<_>>();
    let teacher_run = job.runs.iter().find_map(|recipe| recipe.teachers.first()?.model.as_ref()?.run());
    let mut teacher = teacher_run.and_then(|name| job.runs.iter().position(|recipe| recipe.name == name));
    if teacher.is_none()
        && let Some(external) = finished.iter().find_map(|(_, results)| results.teacher.clone())
    {
        reports.insert(0, external);
        teacher = Some(0);
    }
    (reports, teacher)
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

/// Returns the HTML page: the lines of `head`, the tables of results and of best models (may be empty), the chart of the
/// main metrics (may be empty), the loss curves of all runs, and the loss terms of each run with several.
fn html(
    name: &str,
    head: &[(String, String)],
    [table, best]: [&Table; 2],
    metrics: &str,
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
    if !metrics.is_empty() {
        body.push_str(&format!("<h2>Main metric of each data set</h2>{metrics}"));
    }
    for curve in [Curve::Raw("task"), Curve::Total] {
        let lines = curves_of.iter().map(|(run, steps)| (run.clone(), points(steps, curve)));
        push_curves(&mut body, &curve.to_string(), &lines.collect::<Vec<_>>());
    }
    for (run, steps) in curves_of {
        push_curves(&mut body, &format!("Weighted terms of the loss: {run}"), &term_curves(steps));
    }
    page(name, &body)
}

/// Adds a chart of curves, if one of them has several points.
pub(super) fn push_curves(body: &mut String, title: &str, lines: &[Series]) {
    if lines.iter().any(|(_, points)| points.len() > 1) {
        let axes = Axes { x: "samples seen", y: "loss" };
        body.push_str(&format!("<h2>{}</h2>{}", escape(title), curves(lines, axes)));
    }
}

/// Draws one group of bars per data set, with one bar per model; empty without a data set.
fn main_metrics(reports: &[Report]) -> String {
    let mut sets = Vec::new();
    for set in reports.iter().flat_map(|report| &report.sets) {
        if !sets.contains(&&set.set) {
            sets.push(&set.set);
        }
    }
    let names = reports.iter().map(|report| report.model.clone()).collect::<Vec<_>>();
    let groups = sets.into_iter().map(|name| {
        let value = |report: &Report| {
            let found = report.sets.iter().find(|set| set.set == *name)?;
            Some((found.main() * 100.0, 0.0))
        };
        (name.clone(), reports.iter().map(value).collect())
    });
    bars(&names, &groups.collect::<Vec<_>>(), "percent")
}

/// A loss, as a curve shows it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Curve<'a> {
    /// The weighted sum of all terms.
    Total,
    /// A term without its weight.
    Raw(&'a str),
    /// A term times its weight.
    Weighted(&'a str),
}

impl fmt::Display for Curve<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Curve::Total => out.write_str("Total loss"),
            Curve::Raw("task") => out.write_str("Task loss"),
            Curve::Raw(name) => write!(out, "{name} without its weight"),
            Curve::Weighted(name) => out.write_str(name),
        }
    }
}

/// Returns the curves of a run's weighted loss terms, and of their sum; empty for a single term.
fn term_curves(steps: &[StepLine]) -> Vec<Series> {
    let mut names = Vec::new();
    for term in steps.iter().flat_map(|step| &step.terms) {
        if !names.contains(&term.name.as_str()) {
            names.push(&term.name);
        }
    }
    if names.len() < 2 {
        return Vec::new();
    }
    let terms = names.into_iter().map(|name| (name.to_string(), points(steps, Curve::Weighted(name))));
    terms.chain([("total".into(), points(steps, Curve::Total))]).collect()
}

/// Returns the points of a loss curve: samples seen, and the loss.
pub(super) fn points(steps: &[StepLine], curve: Curve<'_>) -> Vec<(f64, f64)> {
    let value = |line: &StepLine| {
        let loss = match curve {
            Curve::Raw(name) => line.term(name)?.raw,
            Curve::Weighted(name) => line.term(name)?.weighted,
            Curve::Total => line.loss,
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
        let runs = [("run".into(), steps.collect())];
        let page = html("a <job>", &head, [&results, &best], "", &[], &runs);
        assert!(page.contains(BEST) && page.contains("<td class=\"n\">7</td>"));
        assert!(page.contains("<p>Recipe: a &lt;file&gt;.toml</p>"));
        assert!(page.contains("a &lt;job&gt;") && page.contains("<td class=\"n\">1.5</td>"));
        assert_eq!(page.matches("<polyline").count(), 2);
        assert!(!page.contains("http") && !page.contains("NaN") && !page.contains("Main metric"));
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
    fn a_run_with_several_loss_terms_has_a_chart_of_them() {
        let terms = r#""task": {"raw": 4.0, "weighted": 4.0}, "fd": {"raw": 0.001, "weighted": 2.0}"#;
        let steps = (1..=3).map(|i| step(i * 8, 6.0, terms)).collect::<Vec<_>>();
        let curves = term_curves(&steps);
        assert_eq!(curves.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["task", "fd", "total"]);
        assert_eq!((curves[1].1[0], curves[2].1[2]), ((8.0, 2.0), (24.0, 6.0)));
        let runs = [("one".into(), vec![step(8, 4.0, terms)]), ("a & b".into(), steps)];
        let page = html("job", &[], [&Table::default(), &Table::default()], "", &[], &runs);
        assert!(page.contains("<h2>Weighted terms of the loss: a &amp; b</h2>"), "{page}");
        // A single step is no curve, and a single term equals the task loss.
        assert!(!page.contains("loss: one<") && page.contains(">fd<"), "{page}");
        assert!(term_curves(&[step(8, 4.0, r#""task": {"raw": 4.0, "weighted": 4.0}"#)]).is_empty());
    }

    fn scores(model: &str, sets: &[(&str, f64)]) -> Report {
        let set = |(name, top1): &(&str, f64)| {
            let found = zeroshot_eval::Classification {
                top1: *top1,
                top5: None,
                mean_per_class_recall: *top1,
                samples: 4,
                per_class: vec![],
            };
            zeroshot_eval::SetScore::new(*name, zeroshot_eval::Score::Classification(found))
        };
        Report { model: model.into(), sets: sets.iter().map(set).collect() }
    }

    fn results(student: Report, teacher: Option<Report>) -> Results {
        Results {
            student,
            teacher,
            details: Vec::new(),
            seconds: 1.0,
            parameters: (1, 1),
            damaged: Default::default(),
            best: None,
        }
    }

    #[test]
    fn the_svg_is_a_standalone_file_with_the_teacher() {
        let folder = tempfile::tempdir().unwrap();
        let job = Job { name: "job".into(), runs: Vec::new() };
        let teacher = scores("teacher", &[("<toys>", 0.5)]);
        let finished = [("run".to_string(), results(scores("run", &[("<toys>", 0.25)]), Some(teacher)))];
        let origin = Origin::new("job.toml", "a program");
        write(&job, folder.path(), &finished, &origin).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let [svg, page] = ["report.svg", "report.html"].map(read);
        assert!(svg.starts_with("<svg xmlns="), "{svg}");
        for part in ["&lt;toys&gt;", ">25.0<", ">run<", ">50.0<", ">teacher<", ">percent<"] {
            assert!(svg.contains(part) && page.contains(part), "{part}: {svg}");
        }
        // Without evaluation sets, there is no chart, and none of an earlier report.
        let finished = [("run".into(), results(scores("run", &[]), None))];
        write(&job, folder.path(), &finished, &origin).unwrap();
        assert!(!folder.path().join("report.svg").exists());
        assert!(!read("report.html").contains("<svg") && read("report.md").contains("run"));
    }

    #[test]
    fn a_set_of_one_model_only_has_a_group_of_bars() {
        let reports = [scores("a", &[("x", 0.5)]), scores("b", &[("x", 0.25), ("y", 0.125)])];
        let svg = main_metrics(&reports);
        assert_eq!((svg.matches("<rect").count(), svg.matches(">b<").count()), (3, 2), "{svg}");
        assert_eq!(main_metrics(&[scores("a", &[])]), "");
    }

    #[test]
    fn long_curves_are_averaged_to_few_points() {
        let steps = (0..10_000).map(|i| step(i, 1.0, "")).collect::<Vec<_>>();
        assert!(points(&steps, Curve::Total).len() <= POINTS);
    }
}
