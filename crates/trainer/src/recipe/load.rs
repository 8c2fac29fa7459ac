//! Resolves a recipe file and command-line settings into runs.

use std::path::Path;

use toml::{Table, Value};

use super::faults::{Places, did_you_mean};
use super::model_ref::{ModelRef, StoreRef};
use super::overrides::Setting;
use super::stages::{self, Draft};
use super::{Recipe, TeacherConfig};
use crate::{Error, Result};

/// Maximum depth of files that extend each other.
const MAX_DEPTH: usize = 16;

/// The runs of one recipe file, in execution order.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The `name` of the recipe file.
    pub name: String,
    /// One run, or one for each `[[runs]]`.
    pub runs: Vec<Recipe>,
}

impl Job {
    /// Creates a job with a single run.
    pub fn single(recipe: Recipe) -> Self {
        Job { name: recipe.name.clone(), runs: vec![recipe] }
    }

    /// Returns the run with this name.
    pub fn run(&self, name: &str) -> Option<&Recipe> {
        self.runs.iter().find(|run| run.name == name)
    }

    /// Whether the file has a single run, which then needs no separate folder.
    pub fn is_single(&self) -> bool {
        self.runs.len() == 1
    }
}

/// Reads a recipe file. `settings` are of the form `key.path=value` and are applied last. `runs.NAME.key=value` changes
/// only one run.
///
/// # Errors
/// [`Error::Io`] if a file cannot be read, [`Error::Data`] if it is not UTF-8, [`Error::Recipe`] with file, line and
/// key.
pub fn load(path: &Path, settings: &[String]) -> Result<Job> {
    let (table, places) = read(path, 0)?;
    resolve(table, &places, settings, &path.display().to_string())
}

/// Loads one run of a recipe file, with `over` merged last. `run` selects the run if the file has several. `places` are
/// those of `over`, for messages.
///
/// # Errors
/// The errors of [`load`]; [`Error::Recipe`] if the run is ambiguous, or if it refers to another run of the file.
/// References to shared runs ([`ModelRef::Shared`]) are left to the caller, a sweep.
pub fn load_one(path: &Path, run: Option<&str>, over: &Table, places: &Places) -> Result<Recipe> {
    let origin = path.display().to_string();
    let fail = |reason: String| Err(Error::recipe(&origin, reason));
    let (mut table, own) = read(path, 0)?;
    let own = own.named();
    let runs = take_runs(&mut table, &own, &origin)?;
    let named = |run: &Table| run.get("name").and_then(Value::as_str).map(str::to_string);
    let chosen = match (run, runs.as_slice()) {
        (None, []) => None,
        (None, [_]) => Some(0),
        (Some(name), _) => match runs.iter().position(|run| named(run).as_deref() == Some(name)) {
            Some(found) => Some(found),
            None => {
                let names = runs.iter().filter_map(named).collect::<Vec<_>>();
                return fail(format!("it has no run `{name}`: {}", did_you_mean_run(name, &names)));
            }
        },
        (None, _) => {
            let names = runs.iter().filter_map(named).collect::<Vec<_>>().join(", ");
            return fail(format!("it has several runs: name one of {names}"));
        }
    };
    let mut places = places.clone();
    if let Some(index) = chosen {
        merge_run(&mut table, runs[index].clone());
        places = places.or(own.under(&["runs".into(), index.into()]));
    }
    let places = places.or(own);
    merge(&mut table, over.clone());
    if table.contains_key("stages") {
        return fail("it has stages, which build on one another: write a recipe for one of them".into());
    }
    let recipe = check_recipe(table, &places, &origin)?;
    if let Some((key, other)) = named_runs(&recipe).next() {
        return fail(places.locate(&format!("{key} is the run `{other}`: name a model here")));
    }
    Ok(recipe)
}

/// Loads a recipe from a text without `extends`, like [`load`]. `origin` names it in messages.
///
/// # Errors
/// The errors of [`load`].
pub fn parse(text: &str, settings: &[String], origin: &str) -> Result<Job> {
    let table = Places::parse(text).map_err(|reason| Error::recipe(origin, reason))?;
    if table.contains_key("extends") {
        return Err(Error::recipe(origin, "`extends` needs a recipe in a file"));
    }
    resolve(table, &Places::of_file(origin, text), settings, origin)
}

