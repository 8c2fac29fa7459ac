//! Tests that a source loses nothing silently: unreadable data is a damaged sample, or is skipped, counted and named.

use std::path::Path;
use std::sync::Arc;

use crate::common::{png, tar};
use crate::log::Log;
use data_pipeline::sources::{Images, Source, SourceConfig};
use data_pipeline::{DamageKind, Error, Result};

fn open(config: serde_json::Value, base: &Path) -> Result<Arc<dyn Source>> {
    serde_json::from_value::<SourceConfig>(config).unwrap().open(base)
}

/// The sample's captions, or its kind of damage and the reason.
fn read(source: &dyn Source, index: usize) -> std::result::Result<Vec<String>, (DamageKind, String)> {
    match source.read(index, 0) {
        Ok(sample) => Ok(sample.captions),
        Err(Error::Sample { kind, reason, .. }) => Err((kind, reason)),
        Err(other) => panic!("{other}"),
    }
}

/// A shard with one sample `a`, which has an image and these members.
fn one_sample(folder: &Path, caption: Option<&str>, members: &[(&str, &[u8])]) -> Arc<dyn Source> {
    let picture = png([1, 2, 3], 4, 4);
    let members = [&[("a.png", &picture[..])], members].concat();
    tar(&folder.join("s.tar"), &members);
    let config = serde_json::json!({"source": "webdataset", "shards": "s.tar", "caption": caption});
    open(config, folder).unwrap()
}

