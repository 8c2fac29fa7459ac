//! Tables and JSON lists of image paths and captions: separators, column names, several files, image paths.

use std::path::Path;
use std::sync::Arc;

use crate::common::png;
use crate::log::Log;
use data_pipeline::sources::{Source, SourceConfig};
use data_pipeline::{DamageKind, Error, Result};
use serde_json::{Value, json};

fn open(config: Value, base: &Path) -> Result<Arc<dyn Source>> {
    serde_json::from_value::<SourceConfig>(config).unwrap().open(base)
}

fn error(config: Value, base: &Path) -> String {
    open(config, base).err().expect("the source opened").to_string()
}

/// A folder with the images `imgs/0.png` to `imgs/2.png`.
fn images() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("imgs")).unwrap();
    for i in 0..3u8 {
        std::fs::write(folder.path().join(format!("imgs/{i}.png")), png([i; 3], 3, 3)).unwrap();
    }
    folder
}

/// All captions; every sample must be good.
fn captions(source: &dyn Source) -> Vec<Vec<String>> {
    (0..source.len()).map(|index| source.read(index, 0).unwrap().captions).collect()
}

/// The kind of damage and the reason of a sample.
fn damage(source: &dyn Source, index: usize) -> (DamageKind, String) {
    match source.read(index, 0) {
        Err(Error::Sample { kind, reason, .. }) => (kind, reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn separator_and_column_names_are_inferred_and_logged() {
    let folder = images();
    for (name, table, inferred) in [
        ("a.csv", "filepath,title\nimgs/0.png,a dog\n", None),
        ("b.csv", "filepath;title\nimgs/0.png;a dog\n", Some("separator = \";\"")),
        ("c.csv", "filepath\ttitle\nimgs/0.png\ta dog\n", Some("separator = \"\\t\"")),
        ("d.csv", "filepath|title\nimgs/0.png|a dog\n", Some("separator = \"|\"")),
        ("e.tsv", "filepath\ttitle\nimgs/0.png\ta dog\n", None),
        ("f.tsv", "filepath,title\nimgs/0.png,a dog\n", Some("separator = \",\"")),
        ("g.csv", "image,caption\nimgs/0.png,a dog\n", Some("image = \"image\", caption = \"caption\"")),
        (
            "h.csv",
            "id,Text,file_name\n7,a dog,imgs/0.png\n",
            Some("image = \"file_name\", caption = \"Text\""),
        ),
        ("i.csv", "title, filepath\na dog,imgs/0.png\n", None),
        ("j.csv", "\u{FEFF}filepath;title\r\nimgs/0.png;a dog\r\n", Some("separator = \";\"")),
    ] {
        std::fs::write(folder.path().join(name), table).unwrap();
        let log = Log::start();
        let source = open(json!({"source": "csv", "path": name}), folder.path()).unwrap();
        assert_eq!(captions(source.as_ref()), [["a dog"]], "{name}");
        match inferred {
            Some(words) => {
                assert!(
                    log.lines().len() == 1 && log.lines()[0].contains(words),
                    "{name}: {:?}",
                    log.lines()
                );
            }
            None => assert!(log.lines().is_empty(), "{name}: {:?}", log.lines()),
        }
    }
    // Settings of the user are not replaced by a guess.
    let base = json!({"source": "csv", "path": "g.csv"});
    for (key, value, words) in [
        ("caption", "text", "no column `text`"),
        ("separator", ";", "`separator` is `;`"),
        ("image", "img", "image = \"COLUMN\""),
    ] {
        let mut config = base.clone();
        config[key] = value.into();
        let said = error(config, folder.path());
        assert!(said.contains(words) && said.contains("g.csv"), "{said}");
    }
    for (table, words) in [
        ("imgs/0.png,a dog\n", "not column names"),
        ("[{\"image\": 1}]", "source = \"json\""),
        ("a,b\n1,2\n", "only `a`, `b`"),
        ("filepath\nimgs/0.png\n", "no column `title`"),
    ] {
        std::fs::write(folder.path().join("z.csv"), table).unwrap();
        let said = error(json!({"source": "csv", "path": "z.csv"}), folder.path());
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn several_tables_have_one_root_each() {
    let folder = images();
    std::fs::create_dir(folder.path().join("tables")).unwrap();
    std::fs::write(folder.path().join("tables/a.csv"), "filepath,title\n0.png,a\n1.png,b\n").unwrap();
    std::fs::write(folder.path().join("tables/b.tsv"), "image\tcaption\nimgs/2.png\tc\nbad.png\td\n")
        .unwrap();
    let with = |root: Value| {
        let mut config = json!({"source": "csv", "path": ["tables/a.csv", "tables/b.tsv"]});
        config["root"] = root;
        config
    };
    let source = open(with(json!(["imgs", "."])), folder.path()).unwrap();
    let good = (0..3).map(|index| source.read(index, 0).unwrap().captions[0].clone()).collect::<Vec<_>>();
    assert_eq!((source.len(), good.join("")), (4, "abc".to_string()));
    match source.read(3, 0) {
        Err(Error::Sample { key, .. }) => assert!(key.contains("b.tsv: row 2 (bad.png)"), "{key}"),
        other => panic!("{other:?}"),
    }
    assert!(error(with(json!(["a", "b", "c"])), folder.path()).contains("3 folders for 2 files"));
    // One root for all.
    let source = open(with(json!("imgs")), folder.path()).unwrap();
    assert!(source.read(0, 0).is_ok() && source.read(2, 0).is_err());
}

#[test]
fn rows_with_the_same_image_can_be_one_sample() {
    let folder = images();
    let table = "filepath,title\nimgs/0.png,a\nimgs/1.png,b\nimgs/0.png,c\nimgs/0.png,\nimgs/0.png,x,y\n";
    std::fs::write(folder.path().join("t.csv"), table).unwrap();
    let config = json!({"source": "csv", "path": "t.csv", "group_by_image": true});
    let source = open(config, folder.path()).unwrap();
    assert_eq!(source.read(0, 0).unwrap().captions, ["a", "c"]);
    assert_eq!(source.read(1, 0).unwrap().captions, ["b"]);
    // Damaged rows are not lost in a group.
    assert_eq!(source.len(), 4);
    assert_eq!(damage(source.as_ref(), 2).0, DamageKind::NoCaption);
    assert_eq!(damage(source.as_ref(), 3).0, DamageKind::ExtraFields);
}

#[test]
fn image_paths_that_are_not_local_files_are_explained() {
    let folder = images();
    let table = "filepath,title\n,a\nhttps://host/a.jpg,a\n~/a.jpg,a\nimgs\\0.png,a\nimgs,a\nimgs/9.png,a\n";
    std::fs::write(folder.path().join("t.csv"), table).unwrap();
    let source = open(json!({"source": "csv", "path": "t.csv"}), folder.path()).unwrap();
    for (index, words) in [
        (0, "the image path is empty"),
        (1, "https address"),
        (2, "`~` is not expanded"),
        (3, "backslashes"),
        (4, "directory"),
        (5, "does not exist"),
    ] {
        let (_, reason) = damage(source.as_ref(), index);
        assert!(reason.contains(words), "{reason}");
    }
}

#[test]
fn json_lists_and_lines_are_read() {
    let folder = images();
    let two = [["c 0"], ["c 1"]];
    for (name, text, inferred) in [
        (
            "list.json",
            r#"[{"image": "imgs/0.png", "caption": "c 0"}, {"image": "imgs/1.png", "caption": ["c 1"]}]"#,
            None,
        ),
        (
            "lines.jsonl",
            "{\"image\": \"imgs/0.png\", \"caption\": \"c 0\", \"p\": NaN}\n\n{\"image\": \"imgs/1.png\", \"caption\": \"c 1\"}\n",
            None,
        ),
        (
            "metadata.jsonl",
            "\u{FEFF}{\"file_name\": \"imgs/0.png\", \"text\": \"c 0\"}\n{\"file_name\": \"imgs/1.png\", \"text\": \"c 1\"}",
            Some("image = \"file_name\", caption = \"text\""),
        ),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
        let log = Log::start();
        let source = open(json!({"source": "json", "path": name}), folder.path()).unwrap();
        assert_eq!(captions(source.as_ref()), two, "{name}");
        assert_eq!(log.lines().len(), usize::from(inferred.is_some()), "{:?}", log.lines());
        assert!(inferred.is_none_or(|words| log.lines()[0].contains(words)), "{:?}", log.lines());
    }
    // One line with one sample, whose captions are a list.
    std::fs::write(
        folder.path().join("one.json"),
        r#"{"image": "imgs/0.png", "captions": ["a", 5, "b", ""]}"#,
    )
    .unwrap();
    let log = Log::start();
    let source = open(json!({"source": "json", "path": "one.json"}), folder.path()).unwrap();
    assert_eq!(captions(source.as_ref()), [["a", "b"]]);
    assert!(
        log.lines().iter().any(|line| line.contains("left out 2 entries of `captions`")),
        "{:?}",
        log.lines()
    );
    std::fs::write(
        folder.path().join("damaged.json"),
        r#"[{"image": "imgs/0.png", "caption": "a"}, {"image": "imgs/0.png", "alt": "b"}, {"caption": "c"}, 5]"#,
    )
    .unwrap();
    let source = open(json!({"source": "json", "path": "damaged.json"}), folder.path()).unwrap();
    assert_eq!(source.len(), 4);
    let (kind, reason) = damage(source.as_ref(), 1);
    assert!(kind == DamageKind::NoCaption && reason.contains("`alt`"), "{reason}");
    assert_eq!([2, 3].map(|index| damage(source.as_ref(), index).0), [DamageKind::NoImage; 2]);
    for (text, words) in [
        ("{\"images\": [{\"id\": 1}], \"annotations\": []}", "one object, not a list of samples"),
        ("{\"images\": [{\"sentences\": []}]}", "source = \"karpathy\""),
        ("[{\"a\": 1}]", "keys `a`"),
        ("[1, 2]", "not objects"),
        ("filepath,title\n", "neither a JSON list"),
        ("{\"image\": \"x\", \"caption\": \"a\"}\n{\"image\": \n", "line 2"),
        ("[{\"image\": \"x\"", "EOF"),
    ] {
        std::fs::write(folder.path().join("bad.json"), text).unwrap();
        let said = error(json!({"source": "json", "path": "bad.json"}), folder.path());
        assert!(said.contains(words) && said.contains("bad.json"), "{text}: {said}");
    }
}

#[test]
fn objects_that_are_not_lists_are_read_as_coco_or_explained() {
    let folder = images();
    let coco = json!({
        "info": {"year": 2014},
        "images": [
            {"id": 7, "file_name": "imgs/0.png"}, {"id": 8, "file_name": "imgs/1.png"}, {"id": 9, "file_name": "x.png"}
        ],
        "annotations": [
            {"image_id": 8, "id": 1, "caption": "a"}, {"image_id": 7, "id": 2, "caption": "b"},
            {"image_id": 8, "id": 3, "caption": "c"}, {"image_id": 99, "id": 4, "caption": "d"}
        ],
    });
    for text in [coco.to_string(), format!("{coco:#}")] {
        std::fs::write(folder.path().join("coco.json"), text).unwrap();
        let config = json!({"source": "json", "path": "coco.json", "group_by_image": true});
        let source = open(config, folder.path()).unwrap();
        assert_eq!(source.len(), 3);
        assert_eq!(source.read(0, 0).unwrap().captions, ["a", "c"]);
        assert_eq!(source.read(1, 0).unwrap().captions, ["b"]);
        assert_eq!(damage(source.as_ref(), 2).0, DamageKind::NoImage);
    }
    for (text, words) in [
        (
            r#"{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "bbox": []}]}"#,
            "no `caption`",
        ),
        (r#"{"data": [{"image": "a.jpg", "caption": "c"}], "n": 1}"#, "the list under `data`"),
        (r#"{"image": ["a.jpg", "b.jpg"], "caption": ["c", "d"]}"#, "stored by column"),
        (r#"{"image": {"0": "a.jpg"}, "caption": {"0": "c"}}"#, "stored by column"),
        (r#"{"a.jpg": "c", "d/b.png": "d"}"#, "list of objects"),
        ("", "the file is empty"),
        (" \n\n", "the file is empty"),
    ] {
        std::fs::write(folder.path().join("bad.json"), text).unwrap();
        let said = error(json!({"source": "json", "path": "bad.json"}), folder.path());
        assert!(said.contains(words), "{text}: {said}");
    }
    let lines = "{\"image\": \"x\", \"caption\": \"a\"}\n\n{\"image\": \"x\", \"capt";
    std::fs::write(folder.path().join("cut.jsonl"), lines).unwrap();
    let said = error(json!({"source": "json", "path": "cut.jsonl"}), folder.path());
    assert!(said.contains("line 3, column 20") && said.matches("line").count() == 1, "{said}");
}

#[test]
fn values_that_are_not_texts_are_named() {
    let folder = images();
    let values = [json!(5), json!(null), json!(true), json!({"en": "a"}), json!([]), json!([1]), json!(" ")];
    let records =
        values.iter().map(|value| json!({"image": "imgs/0.png", "caption": value})).collect::<Vec<_>>();
    std::fs::write(folder.path().join("t.json"), json!(records).to_string()).unwrap();
    let source = open(json!({"source": "json", "path": "t.json"}), folder.path()).unwrap();
    let expected = [
        "the number 5",
        "null",
        "true",
        "an object",
        "an empty list",
        "a list without texts",
        "an empty text",
    ];
    for (index, words) in expected.iter().enumerate() {
        let (kind, reason) = damage(source.as_ref(), index);
        assert!(kind == DamageKind::NoCaption && reason.contains(words), "{reason}");
        assert!(reason.contains("`caption`"), "{reason}");
    }
}

#[test]
fn tables_of_spreadsheets_and_files_that_are_no_tables() {
    let folder = images();
    for text in [
        "sep=;\nfilepath;title\nimgs/0.png;a, b\n",
        "\u{FEFF}SEP=\t\r\nfilepath\ttitle\r\nimgs/0.png\ta, b\r\n",
        "\"sep=|\"\nfilepath|title\nimgs/0.png|a, b\n",
        // White space and the end mark of DOS are not rows.
        "filepath;title\n   \nimgs/0.png;a, b\n\t\n\n \u{1A}",
    ] {
        std::fs::write(folder.path().join("t.csv"), text).unwrap();
        let source = open(json!({"source": "csv", "path": "t.csv"}), folder.path()).unwrap();
        assert_eq!(captions(source.as_ref()), [["a, b"]], "{text:?}");
    }
    // Lines keep their numbers.
    std::fs::write(folder.path().join("t.csv"), "sep=,\nfilepath,title\nimgs/0.png,a,b\n").unwrap();
    let source = open(json!({"source": "csv", "path": "t.csv"}), folder.path()).unwrap();
    assert!(damage(source.as_ref(), 0).1.contains("line 3"));
    for (bytes, words) in [
        (&b""[..], "is empty"),
        (b" \r\n\n", "is empty"),
        (b"\xEF\xBB\xBF", "is empty"),
        (b"\xFF\xFE\0\0f\0\0\0", "UTF-32"),
        (b"f\0\0\0i\0\0\0", "UTF-32"),
        (b"\x89PNG\r\n\x1A\n\0\0\0\rIHDR", "an image (PNG)"),
        (b"%PDF-1.4\n\0\xFF", "a PDF file"),
        (b"url,caption\nhttps://a/b.jpg,c\n", "img2dataset"),
        (b"a,b\n1,2\n", "in a recipe or suite file"),
    ] {
        std::fs::write(folder.path().join("t.csv"), bytes).unwrap();
        let said = error(json!({"source": "csv", "path": "t.csv"}), folder.path());
        assert!(said.contains(words) && !said.contains(char::is_control), "{said}");
    }
}
