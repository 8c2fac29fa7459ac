//! Resolves a sweep file into its cells.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use file_ext::sha256_hex;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use zeroshot_eval::MetricName;
use zeroshot_eval::metric::{CLASSIFICATION_METRICS, RETRIEVAL_METRICS};

use crate::{Error, Result};
use trainer::recipe::{EvalTask, Job, ModelRef, Recipe, SharedPath, StoreRef, check_name, load_one, merge};
use trainer::run::MODEL_FOLDER;
use trainer::run::plan::Plan;
use trainer::run::status::{RunStatus, has_model, results};

/// Maximum number of cells; more than any one machine can run.
const MAX_CELLS: usize = 10_000;

/// A sweep, resolved.
#[derive(Clone, Debug)]
pub struct Sweep {
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

/// A part of the main metric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeanPart {
    /// Name of the data set.
    pub set: String,
    /// Name of the metric, as in tables.
    #[serde(rename = "figure", alias = "metric")]
    pub metric: MetricName,
}

/// One run of a sweep.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The cell's name, which its seeds share.
    pub name: String,
    /// The seed.
    pub seed: u64,
    /// The run. Its references to shared runs are resolved to paths.
    pub recipe: Recipe,
    /// The run folder.
    pub folder: PathBuf,
    /// The folders of the shared runs that it refers to.
    pub requires: Vec<PathBuf>,
}

/// The progress of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CellState {
    /// Finished: it has results on its current sets.
    Finished,
    /// Started, or to be evaluated on other sets.
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    recipe: Option<PathBuf>,
    #[serde(default)]
    run: Option<String>,
    #[serde(default)]
    settings: Table,
    #[serde(default = "one_seed")]
    seeds: Vec<u64>,
    #[serde(default)]
    baseline: Option<String>,
    #[serde(default)]
    mean: Vec<MeanPart>,
    #[serde(default)]
    shared: Vec<Entry>,
    cells: Vec<Entry>,
    #[serde(default)]
    grid: BTreeMap<String, Vec<Value>>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    recipe: Option<PathBuf>,
    #[serde(default)]
    run: Option<String>,
    #[serde(default)]
    settings: Table,
    /// The seeds of this entry only. A shared run without seeds has the seed 0.
    #[serde(default)]
    seeds: Option<Vec<u64>>,
}

fn one_seed() -> Vec<u64> {
    vec![0]
}

impl MeanPart {
    /// Returns the reason why a cell cannot have this part, as far as its recipe shows.
    fn problem(&self, cell: &Cell) -> Option<String> {
        let (set, metric) = (&self.set, self.metric);
        let Some(found) = cell.recipe.eval.sets.iter().find(|own| own.name == *set) else {
            return Some(format!("its mean has the set `{set}`, which `{}` does not evaluate", cell.name));
        };
        let known = match found.task {
            EvalTask::Classification => &CLASSIFICATION_METRICS[..],
            EvalTask::Retrieval => &RETRIEVAL_METRICS[..],
        };
        let names = || known.iter().map(MetricName::to_string).collect::<Vec<_>>().join(", ");
        (!known.contains(&metric))
            .then(|| format!("its mean has the metric `{metric}` of `{set}`, which has {}", names()))
    }
}

impl Cell {
    /// Returns its progress; results are sufficient. An unreadable folder counts as started, because its run reports
    /// the error.
    pub fn state(&self) -> CellState {
        match results(&self.recipe, &self.folder) {
            Ok(RunStatus::Finished(_)) => CellState::Finished,
            Ok(RunStatus::Open) if !self.folder.join("checkpoints").is_dir() => CellState::Open,
            _ => CellState::Begun,
        }
    }

    /// Whether it refers to this shared run.
    fn requires(&self, shared: &Cell) -> bool {
        self.requires.contains(&shared.folder)
    }

    /// Name and seed, for messages.
    pub fn label(&self) -> String {
        format!("{} (seed {})", self.name, self.seed)
    }
}

