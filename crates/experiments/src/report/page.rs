//! The HTML page of a sweep, with its tables and charts.

use super::charts::{Axes, Bars, bars, escape, html_table, page, scatter, standalone};
use super::job::{Curve, points, push_curves};
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
    push_chart(
        &mut body,
        &format!("Main metric ({mean}), in percent"),
        &grouped(&all, &[mean.to_string()], CellResults::main_metric),
    );
    tables.for_each(|table| show(&mut body, table));

    let sets = keys(&all, |cell| &cell.retained);
    push_chart(
        &mut body,
        "Retained of the teacher by set, in percent",
        &grouped(&all, &sets, |cell, set| cell.retained.get(set)),
    );
    let y = &format!("{mean}, percent");
    // A teacher of unknown cost is a line.
    let levels = all.iter().filter(|cell| cell.parameters == 0).filter_map(|cell| {
        let value = Summary::by_seed(cell.main_metric(mean)?)?.mean;
        Some((cell.name.clone(), value * 100.0))
    });
    let levels = levels.collect::<Vec<_>>();
    for (title, x, cost) in [
        (
            "Main metric against parameters",
            "parameters of both towers",
            (|cell| cell.parameters as f64) as fn(&CellResults) -> f64,
        ),
        ("Main metric against multiply-accumulates", "MACs of an image and a text", |cell| cell.macs as f64),
    ] {
        let points = all.iter().filter(|cell| cell.parameters > 0).filter_map(|cell| {
            let value = Summary::by_seed(cell.main_metric(mean)?)?.mean;
            Some((cell.name.clone(), vec![(cost(cell), value * 100.0)]))
        });
        let chart = scatter(&points.collect::<Vec<_>>(), &levels, true, Axes { x, y });
        push_chart(&mut body, title, &chart);
    }
    if let Some(Predictor { metric, correlation }) = sweep.predictors.first() {
        let points = cells.iter().map(|cell| {
            let pairs = paired(cell.fidelity.get(metric), cell.main_metric(mean));
            (cell.name.clone(), pairs.into_iter().map(|(x, y)| (x, y * 100.0)).collect())
        });
        let axes = Axes { x: &metric.to_string(), y };
        push_chart(
            &mut body,
            &format!("Main metric against the fidelity with the highest correlation ({correlation:.2})"),
            &scatter(&points.collect::<Vec<_>>(), &[], false, axes),
        );
    }
    for curve in [Curve::Raw("task"), Curve::Total] {
        let lines = all.iter().map(|cell| Ok((cell.name.clone(), mean_curve(cell, curve)?)));
        push_curves(&mut body, &format!("{curve}, mean over seeds"), &lines.collect::<Result<Vec<_>>>()?);
    }
    Ok(page(&sweep.title, &body))
}

/// Adds a chart with its heading, unless it is empty.
fn push_chart(body: &mut String, title: &str, chart: &str) {
    if !chart.is_empty() {
        body.push_str(&format!("<h2>{}</h2>{chart}", escape(title)));
    }
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
    let groups = metrics.iter().map(group).collect::<Vec<_>>();
    let has_spread =
        groups.iter().flat_map(|group| group.1.iter().flatten()).any(|(_, spread)| *spread > 0.0);
    let axis = if has_spread { "percent (lines: ± standard deviation over seeds)" } else { "percent" };
    bars(&names, &groups, axis)
}

/// Averages the loss curves of all seeds, up to the length of the shortest one.
fn mean_curve(cell: &CellResults, curve: Curve<'_>) -> Result<Vec<(f64, f64)>> {
    let curves = cell.folders.iter().map(|folder| Ok(points(&metrics::read_steps(folder)?, curve)));
    let curves = curves.collect::<Result<Vec<_>>>()?;
    let length = curves.iter().map(Vec::len).min().unwrap_or(0);
    let mean = |index: usize| {
        let values = curves.iter().map(|curve| curve[index].1).sum::<f64>();
        (curves[0][index].0, values / curves.len() as f64)
    };
    Ok((0..length).map(mean).collect())
}

#[cfg(test)]
mod tests {
    use super::super::results::MainMetric;
    use super::*;
    use crate::report::origin::Origin;
    use crate::{Error, write_reports};

    fn cell(name: &str, seeds: &[(u64, f64)], parameters: u64) -> CellResults {
        let values = seeds.iter().copied().collect();
        let main = vec![MainMetric { name: "toys".into(), values }];
        CellResults { main, parameters, macs: parameters, ..CellResults::unknown(name) }
    }

    fn report(shared: Vec<CellResults>, cells: Vec<CellResults>) -> SweepReport {
        SweepReport {
            name: "small".into(),
            title: "Small & quick".into(),
            origin: Origin::default(),
            trained: Vec::new(),
            mean: Vec::new(),
            baseline: None,
            shared,
            cells,
            comparisons: Vec::new(),
            predictors: Vec::new(),
            missing: vec!["student (seed 0)".into()],
        }
    }

    #[test]
    fn a_teacher_that_is_no_run_has_bars_but_no_cost() {
        let mut student = cell("student", &[(0, 0.2), (1, 0.3)], 7_000_000);
        student.seeds = vec![0, 1];
        student
            .main
            .push(MainMetric { name: "mean of the sets".into(), values: [(0, 0.2), (1, 0.3)].into() });
        let report = report(vec![cell("teacher", &[(0, 0.5)], 0)], vec![student]);
        let picture = picture(&report);
        for part in [">teacher<", ">50.0<", ">student<", ">25.0<", "standard deviation"] {
            assert!(picture.contains(part), "{part}: {picture}");
        }
        let page = html(&report).unwrap();
        // One model is no comparison of costs, and a run without steps has no curve.
        assert!(!page.contains("against parameters") && !page.contains("<polyline"), "{page}");
        let tables = report.markdown();
        assert!(tables.contains("| teacher | -     |"), "{tables}");
        let cost = tables.split("## Cost").nth(1).unwrap();
        assert!(cost.contains("student") && !cost.contains("teacher"), "{cost}");
    }

    #[test]
    fn a_teacher_of_unknown_cost_is_a_line_beside_the_costs_of_the_cells() {
        let mean = |name: &str, value: f64, parameters| {
            let main = vec![MainMetric { name: "mean of the sets".into(), values: [(0, value)].into() }];
            CellResults { main, ..cell(name, &[], parameters) }
        };
        let cells = vec![mean("a", 0.2, 7_000_000), mean("b", 0.3, 8_000_000)];
        let page = html(&report(vec![mean("the teacher", 0.48, 0)], cells)).unwrap();
        let chart = page.split("against parameters</h2>").nth(1).unwrap().split("</svg>").next().unwrap();
        assert_eq!(
            (chart.matches("<circle").count(), chart.matches(">the teacher<").count()),
            (2, 1),
            "{chart}"
        );
    }

    #[test]
    fn a_chart_of_one_seed_does_not_speak_of_a_spread() {
        let picture = picture(&report(vec![], vec![cell("a", &[(0, 0.5)], 1)]));
        assert!(picture.contains(">percent<") && !picture.contains("deviation"), "{picture}");
    }

    #[test]
    fn a_sweep_without_a_finished_run_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("small");
        let error = write_reports(&report(vec![], vec![]), &out).unwrap_err();
        assert!(
            matches!(error, Error::NoFinishedRun { .. }) && error.to_string().contains("no finished run")
        );
        assert!(!out.exists());
    }
}
