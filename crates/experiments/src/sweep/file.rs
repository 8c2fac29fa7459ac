//! Reads a sweep file and resolves it into cells.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use toml::Table;
use zeroshot_eval::MetricName;
use zeroshot_eval::metric::{CLASSIFICATION_METRICS, RETRIEVAL_METRICS};

use super::cell_builder::{CellBuilder, combinations};
use crate::settings::{RecipeSettings, schema};
use crate::{Error, Result};
use trainer::eval::open_set::TOP5_CLASSES;
use trainer::recipe::{EvalTask, Job, ModelRef, Places, Recipe, check_name, settings_table};
use trainer::run::MODEL_FOLDER;
use trainer::run::plan::Plan;
use trainer::run::status::{RunStatus, has_model, results};

/// Maximum number of cells; more than a single machine can run.
const MAX_CELLS: usize = 10_000;

/// A resolved sweep file.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// The sweep file.
    pub path: PathBuf,
    /// Name of the sweep.
    pub name: String,
    /// The question that it answers, for the head of the report.
    pub title: String,
    /// Name of the baseline cell of the differences.
    pub baseline: Option<String>,
    /// The parts whose mean is the main metric; if empty, the main metrics of all sets.
    pub mean: Vec<MeanPart>,
    /// Shared runs that cells depend on. Each runs once, or once per seed; cells then use the run with their own seed.
    pub shared: Vec<Cell>,
    /// The cells, with the seeds of a cell in sequence.
    pub cells: Vec<Cell>,
}

/// A metric of a data set, as a part of the main metric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MeanPart {
    /// Name of the data set.
    pub set: String,
    /// Name of the metric, as in tables; `figure` is an alias of this key.
    #[serde(alias = "figure")]
    #[schemars(schema_with = "mean_metric")]
    pub metric: MetricName,
}

/// One run of a sweep.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The cell's name, which its seeds share.
    pub name: String,
    /// The seed.
    pub seed: u64,
    /// The recipe of the run. References to shared runs are resolved to paths.
    pub recipe: Recipe,
    /// The file of that recipe.
    pub recipe_file: PathBuf,
    /// The run folder.
    pub folder: PathBuf,
    /// The folders of the shared runs to which the recipe refers.
    pub requires: Vec<PathBuf>,
}

/// The progress of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CellState {
    /// Finished, with results on the current evaluation sets.
    Finished,
    /// Started, or finished with results on other evaluation sets.
    Begun,
    /// Not started.
    Open,
}

impl fmt::Display for CellState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            CellState::Finished => "finished",
            CellState::Begun => "begun",
            CellState::Open => "open",
        })
    }
}

/// A sweep file.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// Name of the sweep, as in a recipe, but neither `cells` nor `cache`.
    pub(super) name: String,
    /// Title of the report. Default: the name.
    #[serde(default)]
    pub(super) title: String,
    /// Default recipe of the entries.
    #[serde(default)]
    pub(super) recipe: Option<PathBuf>,
    /// Run of that recipe. Default: the only run.
    #[serde(default)]
    pub(super) run: Option<String>,
    /// Settings of every cell.
    #[serde(default)]
    #[schemars(with = "RecipeSettings")]
    pub(super) settings: Table,
    /// Default seeds of the cells; `settings` cannot contain `seed`.
    #[serde(default = "one_seed")]
    pub(super) seeds: Vec<u64>,
    /// Cell (with its grid values) to which differences are computed.
    #[serde(default)]
    pub(super) baseline: Option<String>,
    /// Metrics whose mean is the main metric, called the zero-shot mean. All cells must evaluate these sets. Default: the
    /// main metrics of all sets.
    #[serde(default)]
    pub(super) mean: Vec<MeanPart>,
    /// Runs that cells depend on.
    #[serde(default)]
    pub(super) shared: Vec<Entry>,
    /// Runs to compare.
    pub(super) cells: Vec<Entry>,
    /// Table of `"key.path" = [values]`: each cell with all combinations, named `CELL, key.path = value`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Vec<serde_json::Value>>")]
    pub(super) grid: BTreeMap<String, Vec<toml::Value>>,
}

