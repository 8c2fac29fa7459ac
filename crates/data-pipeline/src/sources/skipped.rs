//! Counts of the files or members that a source skips, by kind and with the first names, for one log line.

use std::collections::BTreeMap;
use std::fmt;

/// Maximum number of names and of kinds that a line lists.
const NAMED: usize = 3;
const KINDS: usize = 6;

/// Files or members without a sample.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SkippedItems {
    kinds: BTreeMap<String, u64>,
    names: Vec<String>,
}

impl SkippedItems {
    pub(super) fn add(&mut self, kind: impl Into<String>, name: impl FnOnce() -> String) {
        *self.kinds.entry(kind.into()).or_default() += 1;
        if self.names.len() < NAMED {
            self.names.push(name());
        }
    }

    /// Adds the counts of later items.
    pub(super) fn extend(&mut self, later: SkippedItems) {
        for (kind, count) in later.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        self.names.extend(later.names);
        self.names.truncate(NAMED);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    pub(super) fn count(&self) -> u64 {
        self.kinds.values().sum()
    }
}

/// Writes the counts by kind, most frequent first, and the first names.
impl fmt::Display for SkippedItems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds = self.kinds.iter().collect::<Vec<_>>();
        // Kinds with equal counts stay sorted by name.
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let rest = kinds.iter().skip(KINDS).map(|(_, count)| **count).sum::<u64>();
        let mut parts =
            kinds.iter().take(KINDS).map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>();
        if rest > 0 {
            parts.push(format!("{rest} of other kinds"));
        }
        let more = if self.count() > self.names.len() as u64 { ", ..." } else { "" };
        write!(f, "{} (`{}`{more})", parts.join(", "), self.names.join("`, `"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_counted_by_kind_and_the_first_are_named() {
        let mut skipped = SkippedItems::default();
        skipped.add(".cls", || "a.cls".into());
        let mut later = SkippedItems::default();
        for name in ["b.npy", "c.npy", "d.npy"] {
            later.add(".npy", || name.into());
        }
        assert_eq!(later.to_string(), "3 .npy (`b.npy`, `c.npy`, `d.npy`)");
        skipped.extend(later);
        assert_eq!(skipped.count(), 4);
        assert_eq!(skipped.to_string(), "3 .npy, 1 .cls (`a.cls`, `b.npy`, `c.npy`, ...)");
    }

    #[test]
    fn many_kinds_fit_on_one_short_line() {
        let mut skipped = SkippedItems::default();
        (0..100).for_each(|i| skipped.add(format!(".{i:03}"), || format!("x.{i:03}")));
        assert!(skipped.to_string().contains("94 of other kinds"), "{skipped}");
        assert!(skipped.to_string().len() < 150);
    }
}