/// Reads a file, merged over the file that it extends, with the places of its settings.
fn read(path: &Path, depth: usize) -> Result<(Table, Places)> {
    let origin = path.display().to_string();
    if depth > MAX_DEPTH {
        return Err(Error::recipe(
            origin,
            format!("recipes extend each other in a circle, or more than {MAX_DEPTH} deep"),
        ));
    }
    let text = crate::text::read(path)?;
    let mut table = Places::parse(&text).map_err(|reason| Error::recipe(&origin, reason))?;
    reject_sweep(&table, &origin)?;
    let places = Places::of_file(&origin, text);
    match table.remove("extends") {
        None => Ok((table, places)),
        Some(Value::String(base)) => {
            let named = read(&path.with_file_name("").join(&base), depth + 1);
            let (mut merged, base) = named.map_err(|error| match error {
                Error::Io { path, source } => {
                    let reason =
                        format!("extends = \"{base}\": cannot access `{}`: {source}", path.display());
                    Error::recipe(&origin, places.locate(&reason))
                }
                other => other,
            })?;
            merge(&mut merged, table);
            Ok((merged, places.or(base.named())))
        }
        Some(other) => {
            let reason = format!("extends = {other}: expected the path of a recipe in quotes");
            Err(Error::recipe(origin, places.locate(&reason)))
        }
    }
}

/// Refuses a sweep file, which another command runs.
fn reject_sweep(table: &Table, origin: &str) -> Result<()> {
    match table.contains_key("cells") {
        true => Err(Error::recipe(
            origin,
            format!("it has [[cells]], so it is a sweep: run it with `clip-distill sweep {origin}`"),
        )),
        false => Ok(()),
    }
}

/// Removes the tables of `[[runs]]`; none if the file has no runs.
fn take_runs(table: &mut Table, places: &Places, origin: &str) -> Result<Vec<Table>> {
    let fail = || {
        let reason = "runs: expected a list of tables with at least one; write [[runs]]";
        Error::recipe(origin, places.locate(reason))
    };
    let table_of = |run| match run {
        Value::Table(run) => Ok(run),
        _ => Err(fail()),
    };
    match table.remove("runs") {
        None => Ok(Vec::new()),
        Some(Value::Array(runs)) if !runs.is_empty() => runs.into_iter().map(table_of).collect(),
        Some(_) => Err(fail()),
    }
}

/// Suggests a run of a file.
fn did_you_mean_run(name: &str, names: &[String]) -> String {
    match names {
        [] => "it has no [[runs]]".into(),
        names => did_you_mean(name, &names.iter().map(String::as_str).collect::<Vec<_>>()),
    }
}

/// Reads and checks a resolved recipe, except for its references to other runs.
fn check_recipe(table: Table, places: &Places, origin: &str) -> Result<Recipe> {
    let recipe = places.read::<Recipe>(table, || schemars::schema_for!(Recipe).to_value());
    let recipe = recipe.map_err(|reason| Error::recipe(origin, reason))?;
    recipe.validate(origin).map_err(|error| places.mark(error))?;
    check_name(&recipe.name, origin).map_err(|error| places.mark(error))?;
    Ok(recipe)
}

fn resolve(mut table: Table, places: &Places, settings: &[String], origin: &str) -> Result<Job> {
    let mut runs = take_runs(&mut table, places, origin)?;
    if runs.is_empty() {
        runs.push(Table::new());
    }
    let name = match table.get("name") {
        Some(Value::String(name)) => name.clone(),
        Some(other) => {
            let reason = format!("name = {other}: expected a text in quotes; write \"{other}\"");
            return Err(Error::recipe(origin, places.locate(&reason)));
        }
        None => return Err(Error::recipe(origin, "`name` is missing: give the recipe a name")),
    };
    let settings = settings.iter().map(|text| Setting::parse(text)).collect::<Result<Vec<_>>>()?;
    let mut used = vec![false; settings.len()];
    let mut resolved = Vec::<Recipe>::new();
    let mut drafts = Vec::new();
    for (index, run) in runs.into_iter().enumerate() {
        let mut merged = table.clone();
        merge_run(&mut merged, run);
        let places = places.under(&["runs".into(), index.into()]).or(places.clone());
        let stages = stages::expand(merged, origin).map_err(|error| places.mark(error))?;
        drafts.extend(stages.into_iter().enumerate().map(|(stage, draft)| {
            let own = places.under(&["stages".into(), stage.into()]).or(places.clone());
            (if draft.run.is_some() { own } else { places.clone() }, draft)
        }));
    }
    for (mut places, Draft { mut table, run }) in drafts {
        let run_name = table.get("name").and_then(Value::as_str).unwrap_or_default().to_string();
        for (setting, used) in settings.iter().zip(&mut used) {
            for name in run.iter().chain([&run_name]) {
                let Some(path) = setting.target(name) else { continue };
                setting.apply(&mut table, path)?;
                places = setting.place(path).or(places);
                *used = true;
            }
        }
        let run_origin =
            if run_name == name { origin.to_string() } else { format!("{origin}, run {run_name}") };
        let fail = |reason: String| Err(Error::recipe(&run_origin, places.locate(&reason)));
        let recipe = check_recipe(table, &places, &run_origin)?;
        check_not_shared(&recipe, &run_origin).map_err(|error| places.mark(error))?;
        if resolved.iter().any(|other| other.name == recipe.name) {
            return fail(format!("name: two runs are called `{}`: rename one", recipe.name));
        }
        let missing = |run: &str| !resolved.iter().any(|other| other.name == run);
        if let Some((key, earlier)) = named_runs(&recipe).find(|(_, run)| missing(run)) {
            return fail(format!("{key} = \"{earlier}\" is not an earlier run of this file"));
        }
        resolved.push(recipe);
    }
    if let Some(unused) = used.iter().position(|used| !used) {
        let known = resolved.iter().map(|run| run.name.as_str()).collect::<Vec<_>>().join(", ");
        let text = &settings[unused].text;
        return Err(Error::recipe("--set", format!("`{text}` names no run of this file ({known})")));
    }
    Ok(Job { name, runs: resolved })
}

