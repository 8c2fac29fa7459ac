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
    // The line about one sample states all there is.
    drop(source);
    assert_eq!(log.lines().len(), 1, "{:?}", log.lines());
    let image = png([1; 3], 2, 2);
    let captions: &[u8] = br#"{"captions": [1, "a", null]}"#;
    let members = [("a.png", &image[..]), ("a.json", captions), ("b.png", &image), ("b.json", captions)];
    tar(&folder.path().join("two.tar"), &members);
    let config = serde_json::json!({"source": "webdataset", "shards": "two.tar"});
    let source = open(config, folder.path()).unwrap();
    let log = Log::start();
    for index in [0, 1, 0, 1] {
        read(source.as_ref(), index).unwrap();
    }
    drop(source);
    assert_eq!(log.lines().len(), 2, "{:?}", log.lines());
    assert!(
        log.lines()[1].contains("4 entries") && log.lines()[1].contains("2 samples"),
        "{:?}",
        log.lines()
    );
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
        ("two.npy", b"5"),
        ("three.npy", b"7"),
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
    for part in ["4 .npy", "2 .seg.png", "2 without a key", "0.tar:two.npy", "{0,1}.tar"] {
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
    // A trailing separator adds no field.
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
fn tables_in_another_encoding_are_refused_unless_it_is_set() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.png"), png([5; 3], 3, 3)).unwrap();
    let write = |bytes: &[u8]| std::fs::write(folder.path().join("t.csv"), bytes).unwrap();
    let config = serde_json::json!({"source": "csv", "path": "t.csv"});
    write(b"filepath,title\nx.png,caf\xE9\n");
    let error = open(config.clone(), folder.path()).err().unwrap();
    assert!(matches!(error, Error::NotUtf8 { .. }), "{error}");
    let said = error.to_string();
    for part in ["t.csv", "line 2", "Latin-1", "encoding = \"latin-1\""] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let mut named = config.clone();
    named["encoding"] = "latin-1".into();
    assert_eq!(read(open(named.clone(), folder.path()).unwrap().as_ref(), 0).unwrap(), ["café"]);
    named["encoding"] = "utf-8".into();
    assert!(matches!(open(named, folder.path()), Err(Error::NotUtf8 { .. })));
    // UTF-16 shows in the first bytes, and is logged.
    write(
        &"\u{FEFF}filepath,title\nx.png,café\n".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>(),
    );
    let log = Log::start();
    assert_eq!(read(open(config.clone(), folder.path()).unwrap().as_ref(), 0).unwrap(), ["café"]);
    assert!(log.lines()[0].contains("encoding = \"utf-16\""), "{:?}", log.lines());
    write(b"\xEF\xBB\xBFfilepath,title\nx.png,a\n");
    assert_eq!(open(config, folder.path()).unwrap().len(), 1);
}

#[test]
fn skipped_images_are_counted_by_kind_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let picture = png([5; 3], 3, 3);
    for (name, bytes) in [
        ("data/cat/0.png", &picture[..]),
        ("data/cat/1", &picture),
        ("data/cat/2.heic", b"x"),
        ("data/dog/0.jfif", &picture),
        ("data/dog/1.avif", b"x"),
        ("data/dog/2.HEIC", b"x"),
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
    assert!(said[0].contains("2 .heic, 1 .avif") && said[0].contains("cat/2.heic"), "{said:?}");
    assert!(said[1].contains("1 images") && said[1].contains("stray.png"), "{said:?}");
    assert!(said[2].contains("1 .txt"), "{said:?}");
    // Opening the source again does not repeat the message.
    open(config, folder.path()).unwrap();
    assert_eq!(log.lines().len(), 3);
    let log = Log::start();
    assert_eq!(Images::open(folder.path().join("data/dog")).unwrap().len(), 1);
    assert!(log.lines()[0].contains("1 .avif, 1 .heic"), "{:?}", log.lines());
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

#[test]
fn members_of_a_tar_in_any_order_are_matched_by_key() {
    let folder = tempfile::tempdir().unwrap();
    let (red, blue) = (png([255, 0, 0], 4, 4), png([0, 0, 255], 4, 4));
    let path = folder.path().join("s.tar");
    tar(
        &path,
        &[
            ("a.png", &red),
            ("b.png", &blue),
            ("22.05.png", &red),
            ("a.txt", b"red"),
            ("22.05.txt", b"of May"),
            ("b.txt", b"blue"),
        ],
    );
    let log = Log::start();
    let source = open(serde_json::json!({"source": "webdataset", "shards": "s.tar"}), folder.path()).unwrap();
    let samples = (0..source.len()).map(|index| source.read(index, 0).unwrap()).collect::<Vec<_>>();
    let captions = samples.iter().map(|sample| sample.captions[0].as_str()).collect::<Vec<_>>();
    assert_eq!(captions, ["red", "blue", "of May"]);
    for (sample, image) in samples.iter().zip([&red, &blue, &red]) {
        assert!(
            matches!(&sample.image, data_pipeline::RawImage::Encoded(bytes) if bytes == image),
            "{}",
            sample.key
        );
    }
    let said = log.lines();
    assert!(said.len() == 1 && said[0].contains("not grouped by key"), "{said:?}");
    // A shard that ends inside a text loses only this sample, even if its image is far away.
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1534]).unwrap();
    let source = open(serde_json::json!({"source": "webdataset", "shards": "s.tar"}), folder.path()).unwrap();
    let captions = (0..source.len()).map(|index| read(source.as_ref(), index).unwrap().remove(0));
    assert_eq!(captions.collect::<Vec<_>>(), ["red", "of May"]);
    assert_eq!(source.corrupt_shards().unwrap().broken.len(), 1);
}

