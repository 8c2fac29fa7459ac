//! Markdown tables of a JSON schema: one for each table of a file.

use serde_json::{Map, Value};

use super::schema::{MERGED, definition, resolve};

const HEADER: &str = "| key | type or values | default | description |\n|---|---|---|---|\n";
/// Key that names the kind of a source.
const KIND: &str = "source";

/// Returns the tables of a file. Losses and data sets have tables of their own.
pub(super) fn of_file(root: &Value) -> String {
    let mut sections = vec![Section { titles: Vec::new(), name: None, schema: root }];
    collect(&mut sections, root, "", &root["$defs"]);
    let sections = sections.iter().map(|section| {
        let table = keys(section.schema, &root["$defs"]);
        match section.titles.is_empty() {
            true => table,
            false => format!("### {}\n\n{}\n\n{table}", section.titles.join(", "), summary(section.schema)),
        }
    });
    sections.collect::<Vec<_>>().join("\n")
}

/// Returns the losses, and the keys of their tables.
pub(super) fn of_losses(root: &Value) -> String {
    let definitions = &root["$defs"];
    let losses = resolve(&root["properties"]["losses"], definitions)["properties"].as_object();
    let mut text = String::from("| loss | description |\n|---|---|\n");
    let mut rows = Vec::<(Row<'_>, Vec<&str>)>::new();
    for (loss, schema) in losses.into_iter().flatten() {
        text.push_str(&format!("| `{loss}` | {} |\n", escape(&summary(schema))));
        let alternatives = schema["anyOf"].as_array().into_iter().flatten();
        for table in alternatives.filter(|one| is_table(one)) {
            for row in rows_of(table) {
                match rows.iter_mut().find(|(known, _)| *known == row) {
                    Some((_, owners)) => owners.push(loss),
                    None => {
                        let last = rows.iter().rposition(|(known, _)| known.key == row.key);
                        rows.insert(last.map_or(rows.len(), |last| last + 1), (row, vec![loss]));
                    }
                }
            }
        }
    }
    let all = losses.map_or(0, Map::len);
    text.push_str(&format!("\n{HEADER}"));
    for (row, owners) in rows {
        let owners = match owners.len() == all {
            true => String::new(),
            false => {
                format!("{}: ", owners.iter().map(|loss| format!("`{loss}`")).collect::<Vec<_>>().join(", "))
            }
        };
        text.push_str(&row.text(&owners, definitions));
    }
    text
}

/// Returns the keys of every training source, and those of each kind of source.
pub(super) fn of_sources(root: &Value) -> String {
    let definitions = &root["$defs"];
    let kinds = definitions["TrainSource"]["oneOf"].as_array().map_or(&[][..], Vec::as_slice);
    let shared = shared_rows(kinds);
    let mut text = format!("### Every `[[data.train]]`\n\n{}", shared_table(kinds, definitions));
    let mut groups = Vec::<(Vec<&Value>, Vec<Row<'_>>)>::new();
    for kind in kinds {
        let own = rows_of(kind).into_iter().filter(|row| row.key != KIND && !shared.contains(row));
        let own = own.collect::<Vec<_>>();
        match groups.iter_mut().find(|(_, rows)| *rows == own) {
            Some((kinds, _)) => kinds.push(kind),
            None => groups.push((vec![kind], own)),
        }
    }
    for (kinds, rows) in groups {
        let names = kinds.iter().map(|kind| format!("`{KIND} = {}`", kind["properties"][KIND]["const"]));
        let about = kinds.iter().map(|kind| summary(kind)).collect::<Vec<_>>().join(" ");
        let rows = rows.iter().map(|row| row.text("", definitions)).collect::<String>();
        let names = names.collect::<Vec<_>>().join(", ");
        text.push_str(&format!("\n### {names}\n\n{about}\n\n{HEADER}{rows}"));
    }
    text
}

/// Returns the keys that an evaluation set has besides those of its source.
pub(super) fn of_sets(root: &Value) -> String {
    let kinds = root["$defs"]["EvalSet"]["oneOf"].as_array().map_or(&[][..], Vec::as_slice);
    shared_table(kinds, &root["$defs"])
}

/// A table of a file.
struct Section<'a> {
    /// The tables with these settings, such as `[student]`.
    titles: Vec<String>,
    /// The definition of the settings.
    name: Option<&'a str>,
    schema: &'a Value,
}

/// Adds the tables in a table, and the tables in those.
fn collect<'a>(sections: &mut Vec<Section<'a>>, table: &'a Value, path: &str, definitions: &'a Value) {
    for (key, schema) in table["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let resolved = resolve(schema, definitions);
        let forms = resolved["anyOf"].as_array().map_or(std::slice::from_ref(schema), Vec::as_slice);
        for form in forms {
            let items = &resolve(form, definitions)["items"];
            let (form, title) = match items.is_null() {
                true => (form, format!("`[{path}]`")),
                false => (items, format!("`[[{path}]]`")),
            };
            let (name, inner) = (definition(form), resolve(form, definitions));
            let is_elsewhere = ["Losses"].iter().chain(&MERGED).any(|known| name == Some(*known));
            if is_elsewhere || !is_table(inner) {
                continue;
            }
            match sections.iter_mut().find(|section| name.is_some() && section.name == name) {
                Some(section) => section.titles.push(title),
                None => {
                    sections.push(Section { titles: vec![title], name, schema: inner });
                    collect(sections, inner, &path, definitions);
                }
            }
        }
    }
}

