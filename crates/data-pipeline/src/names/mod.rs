//! Files of class names and of prompts that users supply: one per line, JSON, or lists in Python source.

mod prefixes;
mod python;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::error::FileFormat;
use crate::{Error, Result, notice, text};
use prefixes::Cleaned;

/// Maximum number of keys that a message lists.
const LISTED: usize = 5;
/// Maximum number of characters of a value in a message.
const MAX_SHOWN: usize = 60;

/// Prompts read from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompts {
    /// Templates with `{}` for the class name.
    Templates(Vec<String>),
    /// Prompts of each class, such as descriptions by a language model; `{}` stands for the class name, if present.
    PerClass(BTreeMap<String, Vec<String>>),
}

/// Reads class names: a text file with one per line, JSON with a list of names or an object such as
/// `{"0": "cat", "1": "dog"}` or `{"cat": 0, "dog": 1}`, or such a list in Python. Synset ids, line numbers or quotes
/// that all lines of a text file have are removed, and a log line says so.
///
/// # Errors
/// [`Error::Io`], [`Error::NotUtf8`], and [`Error::Format`] for a table, other JSON or other Python source.
pub fn read_names(path: impl AsRef<Path>) -> Result<Vec<String>> {
    read_list(path.as_ref(), lines)
}

/// Reads class names like [`read_names`], of which `lines` gives the lines of a text file.
pub(crate) fn read_list(path: &Path, lines: impl Fn(&str) -> Vec<String>) -> Result<Vec<String>> {
    let text = text::read(path)?;
    if let Some(json) = json(path, &text)? {
        return names_of(&json).map_err(|reason| format(path, reason));
    }
    if is_python(path, &text) {
        let value = python_list(&text, |list| !is_templates(list));
        return value.and_then(|value| names_of(&value)).map_err(|reason| format(path, reason));
    }
    if path.extension().is_some_and(|ending| ending == "csv" || ending == "tsv") {
        let reason = "it is a table, but a class list has one name per line; a table with the columns `folder` and `name` \
                      is passed by --classes, or `classes` of a folder source";
        return Err(format(path, reason.into()));
    }
    let Cleaned { names, note } = prefixes::clean(lines(&text));
    if let Some(note) = note {
        notice::warn_once(&format!("`{}`: {note}", path.display()));
    }
    Ok(names)
}

/// Reads prompts: a text file with one template per line, a JSON or Python list of templates, or a JSON object with the
/// prompts of each class. `{c}` is accepted for `{}`.
///
/// # Errors
/// [`Error::Io`], [`Error::NotUtf8`], and [`Error::Format`] for a template without `{}`, other JSON or other Python
/// source.
pub fn read_prompts(path: impl AsRef<Path>) -> Result<Prompts> {
    let path = path.as_ref();
    let text = text::read(path)?;
    let value = match json(path, &text)? {
        Some(json) => Some(json),
        None if is_python(path, &text) => {
            Some(python_list(&text, is_templates).map_err(|reason| format(path, reason))?)
        }
        None => None,
    };
    let (prompts, place) = match value {
        Some(value) => (prompts_of(&value).map_err(|reason| format(path, reason))?, "entry"),
        None => (Prompts::Templates(text.lines().map(braces).collect()), "line"),
    };
    let Prompts::Templates(templates) = prompts else { return Ok(prompts) };
    check_templates(&templates, place).map_err(|reason| Error::Format {
        path: path.into(),
        format: FileFormat::Templates,
        reason,
    })?;
    Ok(Prompts::Templates(templates.into_iter().filter(|template| !template.is_empty()).collect()))
}

/// Checks that all templates have a `{}`. `place` is what their numbers count; an empty line is not a template.
fn check_templates(templates: &[String], place: &str) -> Result<(), String> {
    let given = || templates.iter().enumerate().filter(|(_, template)| !template.is_empty());
    if given().next().is_none() {
        return Err("it has no template: write one per line, such as `a photo of a {}.`".into());
    }
    let Some((number, template)) = given().find(|(_, template)| !template.contains("{}")) else {
        return Ok(());
    };
    let is_class_list = given().count() > 1 && given().all(|(_, template)| !template.contains("{}"));
    let hint = match is_class_list {
        true => {
            "; no other has one either, so it is probably a class list: pass it with --class-names (evaluate) or --labels-file (classify)"
        }
        false => ": write {} in the place of the name",
    };
    Err(format!("{place} {}: the template `{template}` has no {{}} for the class name{hint}", number + 1))
}