#[test]
fn second_image_of_a_key_is_left_out_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (png([1; 3], 4, 4), png([2; 3], 4, 4));
    tar(
        &folder.path().join("s.tar"),
        &[("k.png", &first), ("k.jpg", &second), ("k.txt", b"two"), ("l.png", &first), ("l.txt", b"one")],
    );
    let log = Log::start();
    let source = open(serde_json::json!({"source": "webdataset", "shards": "s.tar"}), folder.path()).unwrap();
    assert_eq!(source.len(), 2);
    let sample = source.read(0, 0).unwrap();
    assert!(matches!(&sample.image, data_pipeline::RawImage::Encoded(bytes) if *bytes == second));
    assert_eq!(sample.captions, ["two"]);
    assert!(
        log.lines()[0].contains("1 second images of a key") && log.lines()[0].contains("k.png"),
        "{:?}",
        log.lines()
    );
}

#[test]
fn other_extensions_of_captions_are_named_and_can_be_set() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::start();
    let source = one_sample(folder.path(), None, &[("a.caption", b"hello")]);
    assert!(
        log.lines()[0].contains("1 .caption") && log.lines()[0].contains("caption = \".EXTENSION\""),
        "{:?}",
        log.lines()
    );
    assert_eq!(read(source.as_ref(), 0).unwrap_err().0, DamageKind::NoCaption);
    let source = one_sample(folder.path(), Some(".caption"), &[("a.caption", b"hello"), ("a.json", b"{}")]);
    assert_eq!(read(source.as_ref(), 0).unwrap(), ["hello"]);
    let (_, reason) = read(one_sample(folder.path(), Some(".cap"), &[]).as_ref(), 0).unwrap_err();
    assert!(reason.contains("no .cap file"), "{reason}");
}

#[test]
fn class_members_become_labels_and_captions() {
    let folder = tempfile::tempdir().unwrap();
    let picture = png([1, 2, 3], 4, 4);
    std::fs::create_dir(folder.path().join("test")).unwrap();
    tar(
        &folder.path().join("test/0.tar"),
        &[
            ("s0.png", &picture),
            ("s0.cls", b"1\n"),
            ("s1.png", &picture),
            ("s1.cls", b"2"),
            ("s2.png", &picture),
            ("s2.cls", b"cat"),
            ("s3.png", &picture),
            ("s3.cls", b"0"),
            ("s3.txt", b"its own caption"),
        ],
    );
    let config = serde_json::json!({"source": "webdataset", "shards": "test"});
    let (kind, reason) = read(open(config.clone(), folder.path()).unwrap().as_ref(), 0).unwrap_err();
    assert!(kind == DamageKind::NoCaption && reason.contains("classes = \"FILE\""), "{reason}");
    // CLIP_benchmark's list lies in the parent folder.
    std::fs::write(folder.path().join("classnames.txt"), "tench\ngreat white shark\n").unwrap();
    let source = open(config.clone(), folder.path()).unwrap();
    assert_eq!(source.class_names().unwrap(), ["tench", "great white shark"]);
    let sample = source.read(0, 0).unwrap();
    assert_eq!(
        (sample.label, sample.captions),
        (Some(1), vec!["a photo of a great white shark.".to_string()])
    );
    for (index, words) in [(1, "the class is 2, but there are 2"), (2, "`cat` instead of the number")] {
        let (kind, reason) = read(source.as_ref(), index).unwrap_err();
        assert!(kind == DamageKind::Label && reason.contains(words), "{kind}: {reason}");
    }
    let sample = source.read(3, 0).unwrap();
    assert_eq!((sample.label, sample.captions), (Some(0), vec!["its own caption".to_string()]));
    std::fs::write(folder.path().join("mine.txt"), "a\nb\nc\n").unwrap();
    let mut named = config;
    named["classes"] = "mine.txt".into();
    named["templates"] = serde_json::json!(["{}!"]);
    assert_eq!(read(open(named.clone(), folder.path()).unwrap().as_ref(), 1).unwrap(), ["c!"]);
    named["templates"] = serde_json::json!(["no place"]);
    assert!(open(named, folder.path()).is_err());
}

