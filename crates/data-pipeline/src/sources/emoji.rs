//! The embedded data set: Twemoji images with the emoji's names as captions.
//!
//! A tenth of the base concepts is held out, each with all its variants of skin tone, gender and direction, so training
//! contains no near duplicate of a held-out emoji. Images (Twemoji, CC-BY 4.0) and names (Unicode CLDR) come from
//! dependencies.

use file_ext::SplitMix64;
use file_ext::random::mix;
use twemoji_assets::png::PngTwemojiAsset;

use crate::image::{RgbImage, decode};
use crate::sample::{RawImage, RawSample};
use crate::sources::{EmojiConfig, Source, Split};
use crate::{DamageKind, Error, Result};

/// Names of the classes: the groups of Unicode's emoji list.
const GROUPS: [(emojis::Group, &str); 9] = [
    (emojis::Group::SmileysAndEmotion, "smileys and emotion"),
    (emojis::Group::PeopleAndBody, "people and body"),
    (emojis::Group::AnimalsAndNature, "animals and nature"),
    (emojis::Group::FoodAndDrink, "food and drink"),
    (emojis::Group::TravelAndPlaces, "travel and places"),
    (emojis::Group::Activities, "activities"),
    (emojis::Group::Objects, "objects"),
    (emojis::Group::Symbols, "symbols"),
    (emojis::Group::Flags, "flags"),
];

/// Caption templates; `{}` stands for the name, `<>` for the group.
const TEMPLATES: [&str; 6] =
    ["an emoji of {}", "{}", "a picture of {}", "the {} emoji", "a drawing of {}, from <>", "<>: {}"];

/// One of this many base concepts is held out.
const HELD_OUT: u64 = 10;

/// The emoji of one split.
///
/// ```
/// use data_pipeline::Source;
/// use data_pipeline::sources::{Emoji, EmojiConfig, Split};
/// let test = Emoji::open(&EmojiConfig::default().with_split(Split::Test))?;
/// assert!(test.read(0, 0)?.captions[0].starts_with("an emoji of"));
/// # Ok::<(), data_pipeline::Error>(())
/// ```
pub struct Emoji {
    split: Split,
    entries: Vec<Entry>,
    class_names: Vec<String>,
}

struct Entry {
    name: String,
    group: usize,
    png: &'static [u8],
}

impl Emoji {
    /// Lists the emoji of a split that have an image.
    ///
    /// # Errors
    /// [`Error::Empty`] if the dependencies contain no image.
    pub fn open(config: &EmojiConfig) -> Result<Self> {
        let mut entries = Vec::new();
        for plain in emojis::iter() {
            // The iterator yields emoji without skin tones; the variants are properties of those.
            let tones = plain.skin_tones().into_iter().flatten().filter(|e| e.as_str() != plain.as_str());
            for emoji in std::iter::once(plain).chain(tones) {
                let held_out = is_held_out(&base_concept(emoji.name()));
                if held_out != (config.split == Split::Test) {
                    continue;
                }
                let group = GROUPS.iter().position(|(group, _)| *group == emoji.group());
                if let (Some(png), Some(group)) = (picture(emoji.as_str()), group) {
                    entries.push(Entry { name: emoji.name().to_string(), group, png });
                }
            }
        }
        if entries.is_empty() {
            return Err(Error::Empty("emoji".into()));
        }
        let class_names = GROUPS.iter().map(|(_, name)| (*name).to_string()).collect();
        Ok(Emoji { split: config.split, entries, class_names })
    }
}

