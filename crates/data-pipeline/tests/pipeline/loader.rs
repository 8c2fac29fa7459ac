//! The loader: equal batches for any number of threads, exact positions, and damaged samples.

use std::path::Path;
use std::sync::Arc;

use crate::common::{png, tar};
use data_pipeline::Error;
use data_pipeline::annotations::ViewAnnotations;
use data_pipeline::image::{AugmentConfig, Preprocess, ResizeMode};
use data_pipeline::loader::{Batch, InputSpec, Loader, LoaderConfig, Position};
use data_pipeline::mixture::Mixture;
use data_pipeline::policy::ErrorPolicy;
use data_pipeline::sources::{Source, SourceConfig};
use data_pipeline::tokenizer::Tokenizer;
use proptest::prelude::*;

/// A tokenizer whose ids are the bytes of the text.
struct Bytes;

impl Tokenizer for Bytes {
    fn encode_into(&self, text: &str, row: &mut [i64]) {
        row.fill(0);
        for (id, byte) in row.iter_mut().zip(text.bytes()) {
            *id = i64::from(byte);
        }
    }

    fn vocab_size(&self) -> usize {
        256
    }
}

/// One view of 4 px and 16 tokens; shuffled, batches of 4, one epoch.
fn config() -> LoaderConfig {
    let image = Preprocess::new(4).with_normalization([0.5; 3], [0.5; 3]);
    let view = InputSpec::new("student", image).with_tokenizer(Arc::new(Bytes)).with_context_length(16);
    LoaderConfig::default()
        .with_batch_size(4)
        .with_seed(1)
        .with_drop_last(false)
        .with_workers(2)
        .with_views(vec![view])
        .with_policy(ErrorPolicy::Fail)
}

/// A shard with the samples `0..count`; the images in `broken` are damaged.
fn shard(count: usize, broken: &[usize]) -> (tempfile::TempDir, Arc<dyn Source>) {
    let folder = tempfile::tempdir().unwrap();
    let names = (0..count)
        .map(|i| (format!("{i:04}.png"), format!("{i:04}.txt"), format!("sample {i}")))
        .collect::<Vec<_>>();
    let pictures = (0..count)
        .map(|i| if broken.contains(&i) { b"broken".to_vec() } else { png([i as u8, 100, 200], 9, 7) });
    let pictures = pictures.collect::<Vec<_>>();
    let files = names.iter().zip(&pictures).flat_map(|((image, text, caption), picture)| {
        [(image.as_str(), picture.as_slice()), (text.as_str(), caption.as_bytes())]
    });
    tar(&folder.path().join("a.tar"), &files.collect::<Vec<_>>());
    let source = r#"{"source": "webdataset", "shards": "a.tar"}"#;
    let source = serde_json::from_str::<SourceConfig>(source).unwrap().open(folder.path()).unwrap();
    (folder, source)
}

fn all(source: &Arc<dyn Source>, config: &LoaderConfig, position: Position) -> Vec<Batch> {
    let mut loader = Loader::new(Mixture::single(source.clone()).unwrap(), config.clone(), position).unwrap();
    std::iter::from_fn(|| loader.next_batch().unwrap()).collect()
}

#[test]
fn each_sample_occurs_once_for_any_number_of_threads() {
    let (_folder, source) = shard(30, &[]);
    let augment = Some(AugmentConfig::default().with_scale([0.3, 1.0]).with_flip(0.5));
    let base = config().with_augment(augment).with_epochs(2);
    let one = all(&source, &base.clone().with_workers(1).with_prefetch(1), Position::default());
    let four = all(&source, &base.clone().with_workers(4).with_prefetch(5), Position::default());
    assert_eq!(one, four);
    let mut epochs = [Vec::new(), Vec::new()];
    for batch in &one {
        let epoch = if batch.position.cursor == 0 { batch.position.epoch - 1 } else { batch.position.epoch };
        epochs[epoch as usize].extend(batch.captions.clone());
    }
    assert_ne!(epochs[0], epochs[1]);
    for mut captions in epochs {
        captions.sort();
        captions.dedup();
        assert_eq!(captions.len(), 30);
    }
    let other = all(&source, &base.with_seed(2), Position::default());
    assert_ne!(one, other);
}

