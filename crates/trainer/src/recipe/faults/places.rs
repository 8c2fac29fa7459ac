//! Places of settings: the line of a file, or the option of the command line, that sets a key.

use std::sync::Arc;

use toml::Table;
use toml::de::{DeTable, DeValue};

use super::words;
use crate::{Error, Result};

/// A step of the path to a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A key of a table.
    Key(String),
    /// An entry of a list, from 0.
    Entry(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Step::Key(key.into())
    }
}

impl From<usize> for Step {
    fn from(entry: usize) -> Self {
        Step::Entry(entry)
    }
}

/// The texts that set the keys of a table. The first text that sets a key wins.
///
/// ```no_run
/// use trainer::recipe::Places;
///
/// let places = Places::of_file("mine.toml", "name = 'mine'\n[train]\nsteps = 3");
/// assert_eq!(places.at(&["train".into(), "steps".into()], "too short"), "line 3: too short");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Places {
    layers: Vec<Layer>,
}

/// A part of a text that sets keys.
#[derive(Clone, Debug)]
struct Layer {
    text: Arc<Text>,
    /// The table in the text whose keys are the settings.
    root: Vec<Step>,
    /// The setting that `root` is, for a text that sets a single one.
    only: Option<Vec<String>>,
    /// Whether messages name the file, because it is not the one that the user named.
    is_named: bool,
}

#[derive(Debug)]
enum Text {
    File { name: String, text: String },
    Option(String),
}

impl Places {
    /// The keys of a file.
    pub fn of_file(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = Arc::new(Text::File { name: name.into(), text: text.into() });
        Places { layers: vec![Layer { text, root: Vec::new(), only: None, is_named: false }] }
    }

    /// The setting `path` of an option such as `--set train.steps=3`.
    pub(crate) fn of_option(option: &str, path: &[&str]) -> Self {
        let only = Some(path.iter().map(ToString::to_string).collect());
        let text = Arc::new(Text::Option(option.into()));
        Places { layers: vec![Layer { text, root: Vec::new(), only, is_named: false }] }
    }

    /// The keys of a table in these texts.
    #[must_use]
    pub fn under(&self, root: &[Step]) -> Self {
        let mut places = self.clone();
        places.layers.iter_mut().for_each(|layer| layer.root.extend_from_slice(root));
        places
    }

    /// The single setting `key` (such as `train.steps`), which the texts set at their root.
    #[must_use]
    pub fn only(mut self, key: &str) -> Self {
        let path = key.split('.').map(String::from).collect::<Vec<_>>();
        self.layers.iter_mut().for_each(|layer| layer.only = Some(path.clone()));
        self
    }

    /// Adds the keys of texts that come second.
    #[must_use]
    pub fn or(mut self, other: Places) -> Self {
        self.layers.extend(other.layers);
        self
    }

