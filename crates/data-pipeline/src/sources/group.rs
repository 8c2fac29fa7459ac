//! Groups of tar members with the same name up to the first dot, and the samples that they form.
//!
//! In WebDataset, a key ends at the first dot, so `a.png`, `a.txt` and `a.seg.png` are one sample. The keys of names
//! such as `22.05.jpg` contain dots; those keys end at the last dot.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::sources::file_kind::is_image;
use crate::sources::shard::{Members, Span};
use crate::sources::skipped::SkippedItems;

/// Consecutive members with the same name up to the first dot.
#[derive(Default)]
pub(super) struct Group {
    key: String,
    /// Whether some member has no second dot.
    has_plain: bool,
    found: Vec<Found>,
    /// For each key up to the last dot, its latest entry in `found`.
    last: HashMap<String, usize>,
    /// Members with unknown extensions.
    unknown: Vec<String>,
    /// Whether `.cls` files are members of samples.
    labels: bool,
}

/// A possible sample with the names of its members.
struct Found {
    members: Members,
    names: Vec<String>,
}

impl Group {
    pub(super) fn new(key: &str) -> Self {
        Group { key: key.to_string(), ..Group::default() }
    }

    /// Sets whether `.cls` files are members of samples.
    pub(super) fn with_labels(mut self, labels: bool) -> Self {
        self.labels = labels;
        self
    }

    /// Returns the name up to the first dot.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Adds a member to the group. A second member of the same kind starts another sample with the same key.
    pub(super) fn add(&mut self, name: &str, span: Span) {
        let Some((key, ending)) = name.rsplit_once('.') else { return };
        self.has_plain |= key == self.key;
        let ending = ending.to_ascii_lowercase();
        let is_label = self.labels && ending == "cls";
        if !(matches!(ending.as_str(), "txt" | "json") || is_label || is_image(name)) {
            self.unknown.push(name.to_string());
            return;
        }
        let slot = |members: &Members| match ending.as_str() {
            "txt" => members.txt,
            "json" => members.json,
            "cls" => members.cls,
            _ => members.image,
        };
        let last = self.last.get(key).copied();
        let at = last.filter(|at| slot(&self.found[*at].members).is_none()).unwrap_or_else(|| {
            let members = Members { key: key.to_string(), ..Members::default() };
            self.found.push(Found { members, names: Vec::new() });
            self.last.insert(key.to_string(), self.found.len() - 1);
            self.found.len() - 1
        });
        let Found { members, names } = &mut self.found[at];
        match ending.as_str() {
            "txt" => members.txt = Some(span),
            "json" => members.json = Some(span),
            "cls" => members.cls = Some(span),
            _ => members.image = Some(span),
        }
        names.push(name.to_string());
    }

    /// Removes the sample of the member in which the shard ends: an incomplete sample does not count.
    pub(super) fn cut(&mut self, name: &str) {
        let Some((key, _)) = name.rsplit_once('.') else { return };
        if split_key(name).is_none_or(|(first, _)| first != self.key) {
            return;
        }
        self.has_plain |= key == self.key;
        for key in [key, self.key.as_str()] {
            if let Some(at) = self.last.get(key) {
                self.found[*at] = Found { members: Members::default(), names: Vec::new() };
            }
        }
    }

    /// Sorts the members into samples and leftovers.
    ///
    /// A key with more dots than the group's key is a separate sample if it has an image and a text, or if no member
    /// has the group's key.
    pub(super) fn finish(self, shard: &Path, samples: &mut Vec<Members>, skipped: &mut SkippedItems) {
        let shown = |name: &str| format!("{}:{name}", shard.display());
        for name in &self.unknown {
            let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
            skipped.add(format!(".{}", ending.to_ascii_lowercase()), || shown(name));
        }
        let keys = |has: fn(&Members) -> bool| {
            let keys = self.found.iter().filter(|found| has(&found.members));
            keys.map(|found| found.members.key.clone()).collect::<HashSet<_>>()
        };
        let with_image = keys(|members| members.image.is_some());
        let with_text =
            keys(|members| members.txt.is_some() || members.json.is_some() || members.cls.is_some());
        for Found { members, names } in self.found {
            let (key, has_plain) = (&members.key, self.has_plain);
            let is_sample =
                *key == self.key || !has_plain || (with_image.contains(key) && with_text.contains(key));
            if names.is_empty() {
                continue;
            }
            if is_sample {
                samples.push(members);
                continue;
            }
            for name in &names {
                let ending = split_key(name).map_or("", |(_, ending)| ending);
                skipped.add(format!(".{ending}"), || shown(name));
            }
        }
    }
}

