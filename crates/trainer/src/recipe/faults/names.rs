//! Suggestions for a misspelt name.

/// Returns the known name that a misspelt one is closest to, if any is close.
pub(crate) fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| {
        let same = |c: char| if c == '-' { '_' } else { c.to_ascii_lowercase() };
        name.chars().map(same).collect::<Vec<_>>()
    };
    let written = plain(name);
    let limit = 1 + written.len() / 4;
    let distances = known.into_iter().map(|other| (distance(&written, &plain(other)), other));
    distances.filter(|(edits, _)| *edits <= limit).min_by_key(|(edits, _)| *edits).map(|(_, other)| other)
}

/// Suggests the closest known name, or lists all of them.
pub(crate) fn did_you_mean(name: &str, known: &[&str]) -> String {
    match (closest(name, known.iter().copied()), known) {
        (Some(other), _) => format!("did you mean `{other}`?"),
        (None, []) => "this table has no keys".into(),
        (None, _) => format!("expected one of `{}`", known.join("`, `")),
    }
}

/// Counts the insertions, removals, replacements and swaps of neighbours that turn one name into the other.
fn distance(a: &[char], b: &[char]) -> usize {
    // Rows of the table of distances between prefixes: of the prefix of `a` before the last, of the last, and this one.
    let mut before = Vec::new();
    let mut last = (0..=b.len()).collect::<Vec<_>>();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut least = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                let earlier: &[usize] = &before;
                least = least.min(earlier[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}
