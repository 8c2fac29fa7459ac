//! Checks the recipes, sweeps and suites of the repository against the JSON schemas of their settings.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{FileKind, json_schema};

/// Returns the first problem of a value, with its place. Fails for a keyword that it does not know, so that no part
/// of a schema is ignored.
fn problem(value: &Value, schema: &Value, root: &Value, place: &str) -> Option<String> {
    let schema = match schema {
        Value::Bool(accepts) => return (!accepts).then(|| format!("{place}: not accepted")),
        schema => schema.as_object().unwrap_or_else(|| panic!("{place}: {schema} is not a schema")),
    };
    let fits = |schema: &Value| problem(value, schema, root, place).is_none();
    let list = |value: &Value| value.as_array().cloned().unwrap();
    for (keyword, rule) in schema {
        let found =
            match keyword.as_str() {
                "$schema" | "$defs" | "title" | "description" | "default" | "then" | "else" => None,
                "$ref" => {
                    let target = root.pointer(rule.as_str().unwrap().strip_prefix('#').unwrap()).unwrap();
                    problem(value, target, root, place)
                }
                "type" => {
                    let fits = match rule.as_str().unwrap() {
                        "object" => value.is_object(),
                        "array" => value.is_array(),
                        "string" => value.is_string(),
                        "boolean" => value.is_boolean(),
                        "number" => value.is_number(),
                        "integer" => value.is_i64() || value.is_u64(),
                        other => panic!("unknown type {other}"),
                    };
                    (!fits).then(|| format!("{place}: {value} is not of the type {rule}"))
                }
                "const" => (value != rule).then(|| format!("{place}: {value} is not {rule}")),
                "enum" => {
                    (!list(rule).contains(value)).then(|| format!("{place}: {value} is not one of {rule}"))
                }
                "minimum" => {
                    (value.as_f64() < rule.as_f64()).then(|| format!("{place}: {value} is below {rule}"))
                }
                "minItems" => (list(value).len() < rule.as_u64().unwrap() as usize)
                    .then(|| format!("{place}: too short")),
                "maxItems" => (list(value).len() > rule.as_u64().unwrap() as usize)
                    .then(|| format!("{place}: too long")),
                "minLength" | "maxLength" => {
                    let length = value.as_str().map_or(0, |text| text.chars().count()) as u64;
                    let is_long = keyword == "maxLength";
                    let limit = rule.as_u64().unwrap();
                    (if is_long { length > limit } else { length < limit })
                        .then(|| format!("{place}: length {length}"))
                }
                "items" => value
                    .as_array()
                    .into_iter()
                    .flatten()
                    .enumerate()
                    .find_map(|(index, item)| problem(item, rule, root, &format!("{place}[{index}]"))),
                "required" => list(rule).into_iter().find_map(|key| {
                    let table = value.as_object()?;
                    (!table.contains_key(key.as_str().unwrap())).then(|| format!("{place}: {key} is missing"))
                }),
                "properties" => rule.as_object().unwrap().iter().find_map(|(key, schema)| {
                    problem(value.get(key)?, schema, root, &format!("{place}.{key}"))
                }),
                "additionalProperties" => {
                    let known = schema.get("properties").and_then(Value::as_object);
                    let other = |key: &String| known.is_none_or(|known| !known.contains_key(key));
                    value
                        .as_object()
                        .into_iter()
                        .flatten()
                        .filter(|(key, _)| other(key))
                        .find_map(|(key, value)| problem(value, rule, root, &format!("{place}.{key}")))
                }
                "anyOf" => (!list(rule).iter().any(fits)).then(|| format!("{place}: {value} fits no form")),
                "oneOf" => {
                    let fitting = list(rule).iter().filter(|schema| fits(schema)).count();
                    (fitting != 1).then(|| format!("{place}: {value} fits {fitting} kinds"))
                }
                "if" => {
                    let rest = schema.get(if fits(rule) { "then" } else { "else" });
                    rest.and_then(|rest| problem(value, rest, root, place))
                }
                other => panic!("{place}: unknown keyword {other}"),
            };
        if found.is_some() {
            return found;
        }
    }
    None
}

fn check(kind: FileKind, value: &Value) -> Option<String> {
    let schema = json_schema(kind);
    problem(value, &schema, &schema, "file")
}

fn read(text: &str) -> Value {
    serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap()
}

/// Returns all files of a kind in the repository.
fn files(kind: FileKind) -> Vec<(PathBuf, Value)> {
    let folder = match kind {
        FileKind::Recipe => "recipes",
        FileKind::Sweep => "sweeps",
        FileKind::Suite => "suites",
    };
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension().is_some_and(|ending| ending == "toml") {
                true => found.push((path.clone(), read(&fs::read_to_string(path).unwrap()))),
                false if path.is_dir() => folders.push(path),
                false => {}
            }
        }
    }
    found
}

