//! Files of class names and of prompts that users supply: one per line, or JSON.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::error::FileFormat;
use crate::{Error, Result, text};

/// Maximum number of keys that a message lists.
const LISTED: usize = 5;

/// Prompts read from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompts {
    /// Templates with `{}` for the class name.
    Templates(Vec<String>),
    /// Prompts of each class, such as descriptions by a language model; `{}` stands for the class name, if present.
    PerClass(BTreeMap<String, Vec<String>>),
}

/// Reads class names: a text file with one per line, or JSON with a list of names or an object such as
/// `{"0": "cat", "1": "dog"}` or `{"cat": 0, "dog": 1}`.
///
/// # Errors
/// [`Error::Io`], [`Error::NotUtf8`], and [`Error::Format`] for a table or other JSON.
pub fn read_names(path: impl AsRef<Path>) -> Result<Vec<String>> {
    let path = path.as_ref();
    let text = text::read(path)?;
    if let Some(json) = json(path, &text)? {
        return names_of(&json).map_err(|reason| format(path, reason));
    }
    if path.extension().is_some_and(|ending| ending == "csv" || ending == "tsv") {
        let reason = "it is a table, but a class list has one name per line; a table with the columns `folder` and `name` \
                      is passed by --classes, or `classes` of a folder source";
        return Err(format(path, reason.into()));
    }
    Ok(lines(&text))
}

/// Reads prompts: a text file with one template per line, a JSON list of templates, or a JSON object with the prompts of
/// each class. `{c}` is accepted for `{}`.
///
/// # Errors
/// [`Error::Io`], [`Error::NotUtf8`], and [`Error::Format`] for other JSON.
pub fn read_prompts(path: impl AsRef<Path>) -> Result<Prompts> {
    let path = path.as_ref();
    let text = text::read(path)?;
    match json(path, &text)? {
        Some(json) => prompts_of(&json).map_err(|reason| format(path, reason)),
        None => Ok(Prompts::Templates(lines(&text).iter().map(|line| braces(line)).collect())),
    }
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
    match json {
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
    match json {
        Value::Array(list) if list.is_empty() => Err("the list has no prompt".into()),
        Value::Array(_) => Ok(Prompts::Templates(texts(json, "the list")?)),
        Value::Object(object) => {
            if let (1, Some(inner)) = (object.len(), object.values().next()) {
                // A single key is the name of a data set, whose value holds its templates or prompts.
                let is_templates = |list: &Vec<Value>| {
                    !list.is_empty()
                        && list
                            .iter()
                            .all(|entry| entry.as_str().is_some_and(|text| braces(text).contains("{}")))
                };
                if inner.is_object() || inner.as_array().is_some_and(is_templates) {
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
        None => Err(format!("an entry of `{place}` is not a text but `{value}`: put it in double quotes")),
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
        for (name, text, part) in [
            ("a.json", r#"{"bird": ["a bird"], "cat": ["a cat"]}"#, "the keys `bird`, `cat`"),
            ("a.json", r#"["bird", 5]"#, "not a text"),
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
