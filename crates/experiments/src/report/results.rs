//! Results of a sweep's cells: means over seeds, and differences paired by seed.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use clip_model::cost;
use file_ext::write_atomic;
use serde::{Deserialize, Serialize};
use zeroshot_eval::accuracy::ClassRecall;
use zeroshot_eval::{Evaluation, Metric, MetricName, MetricValue, Report, Score};

use super::origin::{Origin, trained_by};
use super::page;
use super::stats::{Difference, Summary, correlation};
use super::teachers::Teachers;
use crate::sweep::file::{Cell, CellState, MeanPart, Sweep};
use crate::{Error, Result};
use trainer::model::loaded;
use trainer::run::{MODEL_FOLDER, REPORT_FILE, Results};

/// Returns the name of the main metric. A sweep that lists the parts of its mean selects zero-shot sets with them.
pub(super) fn mean_name(parts: &[MeanPart]) -> &'static str {
    if parts.is_empty() { "mean of the sets" } else { "zero-shot mean" }
}

/// Maximum number of classes of a set with a per-class table.
const FEW_CLASSES: usize = 20;

/// Values by seed.
pub type BySeed = BTreeMap<u64, f64>;

/// The results of one cell over all its seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellResults {
    /// Name of the cell.
    pub name: String,
    /// Its recipe file.
    #[serde(default)]
    pub recipe: String,
    /// Its losses with their weights, such as `1 × task + 2 × crd`.
    #[serde(default)]
    pub losses: String,
    /// The finished seeds; none for a teacher that is not a run of the sweep.
    pub seeds: Vec<u64>,
    /// The mean and the main metric of each set.
    pub main: Vec<MainMetric>,
    /// For each metric, one value per seed, 0 to 1.
    #[serde(alias = "figures")]
    pub metrics: BTreeMap<Metric, BySeed>,
    /// For each set with few classes, the recall of each class, one value per seed, 0 to 1.
    #[serde(default)]
    pub per_class: BTreeMap<ClassMetric, BySeed>,
    /// For each fidelity metric, one value per seed.
    pub fidelity: BTreeMap<Metric, BySeed>,
    /// For each set, the fraction of the teacher's main metric, one value per seed.
    pub retained: BTreeMap<String, BySeed>,
    /// Parameters of both towers; 0 if unknown.
    pub parameters: u64,
    /// Multiply-accumulates of one image and one text; 0 if unknown.
    pub macs: u64,
    /// Seconds of training, one value per seed.
    pub seconds: BySeed,
    /// Run folders, one per seed.
    pub folders: Vec<PathBuf>,
}

/// A main metric of a cell: of one data set, or their mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "(String, BySeed)", into = "(String, BySeed)")]
pub struct MainMetric {
    /// The data set, or the name of the mean.
    pub name: String,
    /// One value per seed, 0 to 1.
    pub values: BySeed,
}

impl From<(String, BySeed)> for MainMetric {
    fn from((name, values): (String, BySeed)) -> Self {
        MainMetric { name, values }
    }
}

impl From<MainMetric> for (String, BySeed) {
    fn from(metric: MainMetric) -> Self {
        (metric.name, metric.values)
    }
}

/// The key of a class recall. Its text is `SET: CLASS`, which is also its form in files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ClassMetric {
    /// The data set.
    pub set: String,
    /// The class. The second class with the same name ends in ` (2)`.
    pub class: String,
}

impl fmt::Display for ClassMetric {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&format!("{}: {}", self.set, self.class))
    }
}

impl From<String> for ClassMetric {
    fn from(text: String) -> Self {
        let (set, class) = text.split_once(": ").unwrap_or(("", &text));
        ClassMetric { set: set.into(), class: class.into() }
    }
}

impl From<ClassMetric> for String {
    fn from(metric: ClassMetric) -> Self {
        metric.to_string()
    }
}

