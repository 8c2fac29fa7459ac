//! Tokenizer: ids of all golden texts, including broken text that the reference repairs (ftfy).

use std::path::Path;

use clip_distill_tests::golden::{Coverage, files};
use data_pipeline::tokenizer::{ClipTokenizer, END_OF_TEXT, Tokenizer};

/// Context length of the golden rows.
const CONTEXT: usize = 77;

/// Broken texts whose ids may differ from the reference: none.
const DIFFERENT: &[&str] = &[];

fn rows(path: &Path) -> Vec<(String, Vec<i64>)> {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn different(path: &Path) -> (usize, Vec<String>) {
    let tokenizer = ClipTokenizer::new();
    let rows = rows(path);
    let count = rows.len();
    let wrong = rows.into_iter().filter_map(|(text, expected)| {
        let mut row = [0; CONTEXT];
        tokenizer.encode_into(&text, &mut row);
        // The golden rows stop at the first end token, which may be one that the text spells out.
        let end = row.iter().position(|&id| id == END_OF_TEXT).unwrap();
        (row[..=end] != expected).then_some(text)
    });
    (count, wrong.collect())
}

#[test]
fn ids_agree_with_the_reference() {
    let mut coverage = Coverage::new("tokenizer");
    for file in files("tokenizer", "json") {
        let path = file.path.display();
        let (count, wrong) = different(&file.path);
        assert!(count > 0, "{path} has no row");
        let is_repair = file.name.starts_with("tokenizer/repair");
        println!("{path}: {} of {count} rows differ", wrong.len());
        if is_repair && !file.own {
            assert!(wrong.len() * 20 <= count, "{path}: {wrong:#?}");
        } else {
            let allowed = |text: &String| is_repair && DIFFERENT.contains(&text.as_str());
            let unexpected = wrong.iter().filter(|text| !allowed(text)).collect::<Vec<_>>();
            assert!(unexpected.is_empty(), "{path}: {unexpected:#?}");
        }
        coverage.add(&file, &file.name);
    }
    coverage.assert_exactly(["tokenizer/clip", "tokenizer/repair"]);
}