#[test]
fn batches_in_recycled_buffers_are_equal() {
    let (_folder, source) = shard(30, &[3, 17]);
    // Padding, incomplete and damaged batches, and views of two sizes.
    let padded = Preprocess::new(6).with_resize_mode(ResizeMode::Longest);
    let mut base = config().with_policy(ErrorPolicy::Skip { max_fraction: 0.2 }).with_epochs(3);
    base.views.push(InputSpec::new("teacher", padded).with_tokenizer(Arc::new(Bytes)));
    for config in [base.clone(), base.with_augment(Some(AugmentConfig::default()))] {
        let wanted = all(&source, &config, Position::default());
        let mixture = Mixture::single(source.clone()).unwrap();
        let mut loader = Loader::new(mixture, config, Position::default()).unwrap();
        let mut found = Vec::new();
        while let Some(batch) = loader.next_batch().unwrap() {
            found.push(batch.clone());
            let mut used = batch;
            used.views.iter_mut().for_each(|view| view.images.fill(f32::NAN));
            loader.recycle(used);
        }
        assert_eq!(found, wanted);
    }
}

#[test]
fn last_batch_is_kept_or_dropped() {
    let (_folder, source) = shard(10, &[]);
    let sizes = |drop_last| {
        let batches = all(&source, &config().with_drop_last(drop_last), Position::default());
        batches.iter().map(|b| b.keys.len()).collect::<Vec<_>>()
    };
    assert_eq!(sizes(false), [4, 4, 2]);
    assert_eq!(sizes(true), [4, 4]);
    let too_large = config().with_drop_last(true).with_batch_size(11);
    assert!(Loader::new(Mixture::single(source).unwrap(), too_large, Position::default()).is_err());
}

#[test]
fn damaged_samples_are_replaced_in_order_and_counted() {
    let (_folder, source) = shard(20, &[3, 7]);
    let skip = config().with_policy(ErrorPolicy::Skip { max_fraction: 0.2 });
    let one = all(&source, &skip.clone().with_workers(1), Position::default());
    assert_eq!(one, all(&source, &skip.clone().with_workers(3), Position::default()));
    assert_eq!(one.iter().map(|b| b.keys.len()).sum::<usize>(), 18);
    assert_eq!(one[0].keys.len(), 4);

    let mut loader =
        Loader::new(Mixture::single(source.clone()).unwrap(), skip, Position::default()).unwrap();
    while loader.next_batch().unwrap().is_some() {}
    assert_eq!((loader.counts().seen, loader.counts().skipped()), (20, 2));
    assert!(loader.counts().summary().contains("0003"), "{}", loader.counts().summary());

    let run = |policy| {
        let config = config().with_policy(policy);
        let mut loader =
            Loader::new(Mixture::single(source.clone()).unwrap(), config, Position::default()).unwrap();
        loop {
            match loader.next_batch() {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => return Some(error),
            }
        }
    };
    assert!(matches!(run(ErrorPolicy::Fail), Some(Error::Sample { .. })));
    let error = run(ErrorPolicy::Skip { max_fraction: 0.05 }).unwrap();
    assert!(matches!(error, Error::TooManyDamaged { skipped: 2, seen: 20, .. }), "{error}");
}

fn first_error(source: &Arc<dyn Source>, config: LoaderConfig) -> Error {
    let mixture = Mixture::single(source.clone()).unwrap();
    match Loader::new(mixture, config, Position::default()) {
        Err(error) => error,
        Ok(mut loader) => loop {
            match loader.next_batch() {
                Ok(batch) => assert!(batch.is_some(), "the stream ended without an error"),
                Err(error) => return error,
            }
        },
    }
}

#[test]
fn broken_shards_are_checked_before_the_first_batch_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let picture = png([7; 3], 9, 7);
    for number in 0..6 {
        let path = folder.path().join(format!("{number}.tar"));
        tar(&path, &[("a.png", &picture), ("a.txt", b"a"), ("b.png", &picture), ("b.txt", b"b")]);
        if number == 0 {
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        }
    }
    let config_of = |shards| serde_json::json!({"source": "webdataset", "shards": shards});
    let open =
        |shards| serde_json::from_value::<SourceConfig>(config_of(shards)).unwrap().open(folder.path());
    let source = open("{0..5}.tar").unwrap();
    for policy in [ErrorPolicy::Fail, ErrorPolicy::default()] {
        let error = first_error(&source, config().with_policy(policy));
        assert!(matches!(error, Error::BrokenShards { .. }), "{error}");
        assert!(error.to_string().contains("0.tar"), "{error}");
    }
    let skip = config().with_policy(ErrorPolicy::Skip { max_fraction: 0.2 });
    let mut loader = Loader::new(Mixture::single(source).unwrap(), skip, Position::default()).unwrap();
    assert_eq!(loader.counts().kinds["damaged shard"], 1);
    while loader.next_batch().unwrap().is_some() {}
    // A shard does not count in the budget of samples.
    assert_eq!(loader.counts().kinds["damaged shard"], 1);
    assert!(loader.counts().summary().contains("0.tar"), "{}", loader.counts().summary());
}

