//! Stores of embeddings: what is read is what was written, for whom it was written, and whole.

use std::path::Path;
use std::sync::Arc;

use data_pipeline::image::{AugmentConfig, Interpolation, Preprocess, ResizeMode};
use data_pipeline::loader::{CaptionChoice, InputSpec, Loader, LoaderConfig, Position};
use data_pipeline::mixture::Mixture;
use data_pipeline::policy::ErrorPolicy;
use data_pipeline::sources::{EmojiConfig, Source, SourceConfig};
use data_pipeline::store::{
    Manifest, Pass, ShardRows, Store, StoreKind, StoreWriter, StoredSource, StoredTeacher, Variants,
};
use data_pipeline::tokenizer::ClipTokenizer;
use ndarray::{Array2, ArrayView3};

const VARIANTS: Variants = Variants { count: 3, seed: 5 };
const WIDTH: usize = 12;

fn preprocess() -> Preprocess {
    Preprocess {
        size: 16,
        mean: [0.5; 3],
        std: [0.5; 3],
        interpolation: Interpolation::Bicubic,
        resize_mode: ResizeMode::Shortest,
    }
}

/// A part of the emoji, whose pictures are rendered anew for every draw.
fn source() -> Arc<dyn Source> {
    let config: EmojiConfig = serde_json::from_str("{}").unwrap();
    let all = SourceConfig::Emoji(config).open(Path::new(".")).unwrap();
    Arc::new(data_pipeline::sources::Share::new(all, 0.02).unwrap())
}

/// A made-up teacher: values of some pixels.
fn embed_image(image: ArrayView3<'_, f32>) -> Vec<f32> {
    let values = image.iter().step_by(61).take(WIDTH).map(|x| x + 0.01).collect::<Vec<_>>();
    unit(values)
}

fn embed_text(text: &str) -> Vec<f32> {
    let mut values = vec![0.5; WIDTH];
    text.bytes().enumerate().for_each(|(place, byte)| values[place % WIDTH] += f32::from(byte) / 50.0);
    unit(values)
}

fn unit(values: Vec<f32>) -> Vec<f32> {
    let norm = values.iter().map(|x| x * x).sum::<f32>().sqrt();
    values.into_iter().map(|x| x / norm).collect()
}

fn array(rows: Vec<Vec<f32>>) -> Array2<f32> {
    Array2::from_shape_vec((rows.len(), WIDTH), rows.concat()).unwrap()
}

fn manifest(source: &Arc<dyn Source>) -> Manifest {
    let fingerprint = data_pipeline::sources::fingerprint(source.as_ref()).unwrap();
    let sources = vec![StoredSource { samples: source.len() as u64, fingerprint }];
    let teacher = StoredTeacher {
        name: "made up".into(),
        identity: "abc".into(),
        width: WIDTH,
        scale: 20.0,
        image: preprocess(),
        tokenizer: "CLIP's".into(),
        context_length: 16,
    };
    Manifest {
        kind: StoreKind::F32,
        shard_samples: 30,
        extra_texts: vec!["a class".into()],
        ..Manifest::new(VARIANTS, AugmentConfig::default(), sources, vec![teacher])
    }
}

/// Writes at most `shards` further shards.
fn write(folder: &Path, source: &Arc<dyn Source>, manifest: &Manifest, shards: usize) {
    let mut writer = StoreWriter::open(folder, manifest.clone()).unwrap();
    let (sources, views) = (vec![Arc::clone(source)], vec![preprocess()]);
    let mut pass = Pass::new(sources, VARIANTS, manifest.augment.clone(), views, ErrorPolicy::Fail).unwrap();
    for _ in 0..shards {
        let Some(number) = writer.next() else { return };
        let samples = manifest.shard(number);
        let rows = (samples.start * VARIANTS.count..samples.end * VARIANTS.count).collect::<Vec<_>>();
        let batch = pass.rows(&rows).unwrap();
        let images = array(batch.images[0].outer_iter().map(embed_image).collect());
        let texts = batch.captions.iter().flatten().map(String::as_str);
        let extra = manifest.extra_texts.iter().map(String::as_str);
        let captions = writer.unknown(extra.chain(texts));
        let texts = array(captions.iter().map(|text| embed_text(text)).collect());
        writer.write(&ShardRows { images: vec![images], captions, texts: vec![texts] }).unwrap();
    }
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap())
        })
        .collect::<Vec<_>>();
    files.sort();
    files
}