/// Whether a schema describes a table with known keys.
fn is_table(schema: &Value) -> bool {
    schema["properties"].as_object().is_some_and(|keys| !keys.is_empty())
}

/// A setting.
#[derive(PartialEq)]
struct Row<'a> {
    key: &'a str,
    schema: &'a Value,
    is_required: bool,
}

impl Row<'_> {
    fn text(&self, owners: &str, definitions: &Value) -> String {
        let Row { key, schema, is_required } = self;
        let default = match &schema["default"] {
            _ if *is_required => "required".into(),
            // The section of a table lists the defaults of its keys.
            _ if is_table(resolve(schema, definitions)) => "-".into(),
            Value::Null => "-".into(),
            Value::String(text) if text.is_empty() => "-".into(),
            Value::Object(table) if table.is_empty() => "-".into(),
            value => format!("`{}`", toml(value)),
        };
        let about = format!("{owners}{}", description(schema, definitions));
        format!(
            "| `{key}` | {} | {} | {} |\n",
            escape(&type_text(schema, definitions)),
            escape(&default),
            escape(&about)
        )
    }
}

fn rows_of(table: &Value) -> Vec<Row<'_>> {
    let required = table["required"].as_array();
    let is_required = |key: &str| required.is_some_and(|keys| keys.iter().any(|known| known == key));
    let keys = table["properties"].as_object().into_iter().flatten();
    keys.map(|(key, schema)| Row { key, schema, is_required: is_required(key) }).collect()
}

fn keys(table: &Value, definitions: &Value) -> String {
    let rows = rows_of(table).iter().map(|row| row.text("", definitions)).collect::<String>();
    format!("{HEADER}{rows}")
}

/// Returns the settings that all kinds of a source have.
fn shared_rows(kinds: &[Value]) -> Vec<Row<'_>> {
    let first = kinds.first().map(rows_of).unwrap_or_default();
    first.into_iter().filter(|row| kinds.iter().all(|kind| rows_of(kind).contains(row))).collect()
}

/// Returns a table of the kinds of a source, and of the settings that all of them have.
fn shared_table(kinds: &[Value], definitions: &Value) -> String {
    let names = kinds.iter().map(|kind| format!("`{}`", kind["properties"][KIND]["const"]));
    let names = names.collect::<Vec<_>>().join(", ");
    let rows = shared_rows(kinds).iter().map(|row| row.text("", definitions)).collect::<String>();
    format!("{HEADER}| `{KIND}` | {names} | required | Kind of the source. |\n{rows}")
}

/// Returns the type of a setting, or its values.
fn type_text(schema: &Value, definitions: &Value) -> String {
    let schema = resolve(schema, definitions);
    if let Some(value) = schema.get("const") {
        return format!("`{value}`");
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
    }
    let (forms, are_tables) = choices(schema, definitions);
    if !forms.is_empty() {
        if are_tables {
            return "table".into();
        }
        let is_choice = schema["oneOf"].is_array();
        let texts = forms.iter().map(|form| match is_choice && is_table(form) {
            true => format!("`{}`", inline(form, definitions)),
            false => type_text(form, definitions),
        });
        let texts = texts.collect::<Vec<_>>();
        let only_values = texts.iter().all(|text| text.starts_with('`'));
        return texts.join(if only_values { ", " } else { " or " });
    }
    match schema["type"].as_str() {
        Some("array") => {
            let item = type_text(&schema["items"], definitions);
            match schema["maxItems"].as_u64() {
                Some(count) => format!("list of {count} {item}s"),
                None if item.contains(' ') => format!("list of: {item}"),
                None => format!("list of {item}s"),
            }
        }
        Some("object") => "table".into(),
        Some(other) => other.into(),
        None => "value".into(),
    }
}

