//! Files that are too large, do not say what they are for, or hold what was left behind.

use std::path::Path;

/// Lines of a source file, without the tests at its end, above which it surely holds a second idea.
/// Around 400 is where to look for one.
const MOST_LINES: usize = 500;
/// Bytes of a file above which it does not belong into the repository.
const MOST_BYTES: u64 = 3 << 20;

pub(super) fn check_size(file: &Path, bytes: u64) -> Option<String> {
    (bytes > MOST_BYTES).then(|| format!("{}: {bytes} bytes are too many for the repository", file.display()))
}

pub(super) fn check_source(file: &Path, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if !text.starts_with("//!") {
        findings.push(format!("{}: does not open with a //! line that says what it is for", file.display()));
    }
    let lines = lines_before_tests(text);
    if lines > MOST_LINES {
        findings.push(format!(
            "{}: has {lines} lines before its tests, more than {MOST_LINES}: move an idea to a file of its own",
            file.display()
        ));
    }
    findings
}

/// Lines before the module of tests, which is the last thing in a file.
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

/// What no file may contain; put together here, so that this one does not.
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
    fn lines_are_counted_up_to_the_tests() {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "    // a test\n".repeat(900));
        let file = Path::new("a.rs");
        for (lines, count) in [(MOST_LINES, 0), (MOST_LINES + 1, 1)] {
            let code = format!("//! A.\n{}", "fn a() {}\n".repeat(lines - 1));
            assert_eq!(check_source(file, &format!("{code}{tests}")).len(), count);
            // What is only declared here, or is one function for tests, ends nothing.
            let early = code.replacen("fn a() {}\nfn a() {}\n", "#[cfg(test)]\nmod testing;\n", 1);
            assert_eq!(check_source(file, &format!("{early}{tests}")).len(), count);
        }
        assert_eq!(lines_before_tests(""), 0);
        assert_eq!(check_source(file, "fn a() {}\n").len(), 1);
    }

    #[test]
    fn what_is_too_large_or_left_behind_is_found() {
        let file = Path::new("a.md");
        assert!(check_size(file, MOST_BYTES).is_none() && check_size(file, MOST_BYTES + 1).is_some());
        let text = format!("fine\nsee {}someone", leftovers()[4]);
        assert_eq!(check_leftovers(file, &text), [format!("a.md:2: `{}`", leftovers()[4])]);
    }
}