/// Correlation of a fidelity metric with the main metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "(Metric, f64)", into = "(Metric, f64)")]
pub struct Predictor {
    /// The fidelity metric.
    pub metric: Metric,
    /// Pearson's correlation, -1 to 1.
    pub correlation: f64,
}

impl From<(Metric, f64)> for Predictor {
    fn from((metric, correlation): (Metric, f64)) -> Self {
        Predictor { metric, correlation }
    }
}

impl From<Predictor> for (Metric, f64) {
    fn from(predictor: Predictor) -> Self {
        (predictor.metric, predictor.correlation)
    }
}

/// Comparison of two cells, paired by seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The first cell.
    pub cell: String,
    /// The second cell.
    pub other: String,
    /// The main metric: a data set, or the name of the mean.
    #[serde(alias = "figure")]
    pub metric: String,
    /// First minus second.
    pub difference: Difference,
}

/// The results of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepReport {
    /// Name of the sweep.
    pub name: String,
    /// The question that the sweep answers.
    pub title: String,
    /// The sweep file, and program, machine class and date of the report.
    #[serde(flatten)]
    pub origin: Origin,
    /// Programs and machines that trained the runs.
    #[serde(default)]
    pub trained: Vec<String>,
    /// The parts of the main metric, which is their mean; if empty, the main metrics of all sets.
    pub mean: Vec<MeanPart>,
    /// The baseline of the differences in tables.
    pub baseline: Option<String>,
    /// The teachers that are not runs of the sweep, and the shared runs in the order of the file.
    pub shared: Vec<CellResults>,
    /// The cells, in the order of the file.
    pub cells: Vec<CellResults>,
    /// The differences between all pairs of cells, for each main metric.
    pub comparisons: Vec<Comparison>,
    /// Correlation of each fidelity metric with the main metric, over all cells and seeds.
    pub predictors: Vec<Predictor>,
    /// Name and seed of the cells that are not finished.
    pub missing: Vec<String>,
}

impl SweepReport {
    /// Reads the results of all finished cells. `made` states the program with its commit, machine and date of the report.
    ///
    /// ```no_run
    /// # fn example() -> experiments::Result<()> {
    /// use experiments::{Sweep, SweepReport, write_reports};
    ///
    /// let sweep = Sweep::load("sweep.toml", &[], "runs/sweeps")?;
    /// let report = SweepReport::read(&sweep, "my machine, today")?;
    /// write_reports(&report, "runs/sweeps/report")?;
    /// println!("{}", report.markdown());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Results`] if the results of a run cannot be read, [`Error::MissingMetric`] if a run
    /// lacks a metric that the sweep's mean needs, [`Error::Trainer`] or [`Error::Model`] if a model's configuration is
    /// invalid.
    pub fn read(sweep: &Sweep, made: &str) -> Result<Self> {
        let mut missing = Vec::new();
        // A shared run may have been evaluated on more sets.
        let sets = sweep.cells.iter().flat_map(|cell| &cell.recipe.eval.sets);
        let sets = sets.map(|set| set.name.as_str()).collect::<HashSet<_>>();
        let mut teachers = Teachers::new(sweep);
        let mut collect = |cells: &[Cell], needs_mean: bool| -> Result<Vec<CellResults>> {
            let mut all = Vec::<CellResults>::new();
            for cell in cells {
                if cell.state() != CellState::Finished {
                    missing.push(cell.label());
                    continue;
                }
                let mut results = read_results(&cell.folder)?;
                for report in [Some(&mut results.student), results.teacher.as_mut()].into_iter().flatten() {
                    report.sets.retain(|set| sets.contains(set.set.as_str()));
                }
                teachers.add(cell, &results)?;
                results.details.retain(|found| sets.contains(found.set.as_str()));
                let existing = all.iter().position(|results| results.name == cell.name);
                let index = match existing {
                    Some(index) => index,
                    None => {
                        all.push(CellResults::new(cell, &results)?);
                        all.len() - 1
                    }
                };
                all[index].add(cell, &results, &sweep.mean, needs_mean)?;
            }
            Ok(all)
        };
        let finished =
            sweep.shared.iter().chain(&sweep.cells).filter(|cell| cell.state() == CellState::Finished);
        let folders = finished.map(|cell| cell.folder.as_path()).collect::<HashSet<_>>();
        let trained = trained_by(folders);
        let (shared, cells) = (collect(&sweep.shared, false)?, collect(&sweep.cells, true)?);
        let shared = teachers.into_results().into_iter().chain(shared).collect();
        let comparisons = comparisons(&cells);
        let predictors = predictors(&cells, mean_name(&sweep.mean));
        Ok(SweepReport {
            name: sweep.name.clone(),
            title: sweep.title.clone(),
            origin: Origin::new(&sweep.path, made),
            trained,
            mean: sweep.mean.clone(),
            baseline: sweep.baseline.clone(),
            shared,
            cells,
            comparisons,
            predictors,
            missing,
        })
    }
}

