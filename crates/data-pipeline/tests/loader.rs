//! The loader: same batches for any number of threads, exact positions, damaged samples by policy.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{png, tar};
use data_pipeline::Error;
use data_pipeline::image::{AugmentConfig, Interpolation, Preprocess, ResizeMode};
use data_pipeline::loader::{Batch, CaptionChoice, InputSpec, Loader, LoaderConfig, Position};
use data_pipeline::mixture::Mixture;
use data_pipeline::policy::ErrorPolicy;
use data_pipeline::sources::{Source, SourceConfig};
use data_pipeline::tokenizer::Tokenizer;
use proptest::prelude::*;

/// Bytes as ids: enough to see which text came.
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
    let image = Preprocess {
        size: 4,
        mean: [0.5; 3],
        std: [0.5; 3],
        interpolation: Interpolation::Bicubic,
        resize_mode: ResizeMode::Shortest,
    };
    LoaderConfig {
        batch_size: 4,
        seed: 1,
        shuffle: true,
        drop_last: false,
        workers: 2,
        prefetch: 2,
        augment: None,
        views: vec![InputSpec {
            name: "student".into(),
            image,
            tokenizer: Arc::new(Bytes),
            context_length: 16,
        }],
        policy: ErrorPolicy::Fail,
        caption: CaptionChoice::Random,
        variants: None,
        epochs: 1,
    }
}

/// Samples `0..count` in one shard; those in `broken` have a picture that is none.
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
fn every_sample_once_and_the_same_for_any_number_of_threads() {
    let (_folder, source) = shard(30, &[]);
    let augment = Some(AugmentConfig { scale: [0.3, 1.0], flip: 0.5, ..Default::default() });
    let base = LoaderConfig { augment, epochs: 2, ..config() };
    let one = all(&source, &LoaderConfig { workers: 1, prefetch: 1, ..base.clone() }, Position::default());
    let four = all(&source, &LoaderConfig { workers: 4, prefetch: 5, ..base.clone() }, Position::default());
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
    let other = all(&source, &LoaderConfig { seed: 2, ..base }, Position::default());
    assert_ne!(one, other);
}

#[test]
fn the_last_batch_is_kept_or_dropped() {
    let (_folder, source) = shard(10, &[]);
    let sizes = |drop_last| {
        let batches = all(&source, &LoaderConfig { drop_last, ..config() }, Position::default());
        batches.iter().map(|b| b.keys.len()).collect::<Vec<_>>()
    };
    assert_eq!(sizes(false), [4, 4, 2]);
    assert_eq!(sizes(true), [4, 4]);
    let too_large = LoaderConfig { drop_last: true, batch_size: 11, ..config() };
    assert!(Loader::new(Mixture::single(source).unwrap(), too_large, Position::default()).is_err());
}