impl Sweep {
    /// Reads a sweep file. `over` is merged over the settings of every cell. Run folders are below `out`.
    ///
    /// ```no_run
    /// # fn example() -> experiments::Result<()> {
    /// let sweep = experiments::Sweep::load("sweep.toml", &toml::Table::new(), "runs/sweeps")?;
    /// for cell in sweep.runs() {
    ///     println!("{}: {} steps, {}", cell.label(), sweep.plan(cell)?.steps, cell.state());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Sweep`] if the file or one of its recipes is invalid.
    pub fn load(path: impl AsRef<Path>, over: &Table, out: impl AsRef<Path>) -> Result<Self> {
        let (path, out) = (path.as_ref(), out.as_ref());
        let origin = path.display().to_string();
        let fail = |reason: String| Err(Error::sweep(&origin, reason));
        let text = data_pipeline::text::read(path)?;
        let file: File = toml::from_str(&text)
            .map_err(|e| Error::sweep(&origin, e.to_string().trim().replace('\n', "; ")))?;
        check_name(&file.name, &origin)?;
        if ["cells", "cache"].contains(&file.name.as_str()) {
            return fail(format!(
                "the name `{}` is reserved for a folder that sweeps share: choose another",
                file.name
            ));
        }
        let lists = file.cells.iter().chain(&file.shared).filter_map(|entry| entry.seeds.as_ref());
        if let Some(problem) = lists.chain([&file.seeds]).find_map(|seeds| seed_problem(seeds)) {
            return fail(problem);
        }
        let entries = file.shared.iter().chain(&file.cells).map(|entry| &entry.settings);
        if entries.chain([&file.settings, over]).any(|table| table.contains_key("seed"))
            || file.grid.contains_key("seed")
        {
            return fail("`seed` is not a setting of a sweep: set `seeds`, for all cells or for one".into());
        }
        let mut names = std::collections::HashSet::new();
        if let Some(twice) = file.shared.iter().chain(&file.cells).find(|entry| !names.insert(&entry.name)) {
            return fail(format!("two entries have the name `{}`", twice.name));
        }
        let mut builder = CellBuilder { path, file: &file, over, out, shared: BTreeMap::new() };
        let mut shared = Vec::new();
        for entry in &file.shared {
            let seeds = entry.seeds.clone().unwrap_or_else(one_seed);
            let runs = seeds.into_iter().map(|seed| builder.cell(entry, &entry.name, seed, None));
            let runs = runs.collect::<Result<Vec<_>>>()?;
            builder.shared.insert(entry.name.clone(), runs.clone());
            shared.extend(runs);
        }
        let mut cells = Vec::new();
        for entry in &file.cells {
            for (suffix, settings) in combinations(&file.grid) {
                for seed in entry.seeds.as_ref().unwrap_or(&file.seeds) {
                    let name = format!("{}{suffix}", entry.name);
                    cells.push(builder.cell(entry, &name, *seed, Some(&settings))?);
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
        for part in &file.mean {
            if let Some(problem) = cells.iter().find_map(|cell| part.problem(cell)) {
                return fail(problem);
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
            name: file.name.clone(),
            title,
            baseline: file.baseline.clone(),
            mean: file.mean.clone(),
            shared,
            cells,
        })
    }

    /// Returns the expected cost of a cell. A missing shared run counts with its planned model.
    ///
    /// # Errors
    /// The errors of [`Plan::new`].
    pub fn plan(&self, cell: &Cell) -> Result<Plan> {
        let mut runs = Vec::new();
        let recipe = self.planned(cell, &mut runs);
        runs.push(recipe);
        let job = Job { name: cell.name.clone(), runs };
        Ok(Plan::new(&job.runs[job.runs.len() - 1], &job)?)
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
        let of_all = |cell: &Cell| self.shared.iter().filter(|own| own.name == cell.name).count() == 1;
        let (first, own): (Vec<_>, Vec<_>) = self.shared.iter().partition(|cell| of_all(cell));
        let rest = || own.iter().copied().chain(&self.cells);
        let rank = |cell: &Cell| rest().position(|other| other.seed == cell.seed);
        let mut runs = rest().collect::<Vec<_>>();
        runs.sort_by_key(|cell| (rank(cell), !self.is_shared(cell)));
        let mut seen = std::collections::HashSet::new();
        first.into_iter().chain(runs).filter(|cell| seen.insert(&cell.folder)).collect()
    }

    /// Whether a run must be performed: its results are missing, or unfinished cells depend on its missing model.
    pub fn is_open(&self, run: &Cell) -> bool {
        let open = |cell: &Cell| cell.state() != CellState::Finished;
        let missed = || {
            let waits = |cell: &Cell| open(cell) && cell.requires(run);
            self.is_shared(run) && !has_model(&run.folder) && self.shared.iter().chain(&self.cells).any(waits)
        };
        open(run) || missed()
    }

    /// Whether cells may depend on a run.
    pub fn is_shared(&self, run: &Cell) -> bool {
        self.shared.iter().any(|own| own.folder == run.folder)
    }
}

/// Returns the reason why a list of seeds is invalid, if it is.
fn seed_problem(seeds: &[u64]) -> Option<String> {
    let mut seen = std::collections::HashSet::new();
    let twice =
        seeds.iter().find(|seed| !seen.insert(**seed)).map(|seed| format!("the seed {seed} is listed twice"));
    let large = seeds.iter().find(|seed| i64::try_from(**seed).is_err());
    twice.or_else(|| large.map(|seed| format!("the seed {seed} is above {}", i64::MAX)))
}

/// Returns every combination of a grid: its suffix for the name, and its settings.
fn combinations(grid: &BTreeMap<String, Vec<Value>>) -> Vec<(String, Table)> {
    let mut all = vec![(String::new(), Table::new())];
    for (key, values) in grid {
        all = all
            .iter()
            .flat_map(|(suffix, settings)| {
                values.iter().map(move |value| {
                    let mut settings = settings.clone();
                    merge(&mut settings, nested(key, value.clone()));
                    (format!("{suffix}, {key} = {value}"), settings)
                })
            })
            .collect();
    }
    all
}

/// Converts `a.b.c = value` to nested tables.
fn nested(key: &str, value: Value) -> Table {
    let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    let value = rest.map_or(value.clone(), |rest| nested(rest, value).into());
    Table::from_iter([(first.to_string(), value)])
}

struct CellBuilder<'a> {
    path: &'a Path,
    file: &'a File,
    over: &'a Table,
    out: &'a Path,
    shared: BTreeMap<String, Vec<Cell>>,
}

impl CellBuilder<'_> {
    /// Resolves a cell with the settings of the grid, or a shared run, which has only its own settings.
    fn cell(&self, entry: &Entry, name: &str, seed: u64, grid: Option<&Table>) -> Result<Cell> {
        let origin = format!("{}, {name}", self.path.display());
        let own = entry.recipe.as_ref().or(self.file.recipe.as_ref());
        let recipe =
            own.ok_or_else(|| Error::sweep(&origin, "no `recipe` is named, here or for the whole sweep"))?;
        let recipe = self.path.with_file_name("").join(recipe);
        // An entry with its own recipe has its own runs.
        let run = entry.run.as_deref().or(match entry.recipe {
            Some(_) => None,
            None => self.file.run.as_deref(),
        });
        let mut settings = Table::new();
        let common = grid.map(|grid| [&self.file.settings, grid]);
        for part in common.into_iter().flatten().chain([&entry.settings, self.over]) {
            merge(&mut settings, part.clone());
        }
        settings.insert("seed".into(), Value::Integer(i64::try_from(seed).unwrap_or(i64::MAX)));
        settings.insert("name".into(), "cell".into());
        let written = references(&Value::Table(settings.clone()));
        let recipe = load_one(&recipe, run, &settings)?;
        // The hash covers all settings that affect the result. Shared runs contribute their own hash, not their path.
        let hashed = |cell: &Cell, path: &Path| {
            PathBuf::from(format!("cell:{}", folder_name(&cell.folder))).join(path)
        };
        let named = self.resolve(recipe.clone(), &origin, seed, &hashed)?.0;
        let identity = named.experiment().identity()?;
        let identity = toml::to_string(&identity).map_err(|e| Error::sweep(&origin, e.to_string()))?;
        let id = sha256_hex(identity)[..12].to_string();

        let (mut recipe, requires) =
            self.resolve(recipe, &origin, seed, &|cell, path| cell.folder.join(path))?;
        let left = Value::try_from(&recipe).map_err(|e| Error::sweep(&origin, e.to_string()))?;
        if let Some(text) = references(&left).into_iter().find(|text| written.contains(text)) {
            let reason = "only the model of a student or teacher, and its store, can be a shared run";
            return Err(Error::sweep(&origin, format!("`{text}`: {reason}")));
        }
        recipe.name = format!("cell-{id}");
        if recipe.eval.fidelity && recipe.eval.cache.is_none() {
            recipe.eval.cache = Some(self.out.join("cache"));
        }
        Ok(Cell { name: name.into(), seed, folder: self.out.join("cells").join(&id), recipe, requires })
    }

    /// Replaces references to shared runs by the paths that `place` returns. Also returns the folders of these runs.
    fn resolve(
        &self,
        mut recipe: Recipe,
        origin: &str,
        seed: u64,
        place: &dyn Fn(&Cell, &Path) -> PathBuf,
    ) -> Result<(Recipe, Vec<PathBuf>)> {
        let mut requires = Vec::new();
        for (_, model) in recipe.models_mut() {
            if let ModelRef::Shared(shared) = model {
                let cell = self.shared_run(shared, origin, seed)?;
                requires.push(cell.folder.clone());
                *model = ModelRef::from(place(cell, &shared.path).as_path());
            }
        }
        for store in recipe.stores_mut() {
            if let StoreRef::Shared(shared) = store {
                let cell = self.shared_run(shared, origin, seed)?;
                requires.push(cell.folder.clone());
                *store = StoreRef::Folder(place(cell, &shared.path));
            }
        }
        Ok((recipe, requires))
    }

    /// Returns the shared run that a cell with this seed uses.
    fn shared_run(&self, shared: &SharedPath, origin: &str, seed: u64) -> Result<&Cell> {
        let fail = |reason: String| Err(Error::sweep(origin, reason));
        let name = &shared.run;
        match self.shared.get(name).map(Vec::as_slice) {
            None | Some([]) => fail(format!("`@{name}` is not an earlier [[shared]] run")),
            Some([one]) => Ok(one),
            Some(several) => match several.iter().find(|cell| cell.seed == seed) {
                Some(cell) => Ok(cell),
                None => fail(format!("`@{name}` has several seeds, but not {seed}")),
            },
        }
    }
}

/// Returns all strings that have the form of a reference to a shared run.
fn references(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) if text.starts_with('@') => vec![text.clone()],
        Value::Array(values) => values.iter().flat_map(references).collect(),
        Value::Table(table) => table.values().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

fn folder_name(folder: &Path) -> String {
    folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str = "name = 'base'\nstudent.model = 'ViT-nano-32px'\nlosses.task = 1.0\ntrain = { batch_size = 8, steps = 3 }\n\
                          data.train = [{ source = 'emoji' }]";

    fn sweep(text: &str) -> Result<Sweep> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("base.toml"), RECIPE).unwrap();
        let path = folder.path().join("sweep.toml");
        std::fs::write(&path, format!("name = 's'\nrecipe = 'base.toml'\n{text}")).unwrap();
        Sweep::load(&path, &Table::new(), "out")
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
    fn shared_runs_of_several_seeds_have_their_own_cells() {
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
            let own = swept.shared.iter().find(|own| own.name == "teacher" && own.seed == cell.seed).unwrap();
            let model = cell.recipe.teachers[0].model.clone();
            assert_eq!(model, Some(ModelRef::from(own.folder.join("model").as_path())));
        }
        let refused = text("[1, 2, 3]").unwrap_err().to_string();
        assert!(refused.contains("`@teacher` has several seeds, but not 3"), "{refused}");
    }

    #[test]
    fn what_is_the_same_has_the_same_folder() {
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
        assert_ne!(taught(1), taught(2), "another teacher makes another student");
    }

    #[test]
    fn a_student_that_cannot_inherit_from_a_model_to_come_is_refused_beforehand() {
        let text = "[[shared]]\nname = 't'\nsettings.student.model = 'ViT-micro-32px'\n\
                    [[cells]]\nname = 'a'\nsettings.student.inherit = '@t'";
        let swept = sweep(text).unwrap();
        let refused = swept.plan(&swept.cells[0]).unwrap_err().to_string();
        assert!(
            refused.contains("image head width") && refused.contains("96") && refused.contains("64"),
            "{refused}"
        );
        let gone_on = text
            .replace("'@t'", "'@u'")
            .replace("[[cells]]", "[[shared]]\nname = 'u'\nsettings.student.model = '@t'\nsettings.student.image_size = 16\n[[cells]]");
        let swept = sweep(&gone_on).unwrap();
        assert_eq!(swept.plan(&swept.shared[1]).unwrap().student.model, "t");
        assert_eq!(swept.plan(&swept.cells[0]).unwrap_err().to_string(), refused);
        let macs = |text: &str| {
            let swept = sweep(text).unwrap();
            swept.plan(swept.cells.last().unwrap()).unwrap().student.image_macs
        };
        let goes_on = gone_on.replace("student.inherit = '@u'", "student.model = '@u'");
        let large = goes_on.replace("\nsettings.student.image_size = 16", "");
        assert!(2 * macs(&goes_on) < macs(&large), "of smaller images, as the run to come has them");
        let shallow = format!("[settings]\nstudent.model = 'ViT-micro-shallow-32px'\n{text}");
        let swept = sweep(&shallow).unwrap();
        assert_eq!(swept.plan(&swept.cells[0]).unwrap().student.model, "ViT-micro-shallow-32px");
    }

    #[test]
    fn invalid_sweeps_are_refused_with_the_reason() {
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
            ("seeds = []\n[[cells]]\nname = 'a'", "no cell"),
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
