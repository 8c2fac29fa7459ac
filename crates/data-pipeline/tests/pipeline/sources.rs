//! Sources: their samples, and their errors for broken, missing and empty data.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use crate::common::{png, tar};
use data_pipeline::sample::RawImage;
use data_pipeline::sources::{Source, SourceConfig};
use data_pipeline::{DamageKind, Error, Result};

fn open(config: serde_json::Value, base: &Path) -> Result<Arc<dyn Source>> {
    serde_json::from_value::<SourceConfig>(config).unwrap().open(base)
}

fn error(config: serde_json::Value, base: &Path) -> String {
    match open(config, base) {
        Ok(source) => panic!("`{}` opened", source.name()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn webdataset_groups_files_and_reads_captions() {
    let folder = tempfile::tempdir().unwrap();
    let picture = png([1, 2, 3], 4, 4);
    let at = |name: &str| folder.path().join(name);
    tar(
        &at("s-00.tar"),
        &[
            ("one.jpg", &picture),
            ("one.txt", b"a text\n"),
            ("one.json", br#"{"captions": ["first", "second"], "alt": "other"}"#),
            ("dir/two.seg.png", b"not read"),
            ("dir/two.png", &picture),
            ("dir/two.txt", "café\r\n".as_bytes()),
            ("three.txt", b"no picture"),
        ],
    );
    tar(&at("s-01.tar"), &[("four.webp", &picture), ("five.png", &picture), ("five.json", b"{broken")]);
    let source =
        open(serde_json::json!({"source": "webdataset", "shards": "s-{00..01}.tar"}), folder.path()).unwrap();
    assert_eq!(source.len(), 5);
    assert_eq!(source.read(0, 0).unwrap().captions, ["first", "second"]);
    assert!(source.read(0, 0).unwrap().key.ends_with("s-00.tar:one"));
    assert_eq!(source.read(1, 0).unwrap().captions, ["café"]);
    let kind = |index| match source.read(index, 0) {
        Err(Error::Sample { kind, .. }) => kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        [kind(2), kind(3), kind(4)],
        [DamageKind::NoImage, DamageKind::NoCaption, DamageKind::NoCaption]
    );
    let with = |caption: &str| {
        let config = serde_json::json!({"source": "webdataset", "shards": "s-00.tar", "caption": caption});
        open(config, folder.path()).unwrap().read(0, 0).map(|sample| sample.captions)
    };
    assert_eq!(with("txt").unwrap(), ["a text"]);
    assert_eq!(with("alt").unwrap(), ["other"]);
    assert!(with("nothing").unwrap_err().to_string().contains("nothing"));
    let missing = serde_json::json!({"source": "webdataset", "shards": "none.tar"});
    assert!(
        matches!(open(missing, folder.path()), Err(Error::Io { path, .. }) if path.ends_with("none.tar"))
    );
}

#[test]
fn table_paths_start_at_the_folder_of_the_table() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.png"), png([5; 3], 3, 3)).unwrap();
    let write = |name: &str, text: &[u8]| std::fs::write(folder.path().join(name), text).unwrap();
    write("t.csv", b"filepath,title\nx.png,\"a, quoted\"\nx.png,again\nmissing.png,gone\nx.png,\n");
    write("t.tsv", b"img\tcap\nx.png\ta\n");
    let source = open(serde_json::json!({"source": "csv", "path": "t.csv"}), folder.path()).unwrap();
    assert_eq!(source.read(0, 0).unwrap().captions, ["a, quoted"]);
    assert_eq!(source.read(1, 0).unwrap().captions, ["again"]);
    assert!(matches!(source.read(2, 0), Err(Error::Sample { kind: DamageKind::Unreadable, .. })));
    assert!(matches!(source.read(3, 0), Err(Error::Sample { kind: DamageKind::NoCaption, .. })));
    let tsv = serde_json::json!({"source": "csv", "path": "t.tsv", "image": "img", "caption": "cap"});
    assert_eq!(open(tsv, folder.path()).unwrap().read(0, 0).unwrap().captions, ["a"]);
    write("open.csv", b"filepath,title\nx.png,fine\nx.png,\"two\nlines\"\nx.png,\"open\nx.png,swallowed\n");
    let message = error(serde_json::json!({"source": "csv", "path": "open.csv"}), folder.path());
    assert!(message.contains("line 5") && message.contains("open.csv"), "{message}");
    let wrong = serde_json::json!({"source": "csv", "path": "t.csv", "caption": "text"});
    assert!(error(wrong, folder.path()).contains("`title`"));
}

#[test]
fn class_folders_become_classes() {
    let folder = tempfile::tempdir().unwrap();
    for (class, count) in [("n02", 5), ("n01", 3), ("n03", 1)] {
        std::fs::create_dir_all(folder.path().join("data").join(class).join("images")).unwrap();
        for i in 0..count {
            std::fs::write(
                folder.path().join("data").join(class).join(format!("images/{i}.png")),
                png([i; 3], 2, 2),
            )
            .unwrap();
        }
        std::fs::write(folder.path().join("data").join(class).join("notes.txt"), "no picture").unwrap();
    }
    std::fs::write(
        folder.path().join("names.csv"),
        "folder,name\nn01,tench\nn02,great white shark\nn03,crane\n",
    )
    .unwrap();
    let base = serde_json::json!({
        "source": "folder", "root": "data", "classes": "names.csv",
        "templates": ["a photo of a {}.", "{}"], "exclude_classes": ["crane"],
    });
    let with = |changes: &[(&str, serde_json::Value)]| {
        let mut config = base.clone();
        changes.iter().for_each(|(key, value)| config[*key] = value.clone());
        config
    };
    let source = open(base.clone(), folder.path()).unwrap();
    assert_eq!(source.class_names().unwrap(), ["tench", "great white shark"]);
    assert_eq!(source.len(), 8);
    let sample = source.read(7, 0).unwrap();
    assert_eq!(
        (sample.label, sample.captions),
        (Some(1), vec!["a photo of a great white shark.".into(), "great white shark".into()])
    );
    let count = |subset: &str| {
        open(with(&[("every", 2.into()), ("subset", subset.into())]), folder.path()).unwrap().len()
    };
    let all = open(with(&[]), folder.path()).unwrap().len();
    assert_eq!((count("every"), count("rest"), all), (5, 3, 8));
    for (changes, word) in [
        (vec![("templates", serde_json::json!(["no place"]))], "{}"),
        (vec![("subset", "rest".into())], "need each other"),
        (vec![("every", 2.into())], "need each other"),
        (vec![("root", "nowhere".into())], "nowhere"),
        (vec![("exclude_classes", serde_json::json!(["n01", "n02", "n03"]))], "no sample"),
        (vec![("exclude_classes", serde_json::json!(["crane", "cranes"]))], "`cranes`"),
    ] {
        let message = error(with(&changes), folder.path());
        assert!(message.contains(word), "{message}");
    }
    std::fs::write(folder.path().join("names.csv"), "folder,name\nn01,tench\n").unwrap();
    assert!(error(base, folder.path()).contains("n02"));
}

#[test]
fn folders_without_images_are_not_classes() {
    let folder = tempfile::tempdir().unwrap();
    for path in ["cat/0.png", "dog/deep/0.png", ".git/0.png", "__MACOSX/cat/._0.png", "empty/notes.txt"] {
        let path = folder.path().join("data").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, png([0; 3], 2, 2)).unwrap();
    }
    // A link to the root would be a class of all images.
    std::os::unix::fs::symlink(".", folder.path().join("data/loop")).unwrap();
    let source = open(serde_json::json!({"source": "folder", "root": "data"}), folder.path()).unwrap();
    assert_eq!(source.class_names().unwrap(), ["cat", "dog"]);
    assert_eq!(source.len(), 2);
}

#[test]
fn class_names_may_be_equal_but_not_empty() {
    let folder = tempfile::tempdir().unwrap();
    for class in ["n1", "n2"] {
        std::fs::create_dir_all(folder.path().join("data").join(class)).unwrap();
        std::fs::write(folder.path().join("data").join(class).join("0.png"), png([0; 3], 2, 2)).unwrap();
    }
    let config = serde_json::json!({"source": "folder", "root": "data", "classes": "names.csv"});
    for (table, words) in [
        ("n1,crane\nn2,\n", vec!["`n2`", "empty", "names.csv"]),
        ("n1,crane\nn2,bird\nn1,digger\n", vec!["`n1`", "`crane`", "`digger`"]),
        ("n1,\"crane\nn2,bird\n", vec!["line 2", "never closed"]),
    ] {
        std::fs::write(folder.path().join("names.csv"), format!("folder,name\n{table}")).unwrap();
        let message = error(config.clone(), folder.path());
        for word in words {
            assert!(message.contains(word), "{word}: {message}");
        }
    }
    // Two folders with the same name stay two classes, like two of ImageNet's.
    std::fs::write(folder.path().join("names.csv"), "folder,name\nn1,crane\nn2,crane\n").unwrap();
    let both = open(config.clone(), folder.path()).unwrap();
    assert_eq!(both.class_names().unwrap(), ["crane", "crane"]);
    assert_eq!([0, 1].map(|index| both.read(index, 0).unwrap().label), [Some(0), Some(1)]);
    assert_eq!(both.read(1, 0).unwrap().captions, ["a photo of a crane."]);
    let mut without = config;
    without["exclude_classes"] = serde_json::json!(["n1"]);
    assert_eq!(open(without, folder.path()).unwrap().class_names().unwrap(), ["crane"]);
}

fn cifar_100_record(coarse: u8, fine: u8) -> Vec<u8> {
    let mut record = vec![coarse, fine];
    record.extend([[10u8; 1024], [20; 1024], [30; 1024]].concat());
    record
}

#[test]
fn cifar_archives_are_read_packed_and_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("cifar-100-binary");
    std::fs::create_dir(&inner).unwrap();
    let records = [cifar_100_record(1, 2), cifar_100_record(0, 0)].concat();
    std::fs::write(inner.join("test.bin"), &records).unwrap();
    std::fs::write(inner.join("fine_label_names.txt"), "apple\naquarium_fish\nbaby\n").unwrap();
    std::fs::write(inner.join("coarse_label_names.txt"), "aquatic_mammals\nfish\n").unwrap();
    let config = |path: &str, labels: &str| serde_json::json!({"source": "cifar100", "path": path, "split": "test", "labels": labels, "templates": ["{}"]});
    let archive = folder.path().join("cifar-100-binary.tar.gz");
    let mut plain = tar::Builder::new(Vec::new());
    plain.append_dir_all("cifar-100-binary", &inner).unwrap();
    let mut packed =
        flate2::write::GzEncoder::new(std::fs::File::create(&archive).unwrap(), flate2::Compression::fast());
    packed.write_all(&plain.into_inner().unwrap()).unwrap();
    packed.finish().unwrap();
    for path in ["cifar-100-binary", "cifar-100-binary.tar.gz"] {
        let source = open(config(path, "fine"), folder.path()).unwrap();
        assert_eq!(source.len(), 2);
        let sample = source.read(0, 0).unwrap();
        assert_eq!((sample.label, sample.captions), (Some(2), vec!["baby".to_string()]));
        let RawImage::Rgb(image) = sample.image else { panic!("CIFAR holds pixels") };
        assert_eq!(&image.pixels[..6], [10, 20, 30, 10, 20, 30]);
        let source = open(config(path, "coarse"), folder.path()).unwrap();
        assert_eq!(source.read(0, 0).unwrap().captions, ["fish"]);
    }
    std::fs::write(inner.join("test.bin"), &records[..100]).unwrap();
    assert!(error(config("cifar-100-binary", "fine"), folder.path()).contains("multiple"));
    std::fs::write(inner.join("test.bin"), cifar_100_record(0, 99)).unwrap();
    assert!(error(config("cifar-100-binary", "fine"), folder.path()).contains("99"));
    let bytes = std::fs::read(&archive).unwrap();
    std::fs::write(&archive, &bytes[..bytes.len() / 2]).unwrap();
    error(config("cifar-100-binary.tar.gz", "fine"), folder.path());
}

#[test]
fn python_version_of_cifar_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("cifar-10-batches-py");
    std::fs::create_dir(&inner).unwrap();
    for name in ["batches.meta", "data_batch_1", "readme.html", "test_batch"] {
        std::fs::write(inner.join(name), b"\x80\x02x").unwrap();
    }
    let archive = folder.path().join("cifar-10-python.tar.gz");
    let mut plain = tar::Builder::new(Vec::new());
    plain.append_dir_all("cifar-10-batches-py", &inner).unwrap();
    let mut packed =
        flate2::write::GzEncoder::new(std::fs::File::create(&archive).unwrap(), flate2::Compression::fast());
    packed.write_all(&plain.into_inner().unwrap()).unwrap();
    packed.finish().unwrap();
    for path in ["cifar-10-batches-py", "cifar-10-python.tar.gz"] {
        let message = error(serde_json::json!({"source": "cifar10", "path": path}), folder.path());
        assert!(
            message.contains("Python version") && message.contains("cifar-10-binary.tar.gz"),
            "{message}"
        );
    }
}