    /// Makes messages name the file.
    #[must_use]
    pub fn named(mut self) -> Self {
        self.layers.iter_mut().for_each(|layer| layer.is_named = true);
        self
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// The line and its problem.
    pub fn parse(text: &str) -> Result<Table, String> {
        text.parse::<Table>().map_err(|error| words::syntax(text, &error))
    }

    /// Puts the place of a setting, or of the table that it belongs to, before a reason.
    pub fn at(&self, path: &[Step], reason: &str) -> String {
        match (1..=path.len()).rev().find_map(|end| self.find(&path[..end])) {
            Some(place) => format!("{place}: {reason}"),
            None => reason.into(),
        }
    }

    /// Puts the place of the first setting that a reason names before the reason. A setting is a first word, a word
    /// with a dot, or one in brackets; it may contain the number of an entry, such as `eval.sets[1]`, which the message
    /// leaves out.
    pub fn locate(&self, reason: &str) -> String {
        let is_end = |c: char| c.is_whitespace() || matches!(c, ',' | ':' | ';' | '=' | '(' | ')');
        let words = reason.split(is_end).filter(|word| !word.is_empty());
        let found = words.enumerate().find_map(|(index, word)| {
            let name = word.trim_matches(|c| matches!(c, '`' | '.'));
            let bare = name.trim_start_matches('[');
            let is_table = bare.len() < name.len();
            let bare = if is_table { bare.trim_end_matches(']') } else { bare };
            if index > 0 && !is_table && !bare.contains('.') {
                return None;
            }
            let path = steps(bare)?;
            let shown = if path.iter().any(|step| matches!(step, Step::Entry(_))) {
                written(&path)
            } else {
                word.into()
            };
            Some((word, shown, self.find(&path)?))
        });
        match found {
            Some((word, shown, place)) => format!("{place}: {}", reason.replacen(word, &shown, 1)),
            None => reason.into(),
        }
    }

    /// Applies [`Places::locate`] to the reason of an invalid recipe.
    pub(crate) fn mark(&self, error: Error) -> Error {
        match error {
            Error::Recipe { origin, reason } => Error::Recipe { origin, reason: self.locate(&reason) },
            other => other,
        }
    }

    /// Describes the place of a setting: `line 3`, a line of another file, or an option.
    fn find(&self, path: &[Step]) -> Option<String> {
        self.layers.iter().find_map(|layer| {
            let whole = match &layer.only {
                None => [&layer.root[..], path].concat(),
                Some(only) => {
                    let keys = only.iter().map(|key| Step::Key(key.clone())).collect::<Vec<_>>();
                    path.starts_with(&keys).then(|| layer.root.clone())?
                }
            };
            match &*layer.text {
                Text::Option(option) => Some(format!("`{option}`")),
                Text::File { name, text } => {
                    let line = line(text, &whole)?;
                    Some(match layer.is_named {
                        true => format!("line {line} of `{name}`"),
                        false => format!("line {line}"),
                    })
                }
            }
        })
    }
}

/// Parses the name of a setting, such as `eval.sets[1].name`.
fn steps(name: &str) -> Option<Vec<Step>> {
    let mut path = Vec::new();
    for part in name.split('.') {
        let (key, entry) = match part.strip_suffix(']').and_then(|part| part.split_once('[')) {
            Some((key, entry)) => (key, Some(entry.parse::<usize>().ok()?)),
            None => (part, None),
        };
        if key.is_empty() || !key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-')) {
            return None;
        }
        path.push(key.into());
        path.extend(entry.map(Step::Entry));
    }
    Some(path)
}

/// Writes the keys of a path as a user does, `data.train.weight`. The line shows which entry of a list it is.
pub(super) fn written(path: &[Step]) -> String {
    let keys = path.iter().filter_map(|step| match step {
        Step::Key(key) => Some(key.as_str()),
        Step::Entry(_) => None,
    });
    keys.collect::<Vec<_>>().join(".")
}

/// Returns the line (from 1) of a setting. A list without a number of an entry means its first entry with the key.
fn line(text: &str, path: &[Step]) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut table = Some(document.get_ref());
    let mut value = None::<&DeValue<'_>>;
    let mut start = 0;
    for step in path {
        match step {
            Step::Key(key) => {
                let tables = match (table, value) {
                    (Some(table), _) => vec![table],
                    (None, Some(DeValue::Array(entries))) => {
                        entries.iter().filter_map(|entry| as_table(entry.get_ref())).collect()
                    }
                    _ => return None,
                };
                let mut pairs = tables.into_iter().flat_map(|table| table.iter());
                let (name, found) = pairs.find(|(name, _)| name.get_ref() == key)?;
                start = name.span().start;
                (table, value) = (as_table(found.get_ref()), Some(found.get_ref()));
            }
            Step::Entry(entry) => {
                let Some(DeValue::Array(entries)) = value else { return None };
                let found = entries.get(*entry)?;
                start = found.span().start;
                (table, value) = (as_table(found.get_ref()), Some(found.get_ref()));
            }
        }
    }
    Some(1 + text.get(..start)?.matches('\n').count())
}

fn as_table<'a, 'i>(value: &'a DeValue<'i>) -> Option<&'a DeTable<'i>> {
    match value {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}
