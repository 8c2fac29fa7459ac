//! Tokenizer: every row of ids; broken text that the reference repairs first.

use std::path::Path;

use clip_distill_tests::golden::{files, own_folder};
use data_pipeline::tokenizer::{ClipTokenizer, END_OF_TEXT, Tokenizer};

/// Context length of the golden rows.
const CONTEXT: usize = 77;

/// Rows of broken text that come out differently, by their text: none.
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
    let (mut compared, mut repaired) = (0, 0);
    for path in files("tokenizer", "json") {
        let (count, wrong) = different(&path);
        assert!(count > 0, "{} has no row", path.display());
        if path.file_stem().is_some_and(|stem| stem.to_string_lossy().starts_with("repair")) {
            let unexpected =
                wrong.iter().filter(|text| !DIFFERENT.contains(&text.as_str())).collect::<Vec<_>>();
            println!("{}: {} of {count} rows differ", path.display(), wrong.len());
            assert!(wrong.len() * 20 <= count, "{}: {unexpected:#?}", path.display());
            if path.starts_with(own_folder()) {
                assert!(unexpected.is_empty(), "{unexpected:#?}");
            }
            repaired += 1;
        } else {
            assert!(wrong.is_empty(), "{}: {} of {count} differ: {wrong:#?}", path.display(), wrong.len());
        }
        compared += 1;
    }
    println!("tokenizer: {compared} files compared, {repaired} of them of broken text");
    assert!(compared > repaired && repaired > 0, "golden tokenizer files are missing");
}