#[test]
fn captions_are_found_under_img2datasets_keys() {
    let folder = tempfile::tempdir().unwrap();
    let found = |caption: Option<&str>, members: &[(&str, &[u8])]| {
        read(one_sample(folder.path(), caption, members).as_ref(), 0)
    };
    let json: (&str, &[u8]) = ("a.json", br#"{"caption": "of json", "url": "x", "punsafe": NaN}"#);
    let txt: (&str, &[u8]) = ("a.txt", b"of txt\n");
    let lists: (&str, &[u8]) = ("a.json", br#"{"caption": "of json", "captions": ["one", "two"]}"#);
    // The list, else the text file, else img2dataset's key.
    assert_eq!(found(None, &[lists, txt]).unwrap(), ["one", "two"]);
    assert_eq!(found(None, &[json, txt]).unwrap(), ["of txt"]);
    assert_eq!(found(None, &[json]).unwrap(), ["of json"]);
    assert_eq!(found(Some("caption"), &[json, txt]).unwrap(), ["of json"]);
    assert_eq!(found(Some("txt"), &[lists, txt]).unwrap(), ["of txt"]);
    assert_eq!(found(None, &[("a.json", b"\xEF\xBB\xBF{\"captions\": [\"marked\"]}")]).unwrap(), ["marked"]);
    assert_eq!(found(None, &[("a.txt", b"\xEF\xBB\xBFmarked")]).unwrap(), ["marked"]);
    // The text file is empty, so the caption comes from the `.json` file.
    assert_eq!(found(None, &[json, ("a.txt", b" \n")]).unwrap(), ["of json"]);
    for empty in
        [&[("a.txt", &b""[..])][..], &[("a.txt", b"\xEF\xBB\xBF")], &[("a.json", br#"{"caption": " "}"#)]]
    {
        assert_eq!(found(None, empty).unwrap_err().0, DamageKind::NoCaption, "{empty:?}");
    }
    assert_eq!(found(None, &[("a.json", br#"{"captions": ["", "one", " "]}"#)]).unwrap(), ["one"]);
    // The message for a missing caption lists the existing keys.
    let (kind, reason) = found(None, &[("a.json", br#"{"TEXT": "x", "url": "y"}"#)]).unwrap_err();
    assert_eq!(kind, DamageKind::NoCaption);
    for part in ["`captions`", "`TEXT`, `url`", "caption = \"KEY\""] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    let (_, reason) = found(Some("alt"), &[json, txt]).unwrap_err();
    assert!(reason.contains("`alt`") && reason.contains("`caption`, `url`, `punsafe`"), "{reason}");
    assert!(found(None, &[]).unwrap_err().1.contains("neither a .txt file nor a .json file"));
    assert!(found(Some("alt"), &[txt]).unwrap_err().1.contains("`alt`"));
    assert!(found(Some("txt"), &[json]).unwrap_err().1.contains("no .txt file"));
}

#[test]
fn broken_json_file_beside_a_text_file_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let broken: (&str, &[u8]) = ("a.json", b"{\"captions\": [\"open");
    let log = Log::start();
    let source = one_sample(folder.path(), None, &[broken, ("a.txt", b"good")]);
    assert_eq!(read(source.as_ref(), 0).unwrap(), ["good"]);
    assert_eq!(read(source.as_ref(), 0).unwrap(), ["good"]);
    let said = log.lines();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("s.tar:a") && said[0].contains(".json"), "{said:?}");
    // Without a `.txt` file, or with an explicit key, it makes the sample damaged.
    for (caption, more) in [(None, vec![]), (Some("captions"), vec![("a.txt", &b"good"[..])])] {
        let source = one_sample(folder.path(), caption, &[vec![broken], more].concat());
        let (kind, reason) = read(source.as_ref(), 0).unwrap_err();
        assert!(kind == DamageKind::NoCaption && reason.contains("EOF"), "{kind}: {reason}");
    }
}

#[test]
fn entries_that_are_not_captions_are_logged() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::start();
    let source = one_sample(folder.path(), None, &[("a.json", br#"{"captions": [1, "a", null]}"#)]);
    assert_eq!(read(source.as_ref(), 0).unwrap(), ["a"]);
    read(source.as_ref(), 0).unwrap();
    assert_eq!(log.lines().len(), 1);
    assert!(log.lines()[0].contains("first 2 of") && log.lines()[0].contains("s.tar:a"), "{:?}", log.lines());
    drop(source);
    assert!(log.lines()[1].contains("4 entries"), "{:?}", log.lines());
}

#[test]
fn captions_that_are_not_utf8_are_damaged() {
    let folder = tempfile::tempdir().unwrap();
    for member in [("a.txt", &b"caf\xE9"[..]), ("a.json", b"{\"caption\": \"caf\xE9\"}")] {
        let (kind, reason) = read(one_sample(folder.path(), None, &[member]).as_ref(), 0).unwrap_err();
        assert_eq!(kind, DamageKind::NotUtf8);
        assert!(reason.contains("Latin-1") && reason.contains("iconv"), "{reason}");
    }
}

#[test]
fn members_without_a_sample_are_counted_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let picture = png([1, 2, 3], 4, 4);
    let members: &[(&str, &[u8])] = &[
        ("22.05.jpg", &picture),
        ("22.05.txt", b"of May"),
        ("22.06.jfif", &picture),
        ("22.06.txt", b"of June"),
        ("two.png", &picture),
        ("two.txt", b"two"),
        ("two.seg.png", &picture),
        ("two.cls", b"5"),
        ("three.cls", b"7"),
        ("three.jpe", &picture),
        ("three.txt", b"three"),
        ("README", b"about"),
    ];
    tar(&folder.path().join("0.tar"), members);
    tar(&folder.path().join("1.tar"), members);
    let log = Log::start();
    let source =
        open(serde_json::json!({"source": "webdataset", "shards": "{0,1}.tar"}), folder.path()).unwrap();
    let captions = (0..4).map(|index| read(source.as_ref(), index).unwrap().remove(0)).collect::<Vec<_>>();
    assert_eq!(
        (source.len(), captions),
        (8, ["of May", "of June", "two", "three"].map(String::from).to_vec())
    );
    let said = log.lines();
    assert_eq!(said.len(), 1, "{said:?}");
    for part in ["4 .cls", "2 .seg.png", "2 without a key", "0.tar:two.cls", "{0,1}.tar"] {
        assert!(said[0].contains(part), "{part}: {said:?}");
    }
}

#[test]
fn rows_with_more_fields_than_the_header_are_damaged() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.png"), png([5; 3], 3, 3)).unwrap();
    let table = "filepath,title\r\nx.png,fine,\r\nx.png,a dog, a cat\r\n\r\nx.png,\"a dog, a cat\"\r\nx.png,x,y,z\r\n";
    std::fs::write(folder.path().join("t.csv"), table).unwrap();
    let log = Log::start();
    let source = open(serde_json::json!({"source": "csv", "path": "t.csv"}), folder.path()).unwrap();
    // A separator at the end of a line truncates nothing.
    assert_eq!(read(source.as_ref(), 0).unwrap(), ["fine"]);
    assert_eq!(read(source.as_ref(), 2).unwrap(), ["a dog, a cat"]);
    for (index, parts) in [(1, ["line 3 has 3 fields", "header 2"]), (3, ["line 6 has 4 fields", "quotes"])] {
        let (kind, reason) = read(source.as_ref(), index).unwrap_err();
        assert_eq!(kind, DamageKind::ExtraFields);
        assert!(parts.iter().all(|part| reason.contains(part)), "{reason}");
    }
    let said = log.lines();
    assert_eq!(said.len(), 1, "{said:?}");
    for part in ["t.csv", "2 of 4 rows", "line 3", "quotes"] {
        assert!(said[0].contains(part), "{part}: {said:?}");
    }
}

#[test]
fn tables_that_are_not_utf8_are_refused_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    for (bytes, words) in [
        (&b"filepath,title\nx.png,caf\xE9\n"[..], ["line 2", "Latin-1"]),
        (b"\xFF\xFEf\0i\0", ["line 1", "UTF-16"]),
    ] {
        std::fs::write(folder.path().join("t.csv"), bytes).unwrap();
        let error = open(serde_json::json!({"source": "csv", "path": "t.csv"}), folder.path()).err().unwrap();
        assert!(matches!(error, Error::NotUtf8 { .. }), "{error}");
        let said = error.to_string();
        assert!(words.iter().all(|word| said.contains(word)) && said.contains("t.csv"), "{said}");
    }
    std::fs::write(folder.path().join("t.csv"), b"\xEF\xBB\xBFfilepath,title\nx.png,a\n").unwrap();
    assert_eq!(open(serde_json::json!({"source": "csv", "path": "t.csv"}), folder.path()).unwrap().len(), 1);
}

#[test]
fn skipped_images_are_counted_by_kind_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let picture = png([5; 3], 3, 3);
    for (name, bytes) in [
        ("data/cat/0.png", &picture[..]),
        ("data/cat/1", &picture),
        ("data/cat/2.tif", b"II*\0"),
        ("data/dog/0.jfif", &picture),
        ("data/dog/1.avif", b"x"),
        ("data/dog/2.TIF", b"x"),
        ("data/dog/notes.txt", b"x"),
        ("data/stray.png", &picture),
    ] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let log = Log::start();
    let config = serde_json::json!({"source": "folder", "root": "data"});
    let source = open(config.clone(), folder.path()).unwrap();
    assert_eq!((source.len(), source.class_names().unwrap()), (3, &["cat".to_string(), "dog".into()][..]));
    let said = log.lines();
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].contains("2 .tif, 1 .avif") && said[0].contains("cat/2.tif"), "{said:?}");
    assert!(said[1].contains("1 images") && said[1].contains("stray.png"), "{said:?}");
    assert!(said[2].contains("1 .txt"), "{said:?}");
    // Opening the source again does not repeat the message.
    open(config, folder.path()).unwrap();
    assert_eq!(log.lines().len(), 3);
    let log = Log::start();
    assert_eq!(Images::open(folder.path().join("data/dog")).unwrap().len(), 1);
    assert!(log.lines()[0].contains("1 .avif, 1 .tif"), "{:?}", log.lines());
}

#[test]
fn classes_with_equal_names_are_listed_once() {
    let folder = tempfile::tempdir().unwrap();
    for class in ["n1", "n2", "n3"] {
        std::fs::create_dir_all(folder.path().join("data").join(class)).unwrap();
        std::fs::write(folder.path().join("data").join(class).join("0.png"), png([0; 3], 2, 2)).unwrap();
    }
    std::fs::write(folder.path().join("names.csv"), "folder,name\nn1,crane\nn2,cat\nn3,Crane\n").unwrap();
    let log = Log::start();
    open(serde_json::json!({"source": "folder", "root": "data", "classes": "names.csv"}), folder.path())
        .unwrap();
    let said = log.lines();
    assert_eq!(said.len(), 1, "{said:?}");
    for part in ["names.csv", "`n1` (crane) = `n3` (Crane)", "first one wins"] {
        assert!(said[0].contains(part), "{part}: {said:?}");
    }
}

#[test]
fn class_folder_with_a_name_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let class = folder.path().join("data").join(std::ffi::OsStr::from_bytes(b"caf\xE9"));
    std::fs::create_dir_all(&class).unwrap();
    std::fs::write(class.join("0.png"), png([0; 3], 2, 2)).unwrap();
    let error = open(serde_json::json!({"source": "folder", "root": "data"}), folder.path()).err().unwrap();
    assert!(error.to_string().contains("not UTF-8"), "{error}");
}
