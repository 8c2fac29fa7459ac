//! The HTML page of a sweep, with its tables and charts.

use super::charts::{Bars, bars, curves, escape, html_table, page, scatter, standalone};
use super::job;
use super::results::{BySeed, CellResults, Predictor, SweepReport, keys, main_names, paired};
use super::stats::Summary;
use crate::Result;
use trainer::run::metrics;
use zeroshot_eval::Table;

/// Returns the page as self-contained HTML.
pub(super) fn html(sweep: &SweepReport) -> Result<String> {
    let mut body = format!("<h1>{}</h1>", escape(&sweep.title));
    for (label, line) in sweep.head() {
        body.push_str(&format!("<p>{label}: {}</p>", escape(&line)));
    }
    if !sweep.missing.is_empty() {
        body.push_str(&format!("<p>Not finished: {}.</p>", escape(&sweep.missing.join(", "))));
    }
    let all = sweep.shared.iter().chain(&sweep.cells).collect::<Vec<_>>();
    let cells = sweep.cells.iter().collect::<Vec<_>>();
    let mut tables = sweep.tables().into_iter();
    let show = |body: &mut String, table: Table| {
        body.push_str(&format!("<h2>{}</h2>{}", escape(table.title()), html_table(&table)));
    };
    if let Some(first) = tables.next() {
        show(&mut body, first);
    }
    let mean = sweep.mean_name();
    let main = [mean.to_string()];
    let chart = grouped(&all, &main, CellResults::main_metric);
    body.push_str(&format!("<h2>Main metric ({mean}), in percent</h2>{chart}"));
    tables.for_each(|table| show(&mut body, table));

    let sets = keys(&all, |cell| &cell.retained);
    if !sets.is_empty() {
        let chart = grouped(&all, &sets, |cell, set| cell.retained.get(set));
        body.push_str(&format!("<h2>Retained of the teacher by set, in percent</h2>{chart}"));
    }
    for (title, axis, cost) in [
        (
            "Main metric against parameters",
            "parameters",
            (|cell| cell.parameters as f64) as fn(&CellResults) -> f64,
        ),
        ("Main metric against multiply-accumulates", "MACs of an image and a text", |cell| cell.macs as f64),
    ] {
        let points = all.iter().filter_map(|cell| {
            let value = Summary::by_seed(cell.main_metric(mean)?)?.mean;
            Some((cell.name.clone(), vec![(cost(cell), value * 100.0)]))
        });
        let chart = scatter(&points.collect::<Vec<_>>(), true, axis);
        body.push_str(&format!("<h2>{title}</h2>{chart}"));
    }
    if let Some(Predictor { metric, correlation }) = sweep.predictors.first() {
        let points = cells.iter().map(|cell| {
            let pairs = paired(cell.fidelity.get(metric), cell.main_metric(mean));
            (cell.name.clone(), pairs.into_iter().map(|(x, y)| (x, y * 100.0)).collect())
        });
        let chart = scatter(&points.collect::<Vec<_>>(), false, &metric.to_string());
        body.push_str(&format!(
            "<h2>Main metric against the fidelity with the highest correlation ({correlation:.2})</h2>{chart}"
        ));
    }
    for (title, term) in [("Task loss", Some("task")), ("Total loss", None)] {
        let lines = all.iter().map(|cell| Ok((cell.name.clone(), mean_curve(cell, term)?)));
        let lines = lines.collect::<Result<Vec<_>>>()?;
        if lines.iter().any(|(_, points)| points.len() > 1) {
            body.push_str(&format!("<h2>{title} by samples seen, mean over seeds</h2>{}", curves(&lines)));
        }
    }
    Ok(page(&sweep.title, &body))
}

/// Returns the main metrics of all cells as a standalone SVG.
pub(super) fn picture(sweep: &SweepReport) -> String {
    let all = sweep.shared.iter().chain(&sweep.cells).collect::<Vec<_>>();
    standalone(&grouped(&all, &main_names(&all), CellResults::main_metric))
}

/// Draws one group of bars per metric, in percent, with the standard deviation over seeds.
fn grouped<'a>(
    cells: &[&'a CellResults],
    metrics: &[String],
    of: fn(&'a CellResults, &str) -> Option<&'a BySeed>,
) -> String {
    let group = |metric: &String| -> Bars {
        let value = |cell: &&'a CellResults| {
            let found = Summary::by_seed(of(cell, metric)?)?;
            Some((found.mean * 100.0, found.deviation.unwrap_or(0.0) * 100.0))
        };
        (metric.clone(), cells.iter().map(value).collect())
    };
    let names = cells.iter().map(|cell| cell.name.clone()).collect::<Vec<_>>();
    bars(&names, &metrics.iter().map(group).collect::<Vec<_>>())
}

/// Averages the loss curves of all seeds, up to the length of the shortest one.
fn mean_curve(cell: &CellResults, term: Option<&str>) -> Result<Vec<(f64, f64)>> {
    let curves = cell.folders.iter().map(|folder| Ok(job::points(&metrics::read_steps(folder)?, term)));
    let curves = curves.collect::<Result<Vec<_>>>()?;
    let length = curves.iter().map(Vec::len).min().unwrap_or(0);
    let mean = |index: usize| {
        let values = curves.iter().map(|curve| curve[index].1).sum::<f64>();
        (curves[0][index].0, values / curves.len() as f64)
    };
    Ok((0..length).map(mean).collect())
}