/// Whether a file that is not JSON is Python source.
fn is_python(path: &Path, text: &str) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("py")) || python::is_source(text)
}

/// Returns the list of a Python file. If it has several, there must be one that is `wanted`.
fn python_list(text: &str, wanted: impl Fn(&[Value]) -> bool) -> Result<Value, String> {
    let lists = python::read(text).map_err(|found| {
        format!("it is Python source, of which only lists of texts and of `lambda c: f'... {{c}}'` are read, but {found}")
    })?;
    let are_wanted = |variable: &&python::Variable| match &variable.value {
        Value::Array(list) => wanted(list),
        value => value.is_object(),
    };
    let fitting = lists.iter().filter(are_wanted).collect::<Vec<_>>();
    match (lists.as_slice(), fitting.as_slice()) {
        ([only], _) => Ok(only.value.clone()),
        (_, [only]) => Ok(only.value.clone()),
        ([], _) => Err("it is Python source without a list of texts".into()),
        _ => {
            let names = lists.iter().filter_map(|list| list.name.as_deref()).take(LISTED).collect::<Vec<_>>();
            Err(format!(
                "it is Python source with several lists (`{}`): copy the one to use into a file of its own",
                names.join("`, `")
            ))
        }
    }
}

/// Whether a list has templates: texts with `{}` or `{c}`.
fn is_templates(list: &[Value]) -> bool {
    !list.is_empty()
        && list.iter().all(|entry| entry.as_str().is_some_and(|text| braces(text).contains("{}")))
}

fn format(path: &Path, reason: String) -> Error {
    Error::Format { path: path.into(), format: FileFormat::Names, reason }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string).collect()
}

/// Replaces CLIP_benchmark's `{c}` by `{}`.
fn braces(template: &str) -> String {
    template.trim().replace("{c}", "{}")
}

/// Parses a file whose name or first character indicates JSON. A text file may also begin with a brace, such as the
/// template `{}`.
fn json(path: &Path, text: &str) -> Result<Option<Value>> {
    let is_named = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    let begins = text.trim_start().starts_with(['[', '{']);
    if !is_named && !begins {
        return Ok(None);
    }
    match serde_json::from_str::<Value>(text) {
        Ok(value) => {
            let is_empty = value.as_object().is_some_and(serde_json::Map::is_empty)
                || value.as_array().is_some_and(Vec::is_empty);
            Ok(Some(value).filter(|_| is_named || !is_empty))
        }
        Err(error) if is_named => Err(format(path, error.to_string())),
        Err(_) => Ok(None),
    }
}

/// Returns the names of a JSON class list.
fn names_of(json: &Value) -> Result<Vec<String>, String> {
    check_notebook(json)?;
    match json {
        Value::Array(list) if is_templates(list) => {
            Err("it is a list of prompt templates: pass it with --prompts".into())
        }
        Value::Array(list) => list.iter().map(|entry| text_of(entry, "the list")).collect(),
        Value::Object(object) => {
            if let (1, Some(inner)) = (object.len(), object.values().next())
                && (inner.is_array() || inner.is_object())
            {
                return names_of(inner);
            }
            let mut numbered = Vec::new();
            for (key, value) in object {
                match (key.parse::<usize>(), value.as_u64()) {
                    // `{"cat": 0}`, torchvision's `class_to_idx`.
                    (_, Some(number)) => numbered.push((number as usize, key.clone())),
                    // `{"0": "cat"}`, or ImageNet's `{"0": ["n01440764", "tench"]}`.
                    (Ok(number), None) => {
                        let name = value.as_array().and_then(|list| list.last()).unwrap_or(value);
                        numbered.push((number, text_of(name, key)?));
                    }
                    (Err(_), None) => {
                        return Err(format!(
                            "it is a JSON object with the keys {}, not a list of names",
                            keys(object)
                        ));
                    }
                }
            }
            numbered.sort_unstable();
            match numbered.iter().enumerate().find(|(place, (number, _))| place != number) {
                Some((place, _)) => Err(format!(
                    "the class {place} is missing or listed twice: number the classes from 0 without gaps"
                )),
                None => Ok(numbered.into_iter().map(|(_, name)| name).collect()),
            }
        }
        _ => Err("it is neither a list nor an object".into()),
    }
}

