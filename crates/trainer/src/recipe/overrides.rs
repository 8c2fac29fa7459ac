//! Settings of the command line, `--set key.path=value`.

use toml::{Table, Value};

use super::faults::Places;
use super::load::{LENGTHS, forget_length};
use crate::{Error, Result};

/// Merges command-line settings into one table. Also returns their places, for messages.
///
/// # Errors
/// [`Error::Recipe`] if a setting does not have the form `key.path=value`.
pub fn settings_table(settings: &[String]) -> Result<(Table, Places)> {
    let (mut table, mut places) = (Table::new(), Places::default());
    for text in settings {
        let setting = Setting::parse(text)?;
        let Some(path) = setting.target("") else {
            return Err(Error::recipe(
                "--set",
                format!("`{text}` names a run: a sweep's settings are for all cells"),
            ));
        };
        setting.apply(&mut table, path)?;
        places = setting.place(path).or(places);
    }
    Ok((table, places))
}

/// A setting of the command line: `key.path=value`.
pub(super) struct Setting<'a> {
    pub(super) text: &'a str,
    path: Vec<&'a str>,
    value: Value,
}

impl<'a> Setting<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self> {
        let fail = || Error::recipe("--set", format!("`{text}` is not of the form key.path=value"));
        let (path, value) = text.split_once('=').ok_or_else(fail)?;
        let path = path.trim().split('.').collect::<Vec<_>>();
        if path.iter().any(|key| key.is_empty()) {
            return Err(fail());
        }
        // A value that is not TOML is a string, so paths and names need no quotes.
        let table = format!("value = {value}").parse::<Table>().ok();
        let parsed = table.and_then(|mut table| (table.len() == 1).then(|| table.remove("value"))?);
        Ok(Setting { text, path, value: parsed.unwrap_or_else(|| Value::String(value.trim().into())) })
    }

    /// Returns the path of the setting in this run; `None` if it is for another run.
    pub(super) fn target(&self, run: &str) -> Option<&[&'a str]> {
        // Run names may contain dots, so the longest prefix decides.
        match self.path.as_slice() {
            ["runs", rest @ ..] => {
                let cut = (1..rest.len()).find(|&cut| rest[..cut].join(".") == run)?;
                Some(&rest[cut..])
            }
            path => Some(path),
        }
    }

    /// Returns the place of the setting, for messages.
    pub(super) fn place(&self, path: &[&str]) -> Places {
        Places::of_option(&format!("--set {}", self.text), path)
    }

    /// Sets the value.
    pub(super) fn apply(&self, table: &mut Table, path: &[&str]) -> Result<()> {
        let mut parent = Some(table);
        for key in &path[..path.len() - 1] {
            let inner = parent.take().map(|table| table.entry(*key).or_insert_with(|| Table::new().into()));
            parent = inner.and_then(Value::as_table_mut);
        }
        let parent = parent.ok_or_else(|| {
            Error::recipe(
                "--set",
                format!("`{}`: only tables have keys; lists cannot be changed in part", self.text),
            )
        })?;
        let key = path[path.len() - 1];
        if path.len() == 2 && path[0] == "train" && LENGTHS.contains(&key) {
            forget_length(parent);
        }
        parent.insert(key.into(), self.value.clone());
        Ok(())
    }
}