#[test]
fn training_finds_the_rows_of_what_it_sees() {
    let (folder, source) = (tempfile::tempdir().unwrap(), source());
    let manifest = manifest(&source);
    write(folder.path(), &source, &manifest, usize::MAX);
    let store = Store::open(folder.path()).unwrap();
    assert!(manifest.shards() > 2);
    let config = LoaderConfig {
        batch_size: 16,
        seed: 77,
        shuffle: true,
        drop_last: true,
        workers: 2,
        prefetch: 2,
        augment: Some(manifest.augment.clone()),
        views: vec![InputSpec {
            name: "student".into(),
            image: preprocess(),
            tokenizer: Arc::new(ClipTokenizer::new()),
            context_length: 16,
        }],
        policy: ErrorPolicy::Fail,
        caption: CaptionChoice::Random,
        variants: Some(VARIANTS),
        epochs: 4,
    };
    let mut loader =
        Loader::new(Mixture::single(Arc::clone(&source)).unwrap(), config, Position::default()).unwrap();
    let mut seen = std::collections::HashSet::new();
    while let Some(batch) = loader.next_batch().unwrap() {
        let stored = store.images(0, &batch.store_rows).unwrap();
        let own = array(batch.views[0].images.outer_iter().map(embed_image).collect());
        assert!((&stored - &own).iter().all(|x| x.abs() < 1e-6));
        let stored = store.texts(0, &batch.captions).unwrap();
        let own = array(batch.captions.iter().map(|text| embed_text(text)).collect());
        assert!((&stored - &own).iter().all(|x| x.abs() < 1e-6));
        seen.extend(batch.store_rows);
    }
    // Four epochs of three variants meet more than one variant of an image, and repeat some.
    let samples = source.len();
    assert!(seen.len() > samples && seen.len() < 3 * samples, "{} of {samples}", seen.len());
    assert!(store.texts(0, &["a class"]).is_ok());
    let error = store.texts(0, &["never written"]).unwrap_err().to_string();
    assert!(error.contains("never written"), "{error}");
    assert!(store.images(0, &[samples as u64 * 3]).is_err());
    assert!(store.images(1, &[0]).is_err());
}

#[test]
fn what_was_interrupted_becomes_the_same_store() {
    let source = source();
    let manifest = manifest(&source);
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(whole.path(), &source, &manifest, usize::MAX);
    write(parts.path(), &source, &manifest, 1);
    let error = Store::open(parts.path()).unwrap_err().to_string();
    assert!(error.contains("not finished"), "{error}");
    // What a kill leaves: a file of another name, which is written over.
    std::fs::write(parts.path().join("shard-00001.safetensors.partial"), b"half").unwrap();
    write(parts.path(), &source, &manifest, 1);
    // What a failing disk leaves: a shard that is not whole is made again.
    std::fs::write(parts.path().join("shard-00001.safetensors"), b"broken").unwrap();
    write(parts.path(), &source, &manifest, usize::MAX);
    assert_eq!(files(whole.path()), files(parts.path()));
    // One bad shard in the middle costs that shard.
    std::fs::write(parts.path().join("shard-00001.safetensors"), b"broken").unwrap();
    let writer = StoreWriter::open(parts.path(), manifest.clone()).unwrap();
    assert_eq!((writer.next(), writer.written()), (Some(1), manifest.shards() - 1));
    drop(writer);
    write(parts.path(), &source, &manifest, 1);
    assert_eq!(files(whole.path()), files(parts.path()));
}

#[test]
fn a_store_without_texts_beside_its_captions_is_not_one_with_them() {
    let (folder, source) = (tempfile::tempdir().unwrap(), source());
    let plain = Manifest { extra_texts: Vec::new(), ..manifest(&source) };
    write(folder.path(), &source, &plain, 1);
    let error = StoreWriter::open(folder.path(), manifest(&source)).unwrap_err().to_string();
    assert!(error.contains("extra_texts"), "{error}");
}