/// Iterates over the earlier runs to which a recipe refers, each with the setting that names it.
fn named_runs(recipe: &Recipe) -> impl Iterator<Item = (String, &str)> {
    recipe.models().filter_map(|(key, model)| {
        // `student.inherit` refers to a run as `student.inherit_run`, the others as `run`.
        let key =
            key.strip_suffix("model").map_or_else(|| format!("{key}_run"), |table| format!("{table}run"));
        Some((key, model.run()?))
    })
}

/// Checks that a recipe does not refer to the shared runs of a sweep.
fn check_not_shared(recipe: &Recipe, origin: &str) -> Result<()> {
    let models = recipe.models().find(|(_, model)| matches!(model, ModelRef::Shared(_)));
    let models = models.map(|(key, model)| format!("{key} = \"{model}\""));
    let stored = |teacher: &&TeacherConfig| matches!(teacher.store, Some(StoreRef::Shared(_)));
    let stores = recipe.teachers.iter().find(stored).map(|t| format!("store of {}", t.name()));
    match models.or(stores) {
        Some(setting) => Err(Error::recipe(
            origin,
            format!("{setting} refers to a shared run, which only a sweep file has"),
        )),
        None => Ok(()),
    }
}

/// Checks that a name can be used as a folder name.
///
/// # Errors
/// [`Error::Recipe`] with the allowed characters.
pub fn check_name(name: &str, origin: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(good) {
        return Err(Error::recipe(
            origin,
            format!("name = \"{name}\": expected only letters, digits, - _ . +, and no dot at the start"),
        ));
    }
    if ["html", "md", "svg"].iter().any(|ending| name == format!("report.{ending}")) {
        return Err(Error::recipe(
            origin,
            format!("name = \"{name}\": this name is reserved for the report, choose another"),
        ));
    }
    Ok(())
}

/// Merges a run over the shared settings. A student that is an earlier run replaces the shared model.
fn merge_run(base: &mut Table, run: Table) {
    let student = run.get("student").and_then(Value::as_table);
    if student.is_some_and(|keys| keys.contains_key("run") && !keys.contains_key("model"))
        && let Some(shared) = base.get_mut("student").and_then(Value::as_table_mut)
    {
        shared.remove("model");
    }
    merge(base, run);
}