/// Returns the prompts of a JSON file.
fn prompts_of(json: &Value) -> Result<Prompts, String> {
    let texts = |value: &Value, of: &str| match value {
        Value::Array(list) => list.iter().map(|entry| Ok(braces(&text_of(entry, of)?))).collect(),
        other => Ok::<_, String>(vec![braces(&text_of(other, of)?)]),
    };
    check_notebook(json)?;
    match json {
        Value::Array(list) if list.is_empty() => Err("the list has no prompt".into()),
        Value::Array(_) => Ok(Prompts::Templates(texts(json, "the list")?)),
        Value::Object(object) => {
            if let (1, Some(inner)) = (object.len(), object.values().next()) {
                // A single key is the name of a data set, whose value holds its templates or prompts.
                if inner.is_object() || inner.as_array().is_some_and(|list| is_templates(list)) {
                    return prompts_of(inner);
                }
            }
            let prompts = object.iter().map(|(class, value)| match texts(value, class)? {
                list if list.is_empty() => Err(format!("the class `{class}` has no prompt")),
                list => Ok((class.clone(), list)),
            });
            Ok(Prompts::PerClass(prompts.collect::<Result<_, _>>()?))
        }
        _ => Err("it is neither a list nor an object".into()),
    }
}

fn text_of(value: &Value, place: &str) -> Result<String, String> {
    match value.as_str().map(str::trim) {
        Some(text) if !text.is_empty() => Ok(text.to_string()),
        Some(_) => Err(format!("an entry of `{place}` is empty")),
        None => {
            let shown = value.to_string().chars().take(MAX_SHOWN).collect::<String>();
            let remedy = if value.is_number() { "put it in double quotes" } else { "write one text for it" };
            Err(format!("an entry of `{place}` is not a text but `{}`: {remedy}", shown.escape_debug()))
        }
    }
}

/// Refuses a Jupyter notebook, which is JSON too.
fn check_notebook(json: &Value) -> Result<(), String> {
    match json.get("cells").is_some() && json.get("nbformat").is_some() {
        true => {
            Err("it is a Jupyter notebook: copy the list in it into a file of its own, such as names.py"
                .into())
        }
        false => Ok(()),
    }
}

