//! CLIP_benchmark's data sets on disk: classes, captions, shards, splits and malformed files.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::common::{png, tar};
use data_pipeline::evaluation::EvalBatches;
use data_pipeline::policy::ErrorPolicy;
use data_pipeline::sources::{ClipBenchmark, ClipBenchmarkConfig, WebDatasetConfig};
use data_pipeline::{DamageKind, Error, Preprocess, Source, find_damaged};

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Writes a shard of images with classes, from the sample `first`.
fn labelled(path: &Path, first: usize, labels: &[&str]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let picture = png([1, 2, 3], 4, 4);
    let names = (0..labels.len()).map(|i| format!("s{:07}", first + i)).collect::<Vec<_>>();
    let members = names.iter().zip(labels).flat_map(|(name, label)| {
        [(format!("{name}.png"), picture.as_slice()), (format!("{name}.cls"), label.as_bytes())]
    });
    let members = members.collect::<Vec<_>>();
    tar(path, &members.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect::<Vec<_>>());
}

/// Writes a data set of two classes with two shards.
fn pets(folder: &Path) {
    write(&folder.join("classnames.txt"), "tabby cat\nGreat Dane\n");
    write(&folder.join("zeroshot_classification_templates.txt"), "a photo of a {c}.\na {c}, a pet\n");
    write(&folder.join("test/nshards.txt"), "2\n");
    labelled(&folder.join("test/0.tar"), 0, &["0", "1", "1"]);
    labelled(&folder.join("test/1.tar"), 3, &["0\n"]);
}

fn open(path: &Path, split: &str) -> Result<ClipBenchmark, Error> {
    ClipBenchmark::open(&ClipBenchmarkConfig::new(path.display().to_string()).with_split(split), "")
}

fn labels(source: &ClipBenchmark) -> Vec<Option<usize>> {
    (0..source.len()).map(|index| source.read(index, 0).unwrap().label).collect()
}

#[test]
fn classes_names_and_templates_of_all_shards_are_read() {
    let folder = tempfile::tempdir().unwrap();
    pets(folder.path());
    let source = open(folder.path(), "test").unwrap();
    assert_eq!(labels(&source), [Some(0), Some(1), Some(1), Some(0)]);
    assert_eq!(source.class_names().unwrap(), ["tabby cat", "Great Dane"]);
    assert_eq!(source.templates().unwrap(), ["a photo of a {}.", "a {}, a pet"]);
    let sample = source.read(1, 0).unwrap();
    assert_eq!(sample.captions, ["a photo of a Great Dane.", "a Great Dane, a pet"]);
    assert!(sample.key.ends_with("0.tar:s0000001"), "{}", sample.key);
    // More than ten shards are read in the order of their numbers, also without nshards.txt.
    fs::remove_file(folder.path().join("test/nshards.txt")).unwrap();
    for number in 2..12 {
        labelled(&folder.path().join(format!("test/{number}.tar")), number, &["1"]);
    }
    let source = open(folder.path(), "test").unwrap();
    assert!(source.read(13, 0).unwrap().key.contains("11.tar"));
    fs::remove_file(folder.path().join("classnames.txt")).unwrap();
    fs::remove_file(folder.path().join("zeroshot_classification_templates.txt")).unwrap();
    assert_eq!(open(folder.path(), "test").unwrap().class_count(), Some(2));
    assert!(ClipBenchmark::is_here(folder.path()) && !ClipBenchmark::is_here(folder.path().join("none")));
}

#[test]
fn folders_of_shards_and_single_shards_find_the_class_names_above_them() {
    let folder = tempfile::tempdir().unwrap();
    pets(folder.path());
    for path in ["test", "test/0.tar", "test/{0..1}.tar"] {
        let source = open(&folder.path().join(path), "test").unwrap();
        assert_eq!(source.class_names().unwrap().len(), 2, "{path}");
        assert_eq!(source.len(), if path.ends_with("0.tar") { 3 } else { 4 });
    }
    let alone = tempfile::tempdir().unwrap();
    let shard = alone.path().join("x/y/a.tar");
    labelled(&shard, 0, &["0", "2"]);
    let source = open(&shard, "test").unwrap();
    assert_eq!((source.class_names(), source.class_count()), (None, Some(3)));
    assert!(WebDatasetConfig::new(shard.display().to_string()).has_only_classes("").unwrap());
}

#[test]
fn each_line_of_a_text_is_a_caption() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("dataset_type.txt"), "retrieval\n");
    write(&folder.path().join("test/nshards.txt"), "1");
    let (picture, texts) = (png([9, 9, 9], 3, 3), "A dog runs.\nA brown dog .\n\nTwo\\nlines\n");
    let members = [
        ("s0000000.png", picture.as_slice()),
        ("s0000000.txt", texts.as_bytes()),
        ("s0000001.png", &picture),
        ("s0000001.txt", b" \n"),
    ];
    tar(&folder.path().join("test/0.tar"), &members);
    let source = open(folder.path(), "test").unwrap();
    assert_eq!((source.class_names(), source.class_count(), source.templates()), (None, None, None));
    assert_eq!(source.read(0, 0).unwrap().captions, ["A dog runs.", "A brown dog .", "Two\\nlines"]);
    let error = source.read(1, 0).unwrap_err();
    assert!(matches!(error, Error::Sample { kind: DamageKind::NoCaption, .. }), "{error}");
    let shard = folder.path().join("test/0.tar").display().to_string();
    assert!(!WebDatasetConfig::new(shard).has_only_classes("").unwrap());
}

