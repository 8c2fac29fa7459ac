//! Suggestions for a misspelt name.

/// Returns the known name that a misspelt one is closest to, if any is close.
pub(crate) fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| {
        let same = |c: char| if c == '-' { '_' } else { c.to_ascii_lowercase() };
        name.chars().map(same).collect::<String>()
    };
    let written = plain(name);
    let limit = 1 + written.chars().count() / 4;
    let distances = known.into_iter().map(|other| (strsim::osa_distance(&written, &plain(other)), other));
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
