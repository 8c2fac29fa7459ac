//! JSON schemas of whole files.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};
use trainer::eval::suite::Suite;
use trainer::recipe::Recipe;

use crate::sweep::file::File;

/// Keys of a recipe file that are resolved before the file is read as a recipe.
const FILE_KEYS: [&str; 3] = ["extends", "runs", "stages"];
/// Definitions of settings that are merged over a recipe; none of their keys is needed.
pub(super) const MERGED: [&str; 3] = ["RunSettings", "StageSettings", "RecipeSettings"];

/// Stands for the settings of a recipe in a sweep file.
pub(crate) struct RecipeSettings;

impl JsonSchema for RecipeSettings {
    fn schema_name() -> Cow<'static, str> {
        "RecipeSettings".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "$ref": "#/$defs/RecipeSettings" })
    }
}

/// Returns the schema of a resolved recipe, with the keys of a recipe file that describe how it is resolved.
pub(super) fn recipe() -> Value {
    let mut root = root::<Recipe>();
    let own = std::mem::take(&mut root["properties"]);
    let list = |name: &str, description: &str| {
        json!({
            "type": "array", "items": { "$ref": format!("#/$defs/{name}") }, "description": description,
        })
    };
    let mut properties = Map::new();
    properties.insert(
        "extends".into(),
        json!({ "type": "string", "description": "Recipe file that this file overrides." }),
    );
    properties.extend(own.as_object().cloned().unwrap_or_default());
    properties
        .insert("runs".into(), list("RunSettings", "Runs, each of which overrides the rest of the file."));
    properties.insert(
        "stages".into(),
        list("StageSettings", "Stages of a run, each of which inherits from the previous one."),
    );
    root["properties"] = properties.into();
    for name in ["RunSettings", "StageSettings"] {
        root["$defs"][name] = json!({ "type": "object" });
    }
    root["description"] = "A recipe of clip-distill: one or more training runs.".into();
    root
}

/// Returns the schema of a recipe file. Keys are needed only in a file without a base, runs and stages.
pub(super) fn recipe_file() -> Value {
    let mut root = recipe();
    let needs = needs(&root, &root["$defs"]);
    relax(&mut root);
    let settings = |without: &[&str]| {
        let mut properties = root["properties"].clone();
        for key in without {
            properties.as_object_mut().and_then(|keys| keys.remove(*key));
        }
        json!({ "type": "object", "properties": properties, "additionalProperties": false })
    };
    let run = settings(&["extends", "runs"]);
    let stage = settings(&["extends", "runs", "stages", "name"]);
    root["$defs"]["RunSettings"] = run;
    root["$defs"]["StageSettings"] = stage;
    let resolved = FILE_KEYS.map(|key| json!({ "required": [key] }));
    root["if"] = json!({ "anyOf": resolved });
    root["else"] = needs;
    root
}

/// Returns the schema of a sweep file without aliases.
pub(super) fn sweep() -> Value {
    let mut root = root::<File>();
    let mut recipe = recipe_file();
    let mut properties = recipe["properties"].take();
    for key in FILE_KEYS.iter().chain(&["seed"]) {
        properties.as_object_mut().and_then(|keys| keys.remove(*key));
    }
    let own = root["$defs"].as_object().cloned().unwrap_or_default();
    let mut definitions = recipe["$defs"].take();
    for name in MERGED {
        definitions.as_object_mut().and_then(|all| all.remove(name));
    }
    definitions["RecipeSettings"] =
        json!({ "type": "object", "properties": properties, "additionalProperties": false });
    definitions.as_object_mut().into_iter().for_each(|all| all.extend(own.clone()));
    root["$defs"] = definitions;
    root["title"] = "Sweep".into();
    root["description"] = "A sweep of clip-distill: a comparison of training runs.".into();
    root
}

/// Returns the schema of a sweep file, with the alias of a key.
pub(crate) fn sweep_file() -> Value {
    let mut root = sweep();
    let part = &mut root["$defs"]["MeanPart"];
    part["properties"]["figure"] = part["properties"]["metric"].clone();
    part["required"] = json!(["set"]);
    part["anyOf"] = json!([{ "required": ["metric"] }, { "required": ["figure"] }]);
    root
}

/// Returns the schema of a suite file.
pub(super) fn suite() -> Value {
    let mut root = root::<Suite>();
    root["description"] = "A suite of clip-distill: data sets for the evaluation of a model.".into();
    root
}

fn root<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(clean));
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// Removes what TOML does not have (null), and the layout and links of rustdoc.
fn clean(schema: &mut Schema) {
    schema.remove("format");
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(alternatives)) = schema.get_mut("anyOf") {
        alternatives.retain(|one| one["type"] != "null");
        if let [Value::Object(only)] = alternatives.as_slice() {
            let only = only.clone();
            schema.remove("anyOf");
            for (key, value) in only {
                schema.ensure_object().entry(key).or_insert(value);
            }
        }
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        let headline = text.split("\n\n").next().unwrap_or_default();
        *text = headline.replace('\n', " ").replace("[`", "`").replace("`]", "`");
    }
}

/// Returns the schema that `$ref` refers to, or the schema itself.
pub(super) fn resolve<'a>(schema: &'a Value, definitions: &'a Value) -> &'a Value {
    match definition(schema) {
        Some(name) => &definitions[name],
        None => schema,
    }
}

/// The name of the definition that a schema refers to.
pub(super) fn definition(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.strip_prefix("#/$defs/")
}

/// Returns the schema that only requires what a table and the tables in it require. Lists are not entered: a file
/// replaces them as a whole.
fn needs(schema: &Value, definitions: &Value) -> Value {
    let schema = resolve(schema, definitions);
    let mut found = Map::new();
    if let Some(required) = schema.get("required") {
        found.insert("required".into(), required.clone());
    }
    let properties = schema["properties"].as_object().into_iter().flatten();
    let inner = properties.map(|(key, schema)| (key.clone(), needs(schema, definitions)));
    let inner = inner.filter(|(_, needs)| *needs != json!({})).collect::<Map<_, _>>();
    if !inner.is_empty() {
        found.insert("properties".into(), inner.into());
    }
    for alternative in schema["anyOf"].as_array().into_iter().flatten() {
        found.extend(needs(alternative, definitions).as_object().cloned().unwrap_or_default());
    }
    found.into()
}

/// Removes the requirements that [`needs`] finds.
fn relax(root: &mut Value) {
    let mut definitions = root["$defs"].take();
    let mut names = Vec::new();
    relax_one(root, &mut names);
    let mut done = 0;
    while let Some(name) = names.get(done).cloned() {
        relax_one(&mut definitions[&name], &mut names);
        done += 1;
    }
    root["$defs"] = definitions;
}

fn relax_one(schema: &mut Value, names: &mut Vec<String>) {
    if let Some(name) = definition(schema)
        && !names.iter().any(|known| known == name)
    {
        names.push(name.into());
    }
    let Some(table) = schema.as_object_mut() else { return };
    table.remove("required");
    let inner = table.get_mut("properties").and_then(Value::as_object_mut);
    inner.into_iter().flat_map(Map::values_mut).for_each(|inner| relax_one(inner, names));
    let alternatives = table.get_mut("anyOf").and_then(Value::as_array_mut);
    alternatives.into_iter().flatten().for_each(|one| relax_one(one, names));
}
