//! JSON schemas of the settings whose form in a file differs from their type.

use std::borrow::Cow;

use data_pipeline::sources::SourceConfig;
use kd_losses::{Loss, WeightSettings};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

use super::{Classes, DATASET_TEMPLATES, EvalTask, TeacherConfig, Templates};

/// Default weight and share of a source.
pub(super) fn whole() -> f64 {
    1.0
}

/// Default task of an evaluation set.
pub(super) fn classification() -> EvalTask {
    EvalTask::Classification
}

/// Default prompt templates.
pub(super) fn plain() -> Templates {
    Templates::Named("plain".into())
}

/// Default prompt templates of a source.
pub(super) fn templates_for(source: &SourceConfig) -> Templates {
    match source {
        SourceConfig::ClipBenchmark(_) => Templates::Named(DATASET_TEMPLATES.into()),
        _ => plain(),
    }
}

/// `[teacher]`, or `[[teacher]]` for several.
pub(super) fn teachers(generator: &mut SchemaGenerator) -> Schema {
    let one = generator.subschema_for::<TeacherConfig>();
    json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
}

/// Moves the settings of a table into each kind of the source that is written in the same table.
pub(super) fn merge_source(schema: &mut Schema) {
    let table = schema.ensure_object();
    let own = take_map(table, "properties");
    let required = table.remove("required").unwrap_or_else(|| Value::Array(Vec::new()));
    for key in ["type", "additionalProperties", "unevaluatedProperties"] {
        table.remove(key);
    }
    for kind in table.get_mut("oneOf").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(kind) = kind.as_object_mut() else { continue };
        let mut properties = own.clone();
        properties.extend(take_map(kind, "properties"));
        let mut needed = required.clone();
        if let (Some(all), Some(Value::Array(more))) = (needed.as_array_mut(), kind.remove("required")) {
            all.extend(more);
        }
        kind.insert("properties".into(), properties.into());
        kind.insert("required".into(), needed);
        kind.insert("additionalProperties".into(), false.into());
    }
}

fn take_map(table: &mut Map<String, Value>, key: &str) -> Map<String, Value> {
    match table.remove(key) {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// The class list of a loss that reads one.
#[derive(JsonSchema)]
#[schemars(inline)]
#[expect(dead_code, reason = "only its schema is used")]
struct ClassKeys {
    /// Names, or a text file with one name per line; at least two, all different (ignoring case and spaces).
    classes: Classes,
    /// Prompt templates for the class names, as in evaluation sets.
    #[schemars(extend("default" = "plain"))]
    prompts: Option<Templates>,
}

/// Schema of `[losses]`: for each loss its weight, or a table.
pub(super) struct Losses;

impl JsonSchema for Losses {
    fn schema_name() -> Cow<'static, str> {
        "Losses".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let losses = Loss::all().map(|loss| {
            let teacher = if loss.needs_teacher() { "" } else { "; needs no teacher" };
            let description = format!("{}; {}{teacher}", loss.summary(), loss.source());
            let table = loss_table(loss, generator);
            let schema = json_schema!({
                "description": description,
                "anyOf": [{ "type": "number" }, table],
            });
            (loss.name().to_string(), Value::from(schema))
        });
        let losses = losses.collect::<Map<_, _>>();
        json_schema!({ "type": "object", "properties": losses, "additionalProperties": false })
    }
}

/// The table of a loss: its weight, its own settings and its class list.
fn loss_table(loss: Loss, generator: &mut SchemaGenerator) -> Schema {
    let classes = loss.reads_classes().then(|| ClassKeys::json_schema(generator));
    let parts = [WeightSettings::json_schema(generator), loss.settings_schema(generator)];
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for mut part in parts.into_iter().chain(classes) {
        let part = part.ensure_object();
        properties.extend(take_map(part, "properties"));
        required
            .extend(part.remove("required").and_then(|keys| keys.as_array().cloned()).unwrap_or_default());
    }
    if let Some(temperatures) = properties.get("temperatures").and_then(Value::as_object) {
        let mut alias = temperatures.clone();
        alias.remove("default");
        alias.insert("description".into(), "Alias of `temperatures`.".into());
        properties.insert("temperature".into(), alias.into());
    }
    json_schema!({
        "type": "object", "properties": properties, "required": required, "additionalProperties": false,
    })
}