/// A run of a recipe, once per seed.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// Unique name of the entry.
    pub(super) name: String,
    /// Recipe file. Default: the sweep's.
    #[serde(default)]
    pub(super) recipe: Option<PathBuf>,
    /// Run of the recipe. Default: the sweep's, or the only run of the entry's own recipe.
    #[serde(default)]
    pub(super) run: Option<String>,
    /// Settings of this entry.
    #[serde(default)]
    #[schemars(with = "RecipeSettings")]
    pub(super) settings: Table,
    /// Seeds of this entry. Default: the sweep's; 0 for a shared run.
    #[serde(default)]
    pub(super) seeds: Option<Vec<u64>>,
}

/// Schema of the metrics that a mean can have.
fn mean_metric(_: &mut SchemaGenerator) -> Schema {
    let names = CLASSIFICATION_METRICS.iter().chain(&RETRIEVAL_METRICS).map(ToString::to_string);
    json_schema!({ "type": "string", "enum": names.collect::<Vec<_>>() })
}

fn one_seed() -> Vec<u64> {
    vec![0]
}

impl MeanPart {
    /// Checks that the recipe of a cell evaluates this metric.
    ///
    /// # Errors
    /// The reason, if it does not.
    fn check(&self, cell: &Cell) -> Result<(), String> {
        let (set, metric) = (&self.set, self.metric);
        let Some(found) = cell.recipe.eval.sets.iter().find(|other| other.name == *set) else {
            return Err(format!("its mean has the set `{set}`, which `{}` does not evaluate", cell.name));
        };
        let known = match found.task {
            EvalTask::Classification => &CLASSIFICATION_METRICS[..],
            EvalTask::Retrieval => &RETRIEVAL_METRICS[..],
        };
        let names = || known.iter().map(MetricName::to_string).collect::<Vec<_>>().join(", ");
        match known.contains(&metric) {
            true => Ok(()),
            false => Err(format!("its mean has the metric `{metric}` of `{set}`, which has {}", names())),
        }
    }
}

impl Cell {
    /// Returns the progress of the cell. A cell with results is finished even if its model is missing. An unreadable
    /// folder counts as started, because its run reports the error.
    pub fn state(&self) -> CellState {
        match results(&self.recipe, &self.folder) {
            Ok(RunStatus::Finished(_)) => CellState::Finished,
            Ok(RunStatus::Open) if !self.folder.join("checkpoints").is_dir() => CellState::Open,
            _ => CellState::Begun,
        }
    }

    /// Whether the cell refers to this shared run.
    fn requires(&self, shared: &Cell) -> bool {
        self.requires.contains(&shared.folder)
    }

    /// Returns name and seed, for messages.
    pub fn label(&self) -> String {
        format!("{} (seed {})", self.name, self.seed)
    }
}