impl Source for Emoji {
    fn name(&self) -> &str {
        "emoji"
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn read(&self, index: usize, draw: u64) -> Result<RawSample> {
        let entry = &self.entries[index];
        let damaged = |reason: String| Error::Sample {
            key: entry.name.clone(),
            kind: DamageKind::DamagedImage,
            reason,
        };
        let picture = decode(entry.png).map_err(|e| damaged(e.reason))?;
        let side = picture.width().max(picture.height());
        // A test emoji has one plain image and one caption.
        let (scene, templates) = match self.split {
            Split::Train => (Scene::draw(draw, side), &TEMPLATES[..]),
            Split::Test => (Scene::plain(side), &TEMPLATES[..1]),
        };
        let image = scene.render(picture.rgba(), picture.width(), picture.height());
        let group = &self.class_names[entry.group];
        let captions = templates.iter().map(|t| t.replace("{}", &entry.name).replace("<>", group));
        Ok(RawSample::new(format!("emoji:{}", entry.name), RawImage::Rgb(image))
            .with_captions(captions)
            .with_label(entry.group))
    }

    fn class_names(&self) -> Option<&[String]> {
        Some(&self.class_names)
    }
}

/// Returns the image of an emoji. Most file names of Twemoji lack the variation selector.
fn picture(emoji: &str) -> Option<&'static [u8]> {
    let plain = emoji.replace('\u{FE0F}', "");
    let asset = PngTwemojiAsset::from_emoji(emoji).or_else(|| PngTwemojiAsset::from_emoji(&plain))?;
    let bytes: &'static [u8] = asset;
    Some(bytes)
}

fn is_held_out(concept: &str) -> bool {
    let hash = concept.bytes().fold(0u64, |hash, byte| mix(&[hash, u64::from(byte)]));
    hash % HELD_OUT == 0
}

/// Returns the concept of an emoji's name, without skin tone, gender, age and direction.
///
/// ```
/// use data_pipeline::sources::emoji::base_concept;
/// assert_eq!(base_concept("man running facing right: dark skin tone"), base_concept("person running"));
/// ```
pub fn base_concept(name: &str) -> String {
    const NEUTRAL: [&str; 24] = [
        "man", "woman", "person", "men", "women", "people", "boy", "girl", "child", "adult", "baby", "male",
        "female", "mr", "mrs", "ms", "mx", "old", "older", "facing", "right", "skin", "tone", "and",
    ];
    const TONES: [&str; 5] = ["light", "medium-light", "medium", "medium-dark", "dark"];
    // Words that differ by gender alone.
    const TWINS: [(&str, &str); 10] = [
        ("merman", "merperson"),
        ("mermaid", "merperson"),
        ("prince", "royalty"),
        ("princess", "royalty"),
        ("santa", "claus"),
        ("superheroine", "superhero"),
        ("father", "parent"),
        ("mother", "parent"),
        ("king", "royalty"),
        ("queen", "royalty"),
    ];
    let has_tone = name.contains("skin tone");
    let words = name.to_lowercase();
    let words = words
        .split(|c: char| !(c.is_alphanumeric() || c == '-'))
        .filter(|word| !(word.is_empty() || NEUTRAL.contains(word) || has_tone && TONES.contains(word)));
    let mut words = words
        .map(|word| TWINS.iter().find(|(from, _)| *from == word).map_or(word, |(_, to)| to))
        .collect::<Vec<_>>();
    words.dedup();
    if words.is_empty() { "person".into() } else { words.join(" ") }
}

/// Position of an emoji on its background.
struct Scene {
    side: usize,
    left: usize,
    top: usize,
    /// Colours at the top and at the bottom.
    background: [[f64; 3]; 2],
}

impl Scene {
    fn draw(draw: u64, picture: usize) -> Self {
        let mut random = SplitMix64::new(mix(&[draw, 3]));
        let side = (picture as f64 / random.between(0.6, 1.0)) as usize;
        let mut color = || [0, 1, 2].map(|_| random.between(0.0, 255.0));
        let background = [color(), color()];
        Scene {
            side,
            left: random.below(side - picture + 1),
            top: random.below(side - picture + 1),
            background,
        }
    }

    fn plain(picture: usize) -> Self {
        let side = picture * 5 / 4;
        Scene { side, left: (side - picture) / 2, top: (side - picture) / 2, background: [[255.0; 3]; 2] }
    }