#[test]
fn a_store_with_texts_beside_its_captions_is_gone_on_with_by_who_needs_none() {
    let (folder, source) = (tempfile::tempdir().unwrap(), source());
    write(folder.path(), &source, &manifest(&source), 1);
    let plain = Manifest { extra_texts: Vec::new(), ..manifest(&source) };
    write(folder.path(), &source, &plain, usize::MAX);
    assert!(Store::open(folder.path()).unwrap().holds(&manifest(&source).extra_texts));
}

#[test]
fn a_damaged_sample_has_no_row() {
    let (folder, source) = (tempfile::tempdir().unwrap(), source());
    let manifest = Manifest { shard_samples: 1000, ..manifest(&source) };
    let mut writer = StoreWriter::open(folder.path(), manifest).unwrap();
    let mut images = Array2::zeros((source.len() * 3, WIDTH));
    images.column_mut(0).fill(1.0);
    images.row_mut(4).fill(0.0);
    let texts = Array2::zeros((0, WIDTH));
    writer.write(&ShardRows { images: vec![images], captions: Vec::new(), texts: vec![texts] }).unwrap();
    drop(writer);
    let store = Store::open(folder.path()).unwrap();
    assert!(store.images(0, &[3, 5]).is_ok());
    let error = store.images(0, &[3, 4]).unwrap_err().to_string();
    assert!(error.contains("row 4") && error.contains("damaged"), "{error}");
}

#[test]
fn damage_is_found() {
    let (folder, source) = (tempfile::tempdir().unwrap(), source());
    write(folder.path(), &source, &manifest(&source), usize::MAX);
    let path = folder.path().join("shard-00001.safetensors");
    let good = std::fs::read(&path).unwrap();
    for place in [9, good.len() / 3, good.len() - 1] {
        let mut bad = good.clone();
        bad[place] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        let error = Store::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("shard-00001") && error.contains("damaged"), "{error}");
    }
    std::fs::write(&path, &good[..good.len() - 1]).unwrap();
    assert!(Store::open(folder.path()).is_err());
    std::fs::write(&path, &good).unwrap();
    assert!(Store::open(folder.path()).is_ok());
    std::fs::write(folder.path().join("store.json"), "{").unwrap();
    assert!(Store::open(folder.path()).unwrap_err().to_string().contains("damaged"));
    assert!(Store::open(&folder.path().join("nothing")).unwrap_err().to_string().contains("reinforce"));
}

#[test]
fn a_store_of_something_else_is_not_gone_on_with() {
    let (folder, source) = (tempfile::tempdir().unwrap(), source());
    let first = manifest(&source);
    write(folder.path(), &source, &first, 1);
    let mut others = vec![first.clone(); 5];
    others[0].teachers[0].identity = "another".into();
    others[1].teachers[0].image.size = 32;
    others[2].augment.scale = [0.1, 1.0];
    others[3].sources[0].fingerprint = "other".into();
    others[4].extra_texts.push("another class".into());
    let parts = ["teachers", "teachers", "augment", "sources", "extra_texts"];
    for (other, part) in others.into_iter().zip(parts) {
        let error = StoreWriter::open(folder.path(), other).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let writer = StoreWriter::open(folder.path(), first.clone()).unwrap();
    let busy = StoreWriter::open(folder.path(), first.clone()).unwrap_err();
    assert!(matches!(busy, data_pipeline::Error::StoreBusy(_)), "two processes: {busy}");
    drop(writer);
    let mut writer = StoreWriter::open(folder.path(), first).unwrap();
    assert!(writer.write(&ShardRows::default()).is_err());
    let long = ShardRows {
        images: vec![Array2::from_elem((90, WIDTH), 0.5)],
        captions: Vec::new(),
        texts: vec![Array2::zeros((0, WIDTH))],
    };
    assert!(writer.write(&long).unwrap_err().to_string().contains("length"));
}