impl Sweep {
    /// Reads a sweep file. `settings` (`key.path=value`) are merged over those of every cell. Run folders are below `out`.
    ///
    /// ```no_run
    /// # fn example() -> experiments::Result<()> {
    /// let sweep = experiments::Sweep::load("sweep.toml", &[], "runs/sweeps")?;
    /// for cell in sweep.runs() {
    ///     println!("{}: {} steps, {}", cell.label(), sweep.plan(cell)?.steps, cell.state());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Data`] if the file cannot be read, [`Error::Sweep`] if it is invalid, [`Error::Trainer`] if one of its
    /// recipes is.
    pub fn load(path: impl AsRef<Path>, settings: &[String], out: impl AsRef<Path>) -> Result<Self> {
        let (path, out) = (path.as_ref(), out.as_ref());
        let origin = path.display().to_string();
        let text = data_pipeline::text::read(path)?;
        let table = Places::parse(&text).map_err(|reason| Error::sweep(&origin, reason))?;
        reject_recipe(&table, &origin)?;
        let places = Places::of_file(&origin, text);
        let fail = |reason: String| Err(Error::sweep(&origin, places.locate(&reason)));
        let file = places.read::<File>(table, schema::sweep_file);
        let file = file.map_err(|reason| Error::sweep(&origin, reason))?;
        check_name(&file.name, &origin).map_err(|error| match error {
            trainer::Error::Recipe { reason, .. } => Error::sweep(&origin, places.locate(&reason)),
            other => other.into(),
        })?;
        if ["cells", "cache"].contains(&file.name.as_str()) {
            return fail(format!(
                "name = \"{}\": this name is reserved for a folder that sweeps share, choose another",
                file.name
            ));
        }
        let entries = || {
            let shared = file.shared.iter().enumerate().map(|(index, entry)| ("shared", index, entry));
            shared.chain(file.cells.iter().enumerate().map(|(index, entry)| ("cells", index, entry)))
        };
        let lists = entries().filter_map(|(list, index, entry)| {
            Some((format!("{list}[{index}].seeds"), entry.seeds.as_ref()?))
        });
        for (key, seeds) in lists.chain([("seeds".to_string(), &file.seeds)]) {
            if let Err(reason) = check_seeds(seeds) {
                return fail(format!("{key}: {reason}"));
            }
        }
        let (over, over_places) = settings_table(settings)?;
        let own =
            entries().map(|(list, index, entry)| (format!("{list}[{index}].settings.seed"), &entry.settings));
        let all = own.chain([("settings.seed".to_string(), &file.settings), ("--set".to_string(), &over)]);
        let seeded = all.into_iter().find(|(_, table)| table.contains_key("seed")).map(|(key, _)| key);
        if let Some(key) = seeded.or(file.grid.contains_key("seed").then(|| "grid.seed".into())) {
            return fail(format!("{key} is not a setting of a sweep: set `seeds`, for all cells or for one"));
        }
        let mut names = std::collections::HashSet::new();
        if let Some((list, index, twice)) = entries().find(|(_, _, entry)| !names.insert(&entry.name)) {
            return fail(format!(
                "{list}[{index}].name: two entries have the name `{}`: rename one",
                twice.name
            ));
        }
        let places = &places;
        let mut builder =
            CellBuilder { path, file: &file, places, over: &over, over_places, out, shared: BTreeMap::new() };
        let mut shared = Vec::new();
        for (index, entry) in file.shared.iter().enumerate() {
            let place = ["shared".into(), index.into()];
            let seeds = entry.seeds.clone().unwrap_or_else(one_seed);
            let runs = seeds.into_iter().map(|seed| builder.cell(entry, &place, &entry.name, seed, None));
            let runs = runs.collect::<Result<Vec<_>>>()?;
            builder.shared.insert(entry.name.clone(), runs.clone());
            shared.extend(runs);
        }
        let mut cells = Vec::new();
        for (index, entry) in file.cells.iter().enumerate() {
            let place = ["cells".into(), index.into()];
            for (suffix, settings) in combinations(&file.grid) {
                for seed in entry.seeds.as_ref().unwrap_or(&file.seeds) {
                    let name = format!("{}{suffix}", entry.name);
                    cells.push(builder.cell(entry, &place, &name, *seed, Some(&settings))?);
                    if cells.len() > MAX_CELLS {
                        return fail(format!("it asks for more than {MAX_CELLS} cells"));
                    }
                }
            }
        }
        if cells.is_empty() {
            return fail("it has no cell: add [[cells]] and at least one seed".into());
        }
        if let Some(baseline) =
            file.baseline.as_ref().filter(|name| cells.iter().all(|cell| cell.name != **name))
        {
            return fail(format!("baseline = \"{baseline}\" is not one of its cells"));
        }
        for (index, part) in file.mean.iter().enumerate() {
            if let Err(reason) = cells.iter().try_for_each(|cell| part.check(cell)) {
                return fail(format!("mean[{index}]: {reason}"));
            }
        }
        let mut names = HashMap::new();
        for cell in &cells {
            if let Some(first) = names.insert(&cell.folder, &cell.name) {
                return fail(format!("`{first}` and `{}` are the same run: remove one of them", cell.name));
            }
        }
        let title = if file.title.is_empty() { file.name.clone() } else { file.title.clone() };
        Ok(Sweep {
            path: path.into(),
            name: file.name.clone(),
            title,
            baseline: file.baseline.clone(),
            mean: file.mean.clone(),
            shared,
            cells,
        })
    }

