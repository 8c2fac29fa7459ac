//! The reports of a job: a Markdown table of its runs, an HTML page with charts, and an SVG chart of the main figures.

use std::path::Path;

use file_ext::write_atomic;
use serde_json::Value;
use trainer::Job;
use trainer::run::job::{REPORTS, folder};
use trainer::run::metrics::read_steps;
use trainer::run::{BEST_FOLDER, Best, Results};

use super::charts::{bars, curves, escape, html_table, page, standalone};
use crate::Result;

/// Writes `report.md`, `report.html` and `report.svg` (the main figures) of finished runs into `out`, the job's folder.
///
/// # Errors
/// [`crate::Error::Model`] if a file cannot be written, [`crate::Error::Trainer`] if a run's metrics cannot be read.
pub fn write(job: &Job, out: &Path, finished: &[(String, Results)]) -> Result<()> {
    let curves = job.runs.iter().map(|recipe| {
        let steps = read_steps(&folder(job, out, &recipe.name))?;
        Ok((recipe.name.clone(), steps))
    });
    let (table, best) = (table(job, finished), best_table(job, finished));
    let html = html(&job.name, &table, &best, finished, &curves.collect::<Result<Vec<_>>>()?);
    let texts = [markdown(job, finished), html, picture(finished)];
    for (name, text) in REPORTS.iter().zip(texts) {
        write_atomic(&out.join(name), text.as_bytes())?;
    }
    Ok(())
}

/// Returns a Markdown table with the results of all runs, and of the teacher if it is not one of them.
pub fn table(job: &Job, finished: &[(String, Results)]) -> String {
    let mut reports = finished.iter().map(|(_, results)| results.student.clone()).collect::<Vec<_>>();
    let own = job.runs.iter().find_map(|recipe| recipe.teachers.first()?.model.as_ref()?.run());
    let mut teacher = own.and_then(|name| job.runs.iter().position(|recipe| recipe.name == name));
    if teacher.is_none()
        && let Some(external) = finished.iter().find_map(|(_, results)| results.teacher.clone())
    {
        reports.insert(0, external);
        teacher = Some(0);
    }
    zeroshot_eval::report::compare(&reports, teacher)
}

/// Returns a Markdown table of the runs with a best model from evaluations during training; empty without such runs.
fn best_table(job: &Job, finished: &[(String, Results)]) -> String {
    let head = ["run", "best model", "step", "score"].map(String::from).to_vec();
    let best = finished.iter().filter_map(|(run, results)| {
        let Best { step, score } = results.best?;
        let folder = folder(job, Path::new(""), run).join(BEST_FOLDER);
        Some(vec![
            run.clone(),
            folder.display().to_string(),
            step.to_string(),
            format!("{:.1}", score * 100.0),
        ])
    });
    let rows = std::iter::once(head).chain(best).collect::<Vec<_>>();
    if rows.len() > 1 { zeroshot_eval::report::markdown(&rows) } else { String::new() }
}

fn markdown(job: &Job, finished: &[(String, Results)]) -> String {
    let mut text = format!("# {}\n\nResults in percent.\n\n{}\n", job.name, table(job, finished));
    let best = best_table(job, finished);
    if !best.is_empty() {
        text.push_str(&format!("{}\n\n{best}\n", BEST));
    }
    text.push_str("| run | image tower | text tower | training time |\n|---|---:|---:|---:|\n");
    for (name, results) in finished {
        let (image, text_tower) = results.parameters;
        text.push_str(&format!(
            "| {name} | {:.2} M | {:.2} M | {:.0} s |\n",
            image as f64 / 1e6,
            text_tower as f64 / 1e6,
            results.seconds
        ));
    }
    text
}

/// Maximum number of points of a curve; more would not be visible.
const POINTS: usize = 300;

/// The caption of the table of best models.
pub(crate) const BEST: &str = "Best model of the evaluations during and after training; score: mean over the data sets of their main figures.";

/// Returns the page with the results table (Markdown), the table of best models (may be empty), the main figures as
/// bars, and the training curves of each run.
pub fn html(
    name: &str,
    table: &str,
    best: &str,
    results: &[(String, Results)],
    curves_of: &[(String, Vec<Value>)],
) -> String {
    let mut body = format!("<h1>{}</h1><p>Results in percent.</p>{}", escape(name), html_table(table));
    if !best.is_empty() {
        body.push_str(&format!("<p>{BEST}</p>{}", html_table(best)));
    }
    body.push_str("<h2>Main figure of each data set</h2>");
    body.push_str(&main_figures(results));
    for (title, key) in [("Task loss", "task"), ("Total loss", "")] {
        let lines =
            curves_of.iter().map(|(run, steps)| (run.clone(), points(steps, key))).collect::<Vec<_>>();
        if lines.iter().any(|(_, points)| points.len() > 1) {
            body.push_str(&format!("<h2>{title} by samples seen</h2>{}", curves(&lines)));
        }
    }
    page(name, &body)
}

/// Draws one group of bars per data set, with one bar per run.
fn main_figures(results: &[(String, Results)]) -> String {
    let Some((_, first)) = results.first() else { return String::new() };
    let names = results.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let groups = first.student.sets.iter().map(|set| {
        let value = |(_, result): &(String, Results)| {
            let own = result.student.sets.iter().find(|own| own.set == set.set)?;
            Some((own.score.main() * 100.0, 0.0))
        };
        (set.set.clone(), results.iter().map(value).collect())
    });
    bars(&names, &groups.collect::<Vec<_>>())
}

/// Returns the main figures as a standalone SVG, for pages that show only images.
pub fn picture(results: &[(String, Results)]) -> String {
    standalone(&main_figures(results))
}

/// Returns samples seen and loss: the raw value of a term, or the total for an empty key.
pub(crate) fn points(steps: &[Value], key: &str) -> Vec<(f64, f64)> {
    let value = |line: &Value| {
        let loss = if key.is_empty() { &line["loss"] } else { &line["terms"][key]["raw"] };
        Some((line["samples"].as_f64()?, loss.as_f64()?))
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
    use serde_json::json;

    #[test]
    fn a_page_holds_table_and_curves_and_nothing_from_outside() {
        let steps = (1..=10)
            .map(|i| json!({"samples": i * 8, "loss": 3.0 / f64::from(i), "terms": {"task": {"raw": 1.0}}}));
        let page = html(
            "a <job>",
            "| a | b | c |\n|---|---|--:|\n| x | y | 1.5 |\n",
            "| run | best model | step |\n|---|---|--:|\n| x | best | 7 |\n",
            &[],
            &[("run".into(), steps.collect())],
        );
        assert!(page.contains(BEST) && page.contains("<td class=\"n\">7</td>"));
        assert!(page.contains("a &lt;job&gt;") && page.contains("<td class=\"n\">1.5</td>"));
        assert_eq!(page.matches("<polyline").count(), 2);
        assert!(!page.contains("http") && !page.contains("NaN"));
    }

    #[test]
    fn a_picture_stands_alone() {
        let score = zeroshot_eval::Score::Classification(zeroshot_eval::Classification {
            top1: 0.25,
            top5: None,
            mean_per_class_recall: 0.25,
            samples: 4,
            per_class: vec![],
        });
        let sets = vec![zeroshot_eval::SetScore { set: "<toys>".into(), score }];
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
    fn many_steps_become_few_points() {
        let steps = (0..10_000).map(|i| json!({"samples": i, "loss": 1.0})).collect::<Vec<_>>();
        assert!(points(&steps, "").len() <= POINTS);
    }
}