#[test]
fn unknown_settings_are_refused() {
    for config in [
        r#"{"source": "emoji", "splitt": "train"}"#,
        r#"{"source": "folder", "root": "x", "unheard_of": 1}"#,
        r#"{"source": "nonsense"}"#,
    ] {
        assert!(serde_json::from_str::<SourceConfig>(config).is_err(), "{config}");
    }
}

#[test]
fn karpathy_splits_have_all_captions() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("val2014")).unwrap();
    std::fs::write(folder.path().join("val2014/a.png"), png([1, 2, 3], 4, 4)).unwrap();
    let json = r#"{"images": [
        {"filename": "a.png", "filepath": "val2014", "split": "test", "sentences": [{"raw": "one "}, {"raw": "two"}]},
        {"filename": "b.png", "split": "restval", "sentences": [{"raw": "three"}]}], "dataset": "coco"}"#;
    std::fs::write(folder.path().join("splits.json"), json).unwrap();
    let open = |split: &str| {
        let config = format!(
            r#"{{"source": "karpathy", "annotations": "splits.json", "images": ".", "split": "{split}"}}"#
        );
        serde_json::from_str::<SourceConfig>(&config).unwrap().open(folder.path())
    };
    let test = open("test").unwrap();
    assert_eq!(test.len(), 1);
    assert_eq!(test.read(0, 0).unwrap().captions, ["one", "two"]);
    // COCO's restval belongs to training. Its image is missing, so the sample is damaged.
    assert!(matches!(open("train").unwrap().read(0, 0), Err(Error::Sample { .. })));
    assert!(matches!(open("val"), Err(Error::Empty(_))));
    std::fs::write(folder.path().join("splits.json"), "[]").unwrap();
    assert!(matches!(open("test"), Err(Error::Format { .. })));
}