fn keys(object: &serde_json::Map<String, Value>) -> String {
    let named = object.keys().take(LISTED).map(|key| format!("`{}`", key.escape_debug())).collect::<Vec<_>>();
    format!("{}{}", named.join(", "), if object.len() > LISTED { ", ..." } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn names(name: &str, text: &str) -> Result<Vec<String>, String> {
        let (_folder, path) = file(name, text);
        read_names(path).map_err(|e| e.to_string())
    }

    fn prompts(name: &str, text: &str) -> Result<Prompts, String> {
        let (_folder, path) = file(name, text);
        read_prompts(path).map_err(|e| e.to_string())
    }

    #[test]
    fn class_lists_are_lines_or_json() {
        let expected = Ok(vec!["bird".to_string(), "cat".into()]);
        for (name, text) in [
            ("a.txt", "bird\n\n cat \n"),
            ("a.json", r#"["bird", "cat"]"#),
            ("a.txt", "\u{FEFF}[\"bird\", \"cat\"]\n"),
            ("a.json", r#"{"1": "cat", "0": "bird"}"#),
            ("a.json", r#"{"0": ["n01", "bird"], "1": ["n02", "cat"]}"#),
            ("a.json", r#"{"cat": 1, "bird": 0}"#),
            ("a.json", r#"{"id2label": {"0": "bird", "1": "cat"}}"#),
            ("a.json", r#"{"animals": ["bird", "cat"]}"#),
        ] {
            assert_eq!(names(name, text), expected, "{text}");
        }
        let odd = [
            "[\"bird\", 'cat',]",
            "{0: 'bird', 1: 'cat'}",
            "names = (\n'bird', # x\n'cat')",
            "('bird', 'cat')",
        ];
        for (name, text) in odd.map(|text| ("a.txt", text)).into_iter().chain([
            ("a.py", "t = ['a {}']\nclassnames = ['bird', 'cat']"),
            ("a.py", "'bird',\n'cat',"),
            ("a.txt", "n01440764 bird\nn01443537 cat\n"),
            ("a.txt", "0: bird\n1: cat\n"),
            ("a.txt", "\"bird\"\n\"cat\"\n"),
        ]) {
            assert_eq!(names(name, text), expected, "{text}");
        }
        for (name, text, part) in [
            ("a.py", "names = os.listdir('x')", "Python source"),
            ("a.txt", "import os\nnames = ['a', x]", "Python source"),
            ("a.py", "a = ['x']\nb = ['y']", "(`a`, `b`)"),
            ("a.py", "a = ['a {}']", "--prompts"),
            ("a.json", r#"{"bird": ["a bird"], "cat": ["a cat"]}"#, "the keys `bird`, `cat`"),
            ("a.json", r#"["bird", 5]"#, "not a text but `5`: put it in double quotes"),
            ("a.json", r#"[["bird", "fowl"]]"#, "write one text"),
            ("a.ipynb", r#"{"cells": [], "nbformat": 4}"#, "Jupyter notebook"),
            ("a.json", r#"["bird", ""]"#, "empty"),
            ("a.json", r#"{"0": "bird", "2": "cat"}"#, "the class 1 is missing"),
            ("a.json", "[\"bird\"", "EOF"),
            ("a.csv", "folder,name\nb,bird\n", "--classes"),
        ] {
            let error = names(name, text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn prompts_are_templates_or_lists_per_class() {
        let templates =
            |texts: &[&str]| Ok(Prompts::Templates(texts.iter().map(|t| t.to_string()).collect()));
        assert_eq!(prompts("a.txt", "{}\n"), templates(&["{}"]));
        assert_eq!(prompts("a.txt", "{} here\na {c}.\n"), templates(&["{} here", "a {}."]));
        assert_eq!(prompts("a.json", r#"["a {}", "{c}."]"#), templates(&["a {}", "{}."]));
        assert_eq!(prompts("a.json", r#"{"imagenet1k": ["a {c}"]}"#), templates(&["a {}"]));
        let own = [
            ("cat".to_string(), vec!["a cat".to_string(), "a {}".into()]),
            ("dog".into(), vec!["a dog".into()]),
        ];
        let own = Ok(Prompts::PerClass(own.into()));
        assert_eq!(prompts("a.json", r#"{"cat": ["a cat", "a {c}"], "dog": "a dog"}"#), own);
        assert_eq!(prompts("a.json", r#"{"pets": {"cat": ["a cat", "a {}"], "dog": ["a dog"]}}"#), own);
        for (name, text) in [
            ("a.py", "lambda c: f'a {c}',\nlambda c: f'{c}.',"),
            ("a.txt", "lambda c: f'a {c}',\nlambda c: f'{c}.',"),
            ("a.txt", "T = (\n  lambda c: f'a {c}',\n  lambda c: f'{c}.',\n)\n"),
            ("a.py", "classes = ['cat']\ntemplates = ['a {}', '{c}.']"),
        ] {
            assert_eq!(prompts(name, text), templates(&["a {}", "{}."]), "{text}");
        }
        for (name, text, parts) in [
            ("a.txt", "a {}\n\n# x\n", ["a.txt", "line 3", "`# x` has no {}"]),
            ("a.json", r#"["a {}", "b"]"#, ["a.json", "entry 2", "`b` has no {}"]),
            ("a.json", r#"["cat", "dog"]"#, ["a.json", "class list", "--class-names"]),
            ("a.txt", "cat\ndog", ["line 1", "class list", "--labels-file"]),
            ("a.py", "names = ['cat', 'dog']", ["a.py", "class list", "--class-names"]),
            ("a.py", "lambda c: g(c)", ["a.py", "Python source", "line 1"]),
            ("a.txt", "def f(c):\n  return f'{c}'", ["a.txt", "Python source", "line 1"]),
            ("a.txt", "\n", ["a.txt", "no template", "a photo of a {}"]),
            (
                "a.ipynb",
                r#"{"cells": [{"source": []}], "nbformat": 4}"#,
                ["a.ipynb", "Jupyter", "copy the list"],
            ),
        ] {
            let error = prompts(name, text).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
        }
        for (text, part) in [
            (r#"{"cat": []}"#, "no prompt"),
            ("[]", "no prompt"),
            (r#"{"cat": [1], "dog": ["x"]}"#, "not a text"),
            ("5", "neither a list"),
        ] {
            let error = prompts("a.json", text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
