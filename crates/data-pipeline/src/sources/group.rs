//! Groups of files with the same name up to the first dot, and the samples that they form.
//!
//! In WebDataset, a key ends at the first dot, so `a.png`, `a.txt` and `a.seg.png` are one sample. The keys of names
//! such as `22.05.jpg` contain dots; those keys end at the last dot.

use std::collections::{HashMap, HashSet};

use crate::sources::file_kind::is_image;
use crate::sources::skipped::SkippedItems;

/// Image extensions by priority, as in open_clip, for keys with several images. Other extensions follow in tar order.
const PREFERRED: [&str; 4] = ["jpg", "png", "jpeg", "webp"];

/// The files of one sample; `P` locates a file.
pub(super) struct Members<P> {
    pub(super) key: String,
    pub(super) image: Option<P>,
    /// The caption file.
    pub(super) txt: Option<P>,
    pub(super) json: Option<P>,
    /// The class.
    pub(super) cls: Option<P>,
}

impl<P> Members<P> {
    fn new(key: &str) -> Self {
        Members { key: key.to_string(), image: None, txt: None, json: None, cls: None }
    }

    /// Whether the sample has a caption or a class.
    fn has_text(&self) -> bool {
        self.txt.is_some() || self.json.is_some() || self.cls.is_some()
    }

    fn is_empty(&self) -> bool {
        self.image.is_none() && !self.has_text()
    }

    fn slot(&mut self, part: Part) -> &mut Option<P> {
        match part {
            Part::Image => &mut self.image,
            Part::Text => &mut self.txt,
            Part::Json => &mut self.json,
            Part::Class => &mut self.cls,
        }
    }
}

/// The part of a sample that a file holds.
#[derive(Clone, Copy)]
enum Part {
    Image,
    Text,
    Json,
    Class,
}

/// Files with the same name up to the first dot.
pub(super) struct Group<P> {
    key: String,
    /// Extension of caption files.
    text: String,
    /// Whether some file has no second dot.
    has_plain: bool,
    found: Vec<Found<P>>,
    /// For each key up to the last dot, its latest entry in `found`.
    last: HashMap<String, usize>,
    /// Files with unknown extensions.
    unknown: Vec<String>,
}

/// A possible sample with the names of its files.
struct Found<P> {
    members: Members<P>,
    names: Vec<String>,
}

impl<P: Copy> Group<P> {
    /// Creates an empty group; `text` is the extension of caption files in lower case.
    pub(super) fn new(key: &str, text: &str) -> Self {
        let (key, text) = (key.to_string(), text.to_string());
        Group { key, text, has_plain: false, found: Vec::new(), last: HashMap::new(), unknown: Vec::new() }
    }

