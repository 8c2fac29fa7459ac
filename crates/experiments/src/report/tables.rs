//! The tables and CSV lines of a sweep's report.

use std::collections::BTreeMap;

use zeroshot_eval::Table;
use zeroshot_eval::table::{Cell, Number};

use super::results::{BySeed, CellResults, Comparison, MainMetric, Predictor, SweepReport, keys, main_names};
use super::stats::{Difference, Summary};

impl SweepReport {
    /// Returns the report as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n", self.title);
        for (label, line) in self.head() {
            text.push_str(&format!("- {label}: {line}\n"));
        }
        if !self.missing.is_empty() {
            text.push_str(&format!("\nNot finished: {}.\n", self.missing.join(", ")));
        }
        for table in self.tables() {
            text.push_str(&format!("\n## {}\n\n{table}", table.title()));
        }
        text
    }

    /// Returns the lines at the head of the report: label and text.
    pub(super) fn head(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![("Sweep", self.origin.file.clone())];
        lines.extend(self.trained.iter().map(|line| ("Trained", line.clone())));
        lines.push(("Report", self.origin.made.clone()));
        lines.retain(|(_, text)| !text.is_empty());
        lines
    }

    /// Returns the tables, each with its title.
    pub fn tables(&self) -> Vec<Table> {
        let all = self.shared.iter().chain(&self.cells).collect::<Vec<_>>();
        let cells = self.cells.iter().collect::<Vec<_>>();
        if all.is_empty() {
            return Vec::new();
        }
        let mut tables = vec![self.main_table(&all)];
        if let Some(baseline) = self.baseline.as_ref().filter(|_| cells.len() > 1) {
            tables.push(self.baseline_table(&all, baseline));
        }
        if cells.len() > 2 {
            tables.push(self.pair_table(&cells));
        }
        let set_of = |metric: &zeroshot_eval::Metric| [metric.set.clone(), metric.name.to_string()];
        tables.push(by_set("All metrics in percent", "metric", 100.0, &all, |cell| &cell.metrics, set_of));
        let class_of = |metric: &super::results::ClassMetric| [metric.set.clone(), metric.class.clone()];
        tables.push(by_set(
            "Recall of each class in percent",
            "class",
            100.0,
            &all,
            |c| &c.per_class,
            class_of,
        ));
        let title = "Share of the teacher's score that is retained, in percent";
        let main_of = |set: &String| [set.clone(), "main metric".into()];
        tables.push(by_set(title, "metric", 100.0, &all, |cell| &cell.retained, main_of));
        tables.push(by_set("Fidelity to the teacher", "metric", 1.0, &all, |cell| &cell.fidelity, set_of));
        tables.push(self.predictor_table());
        tables.push(recipe_table(&all));
        tables.push(cost_table(&all));
        tables.retain(|table| !table.is_empty());
        tables
    }

    fn main_table(&self, all: &[&CellResults]) -> Table {
        let columns = main_names(all);
        let title = "Results in percent, mean ± standard deviation over seeds";
        let mut table = Table::new(["cell", "seeds"]).with_numbers(&columns).with_title(title);
        for cell in all.iter().filter(|_| !columns.is_empty()) {
            let values = columns.iter().map(|name| summary(cell.main_metric(name), 100.0));
            table.push(head(cell).into_iter().chain(values));
        }
        table
    }

    fn baseline_table(&self, all: &[&CellResults], baseline: &str) -> Table {
        let columns = main_names(all);
        let title = format!(
            "Difference to `{baseline}` in points, with the 95 % interval over seeds (paired; * excludes 0)"
        );
        let mut table = Table::new(["cell", "seeds"]).with_numbers(&columns).with_title(title);
        for cell in self.cells.iter().filter(|cell| cell.name != baseline) {
            let values = columns.iter().map(|name| self.compared(&cell.name, baseline, name));
            table.push(head(cell).into_iter().chain(values));
        }
        table
    }

    fn pair_table(&self, cells: &[&CellResults]) -> Table {
        let mean = self.mean_name();
        let title = "Row minus column in points, with the 95 % interval over seeds";
        let names = cells.iter().map(|cell| cell.name.as_str());
        let mut table = Table::new(["cell", "metric"]).with_numbers(names.clone()).with_title(title);
        for cell in cells {
            let values = names.clone().map(|other| self.compared(&cell.name, other, mean));
            table.push([cell.name.as_str().into(), mean.into()].into_iter().chain(values));
        }
        table
    }

    fn predictor_table(&self) -> Table {
        let mean = self.mean_name();
        let title = format!("Correlation of fidelity metrics with the {mean}, over all cells and seeds");
        let mut table = Table::new(["fidelity", "with"]).with_numbers(["correlation"]).with_title(title);
        for Predictor { metric, correlation } in &self.predictors {
            table.push([metric.to_string().into(), mean.into(), Cell::number(*correlation, 2)]);
        }
        table
    }

    /// Returns the difference of two cells on a main metric.
    fn compared(&self, cell: &str, other: &str, metric: &str) -> Cell {
        let same = |c: &&Comparison| c.cell == cell && c.other == other && c.metric == metric;
        self.comparisons.iter().find(same).map(|found| difference(&found.difference)).into()
    }

    /// Returns one line of CSV per cell, seed and metric.
    pub fn csv(&self) -> String {
        let mut table = Table::new(["cell", "seed", "kind", "metric"]).with_numbers(["value"]);
        for cell in self.shared.iter().chain(&self.cells) {
            let mut add = |kind: &str, name: String, values: &BySeed| {
                for (seed, value) in values {
                    let labels = [kind.into(), name.as_str().into()];
                    let row = [cell.name.as_str().into(), Cell::from(*seed)].into_iter().chain(labels);
                    table.push(row.chain([Cell::number(*value, 4)]));
                }
            };
            for MainMetric { name, values } in &cell.main {
                add("main", name.clone(), values);
            }
            cell.metrics.iter().for_each(|(metric, values)| add("score", metric.to_string(), values));
            cell.per_class.iter().for_each(|(class, values)| add("class recall", class.to_string(), values));
            cell.retained.iter().for_each(|(set, values)| add("retained", set.clone(), values));
            cell.fidelity.iter().for_each(|(metric, values)| add("fidelity", metric.to_string(), values));
        }
        table.to_csv()
    }
}