/// Returns a table as TOML writes it on one line, with types as values.
fn inline(schema: &Value, definitions: &Value) -> String {
    let keys = schema["properties"].as_object().into_iter().flatten();
    let keys = keys.map(|(key, schema)| {
        let inner = resolve(schema, definitions);
        let value = if is_table(inner) { inline(inner, definitions) } else { type_text(inner, definitions) };
        format!("{key} = {value}")
    });
    format!("{{ {} }}", keys.collect::<Vec<_>>().join(", "))
}

/// Returns a value as TOML writes it on one line.
fn toml(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(table) => {
            let keys = table.iter().map(|(key, value)| format!("{key} = {}", toml(value)));
            format!("{{ {} }}", keys.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Returns the alternatives of a setting, and whether all of them are tables, such as the kinds of a source.
fn choices<'a>(schema: &'a Value, definitions: &'a Value) -> (&'a [Value], bool) {
    let forms = schema["oneOf"].as_array().or(schema["anyOf"].as_array());
    let forms = forms.map_or(&[][..], Vec::as_slice);
    let are_tables = forms.iter().all(|form| resolve(form, definitions)["type"] == "object");
    (forms, are_tables)
}

fn summary(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().to_string()
}

/// Returns the description of a setting, with those of its values.
fn description(schema: &Value, definitions: &Value) -> String {
    let resolved = resolve(schema, definitions);
    let mut text = summary(if schema["description"].is_string() { schema } else { resolved });
    let (values, are_tables) = choices(resolved, definitions);
    for value in values.iter().filter(|_| !are_tables) {
        let keys = value["properties"].as_object().into_iter().flatten().map(|(key, _)| key.clone());
        let name = value.get("const").map(Value::to_string).into_iter().chain(keys).next();
        let about = summary(value);
        if let (Some(name), false) = (name, about.is_empty()) {
            text.push_str(&format!(" `{name}`: {}", decapitalize(&about)));
        }
    }
    text
}

/// Returns a sentence as it continues after a colon.
fn decapitalize(text: &str) -> String {
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.into(),
    }
}

fn escape(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_table_of_a_file_has_a_section_and_shared_settings_have_one() {
        let root = json!({
            "properties": {
                "name": { "type": "string", "description": "Its name." },
                "first": { "$ref": "#/$defs/Model", "description": "A model." },
                "others": { "type": "array", "items": { "$ref": "#/$defs/Model" }, "default": [] },
            },
            "required": ["name", "first"],
            "$defs": { "Model": {
                "type": "object", "description": "A trained model.",
                "properties": {
                    "rate": { "type": "number", "default": 1e-6, "description": "Either a | or b." },
                    "mode": { "$ref": "#/$defs/Mode", "default": "fast" },
                },
            }, "Mode": { "description": "The mode.", "oneOf": [
                { "const": "fast", "description": "The fastest." },
                { "type": "object", "properties": { "slow": { "type": "integer" } }, "description": "GPUs only." },
            ] } },
        });
        let expected = format!(
            "{HEADER}| `name` | string | required | Its name. |\n| `first` | table | required | A model. |\n\
             | `others` | list of tables | `[]` |  |\n\n### `[first]`, `[[others]]`\n\nA trained model.\n\n{HEADER}\
             | `rate` | number | `1e-6` | Either a \\| or b. |\n\
             | `mode` | `\"fast\"`, `{{ slow = integer }}` | `\"fast\"` | The mode. `\"fast\"`: the fastest. `slow`: GPUs only. |\n"
        );
        assert_eq!(of_file(&root), expected);
    }

    #[test]
    fn a_setting_of_some_losses_names_them() {
        let table = |own: Value| json!({ "anyOf": [{ "type": "number" }, { "properties": own }], "description": "A loss." });
        let weight = json!({ "type": "number", "description": "Its weight." });
        let root = json!({ "properties": { "losses": { "properties": {
            "a": table(json!({ "weight": weight })),
            "b": table(json!({ "weight": weight, "bank": { "type": "integer", "description": "Its size." } })),
        } } } });
        let text = of_losses(&root);
        assert!(
            text.starts_with("| loss | description |\n|---|---|\n| `a` | A loss. |\n| `b` | A loss. |\n"),
            "{text}"
        );
        assert!(
            text.contains(
                "| `weight` | number | - | Its weight. |\n| `bank` | integer | - | `b`: Its size. |\n"
            ),
            "{text}"
        );
    }
}