/// Returns the copies of a file in which one of its tables has an unknown key. Tables with free keys stay.
fn with_an_unknown_key(value: &Value) -> Vec<Value> {
    let mut copies = Vec::new();
    match value {
        Value::Object(table) => {
            let mut copy = table.clone();
            copy.insert("unknown".into(), 1.into());
            copies.push(copy.into());
            for (key, inner) in table.iter().filter(|(key, _)| *key != "grid") {
                copies.extend(with_an_unknown_key(inner).into_iter().map(|inner| {
                    let mut copy = table.clone();
                    copy.insert(key.clone(), inner);
                    Value::from(copy)
                }));
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                copies.extend(with_an_unknown_key(item).into_iter().map(|item| {
                    let mut copy = items.clone();
                    copy[index] = item;
                    Value::from(copy)
                }));
            }
        }
        _ => {}
    }
    copies
}

#[test]
fn all_files_of_the_repository_fit_their_schema_and_unknown_keys_do_not() {
    for (kind, least) in [(FileKind::Recipe, 40), (FileKind::Sweep, 8), (FileKind::Suite, 1)] {
        let files = files(kind);
        assert!(files.len() >= least, "{kind:?}: only {} files", files.len());
        for (path, value) in files {
            assert_eq!(check(kind, &value), None, "{}", path.display());
            let copies = with_an_unknown_key(&value);
            assert!(!copies.is_empty());
            for copy in copies {
                assert!(check(kind, &copy).is_some(), "{}: {copy}", path.display());
            }
        }
    }
}

#[test]
fn forms_that_a_recipe_accepts_fit_the_schema() {
    let base = read(
        "name = 'r'\nstudent.model = 'ViT-nano-32px'\nlosses.task = 1\ntrain = { batch_size = 8, steps = 3 }\n\
         data.train = [{ source = 'emoji', weight = 0.5 }]",
    );
    let with = |text: &str| {
        let mut all = base.as_object().cloned().unwrap_or_default();
        all.extend(read(text).as_object().cloned().unwrap_or_default());
        check(FileKind::Recipe, &all.into())
    };
    assert_eq!(check(FileKind::Recipe, &base), None);
    for good in [
        "[teacher]\nrun = 'a'\nlogit_scale = 100",
        "[[teacher]]\nmodel = 'a'\n[[teacher]]\nstore = 'b'",
        "losses.hinton = { weight = 1.0, temperature = 3, classes = ['a', 'b'], prompts = ['{}'] }",
        "losses.vocabulary = { weight = 1.0, temperatures = [0.1, 1], classes = 'names.txt', from = 0.5, until = 9 }",
        "data = { train = [{ source = 'emoji' }], damaged = 'fail', augment = { scale = [0.4, 1] } }",
        "data = { train = [{ source = 'emoji' }], damaged = { skip = { max_fraction = 0.5 } } }",
        "data = { train = [{ source = 'csv', path = 'a.csv', separator = ';', samples = 3, share = 0.5 }] }",
        "eval.sets = [{ name = 's', source = 'cifar10', path = 'c', class_names = 'n.txt', train = { source = 'emoji' } }]",
        "train = { batch_size = 8, epochs = 0.5, precision = 'auto' }",
        "[[stages]]\nprune = { sparsity = 0.5, warmup_steps = 1, at_step = 2 }\n[[stages]]\ntrain.steps = 2",
        "[[runs]]\nname = 'a'\nlosses.fd.until = 5\n[[runs.stages]]\ndata.augment.color_jitter.hue = 0.1",
    ] {
        assert_eq!(with(good), None, "{good}");
    }
    for bad in [
        "student.modle = 'a'",
        "losses.fd = 'much'",
        "losses.fd = { weight = 1.0, masked = 0.5 }",
        "losses.hinton = { weight = 1.0 }",
        "losses.fdd = 1.0",
        "data = { train = [{ source = 'emoji', path = 'a' }] }",
        "data = { train = [{ weight = 1.0 }] }",
        "data = { train = [{ source = 'emoji' }], damaged = 'ignore' }",
        "data = { root = '.' }",
        "train = { steps = 3 }",
        "train = { batch_size = 8, steps = 3.5 }",
        "targets = 'equal_captions'",
        "eval.sets = [{ source = 'emoji' }]",
        "[[stages]]\nname = 'a'",
    ] {
        assert!(with(bad).is_some(), "{bad}");
    }
    assert!(check(FileKind::Recipe, &Map::new().into()).is_some());
    assert_eq!(check(FileKind::Recipe, &json!({ "extends": "base.toml" })), None);
}