#[test]
fn shards_in_another_format_are_recognised() {
    let folder = tempfile::tempdir().unwrap();
    for (bytes, words) in [
        (&b"\x1F\x8B\x08\0\0\0\0\0"[..], "gzip: unpack"),
        (b"\x28\xB5\x2F\xFDxxxxxxxx", "zstd"),
        (b"PK\x03\x04xxxxxxxx", "zip"),
        (b"PAR1xxxxxxxx", "source = \"parquet\""),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "web page"),
    ] {
        std::fs::write(folder.path().join("s.tar"), bytes).unwrap();
        let error = open(serde_json::json!({"source": "webdataset", "shards": "s.tar"}), folder.path())
            .err()
            .unwrap();
        assert!(matches!(error, Error::Format { .. }), "{error}");
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
    for address in ["https://host/{0..9}.tar", "s3://bucket/x.tar", "pipe:curl -s x"] {
        let error = open(serde_json::json!({"source": "webdataset", "shards": address}), folder.path())
            .err()
            .unwrap();
        assert!(matches!(error, Error::Remote { .. }), "{error}");
        assert!(error.to_string().contains("not supported yet"), "{error}");
    }
}

/// img2dataset's `files` output: a folder of numbered folders, with statistics beside them.
fn img2dataset_files(folder: &Path) {
    let picture = png([1, 2, 3], 4, 4);
    for (name, bytes) in [
        ("00000/000000000.jpg", &picture[..]),
        ("00000/000000000.txt", b"of txt"),
        ("00000/000000000.json", br#"{"caption": "of json", "punsafe": NaN}"#),
        ("00000/000000001.jpg", &picture),
        ("00000/000000001.json", br#"{"caption": "of json alone"}"#),
        ("00001/000010000.webp", &picture),
        ("00001/000010000.txt", b"caf\xE9"),
        ("00001/000010001.jpg", &picture),
        ("00001/000010002.txt", b"its image is missing"),
        ("00001/000010003.avif", b"x"),
        ("00000_stats.json", b"{}"),
        ("00000.parquet", b"PAR1"),
    ] {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn images_with_captions_beside_them_are_samples() {
    let folder = tempfile::tempdir().unwrap();
    img2dataset_files(&folder.path().join("out"));
    let log = Log::start();
    let config = serde_json::json!({"source": "files", "root": "out"});
    let source = open(config.clone(), folder.path()).unwrap();
    assert_eq!(source.len(), 4);
    assert_eq!(read(source.as_ref(), 0).unwrap(), ["of txt"]);
    assert_eq!(read(source.as_ref(), 1).unwrap(), ["of json alone"]);
    assert_eq!(read(source.as_ref(), 2).unwrap_err().0, DamageKind::NotUtf8);
    assert_eq!(read(source.as_ref(), 3).unwrap_err().0, DamageKind::NoCaption);
    let said = log.lines().join("\n");
    for part in ["1 .avif", "1 .parquet", "1 .json, 1 .txt", "000010002.txt"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let mut by_key = config;
    by_key["caption"] = "caption".into();
    assert_eq!(read(open(by_key, folder.path()).unwrap().as_ref(), 0).unwrap(), ["of json"]);
    // A folder for the source `webdataset` without tars names the other sources.
    let error =
        open(serde_json::json!({"source": "webdataset", "shards": "out"}), folder.path()).err().unwrap();
    assert!(error.to_string().contains("source = \"files\""), "{error}");
}
