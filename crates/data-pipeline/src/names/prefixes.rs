//! Numbers, ids and quotes around the names of a class list, such as ImageNet's `n01440764 tench, Tinca tinca`.

use std::collections::BTreeSet;

/// Names of a class list, and the change to its lines, if any.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cleaned {
    pub(super) names: Vec<String>,
    /// What was removed, with an example.
    pub(super) note: Option<String>,
}

/// A kind of text around a name: its description, and the function that removes it from a line, with its number from
/// 0. `None` for a line without it.
type Remove = (&'static str, fn(&str, usize) -> Option<&str>);

/// The kinds, in the order of their removal.
const KINDS: [Remove; 5] = [
    ("the synset ids", |line, _| after_id(line)),
    ("the line numbers (from 0)", after_number),
    ("the line numbers (from 1)", |line, place| after_number(line, place + 1)),
    ("the quotes", |line, _| unquoted(line, '"')),
    ("the single quotes", |line, _| unquoted(line, '\'')),
];

/// Removes synset ids, line numbers and quotes if all lines have them. Otherwise returns the lines unchanged.
pub(super) fn clean(lines: Vec<String>) -> Cleaned {
    let (mut names, mut removed) = (lines.clone(), Vec::<&str>::new());
    // A number may precede an id or quotes, and CUB numbers its classes twice.
    while let Some((what, shorter)) = KINDS.iter().find_map(|kind| removed_by(kind, &names)) {
        names = shorter;
        if !removed.contains(&what) {
            removed.push(what);
        }
    }
    let note = removed.split_last().map(|(last, others)| {
        let what =
            if others.is_empty() { (*last).into() } else { format!("{} and {last}", others.join(", ")) };
        format!("removed {what} from all {} names; `{}` becomes `{}`", names.len(), lines[0], names[0])
    });
    Cleaned { names, note }
}

/// Removes one kind of text from all names. Returns `None` if a name does not have it.
fn removed_by((what, remove): &Remove, names: &[String]) -> Option<(&'static str, Vec<String>)> {
    let shorter = names.iter().enumerate().map(|(place, line)| Some(remove(line, place)?.to_string()));
    let shorter = shorter.collect::<Option<Vec<_>>>().filter(|names| !names.is_empty())?;
    // The numbers belong to names such as `1 euro` and `2 euro`, but ImageNet's list has a few equal names. A single
    // name may begin with a number.
    let repeated = names.len() - distinct(&shorter);
    let is_part = what.contains("numbers") && (names.len() < 2 || repeated * 10 > names.len());
    (!is_part).then_some((*what, shorter))
}

/// Returns the name after a synset id of WordNet: `n` and eight digits, or fewer digits before a tab.
fn after_id(line: &str) -> Option<&str> {
    let digits = line.strip_prefix('n')?;
    let rest = digits.trim_start_matches(|c: char| c.is_ascii_digit());
    let count = digits.len() - rest.len();
    let is_id = count == 8 || (count > 0 && rest.starts_with('\t'));
    separated(rest).filter(|_| is_id)
}

/// Returns the name after a number.
fn after_number(line: &str, number: usize) -> Option<&str> {
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &line[..line.len() - rest.len()];
    if digits.parse() != Ok(number) {
        return None;
    }
    // `1. cat`, `001.cat` and `1) cat` are lists, but `1.5 litres` is a number.
    match rest.strip_prefix(['.', ')']) {
        Some(name) => Some(name.trim_start()).filter(|name| !name.is_empty() && !starts_with_digit(name)),
        None => separated(rest),
    }
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// Returns the name after a separator: spaces, tabs, a colon, a comma, or a dash or equals sign between spaces.
fn separated(rest: &str) -> Option<&str> {
    let bare = rest.trim_start();
    let spaced = bare.len() < rest.len();
    let after_mark = bare.strip_prefix([':', ',']).or_else(|| {
        let name = bare.strip_prefix(['-', '=']).filter(|_| spaced)?;
        name.starts_with(char::is_whitespace).then_some(name)
    });
    let name = after_mark.or(spaced.then_some(bare))?.trim_start();
    (!name.is_empty()).then_some(name)
}

/// Returns the text between quotes, without the comma of a list after them.
fn unquoted(line: &str, quote: char) -> Option<&str> {
    let line = line.strip_suffix(',').unwrap_or(line).trim_end();
    let inner = line.strip_prefix(quote)?.strip_suffix(quote)?;
    // A quote within the name shows that the outer ones do not belong together, as in `"big" or "small"`.
    (!inner.trim().is_empty() && !inner.contains(quote)).then(|| inner.trim())
}

fn distinct(names: &[String]) -> usize {
    names.iter().collect::<BTreeSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(lines: &[&str]) -> Cleaned {
        clean(lines.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn ids_numbers_and_quotes_of_all_lines_are_removed() {
        for lines in [
            ["n01440764 cat", "n01443537 dog, pet"],
            ["n01440764\tcat", "n01443537\tdog, pet"],
            ["n01440764: cat", "n01443537,dog, pet"],
            ["n01\tcat", "n02\tdog, pet"],
            ["n02119789 1 cat", "n02100735 2 dog, pet"],
            ["0 cat", "1 dog, pet"],
            ["1 cat", "2 dog, pet"],
            ["0: cat", "1: dog, pet"],
            ["0:cat", "1:dog, pet"],
            ["1\tcat", "2\tdog, pet"],
            ["1,cat", "2,dog, pet"],
            ["0 - cat", "1 - dog, pet"],
            ["1. cat", "2. dog, pet"],
            ["001.cat", "002.dog, pet"],
            ["1 001.cat", "2 002.dog, pet"],
            ["0 n01440764 cat", "1 n01443537 dog, pet"],
            ["\"cat\"", "\"dog, pet\""],
            ["'cat',", "'dog, pet',"],
            ["0: \"cat\"", "1: \"dog, pet\""],
        ] {
            let found = cleaned(&lines);
            assert_eq!(found.names, ["cat", "dog, pet"], "{lines:?}");
            let note = found.note.unwrap();
            assert!(note.contains(lines[0]) && note.contains(&found.names[0]), "{note}");
        }
    }

    #[test]
    fn lists_of_which_only_some_lines_match_stay_unchanged() {
        for lines in [
            ["cat", "dog"],
            ["n01440764 cat", "dog"],
            ["n01440764", "n01443537"],
            ["n0144 cat", "n0145 dog"],
            ["0 cat", "2 dog"],
            ["1 cat", "3 dog"],
            ["7 up", "5 star"],
            ["0 cat", "dog"],
            ["0", "1"],
            ["1 euro", "2 euro"],
            ["1.5 litres", "2.5 litres"],
            ["0-day", "1-day"],
            ["\"cat\"", "dog"],
            ["\"cat\"", "'dog'"],
            ["\"big\" or \"small\"", "\"x\" or \"y\""],
            ["'n' roll", "'s what"],
        ] {
            let found = cleaned(&lines);
            assert_eq!(found, Cleaned { names: lines.map(String::from).into(), note: None }, "{lines:?}");
        }
        assert_eq!(cleaned(&["1 cat"]).note, None);
        // A few equal names, as in ImageNet's list, do not make the numbers a part of the names.
        let numbered = (0..20).map(|place| format!("{place}: {}", ["cat", "crane"][place / 18])).collect();
        assert_eq!(clean(numbered).note, None);
        let numbered = (0..20).map(|place| format!("{place}: bird {}", place.min(18))).collect();
        assert_eq!(clean(numbered).names[18..], ["bird 18", "bird 18"]);
        assert_eq!(cleaned(&[]).note, None);
    }
}