/// Returns the first two cells of a row: the name and the number of seeds, if it is a run.
fn head(cell: &CellResults) -> [Cell; 2] {
    let seeds = (!cell.seeds.is_empty()).then_some(cell.seeds.len());
    [cell.name.as_str().into(), seeds.into()]
}

/// Returns a table with a row per data set and metric, and a column per cell.
fn by_set<K: Ord + Clone>(
    title: &str,
    what: &str,
    factor: f64,
    cells: &[&CellResults],
    of: fn(&CellResults) -> &BTreeMap<K, BySeed>,
    labels: impl Fn(&K) -> [String; 2],
) -> Table {
    let names = cells.iter().map(|cell| cell.name.as_str());
    let mut table = Table::new(["data set", what]).with_numbers(names).with_title(title);
    for key in keys(cells, of) {
        let values = cells.iter().map(|cell| summary(of(cell).get(&key), factor));
        table.push(labels(&key).map(Cell::from).into_iter().chain(values));
    }
    table
}

fn recipe_table(all: &[&CellResults]) -> Table {
    let mut table = Table::new(["cell", "recipe", "losses", "seeds"]).with_title("Recipes, losses and seeds");
    for cell in all {
        let seeds = cell.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let texts = [cell.name.as_str(), &cell.recipe, &cell.losses, &seeds];
        table.push(texts.map(Cell::from));
    }
    table
}

fn cost_table(all: &[&CellResults]) -> Table {
    let columns = ["parameters, M", "MACs, G", "training, s"];
    let mut table = Table::new(["cell", "seeds"]).with_numbers(columns).with_title("Cost");
    for cell in all.iter().filter(|cell| cell.parameters > 0) {
        let costs = [
            Cell::number(cell.parameters as f64 / 1e6, 2),
            Cell::number(cell.macs as f64 / 1e9, 3),
            summary(Some(&cell.seconds), 1.0),
        ];
        table.push(head(cell).into_iter().chain(costs));
    }
    table
}

fn summary(values: Option<&BySeed>, factor: f64) -> Cell {
    let digits = if factor > 1.0 { 1 } else { 2 };
    let number = |Summary { mean, deviation, .. }: Summary| {
        Number::new(mean * factor, digits).with_spread(deviation.map(|deviation| deviation * factor))
    };
    values.and_then(Summary::by_seed).map(number).into()
}

fn difference(found: &Difference) -> Cell {
    let half = found.half_width.map(|half| half * 100.0);
    Number::new(found.mean * 100.0, 1).with_sign().with_spread(half).with_mark(found.is_clear()).into()
}