/// Merges `over` into `base`: tables merge, other values are replaced. A run length in steps replaces one in epochs,
/// and vice versa.
pub fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => {
                if key == "train" && LENGTHS.iter().any(|length| over.contains_key(*length)) {
                    forget_length(base);
                }
                merge(base, over);
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// The keys of `[train]` for the length of a run. A run has exactly one of them.
pub(super) const LENGTHS: [&str; 2] = ["steps", "epochs"];

pub(super) fn forget_length(train: &mut Table) {
    LENGTHS.iter().for_each(|length| drop(train.remove(*length)));
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        name = "small"
        student.model = "ViT-nano-32px"
        losses.task = 1.0
        train = { batch_size = 8, steps = 3 }
        [[data.train]]
        source = "emoji"
    "#;

    fn error(text: &str, settings: &[&str]) -> String {
        let settings = settings.iter().map(ToString::to_string).collect::<Vec<_>>();
        parse(text, &settings, "test").unwrap_err().to_string()
    }

    #[test]
    fn a_small_recipe_has_defaults_and_survives_toml() {
        let job = parse(SMALL, &[], "test").unwrap();
        assert!(job.is_single());
        let recipe = &job.runs[0];
        assert_eq!(recipe.checkpoint.keep, 2);
        assert_eq!(recipe.data.train[0].weight, 1.0);
        let again = parse(&recipe.to_toml().unwrap(), &[], "again").unwrap();
        assert_eq!(again.runs[0], *recipe);
    }

    #[test]
    fn runs_override_the_file_and_settings_override_both() {
        let text = format!(
            "{SMALL}\n[[runs]]\nname = 'a'\n[[runs]]\nname = 'b'\ntrain.steps = 9\nteacher.run = 'a'\nlosses.crd = 2.0"
        );
        let settings = ["runs.b.seed=7", "optimizer.lr=1e-3", "data.root=some/where"].map(String::from);
        let job = parse(&text, &settings, "test").unwrap();
        let [a, b] = job.runs.as_slice() else { panic!("two runs") };
        assert_eq!((a.train.steps, b.train.steps), (Some(3), Some(9)));
        assert_eq!((a.seed, b.seed), (0, 7));
        assert_eq!((a.optimizer.lr, b.optimizer.lr), (1e-3, 1e-3));
        assert_eq!(b.data.root, Path::new("some/where"));
        assert_eq!(b.terms(9).len(), 2);
    }

    #[test]
    fn steps_replace_epochs_and_vice_versa() {
        let settings = ["train.epochs=2".to_string()];
        let train =
            |text: &str, settings: &[String]| parse(text, settings, "test").unwrap().runs[0].train.clone();
        assert_eq!((train(SMALL, &[]).epochs, train(SMALL, &[]).steps), (None, Some(3)));
        assert_eq!((train(SMALL, &settings).epochs, train(SMALL, &settings).steps), (Some(2.0), None));
        let run = format!("{SMALL}\n[[runs]]\nname = 'a'\ntrain.epochs = 0.5");
        assert_eq!((train(&run, &[]).epochs, train(&run, &[]).steps), (Some(0.5), None));
    }

    #[test]
    fn errors_name_the_invalid_setting() {
        assert!(error("seed = 1", &[]).contains("`name` is missing"));
        let small = "name = 'small'\nstudent.model = 'ViT-nano-32px'\ndata.train = []\n";
        let missing = error(&format!("{small}train = {{ batch_size = 8, steps = 3 }}"), &[]);
        assert!(missing.ends_with("`losses` is missing: add a table"), "{missing}");
        let missing = error(&format!("{small}losses.task = 1.0\ntrain = {{ steps = 3 }}"), &[]);
        assert!(missing.contains("`train.batch_size` is missing: add a whole number"), "{missing}");
        let missing = error(&format!("{small}losses.task = 1.0\n[train]\nsteps = 3"), &[]);
        assert!(missing.contains("`train.batch_size` is missing: add a whole number"), "{missing}");
        assert!(error(&SMALL.replace("batch_size", "batchsize"), &[]).contains("batchsize"));
        assert!(error(SMALL, &["losses.task=0"]).contains("no loss"));
        assert!(error(SMALL, &["losses.crd=1"]).contains("needs a [teacher]"));
        assert!(error(SMALL, &["teacher.model=x"]).contains("no loss uses it"));
        assert!(error(SMALL, &["train.epochs=0"]).contains("either `epochs` or `steps`"));
        assert!(
            error(SMALL, &["train={batch_size=8,steps=3,epochs=1}"]).contains("both `epochs` and `steps`")
        );
        assert!(error(SMALL, &["name=report.md"]).contains("report"));
        assert!(error(SMALL, &["train.batch_size=1"]).contains("at least 2"));
        assert!(error(SMALL, &["optimizer.lr=-1"]).contains("optimizer.lr"));
        assert!(error(SMALL, &["optimizer.lr=nan"]).contains("optimizer.lr"));
        assert!(error(SMALL, &["losses.siglip=1", "targets='equal-captions'"]).contains("only the diagonal"));
        assert!(error(SMALL, &["nonsense"]).contains("key.path=value"));
        assert!(error(SMALL, &["name.x=1"]).contains("only tables"));
        assert!(error(SMALL, &["name=a/b"]).contains("letters, digits"));
        assert!(error(SMALL, &["runs.x.seed=1"]).contains("names no run"));
        assert!(error(SMALL, &["losses.unknown=1"]).contains("unknown"));
        assert!(error(&SMALL.replace("\"emoji\"", "\"emojis\""), &[]).contains("emojis"));
        assert!(
            error(&format!("teacher.run = 'later'\n{SMALL}"), &["losses.crd=1"])
                .contains("not an earlier run")
        );
        assert!(error("name = ", &[]).contains("line 1"));
    }

    #[test]
    fn files_extend_others_without_cycles() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name)
        };
        file("base.toml", SMALL);
        let derived = file("own.toml", "extends = 'base.toml'\nname = 'own'\ntrain.steps = 5");
        let job = load(&derived, &[]).unwrap();
        assert_eq!((job.name.as_str(), job.runs[0].train.steps), ("own", Some(5)));
        let circle = file("circle.toml", "extends = 'circle.toml'");
        assert!(load(&circle, &[]).unwrap_err().to_string().contains("circle"));
        assert!(matches!(load(&folder.path().join("none.toml"), &[]), Err(Error::Io { .. })));
    }
}