/// Writes `report.md`, `report.json`, `report.csv`, `report.html` and `report.svg` (the main metrics) into a folder.
///
/// # Errors
/// [`Error::NoFinishedRun`] if there is nothing to report, [`Error::Io`] if a file cannot be written, [`Error::Trainer`]
/// if the metrics of a run cannot be read.
pub fn write_reports(report: &SweepReport, folder: impl AsRef<Path>) -> Result<()> {
    if report.is_empty() {
        return Err(Error::NoFinishedRun { sweep: report.name.clone() });
    }
    let folder = folder.as_ref();
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let json = serde_json::to_string_pretty(report)?;
    for (file, text) in [
        ("report.md", report.markdown()),
        ("report.json", json),
        ("report.csv", report.csv()),
        ("report.html", page::html(report)?),
        ("report.svg", page::picture(report)),
    ] {
        // Runs without evaluation sets have no chart.
        if !text.is_empty() {
            write_atomic(folder.join(file), text.as_bytes())?;
        }
    }
    Ok(())
}

impl SweepReport {
    /// Whether no run of the sweep is finished.
    pub fn is_empty(&self) -> bool {
        self.shared.iter().chain(&self.cells).all(|cell| cell.seeds.is_empty())
    }

    /// Name of the main metric.
    pub(super) fn mean_name(&self) -> &'static str {
        mean_name(&self.mean)
    }
}

impl CellResults {
    /// Returns one value per seed for a main metric.
    pub fn main_metric(&self, name: &str) -> Option<&BySeed> {
        self.main.iter().find(|metric| metric.name == name).map(|metric| &metric.values)
    }

    fn new(cell: &Cell, results: &Results) -> Result<Self> {
        // The final configuration, if the run changed it.
        let config = loaded::config(&cell.folder.join(MODEL_FOLDER).display().to_string())?;
        let cost = cost::cost(&config)?;
        let (image, text) = results.parameters;
        let macs = cost.image.macs + cost.text.macs;
        Ok(CellResults {
            recipe: cell.recipe_file.display().to_string(),
            losses: cell.recipe.losses_text(),
            parameters: image + text,
            macs,
            ..CellResults::unknown(&cell.name)
        })
    }

    /// Creates results without a seed and of unknown cost.
    pub(super) fn unknown(name: &str) -> Self {
        CellResults {
            name: name.into(),
            recipe: String::new(),
            losses: String::new(),
            seeds: Vec::new(),
            main: Vec::new(),
            metrics: BTreeMap::new(),
            per_class: BTreeMap::new(),
            fidelity: BTreeMap::new(),
            retained: BTreeMap::new(),
            parameters: 0,
            macs: 0,
            seconds: BySeed::new(),
            folders: Vec::new(),
        }
    }

