//! Resolves the entries of a sweep file into cells.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use file_ext::sha256_hex;
use toml::{Table, Value};
use trainer::recipe::{ModelRef, Places, Recipe, SharedPath, Step, StoreRef, load_one, merge};

use super::file::{Cell, Entry, File};
use crate::{Error, Result};

/// Returns every combination of a grid: its suffix for the name, and its settings.
pub(super) fn combinations(grid: &BTreeMap<String, Vec<Value>>) -> Vec<(String, Table)> {
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

/// Resolves the entries of a sweep file.
pub(super) struct CellBuilder<'a> {
    pub(super) path: &'a Path,
    pub(super) file: &'a File,
    pub(super) places: &'a Places,
    pub(super) over: &'a Table,
    pub(super) over_places: Places,
    pub(super) out: &'a Path,
    pub(super) shared: BTreeMap<String, Vec<Cell>>,
}

impl CellBuilder<'_> {
    /// Resolves one run: a cell with the settings of the sweep and of the grid, or, for `None`, a shared run with only
    /// its entry's settings. `place` is the entry's path in the file.
    pub(super) fn cell(
        &self,
        entry: &Entry,
        place: &[Step],
        name: &str,
        seed: u64,
        grid: Option<&Table>,
    ) -> Result<Cell> {
        let origin = format!("{}, {name}", self.path.display());
        let named = entry.recipe.as_ref().or(self.file.recipe.as_ref());
        let recipe = named
            .ok_or_else(|| Error::sweep(&origin, "no `recipe` is named, here or for the whole sweep"))?;
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
        let recipe_file = recipe;
        let recipe = load_one(&recipe_file, run, &settings, &self.settings_places(place, grid.is_some()))?;
        // The hash covers all settings that affect the result. Shared runs contribute their own hash, not their path.
        let hashed = |cell: &Cell, path: &Path| {
            PathBuf::from(format!("cell:{}", folder_name(&cell.folder))).join(path)
        };
        let by_hash = self.resolve(recipe.clone(), &origin, seed, &hashed)?.0;
        let identity = by_hash.experiment().identity()?;
        let identity = toml::to_string(&identity).map_err(|e| Error::sweep(&origin, e.to_string()))?;
        let id = sha256_hex(identity)[..12].to_string();

        let (mut recipe, requires) =
            self.resolve(recipe, &origin, seed, &|cell, path| cell.folder.join(path))?;
        let resolved = Value::try_from(&recipe).map_err(|e| Error::sweep(&origin, e.to_string()))?;
        if let Some(text) = references(&resolved).into_iter().find(|text| written.contains(text)) {
            let reason = "only the model of a student or teacher, and its store, can be a shared run";
            return Err(Error::sweep(&origin, format!("`{text}`: {reason}")));
        }
        recipe.name = format!("cell-{id}");
        if recipe.eval.fidelity && recipe.eval.cache.is_none() {
            recipe.eval.cache = Some(self.out.join("cache"));
        }
        let folder = self.out.join("cells").join(&id);
        Ok(Cell { name: name.into(), seed, folder, recipe, recipe_file, requires })
    }

    /// Returns the places of an entry's settings; those of a cell are also in the grid and in the sweep's settings.
    fn settings_places(&self, place: &[Step], is_cell: bool) -> Places {
        let sweep = self.places.clone().named();
        let settings: Step = "settings".into();
        let own = sweep.under(&[place, std::slice::from_ref(&settings)].concat());
        let places = self.over_places.clone().or(own);
        if !is_cell {
            return places;
        }
        let grid = self.file.grid.keys().fold(places, |places, key| {
            places.or(sweep.under(&["grid".into(), key.as_str().into()]).only(key))
        });
        grid.or(sweep.under(&[settings]))
    }

    /// Replaces references to shared runs by the paths that `locate` returns. Also returns the folders of these runs.
    fn resolve(
        &self,
        mut recipe: Recipe,
        origin: &str,
        seed: u64,
        locate: &dyn Fn(&Cell, &Path) -> PathBuf,
    ) -> Result<(Recipe, Vec<PathBuf>)> {
        let mut requires = Vec::new();
        for (_, model) in recipe.models_mut() {
            if let ModelRef::Shared(shared) = model {
                let cell = self.shared_run(shared, origin, seed)?;
                requires.push(cell.folder.clone());
                *model = ModelRef::from(locate(cell, &shared.path).as_path());
            }
        }
        for store in recipe.stores_mut() {
            if let StoreRef::Shared(shared) = store {
                let cell = self.shared_run(shared, origin, seed)?;
                requires.push(cell.folder.clone());
                *store = StoreRef::Folder(locate(cell, &shared.path));
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