#[test]
fn malformed_and_missing_files_are_named() {
    let case = |change: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        pets(folder.path());
        change(folder.path());
        match open(folder.path(), "test") {
            Ok(source) => find_damaged(&source, &mut |_| {}).unwrap().to_string(),
            Err(error) => format!("{error}"),
        }
    };
    type Change<'a> = &'a dyn Fn(&Path);
    let cases: [(Change<'_>, &[&str]); 9] = [
        (&|f| write(&f.join("classnames.txt"), "cat\n"), &["class 1", "1 names"]),
        (&|f| write(&f.join("classnames.txt"), "cat\n\ndog\n"), &["classnames.txt", "line 2 is empty"]),
        (&|f| write(&f.join("zeroshot_classification_templates.txt"), "a cat\n"), &["`a cat`", "{c}"]),
        (&|f| write(&f.join("test/nshards.txt"), "two"), &["nshards.txt", "`two`"]),
        (
            &|f| write(&f.join("test/nshards.txt"), "3"),
            &["nshards.txt", "counts 3 shards", "2.tar", "download"],
        ),
        (
            &|f| {
                fs::remove_dir_all(f.join("test")).unwrap();
                fs::create_dir(f.join("test")).unwrap();
            },
            &["split `test`", "no tar file", "download"],
        ),
        (&|f| write(&f.join("dataset_type.txt"), "multilabel"), &["multilabel"]),
        (&|f| labelled(&f.join("test/1.tar"), 3, &["cat", "1"]), &["1 no label", "s0000003", "`cat`"]),
        (
            &|f| tar(&f.join("test/1.tar"), &[("s3.png", png([0; 3], 2, 2).as_slice()), ("s4.cls", b"1")]),
            &["1 no image", "1 no label"],
        ),
    ];
    for (change, parts) in cases {
        let found = case(change);
        for part in parts {
            assert!(found.contains(part), "{part}: {found}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    pets(folder.path());
    let error = open(folder.path(), "val").err().unwrap().to_string();
    assert!(error.contains("no split `val`") && error.contains("`test`"), "{error}");
    assert!(open(folder.path(), "../test").is_err());
}

#[test]
fn an_evaluation_leaves_out_damaged_images_under_a_policy() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = (0..300).map(|i| png([i as u8, 6, 7], 4, 4)).collect::<Vec<_>>();
    let shard = |path: &str, broken: &[usize]| {
        let names = (0..300).map(|i| (format!("s{i:03}.png"), format!("s{i:03}.cls"))).collect::<Vec<_>>();
        let members = names.iter().enumerate().flat_map(|(place, (image, label))| {
            let picture = &pictures[place];
            let bytes: &[u8] = if broken.contains(&place) { &picture[..20] } else { picture };
            [(image.as_str(), bytes), (label.as_str(), b"0")]
        });
        tar(&folder.path().join(path), &members.collect::<Vec<_>>());
        Arc::new(open(&folder.path().join(path), "test").unwrap()) as Arc<dyn Source>
    };
    let preprocess = Preprocess::new(4).with_normalization([0.5; 3], [0.5; 3]);
    let batches = |source: &Arc<dyn Source>, policy| {
        EvalBatches::with_policy(Arc::clone(source), preprocess.clone(), 4, policy).unwrap()
    };
    // The second batch has no good image.
    let source = shard("a.tar", &[1, 4, 5, 6, 7, 299]);
    let mut read = batches(&source, ErrorPolicy::default());
    let found = read.by_ref().map(|batch| batch.unwrap()).collect::<Vec<_>>();
    let keys = found.iter().flat_map(|batch| &batch.keys).collect::<Vec<_>>();
    assert_eq!((keys.len(), read.damaged().len()), (294, 6));
    assert!(found.iter().all(|batch| batch.images.dim().0 == batch.keys.len() && !batch.keys.is_empty()));
    let whole = shard("whole.tar", &[]);
    let whole = batches(&whole, ErrorPolicy::Fail).next().unwrap().unwrap();
    assert_eq!(found[0].images.index_axis(ndarray::Axis(0), 1), whole.images.index_axis(ndarray::Axis(0), 2));
    let named = read.damaged().to_string();
    assert!(named.contains("s001") && named.contains("s299") && named.starts_with("6 "), "{named}");
    // Without a policy, the first damaged sample is the error.
    let error = batches(&source, ErrorPolicy::Fail).find_map(Result::err).unwrap();
    assert!(matches!(&error, Error::Sample { key, .. } if key.contains("s001")), "{error}");
    // Too many damaged images: the error names all of them, including those after the first batches.
    let many = (0..12).chain([298]).collect::<Vec<_>>();
    let error = batches(&shard("b.tar", &many), ErrorPolicy::default()).find_map(Result::err).unwrap();
    let Error::TooManyDamaged { skipped, seen, summary, .. } = &error else { panic!("{error}") };
    assert_eq!((*skipped, *seen), (13, 300));
    assert!(summary.contains("s000") && summary.contains("s011") && summary.contains("s298"), "{summary}");
}