    /// Adds the scores of a seed. Without every part of the mean, the mean is an error if it is needed, else missing.
    pub(super) fn add_scores(
        &mut self,
        scores: &Report,
        cell: &Cell,
        mean: &[MeanPart],
        needs_mean: bool,
    ) -> Result<()> {
        for set in &scores.sets {
            for MetricValue { name, value, .. } in set.score.metrics() {
                self.metrics.entry(Metric::new(&set.set, name)).or_default().insert(cell.seed, value);
            }
            let Score::Classification(found) = &set.score else { continue };
            if found.per_class.len() <= FEW_CLASSES {
                for (name, recall) in class_recalls(&set.set, &found.per_class) {
                    self.per_class.entry(name).or_default().insert(cell.seed, recall);
                }
            }
        }
        let name = mean_name(mean);
        let mean = match main_value(scores, mean, &cell.label()) {
            Err(_) if !needs_mean => None,
            found => found?.map(|value| (name, value)),
        };
        let sets = scores.sets.iter().map(|set| (set.set.as_str(), set.main()));
        for (name, value) in mean.into_iter().chain(sets) {
            match self.main.iter_mut().find(|metric| metric.name == name) {
                Some(metric) => drop(metric.values.insert(cell.seed, value)),
                None => {
                    let values = BySeed::from([(cell.seed, value)]);
                    self.main.push(MainMetric { name: name.into(), values });
                }
            }
        }
        Ok(())
    }

    /// Adds the results of a seed. With `needs_mean`, they must have every part of the mean.
    fn add(&mut self, cell: &Cell, results: &Results, mean: &[MeanPart], needs_mean: bool) -> Result<()> {
        self.add_scores(&results.student, cell, mean, needs_mean)?;
        if let Some(teacher) = &results.teacher {
            for set in zeroshot_eval::retention(&results.student, teacher).sets {
                if let Some(share) = set.retained {
                    self.retained.entry(set.set).or_default().insert(cell.seed, share);
                }
            }
        }
        for Evaluation { set, fidelity, calibration, .. } in &results.details {
            for MetricValue { name, value, .. } in fidelity.iter().flat_map(|found| found.metrics()) {
                self.fidelity.entry(Metric::new(set, name)).or_default().insert(cell.seed, value);
            }
            if let Some(found) = calibration {
                let metric = Metric::new(set, MetricName::ExpectedCalibrationError);
                self.metrics.entry(metric).or_default().insert(cell.seed, found.expected_calibration_error);
            }
        }
        self.seeds.push(cell.seed);
        self.seconds.insert(cell.seed, results.seconds);
        self.folders.push(cell.folder.clone());
        Ok(())
    }
}

fn read_results(folder: &Path) -> Result<Results> {
    let path = folder.join(REPORT_FILE);
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::Results { path, reason: e.to_string() })
}

/// Returns the value of the main metric, or `None` if nothing was measured.
fn main_value(report: &Report, mean: &[MeanPart], label: &str) -> Result<Option<f64>> {
    let values = if mean.is_empty() {
        report.sets.iter().map(|set| set.main()).collect::<Vec<_>>()
    } else {
        let value = |part: &MeanPart| {
            let set = report.sets.iter().find(|set| set.set == part.set)?;
            set.score.metrics().into_iter().find(|found| found.name == part.metric).map(|found| found.value)
        };
        let missing = |part: &MeanPart| Error::MissingMetric {
            cell: label.into(),
            metric: Metric::new(&part.set, part.metric),
        };
        mean.iter().map(|part| value(part).ok_or_else(|| missing(part))).collect::<Result<_>>()?
    };
    Ok(Summary::of(&values).map(|summary| summary.mean))
}

/// Returns the values of both cells on their common seeds.
pub(super) fn paired(one: Option<&BySeed>, other: Option<&BySeed>) -> Vec<(f64, f64)> {
    let (Some(one), Some(other)) = (one, other) else { return Vec::new() };
    one.iter().filter_map(|(seed, value)| Some((*value, *other.get(seed)?))).collect()
}