/// Returns the path up to the first dot of the file name, and the extension after the dot.
pub(super) fn split_key(name: &str) -> Option<(&str, &str)> {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = file + name[file..].find('.')?;
    // Names that start with a dot are file-system leftovers.
    (dot > file).then_some((&name[..dot], &name[dot + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys of the samples with the kinds of their members, and the skipped members. `cut` ends the shard within a
    /// member.
    fn sorted(names: &[&str], cut: Option<&str>) -> (Vec<String>, String) {
        let mut group = Group::new(split_key(names[0]).unwrap().0);
        for (place, name) in names.iter().enumerate() {
            group.add(name, Span { offset: place as u64, length: 1 });
        }
        cut.into_iter().for_each(|name| group.cut(name));
        let (mut samples, mut skipped) = (Vec::new(), SkippedItems::default());
        group.finish(Path::new("s.tar"), &mut samples, &mut skipped);
        let kinds = |members: &Members| {
            let mark = |present: bool, mark: &str| if present { mark.to_string() } else { String::new() };
            [
                mark(members.image.is_some(), "i"),
                mark(members.txt.is_some(), "t"),
                mark(members.json.is_some(), "j"),
            ]
            .concat()
        };
        let samples = samples.iter().map(|members| format!("{} {}", members.key, kinds(members)));
        (samples.collect(), if skipped.is_empty() { String::new() } else { skipped.to_string() })
    }

    #[test]
    fn keys_may_contain_dots() {
        let (samples, skipped) = sorted(&["22.05.jpg", "22.05.txt", "22.06.jpg", "22.06.json"], None);
        assert_eq!((samples, skipped.as_str()), (vec!["22.05 it".into(), "22.06 ij".into()], ""));
        // Images first, then texts.
        let (samples, _) = sorted(&["d/22.05.jpg", "d/22.06.jpg", "d/22.05.txt", "d/22.06.txt"], None);
        assert_eq!(samples, ["d/22.05 it", "d/22.06 it"]);
        // Without a plain member, it can only be a sample. A sample without a caption is reported later.
        assert_eq!(sorted(&["22.05.jpg"], None).0, ["22.05 i"]);
    }

    #[test]
    fn further_members_of_a_plain_sample_are_skipped_and_named() {
        let (samples, skipped) = sorted(&["two.seg.png", "two.png", "two.txt", "two.CLS"], None);
        assert_eq!(samples, ["two it"]);
        assert_eq!(skipped, "1 .cls, 1 .seg.png (`s.tar:two.CLS`, `s.tar:two.seg.png`)");
        // A separate sample beside a plain one.
        let (samples, skipped) = sorted(&["a.png", "a.txt", "a.1.png", "a.1.txt", "a.2.png"], None);
        assert_eq!(samples, ["a it", "a.1 it"]);
        assert_eq!(skipped, "1 .2.png (`s.tar:a.2.png`)");
    }

    #[test]
    fn second_member_of_a_kind_starts_another_sample() {
        assert_eq!(sorted(&["k.jpg", "k.png", "k.txt"], None).0, ["k i", "k it"]);
        assert_eq!(sorted(&["k.0.jpg", "k.0.png", "k.0.txt"], None).0, ["k.0 i", "k.0 it"]);
    }

    #[test]
    fn incomplete_sample_does_not_count() {
        assert!(sorted(&["a.jpg"], Some("a.txt")).0.is_empty());
        assert!(sorted(&["a.jpg", "a.txt"], Some("a.seg.png")).0.is_empty());
        assert_eq!(sorted(&["a.0.jpg", "a.0.txt", "a.1.jpg"], Some("a.1.txt")).0, ["a.0 it"]);
        assert_eq!(sorted(&["a.jpg", "a.txt"], Some("b.jpg")).0, ["a it"]);
    }
}