    /// Returns the plan of a cell: its steps and cost. A shared run that is not finished counts with its planned model.
    ///
    /// # Errors
    /// [`Error::Trainer`] with the errors of [`Plan::new`]; [`Error::Sweep`] if the mean has a metric that the cell cannot
    /// have.
    pub fn plan(&self, cell: &Cell) -> Result<Plan> {
        let mut runs = Vec::new();
        let recipe = self.planned(cell, &mut runs);
        runs.push(recipe);
        let job = Job { name: cell.name.clone(), runs };
        let plan = Plan::new(&job.runs[job.runs.len() - 1], &job)?;
        let is_cell = self.cells.iter().any(|other| other.folder == cell.folder);
        for part in self.mean.iter().filter(|part| is_cell && part.metric == MetricName::Top5) {
            let Some(&count) = plan.class_counts.get(&part.set) else { continue };
            if count <= TOP5_CLASSES {
                let set = &part.set;
                let reason = format!(
                    "its mean has the metric `top-5` of `{set}`, but that set has only {count} classes: use `top-1`"
                );
                return Err(Error::sweep(&self.name, reason));
            }
        }
        Ok(plan)
    }

    /// Checks, before any run, that all cells will have the metrics of the mean. Opens the data only if that depends on it.
    ///
    /// # Errors
    /// [`Error::Sweep`] if a cell cannot have a metric, or the errors of [`Sweep::plan`].
    pub fn check_mean(&self) -> Result<()> {
        if self.mean.iter().all(|part| part.metric != MetricName::Top5) {
            return Ok(());
        }
        self.cells.iter().try_for_each(|cell| self.plan(cell).map(drop))
    }

    /// Returns the recipe of a cell in which a shared run without a model is an earlier run of the same job. Adds such
    /// runs to `runs`.
    fn planned(&self, cell: &Cell, runs: &mut Vec<Recipe>) -> Recipe {
        let mut recipe = cell.recipe.clone();
        recipe.name = cell.name.clone();
        for (_, model) in recipe.models_mut() {
            let pending = self.shared.iter().find(|shared| {
                let folder = shared.folder.join(MODEL_FOLDER);
                *model == ModelRef::from(folder.as_path()) && !folder.exists()
            });
            let Some(shared) = pending else { continue };
            if !runs.iter().any(|run| run.name == shared.name) {
                let run = self.planned(shared, runs);
                runs.push(run);
            }
            *model = ModelRef::Run(shared.name.clone());
        }
        recipe
    }

    /// Returns all runs in execution order, each folder once: first the runs that all cells share, then, for each seed,
    /// its shared runs and its cells. An unfinished sweep can therefore already compare all cells.
    pub fn runs(&self) -> Vec<&Cell> {
        let has_one_seed =
            |cell: &Cell| self.shared.iter().filter(|other| other.name == cell.name).count() == 1;
        let (first, per_seed): (Vec<_>, Vec<_>) = self.shared.iter().partition(|cell| has_one_seed(cell));
        let rest = || per_seed.iter().copied().chain(&self.cells);
        let rank = |cell: &Cell| rest().position(|other| other.seed == cell.seed);
        let mut runs = rest().collect::<Vec<_>>();
        runs.sort_by_key(|cell| (rank(cell), !self.is_shared(cell)));
        let mut folders = std::collections::HashSet::new();
        first.into_iter().chain(runs).filter(|cell| folders.insert(&cell.folder)).collect()
    }