/// Compares each pair of different cells on each main metric.
fn comparisons(cells: &[CellResults]) -> Vec<Comparison> {
    let mut all = Vec::new();
    for one in cells {
        for other in cells.iter().filter(|other| other.name != one.name) {
            for MainMetric { name, values } in &one.main {
                if let Some(difference) = Difference::of(&paired(Some(values), other.main_metric(name))) {
                    let (cell, other) = (one.name.clone(), other.name.clone());
                    all.push(Comparison { cell, other, metric: name.clone(), difference });
                }
            }
        }
    }
    all
}

/// Correlates each fidelity metric with the main metric, the strongest correlation first.
fn predictors(cells: &[CellResults], mean: &str) -> Vec<Predictor> {
    let cells = cells.iter().collect::<Vec<_>>();
    let correlated = |metric: Metric| {
        let of = |cell: &&CellResults| paired(cell.fidelity.get(&metric), cell.main_metric(mean));
        let correlation = correlation(&cells.iter().flat_map(of).collect::<Vec<_>>())?;
        Some(Predictor { metric, correlation })
    };
    let mut found =
        keys(&cells, |cell| &cell.fidelity).into_iter().filter_map(correlated).collect::<Vec<_>>();
    found.sort_by(|a, b| b.correlation.abs().total_cmp(&a.correlation.abs()));
    found
}

/// Returns the names of all main metrics, in the order of the sets.
pub(super) fn main_names(cells: &[&CellResults]) -> Vec<String> {
    let mut names = Vec::<String>::new();
    for metric in cells.iter().flat_map(|cell| &cell.main) {
        if !names.contains(&metric.name) {
            names.push(metric.name.clone());
        }
    }
    names
}

/// Returns the keys that any cell has, sorted.
pub(super) fn keys<K: Ord + Clone>(
    cells: &[&CellResults],
    of: impl Fn(&CellResults) -> &BTreeMap<K, BySeed>,
) -> Vec<K> {
    let mut keys = cells.iter().flat_map(|cell| of(cell).keys()).cloned().collect::<Vec<_>>();
    keys.sort();
    keys.dedup();
    keys
}