#[test]
fn epoch_without_a_batch_is_an_error() {
    let allowed = config().with_policy(ErrorPolicy::Skip { max_fraction: 1.0 }).with_epochs(u64::MAX);
    let (_folder, source) = shard(6, &[0, 1, 2, 3, 4, 5]);
    for drop_last in [false, true] {
        let error = first_error(&source, allowed.clone().with_drop_last(drop_last));
        assert!(matches!(error, Error::NothingLeft { epoch: 0, skipped: 6, seen: 6, .. }), "{error}");
    }
    // Two good samples are fewer than a batch.
    let (_folder, source) = shard(6, &[0, 1, 2, 3]);
    let error = first_error(&source, allowed.clone().with_drop_last(true));
    assert!(matches!(error, Error::NothingLeft { skipped: 4, .. }), "{error}");
    // The last batch contains only damaged samples.
    let (_folder, source) = shard(5, &[4]);
    let batches = all(&source, &allowed.with_shuffle(false).with_epochs(1), Position::default());
    assert_eq!(batches.iter().map(|b| b.keys.len()).collect::<Vec<_>>(), [4]);
}

#[test]
fn settings_out_of_bounds_are_errors() {
    let (_folder, source) = shard(6, &[]);
    let mut long = config();
    long.views[0].context_length = 99_999_999_999_999;
    for (config, word) in [
        (config().with_prefetch(1_000_000_000_000_000), "prefetch"),
        (config().with_workers(1025), "workers"),
        (long, "context_length"),
    ] {
        let error = first_error(&source, config);
        assert!(matches!(&error, Error::Setting { name, .. } if *name == word), "{error}");
    }
}

#[test]
fn empty_source_beside_a_full_one_is_an_error() {
    struct Nothing;

    impl Source for Nothing {
        fn name(&self) -> &str {
            "an empty one"
        }

        fn len(&self) -> usize {
            0
        }

        fn read(&self, _: usize, _: u64) -> data_pipeline::Result<data_pipeline::sample::RawSample> {
            unreachable!("the source has no samples")
        }
    }

    let (_folder, source) = shard(6, &[]);
    let error = Mixture::new(vec![(source, 1.0), (Arc::new(Nothing), 1.0)]).err().unwrap();
    assert!(matches!(&error, Error::Empty(name) if name == "an empty one"), "{error}");
    // A recipe gives the same error.
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::json!({"source": "folder", "root": folder.path()});
    let error = serde_json::from_value::<SourceConfig>(config).unwrap().open(Path::new("")).err().unwrap();
    assert!(matches!(error, Error::Empty(_)), "{error}");
}

#[test]
fn dropped_loader_stops() {
    let (_folder, source) = shard(30, &[]);
    let config = config().with_epochs(u64::MAX);
    let mut loader = Loader::new(Mixture::single(source).unwrap(), config, Position::default()).unwrap();
    loader.next_batch().unwrap().unwrap();
    drop(loader);
}

