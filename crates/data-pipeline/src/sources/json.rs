//! Parses the `.json` member of a tar like Python, and finds captions in it.

use serde_json::Value;

use crate::text;

/// Maximum number of keys that a message lists, and of characters of each.
const LISTED: usize = 12;
const SHOWN: usize = 40;

/// Parses JSON, including NaN and infinities, which Python's `json` module writes in addition to the standard. They
/// become null. A byte order mark is skipped.
///
/// # Errors
/// The problem, and whether it is the encoding.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, Broken> {
    let text = text::decode(bytes).map_err(Broken::Encoding)?;
    serde_json::from_str(text).or_else(|error| {
        let standard = without_constants(text).and_then(|text| serde_json::from_str(&text).ok());
        standard.ok_or_else(|| Broken::Syntax(error.to_string()))
    })
}

/// The reason why a `.json` member cannot be read.
#[derive(Debug)]
pub(super) enum Broken {
    Encoding(text::NotUtf8),
    Syntax(String),
}

/// Replaces `NaN`, `Infinity` and `-Infinity` outside of strings with null. Returns `None` if there are none.
fn without_constants(json: &str) -> Option<String> {
    let (mut out, mut rest, mut found) = (String::with_capacity(json.len()), json, false);
    while let Some(first) = rest.chars().next() {
        let constant = ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| rest.starts_with(word));
        let length = match constant {
            Some(word) => {
                out.push_str("null");
                found = true;
                rest = &rest[word.len()..];
                continue;
            }
            None if first == '"' => text_length(rest),
            None => first.len_utf8(),
        };
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    found.then_some(out)
}

/// Returns the length in bytes of a string with its quotes; an unterminated string extends to the end.
fn text_length(json: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in json.bytes().enumerate().skip(1) {
        match byte {
            b'"' if !escaped => return at + 1,
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    json.len()
}

/// Returns the texts of a key, and the number of entries in its list that are not texts.
pub(super) fn texts(json: &Value, key: &str) -> (Vec<String>, u64) {
    match json.get(key) {
        Some(Value::String(text)) => (vec![text.clone()], 0),
        Some(Value::Array(list)) => {
            let texts =
                list.iter().filter_map(|entry| entry.as_str().map(str::to_string)).collect::<Vec<_>>();
            let others = (list.len() - texts.len()) as u64;
            (texts, others)
        }
        _ => (Vec::new(), 0),
    }
}

/// Describes the value of a key that is neither a text nor a list with a text, or returns `None` if the key is missing.
pub(super) fn other_value(json: &Value, key: &str) -> Option<String> {
    let found = match json.get(key)? {
        Value::Null => "null".into(),
        Value::Bool(value) => format!("the truth value {value}"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(_) => "an empty text".into(),
        Value::Array(list) if list.is_empty() => "an empty list".into(),
        Value::Array(_) => "a list without texts".into(),
        Value::Object(_) => "an object".into(),
    };
    Some(format!("the value of `{key}` is {found}, not a text"))
}

/// Describes the content of a `.json` file for a message.
pub(super) fn describe(json: &Value) -> String {
    let Some(object) = json.as_object() else { return "the .json file is not an object".into() };
    if object.is_empty() {
        return "the .json file has no key".into();
    }
    let shown = |key: &String| format!("`{}`", key.chars().take(SHOWN).collect::<String>().escape_debug());
    let keys = object.keys().take(LISTED).map(shown).collect::<Vec<_>>().join(", ");
    let more = if object.len() > LISTED { ", ..." } else { "" };
    format!("the .json file has the keys {keys}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn constants_of_python_are_read_as_null() {
        let found = |text: &str| parse(text.as_bytes()).ok();
        assert_eq!(
            found(r#"{"a": NaN, "b": [-Infinity, Infinity, -1], "c": "NaN \" Infinity \\"}"#),
            Some(json!({"a": null, "b": [null, null, -1], "c": "NaN \" Infinity \\"}))
        );
        assert_eq!(found("\u{FEFF}{\"a\": \"é\"}"), Some(json!({"a": "é"})));
        for broken in ["{\"a\": nan}", "{broken NaN", "{\"a\": NaN \"open", "", "{\"a\": NaNs}"] {
            assert!(matches!(parse(broken.as_bytes()), Err(Broken::Syntax(_))), "{broken}");
        }
        assert!(matches!(parse(b"{\"a\": \"caf\xE9\"}"), Err(Broken::Encoding(_))));
    }

    #[test]
    fn entries_other_than_texts_are_counted() {
        let json = json!({"list": [1, "a", null, "b"], "one": "c", "number": 5});
        assert_eq!(texts(&json, "list"), (vec!["a".into(), "b".into()], 2));
        assert_eq!(texts(&json, "one"), (vec!["c".into()], 0));
        assert_eq!(texts(&json, "number"), (vec![], 0));
        assert_eq!(texts(&json, "missing"), (vec![], 0));
        let described = describe(&json);
        assert!(described.starts_with("the .json file has the keys `list`, "), "{described}");
        assert!(described.contains("`one`") && described.contains("`number`"), "{described}");
        assert_eq!(describe(&json!([1])), "the .json file is not an object");
    }
}