#[test]
fn list_assigns_the_images_of_a_flat_folder_to_classes() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("images")).unwrap();
    for name in ["x.png", "y.png"] {
        std::fs::write(folder.path().join("images").join(name), png([9, 9, 9], 4, 4)).unwrap();
    }
    std::fs::write(folder.path().join("labels.txt"), "x.png\tn2\t0\t0\ny.png\tn1\t0\t0\n").unwrap();
    std::fs::write(folder.path().join("words.txt"), "n1\tgoldfish, Carassius\nn2\ttabby, tabby cat\n")
        .unwrap();
    let config = r#"{"source": "folder", "root": "images", "labels": "labels.txt", "classes": "words.txt"}"#;
    let source = serde_json::from_str::<SourceConfig>(config).unwrap().open(folder.path()).unwrap();
    assert_eq!(source.class_names().unwrap(), ["goldfish", "tabby"]);
    assert_eq!(source.read(0, 0).unwrap().captions, ["a photo of a goldfish."]);
    for (file, bytes, word) in [
        ("words.txt", &b"n1\tgoldfish\n\nn2 tabby\n"[..], "line 3"),
        ("words.txt", b"n1\tgoldfish\nn2\tch\xE2t\n", "line 2 is not UTF-8"),
        ("labels.txt", b"x.png n2\n", "line 1"),
        ("labels.txt", b"x.png\tn2\ny\xE9.png\tn1\n", "line 2 is not UTF-8"),
    ] {
        let good = std::fs::read(folder.path().join(file)).unwrap();
        std::fs::write(folder.path().join(file), bytes).unwrap();
        let error = serde_json::from_str::<SourceConfig>(config).unwrap().open(folder.path()).err().unwrap();
        assert!(error.to_string().contains(word) && error.to_string().contains(file), "{error}");
        std::fs::write(folder.path().join(file), good).unwrap();
    }
}