    /// Whether a run must be performed: its results are missing, or unfinished cells depend on its missing model.
    pub fn is_open(&self, run: &Cell) -> bool {
        let unfinished = |cell: &Cell| cell.state() != CellState::Finished;
        let lacks_model = || {
            let waits = |cell: &Cell| unfinished(cell) && cell.requires(run);
            self.is_shared(run) && !has_model(&run.folder) && self.shared.iter().chain(&self.cells).any(waits)
        };
        unfinished(run) || lacks_model()
    }

    /// Whether a run is a shared run, on which cells may depend.
    pub fn is_shared(&self, run: &Cell) -> bool {
        self.shared.iter().any(|shared| shared.folder == run.folder)
    }
}

/// Refuses a recipe, which another command runs.
fn reject_recipe(table: &Table, origin: &str) -> Result<()> {
    let of_recipes = ["student", "losses", "train", "data", "runs", "extends"];
    match !table.contains_key("cells") && of_recipes.iter().any(|key| table.contains_key(*key)) {
        true => Err(Error::sweep(
            origin,
            format!("it has no [[cells]], so it is a recipe: run it with `clip-distill train {origin}`"),
        )),
        false => Ok(()),
    }
}

/// Checks that a list of seeds is not empty, and that its seeds differ and fit into TOML's integers.
///
/// # Errors
/// The reason, if they do not.
fn check_seeds(seeds: &[u64]) -> Result<(), String> {
    if seeds.is_empty() {
        return Err("an empty list leaves no run: list at least one seed, or remove the entry".into());
    }
    let mut unique = std::collections::HashSet::new();
    if let Some(seed) = seeds.iter().find(|seed| !unique.insert(**seed)) {
        return Err(format!("the seed {seed} is listed twice"));
    }
    match seeds.iter().find(|seed| i64::try_from(**seed).is_err()) {
        Some(seed) => Err(format!("the seed {seed} is above {}", i64::MAX)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use trainer::recipe::StoreRef;

    use super::*;

    const RECIPE: &str = "name = 'base'\nstudent.model = 'ViT-nano-32px'\nlosses.task = 1.0\ntrain = { batch_size = 8, steps = 3 }\n\
                          data.train = [{ source = 'emoji' }]";

    fn sweep(text: &str) -> Result<Sweep> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("base.toml"), RECIPE).unwrap();
        let path = folder.path().join("sweep.toml");
        std::fs::write(&path, format!("name = 's'\nrecipe = 'base.toml'\n{text}")).unwrap();
        Sweep::load(&path, &[], "out")
    }

    #[test]
    fn cells_are_recipes_by_settings_by_grid_by_seeds() {
        let sweep = sweep(
            "seeds = [3, 4]\nbaseline = 'plain, train.steps = 5'\n[grid]\n'train.steps' = [5, 6]\n\
             [[shared]]\nname = 'teacher'\nsettings.train.steps = 9\n[[cells]]\nname = 'plain'\n\
             [[cells]]\nname = 'crd'\nsettings = { losses.crd = 1.0, teacher.model = '@teacher', teacher.store = '@teacher/store' }",
        )
        .unwrap();
        assert_eq!((sweep.shared.len(), sweep.cells.len(), sweep.runs().len()), (1, 8, 9));
        let last = &sweep.cells[7];
        assert_eq!((last.name.as_str(), last.seed, last.recipe.seed), ("crd, train.steps = 6", 4, 4));
        assert_eq!(last.recipe.train.steps, Some(6));
        let teacher = &last.recipe.teachers[0];
        let shared = &sweep.shared[0];
        assert_eq!(teacher.model, Some(ModelRef::from(shared.folder.join("model").as_path())));
        assert_eq!(teacher.store, Some(StoreRef::Folder(shared.folder.join("store"))));
        assert!(last.requires(shared) && !sweep.cells[0].requires(shared));
        let plan = sweep.plan(last).unwrap();
        assert_eq!((plan.steps, plan.teachers[0].model.as_str()), (6, "teacher"));
        let nano = sweep.plan(&sweep.cells[0]).unwrap().student;
        assert_eq!(plan.teachers[0].image_macs, nano.image_macs);
        assert_eq!(last.state(), CellState::Open);
        let seeds = sweep.runs().iter().skip(1).map(|cell| cell.seed).collect::<Vec<_>>();
        assert_eq!(seeds, [3, 3, 3, 3, 4, 4, 4, 4]);
    }

    #[test]
    fn cells_use_the_shared_run_with_their_seed() {
        let text = |seeds: &str| {
            sweep(&format!(
                "seeds = {seeds}\n[[shared]]\nname = 'all'\n[[shared]]\nname = 'teacher'\nseeds = [1, 2]\nsettings.train.steps = 9\n\
                 [[cells]]\nname = 'plain'\nsettings = {{ losses.crd = 1.0, teacher.model = '@all' }}\n[[cells]]\nname = 'crd'\nsettings = {{ losses.crd = 1.0, teacher.model = '@teacher' }}",
            ))
        };
        let swept = text("[1, 2]").unwrap();
        let order = swept.runs().iter().map(|run| (run.name.as_str(), run.seed)).collect::<Vec<_>>();
        let cells = |seed| [("teacher", seed), ("plain", seed), ("crd", seed)];
        assert_eq!(order, [&[("all", 0)][..], &cells(1), &cells(2)].concat());
        for cell in swept.cells.iter().filter(|cell| cell.name == "crd") {
            let teacher =
                swept.shared.iter().find(|run| run.name == "teacher" && run.seed == cell.seed).unwrap();
            let model = cell.recipe.teachers[0].model.clone();
            assert_eq!(model, Some(ModelRef::from(teacher.folder.join("model").as_path())));
        }
        let refused = text("[1, 2, 3]").unwrap_err().to_string();
        assert!(refused.contains("`@teacher` has several seeds, but not 3"), "{refused}");
    }

    #[test]
    fn equal_experiments_share_a_folder() {
        let ids = |text: &str| {
            let sweep = sweep(text).unwrap();
            sweep.cells.iter().map(|cell| cell.folder.clone()).collect::<Vec<_>>()
        };
        let plain = ids("[[cells]]\nname = 'a'");
        // The name and settings that do not affect the result do not matter; the seed does.
        assert_eq!(
            plain,
            ids("[[cells]]\nname = 'b'\nsettings.train.threads = 2\nsettings.metrics.every_steps = 1")
        );
        assert_ne!(plain, ids("seeds = [1]\n[[cells]]\nname = 'a'"));
        let taught = |steps: i64| {
            ids(&format!(
                "[[shared]]\nname = 't'\nsettings.train.steps = {steps}\n[[cells]]\nname = 'a'\nsettings = {{ losses.crd = 1.0, teacher.model = '@t' }}"
            ))
        };
        assert_eq!(taught(1), taught(1));
        assert_ne!(taught(1), taught(2), "the teacher affects the student");
    }

    #[test]
    fn plans_check_inheritance_from_models_that_do_not_exist_yet() {
        let text = "[[shared]]\nname = 't'\nsettings.student.model = 'ViT-micro-32px'\n\
                    [[cells]]\nname = 'a'\nsettings.student.inherit = '@t'";
        let swept = sweep(text).unwrap();
        let refused = swept.plan(&swept.cells[0]).unwrap_err().to_string();
        assert!(
            refused.contains("image head width") && refused.contains("96") && refused.contains("64"),
            "{refused}"
        );
        let chained = text
            .replace("'@t'", "'@u'")
            .replace("[[cells]]", "[[shared]]\nname = 'u'\nsettings.student.model = '@t'\nsettings.student.image_size = 16\n[[cells]]");
        let swept = sweep(&chained).unwrap();
        assert_eq!(swept.plan(&swept.shared[1]).unwrap().student.model, "t");
        assert_eq!(swept.plan(&swept.cells[0]).unwrap_err().to_string(), refused);
        let macs = |text: &str| {
            let swept = sweep(text).unwrap();
            swept.plan(swept.cells.last().unwrap()).unwrap().student.image_macs
        };
        let continued = chained.replace("student.inherit = '@u'", "student.model = '@u'");
        let large = continued.replace("\nsettings.student.image_size = 16", "");
        assert!(2 * macs(&continued) < macs(&large), "the plan uses the image size of the earlier run");
        let shallow = format!("[settings]\nstudent.model = 'ViT-micro-shallow-32px'\n{text}");
        let swept = sweep(&shallow).unwrap();
        assert_eq!(swept.plan(&swept.cells[0]).unwrap().student.model, "ViT-micro-shallow-32px");
    }

    #[test]
    fn a_mean_of_top_5_over_few_classes_is_refused_before_any_run() {
        let folder = tempfile::tempdir().unwrap();
        let text = |classes: usize| {
            let root = folder.path().join(classes.to_string());
            for class in 0..classes {
                std::fs::create_dir_all(root.join(class.to_string())).unwrap();
                std::fs::write(root.join(class.to_string()).join("a.png"), b"x").unwrap();
            }
            format!(
                "mean = [{{ set = 's', metric = 'top-5' }}]\n[[cells]]\nname = 'a'\n\
                 settings.eval.sets = [{{ name = 's', source = 'folder', root = '{}' }}]",
                root.display()
            )
        };
        sweep(&text(6)).unwrap().check_mean().unwrap();
        let few = sweep(&text(5)).unwrap();
        let error = few.check_mean().unwrap_err().to_string();
        assert!(error.contains("top-5") && error.contains("only 5 classes"), "{error}");
        assert_eq!(few.plan(&few.cells[0]).unwrap_err().to_string(), error);
    }

    #[test]
    fn errors_name_what_is_invalid() {
        for (text, part) in [
            ("cells = []", "no cell"),
            ("[[cells]]\nname = 'a'\n[[cells]]\nname = 'a'", "two entries"),
            ("baseline = 'x'\n[[cells]]\nname = 'a'", "baseline"),
            (
                "[[cells]]\nname = 'a'\nsettings.teacher.model = '@nobody'\nsettings.losses.crd = 1.0",
                "@nobody",
            ),
            (
                "[[shared]]\nname = 't'\n[[cells]]\nname = 'a'\nsettings.student.tokenizer = '@t/model/tokenizer.json'",
                "`@t/model/tokenizer.json`: only the model",
            ),
            ("[[cells]]\nname = 'a'\nrecipe = 'missing.toml'", "missing.toml"),
            ("[[cells]]\nname = 'a'\nsettings.losses.unknown = 1.0", "unknown"),
            ("seeds = []\n[[cells]]\nname = 'a'", "leaves no run"),
            ("[[cells]]\nname = 'a'\n[[cells]]\nname = 'b'\nseeds = []", "leaves no run"),
            ("[[shared]]\nname = 't'\nseeds = []\n[[cells]]\nname = 'a'", "leaves no run"),
            ("seeds = [1, 2, 1]\n[[cells]]\nname = 'a'", "seed 1 is listed twice"),
            ("seeds = [9223372036854775807, 9223372036854775808]\n[[cells]]\nname = 'a'", "seed"),
            ("[grid]\nseed = [1, 2]\n[[cells]]\nname = 'a'", "not a setting"),
            ("mean = [{ set = 'x', figure = 'top-1' }]\n[[cells]]\nname = 'a'", "`x`"),
            (
                "mean = [{ set = 's', metric = 'text recall@1' }]\n\
                 settings.eval.sets = [{ name = 's', source = 'emoji' }]\n[[cells]]\nname = 'a'",
                "which has top-1, top-5",
            ),
            ("mean = [{ set = 's', figure = 'top1' }]\n[[cells]]\nname = 'a'", "unknown metric `top1`"),
            ("[[cells]]\nname = 'a'\n[[cells]]\nname = 'b'", "`a` and `b` are the same run"),
            ("[grid]\n'train.steps' = [5, 5]\n[[cells]]\nname = 'a'", "are the same run"),
            (
                "[grid]\n'train.steps' = [5, 6]\n[[cells]]\nname = 'a'\nsettings.train.steps = 7",
                "are the same run",
            ),
        ] {
            let error = sweep(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