#[test]
fn views_share_one_augmentation() {
    let (_folder, source) = shard(8, &[]);
    let mut config = config();
    config.augment = Some(AugmentConfig::default().with_scale([0.2, 1.0]).with_flip(0.5));
    let mut teacher = config.views[0].clone();
    teacher.name = "teacher".into();
    config.views.push(teacher);
    for batch in all(&source, &config, Position::default()) {
        assert_eq!(batch.views[0].images, batch.views[1].images);
        assert_eq!(batch.views[0].tokens, batch.views[1].tokens);
        assert_eq!((batch.views[0].name.as_str(), batch.views[1].name.as_str()), ("student", "teacher"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn resumed_stream_equals_the_unbroken_one(
        count in 2usize..25, batch_size in 1usize..7, seed: u64, cut in 0usize..20, broken in 0usize..40,
    ) {
        let (_folder, source) = shard(count, &[broken]);
        let policy = ErrorPolicy::Skip { max_fraction: 1.0 };
        let config = config().with_batch_size(batch_size).with_seed(seed).with_epochs(3).with_policy(policy);
        let unbroken = all(&source, &config, Position::default());
        let cut = cut % unbroken.len().max(1);
        if let Some(last) = cut.checked_sub(1).and_then(|i| unbroken.get(i)) {
            let resumed = all(&source, &config, last.position);
            prop_assert_eq!(&unbroken[cut..], &resumed[..]);
        }
    }
}

/// A grey image whose box `[x, y, width, height]` is white.
fn marked([x, y, w, h]: [u32; 4], width: u32, height: u32) -> Vec<u8> {
    let inside = |px: u32, py: u32| (x..x + w).contains(&px) && (y..y + h).contains(&py);
    let picture = image::RgbImage::from_fn(width, height, |px, py| {
        image::Rgb(if inside(px, py) { [255; 3] } else { [100; 3] })
    });
    let mut bytes = Vec::new();
    picture.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
    bytes
}

#[test]
fn object_boxes_match_the_objects_in_the_view() {
    let folder = tempfile::tempdir().unwrap();
    let boxes = [[8, 8, 20, 12], [0, 0, 16, 40], [30, 4, 30, 30], [2, 30, 40, 10]];
    let mut files = Vec::new();
    for (number, own) in boxes.iter().enumerate() {
        files.push((format!("{number}.png"), marked(*own, 64, 40)));
        files.push((
            format!("{number}.json"),
            format!(r#"{{"captions": ["a"], "objects": [{own:?}]}}"#).into_bytes(),
        ));
    }
    files.push(("5.png".into(), png([9; 3], 20, 20)));
    files.push(("5.json".into(), br#"{"captions": ["none"]}"#.to_vec()));
    let named = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect::<Vec<_>>();
    tar(&folder.path().join("a.tar"), &named);
    let open = |more: &str| {
        let source = format!(r#"{{"source": "webdataset", "shards": "a.tar"{more}}}"#);
        serde_json::from_str::<SourceConfig>(&source).unwrap().open(folder.path()).unwrap()
    };
    let source = open(r#", "boxes": "objects""#);
    let mut config = config().with_epochs(6).with_batch_size(5);
    config.views[0].image.size = 48;
    let mut small = config.views[0].clone();
    small.image.size = 24;
    config.views.push(small);
    let (mut shown, mut hidden) = (0, 0);
    for resize_mode in [ResizeMode::Shortest, ResizeMode::Longest, ResizeMode::Squash] {
        config.views.iter_mut().for_each(|view| view.image.resize_mode = resize_mode);
        for augment in [None, Some(AugmentConfig::default().with_scale([0.3, 1.0]).with_flip(0.5))] {
            for batch in all(&source, &config.clone().with_augment(augment), Position::default()) {
                for view in &batch.views {
                    for (row, ViewAnnotations { boxes, .. }) in view.annotations.iter().enumerate() {
                        if batch.captions[row] == "none" {
                            assert!(boxes.is_empty());
                            continue;
                        }
                        let Some([left, top, right, bottom]) = boxes.first().copied() else {
                            hidden += 1;
                            continue;
                        };
                        shown += 1;
                        // Pixels a pixel inside of the box are brighter than those a pixel outside.
                        let side = view.images.dim().2;
                        let (mut inside, mut outside) = (f32::INFINITY, f32::NEG_INFINITY);
                        for y in 0..side {
                            for x in 0..side {
                                let value = view.images[[row, 0, y, x]];
                                let depth = |p: usize, from: f32, to: f32| {
                                    let p = p as f32 + 0.5;
                                    (p - from * side as f32).min(to * side as f32 - p)
                                };
                                let depth = depth(x, left, right).min(depth(y, top, bottom));
                                if depth >= 1.5 {
                                    inside = inside.min(value);
                                } else if depth <= -1.5 {
                                    outside = outside.max(value);
                                }
                            }
                        }
                        assert!(
                            inside > outside,
                            "{resize_mode:?} {boxes:?}: {inside} inside, {outside} outside"
                        );
                    }
                }
            }
        }
    }
    assert!(shown > 150 && hidden > 0, "{shown} {hidden}");
    // Without the setting, boxes are not read.
    for batch in all(&open(""), &config, Position::default()) {
        assert!(batch.views.iter().all(|view| view.annotations.iter().all(|own| own.boxes.is_empty())));
    }
    // A malformed list of boxes makes the sample damaged.
    tar(
        &folder.path().join("a.tar"),
        &[("0.png", &png([9; 3], 8, 8)), ("0.json", br#"{"captions": ["a"], "objects": [1]}"#)],
    );
    let mut loader =
        Loader::new(Mixture::single(open(r#", "boxes": "objects""#)).unwrap(), config, Position::default())
            .unwrap();
    let error = loader.next_batch().unwrap_err().to_string();
    assert!(error.contains("[x, y, width, height]"), "{error}");
}