    /// Returns the name up to the first dot.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Adds a file to the group. A second file of the same kind starts another sample with the same key.
    pub(super) fn add(&mut self, name: &str, place: P) {
        let Some((key, ending)) = name.rsplit_once('.') else { return };
        self.has_plain |= key == self.key;
        let ending = ending.to_ascii_lowercase();
        let part = match ending.as_str() {
            text if text == self.text => Part::Text,
            "json" => Part::Json,
            "cls" => Part::Class,
            _ if is_image(name) => Part::Image,
            _ => {
                self.unknown.push(name.to_string());
                return;
            }
        };
        let last = self.last.get(key).copied();
        let at = last.filter(|at| self.found[*at].members.slot(part).is_none()).unwrap_or_else(|| {
            self.found.push(Found { members: Members::new(key), names: Vec::new() });
            self.last.insert(key.to_string(), self.found.len() - 1);
            self.found.len() - 1
        });
        let Found { members, names } = &mut self.found[at];
        *members.slot(part) = Some(place);
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
                self.found[*at] = Found { members: Members::new(key), names: Vec::new() };
            }
        }
    }

    /// Sorts the files into samples and leftovers. `shown` returns the name of a file in messages.
    ///
    /// A key with more dots than the group's key is a separate sample if it has an image and a text, or if no file has
    /// the group's key.
    pub(super) fn finish(
        mut self,
        shown: impl Fn(&str) -> String,
        samples: &mut Vec<Members<P>>,
        skipped: &mut SkippedItems,
    ) {
        for name in &self.unknown {
            let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
            skipped.add(format!(".{}", ending.to_ascii_lowercase()), || shown(name));
        }
        self.choose_images(&shown, skipped);
        let keys = |has: fn(&Members<P>) -> bool| {
            let keys = self.found.iter().filter(|found| has(&found.members));
            keys.map(|found| found.members.key.clone()).collect::<HashSet<_>>()
        };
        let with_image = keys(|members| members.image.is_some());
        let with_text = keys(Members::has_text);
        for Found { members, names } in self.found {
            let (key, has_plain) = (&members.key, self.has_plain);
            let is_sample =
                *key == self.key || !has_plain || (with_image.contains(key) && with_text.contains(key));
            if members.is_empty() {
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

    /// Resolves keys with several images and at most one text: keeps the image that open_clip would read.
    fn choose_images(&mut self, shown: impl Fn(&str) -> String, skipped: &mut SkippedItems) {
        if self.found.len() < 2 {
            return;
        }
        for key in self.last.keys() {
            let same = (0..self.found.len()).filter(|at| self.found[*at].members.key == *key);
            let (texts, others): (Vec<_>, Vec<_>) = same.partition(|at| self.found[*at].members.has_text());
            let images = texts.iter().chain(&others).filter(|at| self.found[**at].members.image.is_some());
            let image_name = |at: usize| self.found[at].names.iter().find(|name| is_image(name));
            let mut images =
                images.filter_map(|at| Some((*at, image_name(*at)?.clone()))).collect::<Vec<_>>();
            if images.len() < 2 || texts.len() > 1 {
                continue;
            }
            // The sort is stable, and the samples are in the order of the tar.
            images.sort_by_key(|(at, _)| *at);
            images.sort_by_key(|(_, name)| {
                let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
                PREFERRED.iter().position(|preferred| *preferred == ending).unwrap_or(PREFERRED.len())
            });
            let kept = self.found[images[0].0].members.image;
            for (at, name) in &images {
                self.found[*at].members.image = None;
                if *at != images[0].0 {
                    skipped.add("second images of a key", || shown(name));
                }
            }
            let sample = texts.first().copied().unwrap_or(images[0].0);
            self.found[sample].members.image = kept;
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
        let mut group = Group::new(split_key(names[0]).unwrap().0, "txt");
        for (place, name) in names.iter().enumerate() {
            group.add(name, place);
        }
        cut.into_iter().for_each(|name| group.cut(name));
        let (mut samples, mut skipped) = (Vec::new(), SkippedItems::default());
        group.finish(|name| format!("s.tar:{name}"), &mut samples, &mut skipped);
        let kinds = |members: &Members<usize>| {
            let mark = |present: bool, mark: &str| if present { mark.to_string() } else { String::new() };
            [
                mark(members.image.is_some(), "i"),
                mark(members.txt.is_some(), "t"),
                mark(members.json.is_some(), "j"),
                mark(members.cls.is_some(), "c"),
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
        let (samples, skipped) = sorted(&["two.seg.png", "two.png", "two.txt", "two.NPY"], None);
        assert_eq!(samples, ["two it"]);
        assert_eq!(skipped, "1 .npy, 1 .seg.png (`s.tar:two.NPY`, `s.tar:two.seg.png`)");
        // A separate sample beside a plain one.
        let (samples, skipped) = sorted(&["a.png", "a.txt", "a.1.png", "a.1.txt", "a.2.png"], None);
        assert_eq!(samples, ["a it", "a.1 it"]);
        assert_eq!(skipped, "1 .2.png (`s.tar:a.2.png`)");
    }

    #[test]
    fn a_key_with_several_images_keeps_open_clips_choice_and_names_the_others() {
        for (names, left) in [
            (&["k.png", "k.jpg", "k.txt"][..], "k.png"),
            (&["k.png", "k.txt", "k.jpg"], "k.png"),
            (&["k.webp", "k.png", "k.json"], "k.webp"),
            (&["k.0.jpg", "k.0.png", "k.0.txt"], "k.0.png"),
            (&["k.gif", "k.bmp", "k.txt"], "k.bmp"),
            (&["k.jpg", "k.png"], "k.png"),
        ] {
            let (samples, skipped) = sorted(names, None);
            assert_eq!(samples.len(), 1, "{names:?}: {samples:?}");
            assert!(samples[0].contains(" i"), "{samples:?}");
            assert_eq!(skipped, format!("1 second images of a key (`s.tar:{left}`)"), "{names:?}");
        }
        // The sample locates the kept image, not the other one.
        let mut group = Group::new("k", "txt");
        ["k.png", "k.jpg", "k.txt"].iter().enumerate().for_each(|(place, name)| group.add(name, place));
        let (mut samples, mut skipped) = (Vec::new(), SkippedItems::default());
        group.finish(str::to_string, &mut samples, &mut skipped);
        assert_eq!((samples[0].image, samples[0].txt), (Some(1), Some(2)));
    }

    #[test]
    fn repeated_complete_sample_is_another_sample() {
        assert_eq!(sorted(&["k.jpg", "k.txt", "k.jpg", "k.txt"], None).0, ["k it", "k it"]);
        assert_eq!(sorted(&["k.jpg", "k.cls", "k.jpg", "k.cls"], None).0, ["k ic", "k ic"]);
    }

    #[test]
    fn incomplete_sample_does_not_count() {
        assert!(sorted(&["a.jpg"], Some("a.txt")).0.is_empty());
        assert!(sorted(&["a.jpg", "a.txt"], Some("a.seg.png")).0.is_empty());
        assert_eq!(sorted(&["a.0.jpg", "a.0.txt", "a.1.jpg"], Some("a.1.txt")).0, ["a.0 it"]);
        assert_eq!(sorted(&["a.jpg", "a.txt"], Some("b.jpg")).0, ["a it"]);
    }
}
