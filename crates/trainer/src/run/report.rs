//! The HTML report of a job: one file without outside parts, for light and dark.

use serde_json::Value;

use crate::charts::{bars, curves, escape, html_table, page, standalone};
use crate::run::Results;

/// Points of a curve; more would not be seen.
const POINTS: usize = 300;

/// What the table of best models shows.
pub(crate) const BEST: &str = "Best model of the evaluations during and after training; score: mean over the data sets of their main figures.";

/// The page: the table (Markdown), that of the best models (empty where there is none), the main figures as bars, and
/// the training curves of each run.
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

/// One group of bars per data set, one bar per run.
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

/// The main figures as a picture of its own, for a page that shows pictures only.
pub fn picture(results: &[(String, Results)]) -> String {
    standalone(&main_figures(results))
}

/// Samples seen and loss: the raw value of a term, or the total for an empty key.
pub(crate) fn points(steps: &[Value], key: &str) -> Vec<(f64, f64)> {
    let value = |line: &Value| {
        let loss = if key.is_empty() { &line["loss"] } else { &line["terms"][key]["raw"] };
        Some((line["samples"].as_f64()?, loss.as_f64()?))
    };
    let all = steps.iter().filter_map(value).collect::<Vec<_>>();
    // Neighbours are averaged, so that noise does not hide the course.
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
