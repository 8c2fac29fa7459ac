//! File sizes, opening comments of source files, and leftovers such as local paths.

use std::path::Path;

/// Maximum number of lines of a source file, without the tests at its end.
const MOST_LINES: usize = 500;
/// Maximum number of bytes of a file.
const MOST_BYTES: u64 = 3 << 20;

pub(super) fn check_size(file: &Path, bytes: u64) -> Option<String> {
    (bytes > MOST_BYTES).then(|| format!("{}: {bytes} bytes, more than {MOST_BYTES}", file.display()))
}

pub(super) fn check_source(file: &Path, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if !text.starts_with("//!") {
        findings.push(format!("{}: has no `//!` line at its start that describes it", file.display()));
    }
    let lines = lines_before_tests(text);
    if lines > MOST_LINES {
        findings.push(format!(
            "{}: {lines} lines before its tests, more than {MOST_LINES}: split the file",
            file.display()
        ));
    }
    findings
}

/// Log lines of these crates contain names of files and samples, so they use the macros that escape control characters.
const LOGGING: [&str; 2] = ["crates/trainer/src", "crates/data-pipeline/src"];

/// Finds log lines that do not escape the names in them.
pub(super) fn check_logging(file: &Path, text: &str) -> Vec<String> {
    if !LOGGING.iter().any(|folder| file.starts_with(folder)) || file.ends_with("notice.rs") {
        return Vec::new();
    }
    let is_raw =
        |line: &str| ["info", "warn"].iter().any(|level| line.contains(&format!("tracing::{level}!(")));
    let lines = text.lines().enumerate().filter(|(_, line)| is_raw(line));
    lines
        .map(|(index, _)| {
            format!("{}:{}: log with data_pipeline::log_info! or log_warn!", file.display(), index + 1)
        })
        .collect()
}

/// Returns the number of lines before the test module, which ends a file.
fn lines_before_tests(text: &str) -> usize {
    let lines = text.lines().collect::<Vec<_>>();
    let is_start =
        |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{');
    lines.windows(2).position(is_start).unwrap_or(lines.len())
}

pub(super) fn check_leftovers(file: &Path, text: &str) -> Vec<String> {
    let leftovers = leftovers();
    let in_line = |line: &str| leftovers.iter().find(|word| line.contains(word.as_str())).cloned();
    text.lines()
        .enumerate()
        .filter_map(|(index, line)| Some(format!("{}:{}: `{}`", file.display(), index + 1, in_line(line)?)))
        .collect()
}

/// Returns the words that no file may contain, assembled from parts so that this file does not contain them.
fn leftovers() -> Vec<String> {
    [
        ["todo", "!("],
        ["FIX", "ME"],
        ["XX", "X "],
        ["#[ign", "ore"],
        ["/ro", "ot/"],
        ["/ho", "me/"],
        ["/Us", "ers/"],
        ["crates", ".io"],
        ["pypi", ".org"],
    ]
    .map(|parts| parts.concat())
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_test_module_do_not_count() {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "    // a test\n".repeat(900));
        let file = Path::new("a.rs");
        for (lines, count) in [(MOST_LINES, 0), (MOST_LINES + 1, 1)] {
            let code = format!("//! A.\n{}", "fn a() {}\n".repeat(lines - 1));
            assert_eq!(check_source(file, &format!("{code}{tests}")).len(), count);
            // A declared test module or a single test function does not end the count.
            let early = code.replacen("fn a() {}\nfn a() {}\n", "#[cfg(test)]\nmod testing;\n", 1);
            assert_eq!(check_source(file, &format!("{early}{tests}")).len(), count);
        }
        assert_eq!(lines_before_tests(""), 0);
        assert_eq!(check_source(file, "fn a() {}\n").len(), 1);
    }

    #[test]
    fn log_lines_escape_the_names_in_them() {
        let raw = "tracing::warn!(\"{name}\");\n";
        let found = |file: &str, text: &str| check_logging(Path::new(file), text).len();
        assert_eq!(found("crates/trainer/src/run/mod.rs", raw), 1);
        assert_eq!(found("crates/data-pipeline/src/policy.rs", raw), 1);
        assert_eq!(found("crates/data-pipeline/src/notice.rs", raw), 0);
        assert_eq!(found("crates/trainer/src/run/mod.rs", "data_pipeline::log_warn!(\"{name}\");"), 0);
        assert_eq!(found("crates/cli/src/main.rs", raw), 0);
    }

    #[test]
    fn large_files_and_leftovers_are_found() {
        let file = Path::new("a.md");
        assert!(check_size(file, MOST_BYTES).is_none() && check_size(file, MOST_BYTES + 1).is_some());
        let text = format!("fine\nsee {}someone", leftovers()[4]);
        assert_eq!(check_leftovers(file, &text), [format!("a.md:2: `{}`", leftovers()[4])]);
    }
}
