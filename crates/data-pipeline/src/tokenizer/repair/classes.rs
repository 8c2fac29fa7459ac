//! Character classes and contexts that distinguish mojibake from text.

use std::collections::HashMap;
use std::sync::OnceLock;

use regex::Regex;

use super::super::letters::contains;

/// ftfy's classes: name, then code points and ranges.
const CLASSES: &str = include_str!("../../../data/mojibake-classes.txt");

/// A class as sorted ranges.
pub(super) type Class = Vec<(char, char)>;

/// Returns a class by its name.
pub(super) fn class(name: &str) -> &'static Class {
    static TABLE: OnceLock<HashMap<&'static str, Class>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let line = |line: &'static str| {
            let (name, ranges) = line.split_once(' ')?;
            let point = |text: &str| char::from_u32(u32::from_str_radix(text, 16).ok()?);
            let range = |text: &str| {
                let (start, end) = text.split_once('-').unwrap_or((text, text));
                Some((point(start)?, point(end)?))
            };
            Some((name, ranges.split(' ').filter_map(range).collect()))
        };
        CLASSES.lines().filter(|text| !text.starts_with('#')).filter_map(line).collect()
    });
    &table[name]
}

/// Whether a class contains a character.
pub(super) fn is_in(name: &str, c: char) -> bool {
    contains(class(name), c)
}

/// Contexts that rarely occur in correct text (ftfy's rules), as regular expressions with classes in braces. [`SHORT`]
/// lists the abbreviations of the classes.
const CONTEXTS: &[&str] = &[
    "[{c1}]",
    "[{bad}{low}{up}{box}{start}{end}{cur}{num}{law}][{bad}]",
    "[a-zA-Z][{lowc}{upc}][{bad}]",
    "[{bad}][{low}{up}{box}{start}{end}{cur}{num}{law}]",
    "[{low}{lowc}{box}{end}{cur}{num}][{up}]",
    "[{box}{end}{cur}{num}][{low}]",
    "[{low}{box}{end}][{cur}]",
    r"\s[{up}][{cur}]",
    "[{up}{box}][{num}{law}]",
    "[{low}{up}{box}{cur}{end}][{start}][{num}]",
    "[{low}{up}{cur}{num}{box}{law}][{end}][{start}]",
    "[{cur}{num}{box}][{start}]",
    "[a-z][{up}][{start}{cur}]",
    "[{box}][{kao}]",
    "[{low}{up}{cur}{num}{start}{end}{law}][{box}]",
    "[{box}][{end}]",
    r"[{low}{up}][{start}{end}][\p{L}\p{N}_]",
    // Mojibake of single characters and pairs of common scripts.
    "[Œœ][^A-Za-z]",
    "[{up}]°",
    r"[ÂÃÎÐ][€œŠš¢£Ÿž\xa0\xad®©°·»{start}{end}–—´]",
    "×[²³]",
    "[ØÙ][{com}{cur}{bad}{num}{start}ŸŠ®°µ»][ØÙ][{com}{cur}{bad}{num}{start}ŸŠ®°µ»]",
    "à[²µ¹¼½¾]",
    "√[±∂†≠®™´≤≥¥µø]",
    "≈[°¢]",
    "‚Ä[ìîïòôúùû†°¢π]",
    "‚[âó][àä°ê]",
    "вЂ",
    "[ВГРС][{c1}{bad}{start}{end}{cur}°µ][ВГРС]",
    "ГўВЂВ.[A-Za-z ]",
    r"Ã[\xa0¡]",
    r"[a-z]\s?[ÃÂ] ",
    "^[ÃÂ] ",
    "[a-z.,?!{end}]Â[ {start}{end}]",
    r"β€[™\xa0Ά\xad®°]",
    "[ΒΓΞΟ][{c1}{bad}{start}{end}{cur}°][ΒΓΞΟ]",
    "ā€",
];

const SHORT: &[(&str, &str)] = &[
    ("c1", "c1"),
    ("bad", "bad"),
    ("low", "lower_accented"),
    ("up", "upper_accented"),
    ("lowc", "lower_common"),
    ("upc", "upper_common"),
    ("box", "box"),
    ("start", "start_punctuation"),
    ("end", "end_punctuation"),
    ("cur", "currency"),
    ("num", "numeric"),
    ("law", "law"),
    ("kao", "kaomoji"),
    ("com", "common"),
];

/// Whether some part of the text looks like mojibake.
pub(super) fn is_bad(text: &str) -> bool {
    static CONTEXT: OnceLock<Regex> = OnceLock::new();
    let context = CONTEXT.get_or_init(|| {
        let mut pattern = CONTEXTS.join("|");
        for (short, name) in SHORT {
            let ranges = class(name)
                .iter()
                .map(|(start, end)| format!(r"\x{{{:x}}}-\x{{{:x}}}", u32::from(*start), u32::from(*end)));
            pattern = pattern.replace(&format!("{{{short}}}"), &ranges.collect::<String>());
        }
        Regex::new(&pattern).expect("the fixed contexts are a regular expression")
    });
    context.is_match(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_mojibake_from_text() {
        for bad in ["Ã©", "â€™", "вЂњ", "Ð¿Ñ€Ð¸", "schÃ¶n", "\u{99}"] {
            assert!(is_bad(bad), "{bad}");
        }
        for good in ["", "é", "naïve café", "10 µm – 20 °C ±1", "Привет мир", "señor ñandú ¿qué?", "日本語"]
        {
            assert!(!is_bad(good), "{good}");
        }
    }

    #[test]
    fn all_classes_are_read() {
        for (_, name) in SHORT {
            assert!(!class(name).is_empty(), "{name}");
        }
        assert!(is_in("utf8_first_of_2", 'Ã') && !is_in("utf8_first_of_2", 'a'));
    }
}
