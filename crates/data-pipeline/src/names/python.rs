//! Python source of class names and prompt templates, as open_clip and OpenAI publish them: lists of strings and of
//! `lambda c: f'a photo of a {c}.'`. Only literals are read; code never runs.

use serde_json::{Map, Value};

/// Maximum depth of nested lists.
const MAX_DEPTH: usize = 8;

/// A value of a Python file, with the name of its variable, if any.
#[derive(Debug, PartialEq)]
pub(super) struct Variable {
    pub(super) name: Option<String>,
    pub(super) value: Value,
}

/// Whether a text that is not JSON is Python source: a list in brackets, or lines with lambdas, assigned lists,
/// functions or imports.
pub(super) fn is_source(text: &str) -> bool {
    let text = text.trim();
    // A line of a class list may begin with `(1)`, but not with `{0:`.
    let is_list =
        [('[', ']', false), ('(', ')', false), ('{', '}', true)].iter().any(|(open, close, number)| {
            let inner = text.strip_prefix(*open).and_then(|rest| rest.strip_suffix(*close));
            inner.map(str::trim_start).is_some_and(|inner| {
                inner.starts_with(['"', '\''])
                    || inner.starts_with("lambda ")
                    || (*number && inner.starts_with(|c: char| c.is_ascii_digit()))
            })
        });
    let rest_of = |line: &str, word: &str| {
        line.strip_prefix(word).filter(|rest| rest.starts_with(' ')).map(|rest| rest.trim().to_string())
    };
    is_list
        || text.lines().map(str::trim).any(|line| {
            let lambda = rest_of(line, "lambda").is_some_and(|rest| {
                rest.split_once(':').is_some_and(|(variable, _)| is_identifier(variable.trim()))
            });
            let assigned = line.split_once('=').is_some_and(|(name, value)| {
                is_identifier(name.trim())
                    && value.trim_start().strip_prefix(['[', '(', '{']).is_some_and(|inner| {
                        let inner = inner.trim_start();
                        inner.is_empty()
                            || inner.starts_with(['"', '\'', '#'])
                            || inner.starts_with("lambda ")
                    })
            });
            let function = rest_of(line, "def").is_some_and(|rest| rest.contains('(') && rest.ends_with(':'));
            let import = rest_of(line, "from").is_some_and(|rest| rest.contains(" import "));
            lambda || assigned || function || import
        })
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// Reads the values of a file: assignments, or a single list with or without brackets.
///
/// # Errors
/// The line, and what it has instead of a literal.
pub(super) fn read(text: &str) -> Result<Vec<Variable>, String> {
    let mut reader = Reader { text, at: 0 };
    reader.skip_lines();
    // The documentation of a module.
    for quotes in ["\"\"\"", "'''"] {
        if reader.rest().starts_with(quotes) {
            let end = reader.rest()[3..].find(quotes).ok_or_else(|| reader.fail("an unclosed text"))?;
            reader.at += end + 6;
        }
    }
    let mut variables = Vec::new();
    loop {
        while reader.take(';') {}
        reader.skip_lines();
        if reader.rest().is_empty() {
            return Ok(variables);
        }
        if reader.skip_import() {
            continue;
        }
        let name = reader.assigned();
        let value = reader.value(0)?;
        let is_end = |reader: &mut Reader<'_>| {
            reader.skip_spaces();
            reader.rest().is_empty() || reader.rest().starts_with('\n') || reader.rest().starts_with(';')
        };
        if value.is_string() && name.is_none() {
            // The lines of a list without its brackets.
            let mut list = vec![value];
            loop {
                while reader.take(',') {}
                reader.skip_lines();
                if reader.rest().is_empty() {
                    break;
                }
                list.push(reader.value(0)?);
            }
            variables.push(Variable { name, value: list.into() });
        } else if is_end(&mut reader) {
            variables.push(Variable { name, value });
        } else {
            return Err(reader.fail("code after the list"));
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn fail(&self, found: &str) -> String {
        let line = self.text[..self.at].matches('\n').count() + 1;
        format!("line {line} has {found}")
    }

    /// Skips spaces and comments, and the end of a line if it is continued.
    fn skip_spaces(&mut self) {
        loop {
            let rest = self.rest();
            let bare = rest.trim_start_matches([' ', '\t', '\r', '\u{c}']);
            self.at += rest.len() - bare.len();
            if bare.starts_with('#') {
                self.at += bare.find('\n').unwrap_or(bare.len());
            } else if let Some(next) = bare.strip_prefix("\\\n").or_else(|| bare.strip_prefix("\\\r\n")) {
                self.at += bare.len() - next.len();
            } else {
                return;
            }
        }
    }

    /// Skips spaces, comments and ends of lines.
    fn skip_lines(&mut self) {
        self.skip_spaces();
        while self.rest().starts_with('\n') {
            self.at += 1;
            self.skip_spaces();
        }
    }

    /// Skips a line that imports modules, which defines no list.
    fn skip_import(&mut self) -> bool {
        let line = self.rest().lines().next().unwrap_or_default();
        let is_import =
            line.starts_with("import ") || (line.starts_with("from ") && line.contains(" import "));
        self.at += if is_import { line.len() } else { 0 };
        is_import
    }

    fn take(&mut self, c: char) -> bool {
        self.skip_spaces();
        let found = self.rest().starts_with(c);
        self.at += if found { c.len_utf8() } else { 0 };
        found
    }

    fn word(&mut self) -> &'a str {
        self.skip_spaces();
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// Reads `NAME =`, if an assignment follows.
    fn assigned(&mut self) -> Option<String> {
        let start = self.at;
        let name = self.word().to_string();
        if is_identifier(&name) && self.take('=') && !self.rest().starts_with('=') {
            return Some(name);
        }
        self.at = start;
        None
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        self.skip_lines();
        if depth > MAX_DEPTH {
            return Err(self.fail("too many nested lists"));
        }
        match self.rest().chars().next() {
            Some('[') => self.list(']', depth),
            Some('(') => self.list(')', depth),
            Some('{') => self.dict(depth),
            Some(c) if c.is_ascii_digit() => {
                let word = self.word();
                word.parse::<u64>().map(Value::from).map_err(|_| self.fail(&format!("`{word}`")))
            }
            Some(_) => {
                let start = self.at;
                if self.word() == "lambda" {
                    let variable = self.word();
                    if !is_identifier(variable) || !self.take(':') {
                        return Err(self.fail("a lambda without a single argument"));
                    }
                    return self.text_of(Some(variable), depth > 0);
                }
                self.at = start;
                self.text_of(None, depth > 0)
            }
            None => Err(self.fail("an unclosed list")),
        }
    }

    fn list(&mut self, close: char, depth: usize) -> Result<Value, String> {
        self.at += 1;
        let mut list = Vec::new();
        let mut comma = true;
        loop {
            self.skip_lines();
            if self.take(close) {
                // A text in parentheses without a comma is not a list.
                let is_text = close == ')' && list.len() == 1 && !comma;
                return Ok(if is_text { list.remove(0) } else { list.into() });
            }
            if !comma {
                return Err(self.fail("an entry without a comma before it, or code in the list"));
            }
            list.push(self.value(depth + 1)?);
            self.skip_lines();
            comma = self.take(',');
        }
    }

    fn dict(&mut self, depth: usize) -> Result<Value, String> {
        self.at += 1;
        let mut map = Map::new();
        let mut comma = true;
        loop {
            self.skip_lines();
            if self.take('}') {
                return Ok(map.into());
            }
            if !comma {
                return Err(self.fail("an entry without a comma before it, or code in the dictionary"));
            }
            let key = match self.value(depth + 1)? {
                Value::String(key) => key,
                Value::Number(key) => key.to_string(),
                _ => return Err(self.fail("a key that is neither a text nor a number")),
            };
            self.skip_lines();
            if !self.take(':') {
                return Err(self.fail("a set, or a key without its value"));
            }
            let value = self.value(depth + 1)?;
            if map.insert(key, value).is_some() {
                return Err(self.fail("a key for the second time"));
            }
            self.skip_lines();
            comma = self.take(',');
        }
    }

    /// Reads one or more adjacent strings, within brackets also those of the next lines, and `.format(VARIABLE)` after
    /// them. The variable of a lambda becomes `{}`.
    fn text_of(&mut self, variable: Option<&str>, in_brackets: bool) -> Result<Value, String> {
        let mut whole = String::new();
        let mut count = 0;
        loop {
            let before = self.at;
            if count > 0 && in_brackets {
                self.skip_lines();
            } else {
                self.skip_spaces();
            }
            let start = self.at;
            let prefix = self.word().to_ascii_lowercase();
            let is_string = self.rest().starts_with(['"', '\'']);
            if !is_string || !["", "f", "r", "u", "fr", "rf"].contains(&prefix.as_str()) {
                self.at = if count > 0 { before } else { start };
                break;
            }
            let text = self.string(prefix.contains('r'))?;
            whole.push_str(&if prefix.contains('f') { self.formatted(&text, variable)? } else { text });
            count += 1;
        }
        if count == 0 {
            let line = self.rest().lines().next().unwrap_or_default().trim();
            let shown = line.chars().take(40).collect::<String>();
            return Err(self.fail(&format!("`{}`, which is not a text in quotes", shown.escape_debug())));
        }
        if self.rest().starts_with(".format(") {
            self.at += ".format(".len();
            let argument = self.word();
            if variable != Some(argument) || !self.take(')') {
                return Err(self.fail("code that is not read"));
            }
            whole = whole.replace("{0}", "{}");
        }
        Ok(whole.into())
    }

    /// Reads a string in quotes.
    fn string(&mut self, raw: bool) -> Result<String, String> {
        let rest = self.rest();
        let quote = &rest[..1];
        let triple = quote.repeat(3);
        let close = if rest.starts_with(&triple) { triple.as_str() } else { quote };
        self.at += close.len();
        let mut text = String::new();
        loop {
            let rest = self.rest();
            if rest.starts_with(close) {
                self.at += close.len();
                return Ok(text);
            }
            let c = rest.chars().next().filter(|c| *c != '\n' || close.len() == 3);
            let c = c.ok_or_else(|| self.fail("an unclosed text"))?;
            self.at += c.len_utf8();
            if c != '\\' || raw {
                text.push(c);
                continue;
            }
            let escaped = self.rest().chars().next().ok_or_else(|| self.fail("an unclosed text"))?;
            self.at += escaped.len_utf8();
            let digits = match escaped {
                'x' => 2,
                'u' => 4,
                'U' => 8,
                _ => 0,
            };
            match escaped {
                '\n' => {}
                'n' => text.push('\n'),
                't' => text.push('\t'),
                '\\' | '\'' | '"' => text.push(escaped),
                _ if digits > 0 => {
                    let code = self.rest().get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
                    let c = code.and_then(char::from_u32);
                    text.push(c.ok_or_else(|| self.fail("an escape that is no character"))?);
                    self.at += digits;
                }
                other => return Err(self.fail(&format!("the escape `\\{other}`, which is not read"))),
            }
        }
    }

    /// Replaces the variable of a format string by `{}`.
    fn formatted(&self, text: &str, variable: Option<&str>) -> Result<String, String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            filled.push_str(&rest[..at]);
            let (brace, after) = rest[at..].split_at(1);
            if let Some(next) = after.strip_prefix(brace) {
                filled.push_str(brace);
                rest = next;
                continue;
            }
            let (name, next) = after.split_once('}').ok_or_else(|| self.fail("an unclosed brace"))?;
            if brace != "{" || variable != Some(name.trim()) {
                return Err(self.fail(&format!("`{{{name}}}`, which is not the argument of its lambda")));
            }
            filled.push_str("{}");
            rest = next;
        }
        filled.push_str(rest);
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values(text: &str) -> Result<Vec<(String, Value)>, String> {
        let variables = read(text)?.into_iter();
        Ok(variables.map(|v| (v.name.unwrap_or_default(), v.value)).collect())
    }

    #[test]
    fn published_lists_are_read() {
        let templates = json!(["a bad photo of a {}.", "many {}."]);
        for text in [
            "lambda c: f'a bad photo of a {c}.',\nlambda c: f'many {c}.',\n",
            "lambda c: f'a bad photo of a {c}.'\nlambda c: f'many {c}.'",
            "[lambda name: f\"a bad photo of a { name }.\", lambda c: 'many {}.'.format(c)]",
            "('a bad photo of a {}.', # one\n u'many {}.')",
            "'a bad photo '\\\n'of a {}.',\n'many {}.'",
        ] {
            assert_eq!(values(text), Ok(vec![(String::new(), templates.clone())]), "{text}");
            assert!(is_source(text) || text.starts_with('\''), "{text}");
        }
        let both = "\"\"\"Doc.\"\"\"\nimport os\nfrom a import b\n# c\nclasses = [\"cat\", 'jack-o\\'-lantern', \"caf\\xe9\"\n]\n\nT = (\n  lambda c: f'{c}{{}}',\n)\n";
        let expected = vec![
            ("classes".to_string(), json!(["cat", "jack-o'-lantern", "café"])),
            ("T".into(), json!(["{}{}"])),
        ];
        assert_eq!(values(both), Ok(expected));
        let numbered = "{0: 'tench, Tinca tinca',\r\n 1: 'goldfish'}";
        assert_eq!(
            values(numbered),
            Ok(vec![(String::new(), json!({"0": "tench, Tinca tinca", "1": "goldfish"}))])
        );
        assert!(is_source(numbered) && is_source(both));
    }

    #[test]
    fn other_code_is_refused_with_its_line() {
        for (text, line) in [
            ("import os; os.remove('x')\nx = y", "line 2"),
            ("x = [\n  'a',\n  name,\n]", "line 3"),
            ("x = ['a'] + y", "line 1"),
            ("x = [f'a {b}' for b in c]", "line 1"),
            ("x = ['a' for b in c]", "line 1"),
            ("x = ['a {}'.format(b)]", "line 1"),
            ("lambda a, b: f'{a}'", "line 1"),
            ("lambda a: f'{a.lower()}'", "line 1"),
            ("x = ['a\n']", "line 1"),
            ("x = ['a'", "line 1"),
            ("x = open('f').read()", "line 1"),
            (&"[".repeat(100_000), "line 1"),
            (&"{".repeat(100_000), "line 1"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(line), "{error}");
        }
    }

    #[test]
    fn templates_and_names_in_plain_text_are_not_source() {
        for text in [
            "{}",
            "{} here\n{c}",
            "a = b",
            "lambda",
            "from a to {}",
            "(a) {}",
            "[MASK] {}",
            "def",
            "x = (a)",
            "5",
            "(1) cat\n(2) dog (pet)",
        ] {
            assert!(!is_source(text), "{text}");
        }
    }
}
