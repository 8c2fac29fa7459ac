//! The first difference between a TOML value and a JSON schema, in the words of the documentation.

use serde_json::Value as Schema;
use toml::{Table, Value};

use super::names::did_you_mean;
use super::places::{Step, written};
use super::words::shown;

/// A setting that does not fit its schema.
pub(super) struct Difference {
    pub(super) path: Vec<Step>,
    /// The setting, what was found and what is expected.
    pub(super) text: String,
}

/// Returns the first difference of a value, if any.
pub(super) fn first(schema: &Schema, value: &Value) -> Option<Difference> {
    Walk { definitions: &schema["$defs"] }.check(schema, value, &mut Vec::new())
}

struct Walk<'a> {
    definitions: &'a Schema,
}

impl<'a> Walk<'a> {
    fn check(&self, schema: &'a Schema, value: &Value, path: &mut Vec<Step>) -> Option<Difference> {
        let schema = self.resolve(schema);
        if let Some(alternatives) = self.alternatives(schema) {
            return self.check_alternatives(schema, &alternatives, value, path);
        }
        if let Some(names) = self.names(schema) {
            return match value {
                Value::String(name) if names.contains(&name.as_str()) => None,
                Value::String(name) => {
                    let reason = format!("\"{}\": unknown name; {}", shown(name), did_you_mean(name, &names));
                    Some(difference(path, format!("{} = {reason}", written(path))))
                }
                other => Some(self.unexpected(schema, other, path)),
            };
        }
        if !self.has_type(schema, value) {
            return Some(self.unexpected(schema, value, path));
        }
        match value {
            Value::Table(table) => self.check_table(schema, table, path),
            Value::Array(entries) => entries.iter().enumerate().find_map(|(index, entry)| {
                path.push(index.into());
                let found = self.check(schema.get("items")?, entry, path);
                path.pop();
                found
            }),
            Value::Integer(number)
                if schema["minimum"].as_f64().is_some_and(|least| (*number as f64) < least) =>
            {
                Some(self.unexpected(schema, value, path))
            }
            _ => None,
        }
    }