/// Returns the recall of each class that has images. Duplicate class names get a number.
fn class_recalls(set: &str, classes: &[ClassRecall]) -> Vec<(ClassMetric, f64)> {
    let row = |(index, class): (usize, &ClassRecall)| {
        let earlier = classes[..index].iter().filter(|other| other.class == class.class).count();
        let number = if earlier > 0 { format!(" ({})", earlier + 1) } else { String::new() };
        let name = format!("{}{number}", class.class);
        Some((ClassMetric { set: set.into(), class: name }, class.recall?))
    };
    classes.iter().enumerate().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_with_equal_names_get_separate_rows() {
        let class = |name: &str, recall| ClassRecall { class: name.into(), recall, samples: 1 };
        let classes = [class("crane", Some(1.0)), class("cat", None), class("crane", Some(0.0))];
        let metric = |text: &str| ClassMetric::from(text.to_string());
        let expected = [(metric("s: crane"), 1.0), (metric("s: crane (2)"), 0.0)];
        assert_eq!(class_recalls("s", &classes), expected);
    }

    const MEAN: &str = "mean of the sets";

    fn cell(name: &str, mean: &[(u64, f64)], cka: &[(u64, f64)]) -> CellResults {
        CellResults {
            name: name.into(),
            recipe: "base.toml".into(),
            losses: "1 × task".into(),
            seeds: vec![0, 1, 2],
            main: vec![MainMetric { name: MEAN.into(), values: mean.iter().copied().collect() }],
            metrics: BTreeMap::new(),
            per_class: BTreeMap::new(),
            fidelity: [("s: images, linear CKA".parse().unwrap(), cka.iter().copied().collect())].into(),
            retained: BTreeMap::new(),
            parameters: 1,
            macs: 1,
            seconds: BySeed::new(),
            folders: Vec::new(),
        }
    }

    #[test]
    fn a_seed_without_a_metric_changes_no_other_seed() {
        let mut one = cell("one", &[(1, 0.5), (2, 0.7)], &[(0, 0.1), (2, 0.9)]);
        one.per_class.insert("s: ship".to_string().into(), [(1, 0.25), (2, 0.5)].into());
        let other = cell("other", &[(0, 0.1), (1, 0.2), (2, 0.3)], &[(0, 0.2), (1, 0.3), (2, 0.4)]);
        let pairs = paired(one.main_metric(MEAN), other.main_metric(MEAN));
        assert_eq!(pairs, [(0.5, 0.2), (0.7, 0.3)]);
        assert_eq!(paired(one.fidelity.values().next(), one.main_metric(MEAN)), [(0.9, 0.7)]);
        let report = SweepReport {
            name: "s".into(),
            title: "s".into(),
            origin: Origin::new("sweeps/s.toml", "clip-distill 0.1.0 abc; a CPU, 2 cores; 2026-01-01"),
            trained: Vec::new(),
            mean: Vec::new(),
            baseline: None,
            shared: Vec::new(),
            comparisons: comparisons(&[one.clone(), other.clone()]),
            predictors: predictors(&[one.clone(), other.clone()], MEAN),
            cells: vec![one, other],
            missing: Vec::new(),
        };
        assert_eq!(report.comparisons[0].difference.count, 2);
        let head =
            ["sweeps/s.toml", "base.toml", "1 × task", "0, 1, 2", "0.1.0 abc; a CPU, 2 cores; 2026-01-01"];
        let page = page::html(&report).unwrap();
        let json = serde_json::to_string(&report).unwrap();
        for part in head {
            assert!(report.markdown().contains(part) && page.contains(part), "{part}");
            assert!(json.replace("[0,1,2]", "0, 1, 2").contains(part), "{part}: {json}");
        }
        let lines = report.csv();
        assert!(
            lines.contains("one,2,main,mean of the sets,0.7\n") && !lines.contains("one,0,main"),
            "{lines}"
        );
        assert!(lines.contains("one,2,class recall,s: ship,0.5\n"), "{lines}");
        let tables = report.tables();
        let classes = tables.iter().find(|table| table.title().starts_with("Recall of each class")).unwrap();
        let classes = classes.to_markdown();
        let row = classes.lines().last().unwrap().split('|').map(str::trim).collect::<Vec<_>>();
        assert_eq!(row, ["", "s", "ship", "37.5 ± 17.7", "-", ""]);
    }

    #[test]
    fn json_keeps_its_keys() {
        let mut results = cell("one", &[(1, 0.5)], &[(1, 0.25)]);
        results.metrics.insert(Metric::new("s", MetricName::Top1), [(1, 0.5)].into());
        results.per_class.insert("s: ship".to_string().into(), [(1, 1.0)].into());
        let json = serde_json::to_value(&results).unwrap();
        assert_eq!(json["main"], serde_json::json!([[MEAN, { "1": 0.5 }]]));
        assert_eq!(json["metrics"]["s: top-1"]["1"], 0.5);
        assert_eq!(json["per_class"]["s: ship"]["1"], 1.0);
        assert_eq!(json["fidelity"]["s: images, linear CKA"]["1"], 0.25);
        assert_eq!(serde_json::from_value::<CellResults>(json).unwrap(), results);
        let part = MeanPart { set: "s".into(), metric: MetricName::Top1 };
        assert_eq!(serde_json::to_value(part).unwrap(), serde_json::json!({ "set": "s", "metric": "top-1" }));
        let predictor = Predictor { metric: Metric::new("s", MetricName::Top1), correlation: 0.5 };
        assert_eq!(serde_json::to_value(predictor).unwrap(), serde_json::json!(["s: top-1", 0.5]));
    }
}
