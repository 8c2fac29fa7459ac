//! The tables and CSV lines of a sweep's report.

use super::results::{BySeed, CellResults, Comparison, Of, SweepReport, figure_names, main_names};
use super::stats::{Difference, Summary};

impl SweepReport {
    /// Returns the tables as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n- Report: {}\n", self.title, self.made);
        for trained in &self.trained {
            text.push_str(&format!("- Trained: {trained}\n"));
        }
        if !self.missing.is_empty() {
            text.push_str(&format!("\nNot finished: {}.\n", self.missing.join(", ")));
        }
        for (title, table) in self.tables() {
            text.push_str(&format!("\n## {title}\n\n{table}"));
        }
        text
    }

    /// Returns titles and Markdown tables.
    pub fn tables(&self) -> Vec<(String, String)> {
        let all = self.shared.iter().chain(&self.cells).collect::<Vec<_>>();
        let mean = self.mean_name();
        let mut tables = Vec::new();
        let columns = main_names(&all);
        let cell_row = |cell: &CellResults, value: &dyn Fn(&String) -> String| {
            let mut row = vec![cell.name.clone(), cell.seeds.len().to_string()];
            row.extend(columns.iter().map(value));
            row
        };
        if !columns.is_empty() {
            let rows = all.iter().map(|cell| cell_row(cell, &|name| summary(cell.main_figure(name), 100.0)));
            let title = "Results in percent, mean ± standard deviation over seeds".to_string();
            tables.push((title, table(&["cell", "seeds"], &columns, rows.collect())));
        }
        let compared = |cell: &str, other: &str, figure: &str| {
            let same = |c: &&Comparison| c.cell == cell && c.other == other && c.figure == figure;
            self.comparisons.iter().find(same).map_or_else(|| "-".into(), |c| difference(&c.difference))
        };
        if let Some(baseline) = self.baseline.as_ref().filter(|_| self.cells.len() > 1) {
            let others = self.cells.iter().filter(|cell| cell.name != *baseline);
            let rows = others.map(|cell| cell_row(cell, &|name| compared(&cell.name, baseline, name)));
            let title = format!(
                "Difference to `{baseline}` in points, with the 95 % interval over seeds (paired; * leaves 0 out)"
            );
            tables.push((title, table(&["cell", "seeds"], &columns, rows.collect())));
        }
        let names = self.cells.iter().map(|cell| cell.name.clone()).collect::<Vec<_>>();
        if names.len() > 2 {
            let rows = self.cells.iter().map(|cell| {
                let mut row = vec![cell.name.clone(), mean.to_string()];
                row.extend(names.iter().map(|other| compared(&cell.name, other, mean)));
                row
            });
            let title = "Row minus column in points, with the 95 % interval over seeds".to_string();
            tables.push((title, table(&["cell", "figure"], &names, rows.collect())));
        }
        let of_sets: [(&str, &str, f64, Of); 4] = [
            ("All figures in percent", "figure", 100.0, |cell| &cell.figures),
            ("Recall of each class in percent", "class", 100.0, |cell| &cell.per_class),
            ("Share of the teacher's score that is retained, in percent", "figure", 100.0, |cell| {
                &cell.retained
            }),
            ("Fidelity to the teacher", "figure", 1.0, |cell| &cell.fidelity),
        ];
        for (title, what, factor, of) in of_sets {
            let rows = figure_names(&all, of).into_iter().map(|name| {
                let (set, figure) = name.split_once(": ").unwrap_or((&name, "main figure"));
                let mut row = vec![set.to_string(), figure.to_string()];
                row.extend(all.iter().map(|cell| summary(of(cell).get(&name), factor)));
                row
            });
            let rows = rows.collect::<Vec<_>>();
            if !rows.is_empty() {
                let columns = all.iter().map(|cell| cell.name.clone()).collect::<Vec<_>>();
                tables.push((title.into(), table(&["data set", what], &columns, rows)));
            }
        }
        if !self.predictors.is_empty() {
            let rows =
                self.predictors.iter().map(|(name, r)| vec![name.clone(), mean.into(), format!("{r:.2}")]);
            let title = format!("Which fidelity goes with the {mean}, over all cells and seeds");
            tables.push((title, table(&["fidelity", "with"], &["correlation".into()], rows.collect())));
        }
        if all.is_empty() {
            return tables;
        }
        let columns = ["parameters, M", "MACs, G", "training, s"].map(String::from);
        let rows = all.iter().map(|cell| {
            vec![
                cell.name.clone(),
                cell.seeds.len().to_string(),
                format!("{:.2}", cell.parameters as f64 / 1e6),
                format!("{:.3}", cell.macs as f64 / 1e9),
                summary(Some(&cell.seconds), 1.0),
            ]
        });
        tables.push(("Cost".into(), table(&["cell", "seeds"], &columns, rows.collect())));
        tables
    }

    /// Returns one line per cell, seed and figure.
    pub fn csv(&self) -> String {
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let mut text = "cell,seed,kind,figure,value\n".to_string();
        for cell in self.shared.iter().chain(&self.cells) {
            let main = cell.main.iter().map(|(figure, values)| ("main", figure, values));
            let others = [
                ("score", &cell.figures),
                ("class recall", &cell.per_class),
                ("retained", &cell.retained),
                ("fidelity", &cell.fidelity),
            ];
            let others =
                others.into_iter().flat_map(|(kind, all)| all.iter().map(move |(f, v)| (kind, f, v)));
            for (kind, figure, values) in main.chain(others) {
                for (seed, value) in values {
                    let (cell, figure) = (quoted(&cell.name), quoted(figure));
                    text.push_str(&format!("{cell},{seed},{kind},{figure},{value}\n"));
                }
            }
        }
        text
    }
}

fn summary(values: Option<&BySeed>, factor: f64) -> String {
    let digits = if factor > 1.0 { 1 } else { 2 };
    match values.and_then(Summary::by_seed) {
        None => "-".into(),
        Some(Summary { mean, deviation: None, .. }) => format!("{:.digits$}", mean * factor),
        Some(Summary { mean, deviation: Some(deviation), .. }) => {
            format!("{:.digits$} ± {:.digits$}", mean * factor, deviation * factor)
        }
    }
}

fn difference(found: &Difference) -> String {
    let mean = found.mean * 100.0;
    match found.half_width {
        None => format!("{mean:+.1}"),
        Some(half) => format!("{mean:+.1} ± {:.1}{}", half * 100.0, if found.is_clear() { " *" } else { "" }),
    }
}

fn table(first: &[&str], columns: &[String], rows: Vec<Vec<String>>) -> String {
    let mut head = first.iter().map(ToString::to_string).collect::<Vec<_>>();
    head.extend(columns.iter().cloned());
    let mut all = vec![head];
    all.extend(rows);
    zeroshot_eval::report::markdown(&all)
}
