//! Translates the parser's errors: positions, and the words of Rust.

use data_pipeline::notice::printable;

use super::names::did_you_mean;
use super::places::{Step, written};

/// Maximum number of characters of a line in a message.
const MAX_SHOWN: usize = 60;

/// Phrases of the parser. An error without any of them was written by this project.
const OF_THE_PARSER: [&str; 8] = [
    "invalid type: ",
    "invalid value: ",
    "invalid length ",
    "unknown field `",
    "unknown variant `",
    "missing field `",
    "did not match any variant",
    "wanted ",
];

/// An error of the parser.
pub(super) struct Message {
    /// The setting, as far as it is known.
    pub(super) path: Vec<Step>,
    pub(super) text: String,
}

impl Message {
    /// Splits an error into the setting and the reason. Errors of inner tables carry their own keys, before the outer
    /// ones.
    pub(super) fn of(error: &toml::de::Error) -> Self {
        let text = error.to_string();
        let (mut reasons, mut path) = (Vec::new(), Vec::new());
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            match line.strip_prefix("in `").and_then(|rest| rest.strip_suffix('`')) {
                Some(keys) => {
                    let outer = keys.split('.').map(|key| Step::Key(key.trim_matches('"').into()));
                    path.splice(0..0, outer);
                }
                None => reasons.push(line),
            }
        }
        Message { path, text: reasons.join("; ") }
    }

    /// Whether this project wrote the reason.
    pub(super) fn is_own(&self) -> bool {
        !OF_THE_PARSER.iter().any(|phrase| self.text.contains(phrase))
    }

    /// Returns the setting and the reason in the words of the documentation.
    pub(super) fn translated(&self) -> String {
        let key = written(&self.path);
        let of = |name: &str| if key.is_empty() { name.to_string() } else { format!("{key}.{name}") };
        let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(String::from).collect::<Vec<_>>();
        let names = quoted(&self.text);
        let known = names.iter().skip(1).map(String::as_str).collect::<Vec<_>>();
        match (self.text.split_once('`').map(|(start, _)| start.trim_end()), names.first()) {
            (Some("missing field"), Some(name)) => return format!("`{}` is missing", of(name)),
            (Some("unknown field"), Some(name)) => {
                return format!("{}: unknown key; {}", of(name), did_you_mean(name, &known));
            }
            (Some("unknown variant"), Some(name)) => {
                return format!("{key} = \"{name}\": unknown name; {}", did_you_mean(name, &known));
            }
            _ => {}
        }
        let kinds = self.text.strip_prefix("invalid type: ").or(self.text.strip_prefix("invalid value: "));
        let reason = match kinds.and_then(|kinds| kinds.split_once(", expected ")) {
            Some((found, wanted)) => format!("expected {}, found {}", expected(wanted), described(found)),
            None => "its value has none of the forms in docs/recipes.md".into(),
        };
        if key.is_empty() { reason } else { format!("{key}: {reason}") }
    }
}

/// Translates the parser's description of what it expects.
fn expected(wanted: &str) -> String {
    match wanted {
        "a string" | "a borrowed string" => "a text in quotes".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list".into(),
        "u64" | "u32" | "usize" => "a whole number, 0 or more".into(),
        "i64" => "a whole number".into(),
        "i32" => format!("a whole number from {} to {}", i32::MIN, i32::MAX),
        "f64" | "f32" => "a number".into(),
        other if other.contains("map") || other.contains("struct") || other.contains("enum") => {
            "a table".into()
        }
        other => other.into(),
    }
}

/// Translates the parser's description of what it found.
fn described(found: &str) -> String {
    for (kind, article) in [("integer `", "the whole number "), ("floating point `", "the number ")] {
        if let Some(number) = found.strip_prefix(kind) {
            return format!("{article}{}", number.trim_end_matches('`'));
        }
    }
    match found {
        "map" => "a table".into(),
        "sequence" => "a list".into(),
        other => other.replacen("string ", "the text ", 1).replacen("boolean ", "", 1),
    }
}

/// Describes an error in the syntax of a TOML file: line, reason, and the line's text.
pub(super) fn syntax(text: &str, error: &toml::de::Error) -> String {
    let reason = error.message().replace('\n', "; ");
    if reason.contains("recursion limit") {
        return "its tables are nested too deeply: a recipe has at most a few levels".into();
    }
    let Some(span) = error.span() else { return format!("this is not TOML: {reason}") };
    let start = span.start.min(text.len());
    let before = text.get(..start).unwrap_or_default();
    let number = before.matches('\n').count();
    let line = text.lines().nth(number).unwrap_or_default().trim();
    let reason = match reason.as_str() {
        reason if reason.contains("duplicate key") => "the key is set twice: remove one of them".to_string(),
        reason if reason.contains("i128") || reason.contains("overflow") => {
            "the number is too large: the largest is 9223372036854775807".into()
        }
        reason if reason.starts_with("string values must be quoted") => match line.ends_with('=') {
            true => "the value is missing".into(),
            false => "a text needs quotes".into(),
        },
        reason => format!("this is not TOML: {reason}"),
    };
    match line.is_empty() {
        true => format!("line {}: {reason}", number + 1),
        false => format!("line {}, `{}`: {reason}", number + 1, shown(line)),
    }
}

/// Shortens a text for a message, and escapes its control characters.
pub(super) fn shown(text: &str) -> String {
    let mut start = text.chars().take(MAX_SHOWN).collect::<String>();
    if text.chars().nth(MAX_SHOWN).is_some() {
        start.push_str("...");
    }
    printable(&start).into_owned()
}