    /// Checks unknown keys first, because a misspelt key also lacks the right one.
    fn check_table(&self, schema: &'a Schema, table: &Table, path: &mut Vec<Step>) -> Option<Difference> {
        let known = schema["properties"].as_object();
        let is_known = |key: &str| known.is_some_and(|known| known.contains_key(key));
        let others = schema.get("additionalProperties");
        if others == Some(&Schema::Bool(false))
            && let Some(unknown) = table.keys().find(|key| !is_known(key))
        {
            let names = known.into_iter().flat_map(|known| known.keys().map(String::as_str));
            let names = names.collect::<Vec<_>>();
            let noun = if written(path) == "losses" { "loss" } else { "key" };
            path.push(unknown.as_str().into());
            let text =
                format!("{}: unknown {noun}; {}", shown(&written(path)), did_you_mean(unknown, &names));
            let found = difference(path, text);
            path.pop();
            return Some(found);
        }
        let inner = table.iter().find_map(|(key, value)| {
            path.push(key.as_str().into());
            let schema = if is_known(key) { schema["properties"].get(key) } else { others };
            let found = self.check(schema.filter(|schema| schema.is_object())?, value, path);
            path.pop();
            found
        });
        let missing = || {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Schema::as_str);
            required.into_iter().find(|key| !table.contains_key(*key))
        };
        inner.or_else(|| Some(self.missing(schema, missing()?, path)))
    }

    fn missing(&self, schema: &'a Schema, key: &str, path: &[Step]) -> Difference {
        let wanted = schema["properties"].get(key).map(|schema| self.expected(schema));
        let inner = [path, &[key.into()]].concat();
        let wanted = wanted.map_or_else(String::new, |wanted| format!(": add {wanted}"));
        difference(path, format!("`{}` is missing{wanted}", written(&inner)))
    }

    fn check_alternatives(
        &self,
        schema: &'a Schema,
        alternatives: &[&'a Schema],
        value: &Value,
        path: &mut Vec<Step>,
    ) -> Option<Difference> {
        if alternatives.iter().any(|one| self.check(one, value, path).is_none()) {
            return None;
        }
        let fitting = alternatives.iter().filter(|one| self.has_type(one, value)).collect::<Vec<_>>();
        if let Value::Table(table) = value
            && let Some(tag) = fitting.first().and_then(|one| tag(one))
            && fitting.iter().all(|one| one["properties"][tag].get("const").is_some())
        {
            let names = fitting.iter().filter_map(|one| one["properties"][tag]["const"].as_str());
            let names = names.collect::<Vec<_>>();
            let Some(Value::String(name)) = table.get(tag) else {
                let inner = [&path[..], &[tag.into()]].concat();
                let text = match table.get(tag) {
                    None => format!("`{}` is missing: {}", written(&inner), did_you_mean("", &names)),
                    Some(other) => return Some(wrong(&inner, other, "a text in quotes")),
                };
                return Some(difference(path, text));
            };
            let kind = fitting.iter().find(|one| one["properties"][tag]["const"].as_str() == Some(name));
            return match kind {
                Some(one) => self.check(one, value, path),
                None => {
                    let inner = [&path[..], &[tag.into()]].concat();
                    let reason = format!("\"{}\": unknown name; {}", shown(name), did_you_mean(name, &names));
                    Some(difference(&inner, format!("{} = {reason}", written(&inner))))
                }
            };
        }
        match fitting.as_slice() {
            [only] => self.check(only, value, path),
            _ => Some(self.unexpected(schema, value, path)),
        }
    }

    fn unexpected(&self, schema: &'a Schema, value: &Value, path: &[Step]) -> Difference {
        let wanted = self.expected(schema);
        let takes = |kind: &str| {
            let alternatives =
                self.alternatives(self.resolve(schema)).unwrap_or_else(|| vec![self.resolve(schema)]);
            alternatives.iter().any(|one| types(one).contains(&kind))
        };
        let mut found = wrong(path, value, &wanted);
        let key = written(path);
        let hint = match value {
            Value::String(text) if takes("number") || takes("integer") => {
                text.trim().parse::<f64>().is_ok().then(|| "; remove the quotes".to_string())
            }
            Value::String(text) if takes("boolean") => {
                ["true", "false"].contains(&text.as_str()).then(|| "; remove the quotes".to_string())
            }
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) if takes("string") => {
                Some(format!("; write \"{value}\""))
            }
            Value::Table(_) if takes("array") && !takes("object") => Some(format!("; write [[{key}]]")),
            Value::Array(_) if takes("object") && !takes("array") => Some(format!("; write [{key}]")),
            _ => None,
        };
        found.text.extend(hint);
        found
    }

    /// Describes the values that a schema accepts.
    fn expected(&self, schema: &'a Schema) -> String {
        let schema = self.resolve(schema);
        if let Some(alternatives) = self.alternatives(schema) {
            let mut forms = Vec::new();
            for form in alternatives.iter().map(|one| self.expected(one)) {
                if !forms.contains(&form) {
                    forms.push(form);
                }
            }
            return forms.join(" or ");
        }
        if let Some(names) = self.names(schema) {
            let names = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>();
            return match names.as_slice() {
                [one] => one.clone(),
                several => format!("one of {}", several.join(", ")),
            };
        }
        match types(schema).first().copied() {
            Some("integer") => match schema["minimum"].as_f64() {
                Some(least) => format!("a whole number, {least} or more"),
                None => "a whole number".into(),
            },
            Some("number") => "a number".into(),
            Some("string") => "a text in quotes".into(),
            Some("boolean") => "true or false".into(),
            Some("object") => "a table".into(),
            Some("array") => match schema.get("items").map(|items| self.expected(items)).as_deref() {
                Some("a table") => "a list of tables".into(),
                Some("a text in quotes") => "a list of texts".into(),
                Some("a number") => "a list of numbers".into(),
                Some(other) if other.starts_with("a whole number") => "a list of whole numbers".into(),
                _ => "a list".into(),
            },
            _ => "a value of another form".into(),
        }
    }

    /// Returns the alternatives of a schema that is not a list of names. TOML has no null.
    fn alternatives(&self, schema: &'a Schema) -> Option<Vec<&'a Schema>> {
        let all = ["anyOf", "oneOf"].into_iter().find_map(|key| schema[key].as_array())?;
        let all = all.iter().map(|one| self.resolve(one)).filter(|one| one["type"] != "null");
        let all = all.collect::<Vec<_>>();
        match all.iter().all(|one| one.get("const").is_some()) {
            true => None,
            false => Some(all),
        }
    }

    /// Returns the names that a schema accepts, if it is a list of names.
    fn names(&self, schema: &'a Schema) -> Option<Vec<&'a str>> {
        if let Some(name) = schema.get("const") {
            return Some(name.as_str().into_iter().collect());
        }
        if let Some(names) = schema["enum"].as_array() {
            return Some(names.iter().filter_map(Schema::as_str).collect());
        }
        let all = ["anyOf", "oneOf"].into_iter().find_map(|key| schema[key].as_array())?;
        all.iter().map(|one| self.resolve(one)["const"].as_str()).collect()
    }

    /// Whether a value has the type that a schema names.
    fn has_type(&self, schema: &'a Schema, value: &Value) -> bool {
        let schema = self.resolve(schema);
        if let Some(alternatives) = self.alternatives(schema) {
            return alternatives.iter().any(|one| self.has_type(one, value));
        }
        let types = types(schema);
        types.is_empty()
            || types.iter().any(|name| match *name {
                "object" => value.is_table(),
                "array" => value.is_array(),
                "string" => value.is_str(),
                "boolean" => value.is_bool(),
                "number" => value.is_float() || value.is_integer(),
                "integer" => value.is_integer(),
                _ => false,
            })
    }

    /// Follows a reference to a definition.
    fn resolve(&self, schema: &'a Schema) -> &'a Schema {
        let name = |schema: &'a Schema| schema["$ref"].as_str()?.strip_prefix("#/$defs/");
        let mut schema = schema;
        while let Some(target) = name(schema).and_then(|name| self.definitions.get(name)) {
            schema = target;
        }
        schema
    }
}

/// Returns the key whose value names the kind of a table.
fn tag(schema: &Schema) -> Option<&str> {
    let properties = schema["properties"].as_object()?;
    properties.iter().find(|(_, schema)| schema.get("const").is_some()).map(|(key, _)| key.as_str())
}

fn types(schema: &Schema) -> Vec<&str> {
    match &schema["type"] {
        Schema::String(name) => vec![name],
        Schema::Array(names) => {
            names.iter().filter_map(Schema::as_str).filter(|name| *name != "null").collect()
        }
        _ => Vec::new(),
    }
}

fn difference(path: &[Step], text: String) -> Difference {
    Difference { path: path.to_vec(), text }
}

/// Describes a value of the wrong kind.
fn wrong(path: &[Step], value: &Value, wanted: &str) -> Difference {
    let found = match value {
        Value::String(_) => "a text",
        Value::Integer(number) if *number < 0 => "a number below 0",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number with a decimal point",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a single table",
    };
    let key = written(path);
    let head = match value {
        Value::Table(_) | Value::Array(_) => key,
        scalar => format!("{key} = {}", shown(&scalar.to_string())),
    };
    difference(path, format!("{head}: expected {wanted}, found {found}"))
}