#[test]
fn damaged_samples_are_replaced_in_order_and_counted() {
    let (_folder, source) = shard(20, &[3, 7]);
    let skip = LoaderConfig { policy: ErrorPolicy::Skip { max_fraction: 0.2 }, ..config() };
    let one = all(&source, &LoaderConfig { workers: 1, ..skip.clone() }, Position::default());
    assert_eq!(one, all(&source, &LoaderConfig { workers: 3, ..skip.clone() }, Position::default()));
    assert_eq!(one.iter().map(|b| b.keys.len()).sum::<usize>(), 18);
    assert_eq!(one[0].keys.len(), 4);

    let mut loader =
        Loader::new(Mixture::single(source.clone()).unwrap(), skip, Position::default()).unwrap();
    while loader.next_batch().unwrap().is_some() {}
    assert_eq!((loader.counts().seen, loader.counts().skipped()), (20, 2));
    assert!(loader.counts().summary().contains("0003"), "{}", loader.counts().summary());

    let run = |policy| {
        let config = LoaderConfig { policy, ..config() };
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
fn broken_shards_are_judged_before_the_first_batch_and_counted() {
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
        let error = first_error(&source, LoaderConfig { policy, ..config() });
        assert!(matches!(error, Error::BrokenShards { .. }), "{error}");
        assert!(error.to_string().contains("0.tar"), "{error}");
    }
    let skip = LoaderConfig { policy: ErrorPolicy::Skip { max_fraction: 0.2 }, ..config() };
    let mut loader = Loader::new(Mixture::single(source).unwrap(), skip, Position::default()).unwrap();
    assert_eq!(loader.counts().kinds["damaged shard"], 1);
    while loader.next_batch().unwrap().is_some() {}
    // A shard is no sample: the budget of samples is not touched.
    assert_eq!(loader.counts().kinds["damaged shard"], 1);
    assert!(loader.counts().summary().contains("0.tar"), "{}", loader.counts().summary());
}

#[test]
fn an_epoch_without_any_batch_is_an_error() {
    let allowed =
        LoaderConfig { policy: ErrorPolicy::Skip { max_fraction: 1.0 }, epochs: u64::MAX, ..config() };
    let (_folder, source) = shard(6, &[0, 1, 2, 3, 4, 5]);
    for drop_last in [false, true] {
        let error = first_error(&source, LoaderConfig { drop_last, ..allowed.clone() });
        assert!(matches!(error, Error::NothingLeft { epoch: 0, skipped: 6, seen: 6, .. }), "{error}");
    }
    // Two good samples are no full batch.
    let (_folder, source) = shard(6, &[0, 1, 2, 3]);
    let error = first_error(&source, LoaderConfig { drop_last: true, ..allowed.clone() });
    assert!(matches!(error, Error::NothingLeft { skipped: 4, .. }), "{error}");
    // A last batch of damaged samples alone is none.
    let (_folder, source) = shard(5, &[4]);
    let batches = all(&source, &LoaderConfig { shuffle: false, epochs: 1, ..allowed }, Position::default());
    assert_eq!(batches.iter().map(|b| b.keys.len()).collect::<Vec<_>>(), [4]);
}

#[test]
fn settings_beyond_all_bounds_are_errors() {
    let (_folder, source) = shard(6, &[]);
    let mut long = config();
    long.views[0].context_length = 99_999_999_999_999;
    for (config, word) in [
        (LoaderConfig { prefetch: 1_000_000_000_000_000, ..config() }, "prefetch"),
        (LoaderConfig { workers: 1025, ..config() }, "workers"),
        (long, "context"),
    ] {
        let error = first_error(&source, config);
        assert!(matches!(&error, Error::Config(reason) if reason.contains(word)), "{error}");
    }
}

#[test]
fn an_empty_source_beside_a_full_one_is_an_error_before_the_first_step() {
    struct Nothing;

    impl Source for Nothing {
        fn name(&self) -> &str {
            "an empty one"
        }

        fn len(&self) -> usize {
            0
        }

        fn read(&self, _: usize, _: u64) -> data_pipeline::Result<data_pipeline::sample::RawSample> {
            unreachable!("there is no sample to read")
        }
    }

    let (_folder, source) = shard(6, &[]);
    let error = Mixture::new(vec![(source, 1.0), (Arc::new(Nothing), 1.0)]).err().unwrap();
    assert!(matches!(&error, Error::Empty(name) if name == "an empty one"), "{error}");
    // The same where a recipe names it.
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::json!({"source": "folder", "root": folder.path()});
    let error = serde_json::from_value::<SourceConfig>(config).unwrap().open(Path::new("")).err().unwrap();
    assert!(matches!(error, Error::Empty(_)), "{error}");
}

#[test]
fn a_loader_that_is_dropped_early_stops() {
    let (_folder, source) = shard(30, &[]);
    let config = LoaderConfig { epochs: u64::MAX, ..config() };
    let mut loader = Loader::new(Mixture::single(source).unwrap(), config, Position::default()).unwrap();
    loader.next_batch().unwrap().unwrap();
    drop(loader);
}

#[test]
fn views_share_one_draw() {
    let (_folder, source) = shard(8, &[]);
    let mut config = config();
    config.augment = Some(AugmentConfig { scale: [0.2, 1.0], flip: 0.5, ..Default::default() });
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
    fn a_resumed_stream_equals_the_unbroken_one(
        count in 2usize..25, batch_size in 1usize..7, seed: u64, cut in 0usize..20, broken in 0usize..40,
    ) {
        let (_folder, source) = shard(count, &[broken]);
        let policy = ErrorPolicy::Skip { max_fraction: 1.0 };
        let config = LoaderConfig { batch_size, seed, epochs: 3, policy, ..config() };
        let unbroken = all(&source, &config, Position::default());
        let cut = cut % unbroken.len().max(1);
        if let Some(last) = cut.checked_sub(1).and_then(|i| unbroken.get(i)) {
            let resumed = all(&source, &config, last.position);
            prop_assert_eq!(&unbroken[cut..], &resumed[..]);
        }
    }
}

/// A grey picture whose box `[x, y, width, height]` is white.
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
fn object_boxes_lie_where_the_view_shows_the_objects() {
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
    let mut config = LoaderConfig { epochs: 6, batch_size: 5, ..config() };
    config.views[0].image.size = 48;
    let small = InputSpec {
        image: Preprocess { size: 24, ..config.views[0].image.clone() },
        ..config.views[0].clone()
    };
    config.views.push(small);
    let (mut shown, mut hidden) = (0, 0);
    for resize_mode in [ResizeMode::Shortest, ResizeMode::Longest, ResizeMode::Squash] {
        config.views.iter_mut().for_each(|view| view.image.resize_mode = resize_mode);
        for augment in [None, Some(AugmentConfig { scale: [0.3, 1.0], flip: 0.5, ..Default::default() })] {
            for batch in all(&source, &LoaderConfig { augment, ..config.clone() }, Position::default()) {
                for view in &batch.views {
                    for (row, boxes) in view.boxes.iter().enumerate() {
                        if batch.captions[row] == "none" {
                            assert!(boxes.is_empty());
                            continue;
                        }
                        let Some([left, top, right, bottom]) = boxes.first().copied() else {
                            hidden += 1;
                            continue;
                        };
                        shown += 1;
                        // Pixels whose centres are a pixel inside of the box are brighter than those a pixel outside.
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
    // Boxes that nobody asks for are not read.
    for batch in all(&open(""), &config, Position::default()) {
        assert!(batch.views.iter().all(|view| view.boxes.iter().all(Vec::is_empty)));
    }
    // What is no list of boxes is a damaged sample.
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