    fn render(&self, rgba: Vec<[u8; 4]>, width: usize, height: usize) -> RgbImage {
        let mut pixels = Vec::with_capacity(self.side * self.side * 3);
        for y in 0..self.side {
            let fraction = y as f64 / self.side as f64;
            let [top, bottom] = self.background;
            let row: [u8; 3] = std::array::from_fn(|c| (top[c] + (bottom[c] - top[c]) * fraction) as u8);
            for x in 0..self.side {
                let inside =
                    (self.top..self.top + height).contains(&y) && (self.left..self.left + width).contains(&x);
                if !inside {
                    pixels.extend(row);
                    continue;
                }
                let [r, g, b, alpha] = rgba[(y - self.top) * width + x - self.left];
                let alpha = u32::from(alpha);
                pixels.extend([r, g, b].iter().zip(row).map(|(&front, back)| {
                    ((u32::from(front) * alpha + u32::from(back) * (255 - alpha) + 127) / 255) as u8
                }));
            }
        }
        RgbImage { width: self.side, height: self.side, pixels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeSet, HashSet};

    #[test]
    fn variants_have_one_concept() {
        let same = [
            ["man running: dark skin tone", "person running"],
            ["woman running facing right: medium-light skin tone", "man running"],
            ["kiss: woman, man", "kiss"],
            ["prince", "princess: light skin tone"],
            ["Mrs. Claus", "Santa Claus: medium skin tone"],
            ["old man", "older person: dark skin tone"],
        ];
        for [a, b] in same {
            assert_eq!(base_concept(a), base_concept(b), "{a} / {b}");
        }
        assert_ne!(base_concept("cat"), base_concept("cat face"));
        assert_ne!(base_concept("dark chocolate"), base_concept("chocolate"));
    }

    #[test]
    fn splits_share_no_concept() {
        let concepts = |split| {
            let emoji = Emoji::open(&EmojiConfig::default().with_split(split)).unwrap();
            let set = emoji.entries.iter().map(|e| base_concept(&e.name)).collect::<HashSet<_>>();
            (emoji.len(), set)
        };
        let ((train, seen), (test, unseen)) = (concepts(Split::Train), concepts(Split::Test));
        assert!(seen.is_disjoint(&unseen));
        assert!(train + test > 3_500, "{train} + {test}");
        let share = unseen.len() as f64 / (seen.len() + unseen.len()) as f64;
        assert!((0.07..0.13).contains(&share), "{share}");
    }

    #[test]
    fn held_out_concepts_equal_the_snapshot() {
        const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots/emoji-held-out.txt");
        let test = Emoji::open(&EmojiConfig::default().with_split(Split::Test)).unwrap();
        let concepts = test.entries.iter().map(|e| base_concept(&e.name)).collect::<BTreeSet<_>>();
        let found = concepts.iter().map(|concept| format!("{concept}\n")).collect::<String>();
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(SNAPSHOT, &found).unwrap();
        }
        let stored = std::fs::read_to_string(SNAPSHOT).unwrap();
        let stored = stored.lines().map(str::to_string).collect::<BTreeSet<_>>();
        let new = concepts.difference(&stored).collect::<Vec<_>>();
        let gone = stored.difference(&concepts).collect::<Vec<_>>();
        assert!(
            new.is_empty() && gone.is_empty(),
            "held out now: {new:?}; no longer: {gone:?}. Older results used another test split. \
             If this is intended, run with UPDATE_SNAPSHOTS=1"
        );
    }

    #[test]
    fn training_images_vary_with_the_draw_and_test_images_do_not() {
        let train = Emoji::open(&EmojiConfig::default()).unwrap();
        let pixels = |source: &Emoji, draw| match source.read(5, draw).unwrap().image {
            RawImage::Rgb(image) => image,
            RawImage::Encoded(_) => unreachable!("emoji are rendered"),
        };
        assert_ne!(pixels(&train, 1), pixels(&train, 2));
        assert_eq!(pixels(&train, 1), pixels(&train, 1));
        let test = Emoji::open(&EmojiConfig::default().with_split(Split::Test)).unwrap();
        assert_eq!(pixels(&test, 1), pixels(&test, 2));
    }
}
