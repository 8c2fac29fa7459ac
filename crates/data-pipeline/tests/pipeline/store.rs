//! Stores of embeddings: equal to the written ones, resumed, and refused for other data or damage.

use std::path::Path;
use std::sync::Arc;

use data_pipeline::image::{AugmentConfig, Preprocess};
use data_pipeline::loader::{InputSpec, Loader, LoaderConfig, Position};
use data_pipeline::mixture::Mixture;
use data_pipeline::policy::ErrorPolicy;
use data_pipeline::sources::{EmojiConfig, Source, SourceConfig};
use data_pipeline::store::{
    Manifest, ShardEmbeddings, Store, StoreKind, StoreWriter, StoredSource, StoredTeacher, VariantPass,
    Variants,
};
use ndarray::{Array2, ArrayView3};

const VARIANTS: Variants = Variants { count: 3, seed: 5 };
const WIDTH: usize = 12;

fn preprocess() -> Preprocess {
    Preprocess::new(16).with_normalization([0.5; 3], [0.5; 3])
}

/// A part of the emoji, whose images depend on the draw.
fn source() -> Arc<dyn Source> {
    let config: EmojiConfig = serde_json::from_str("{}").unwrap();
    let all = SourceConfig::Emoji(config).open(Path::new(".")).unwrap();
    Arc::new(data_pipeline::sources::Subset::new(all, 0.02).unwrap())
}

/// The embedding of a toy teacher: values of some pixels.
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
    Manifest::new(VARIANTS, AugmentConfig::default(), sources, vec![teacher])
        .with_kind(StoreKind::F32)
        .with_shard_samples(30)
        .with_extra_texts(vec!["a class".into()])
}

/// Writes at most `shards` missing shards.
fn write(folder: &Path, source: &Arc<dyn Source>, manifest: &Manifest, shards: usize) {
    let mut writer = StoreWriter::open(folder, manifest.clone()).unwrap();
    let (sources, views) = (vec![Arc::clone(source)], vec![preprocess()]);
    let mut pass =
        VariantPass::new(sources, VARIANTS, manifest.augment.clone(), views, ErrorPolicy::Fail).unwrap();
    for _ in 0..shards {
        let Some(number) = writer.next() else { return };
        let samples = manifest.shard(number);
        let rows = (samples.start * VARIANTS.count..samples.end * VARIANTS.count).collect::<Vec<_>>();
        let batch = pass.batch(&rows).unwrap();
        let images = array(batch.images[0].outer_iter().map(embed_image).collect());
        let texts = batch.captions.iter().flatten().map(String::as_str);
        let extra = manifest.extra_texts.iter().map(String::as_str);
        let captions = writer.unknown(extra.chain(texts));
        let texts = array(captions.iter().map(|text| embed_text(text)).collect());
        writer.write(&ShardEmbeddings { images: vec![images], captions, texts: vec![texts] }).unwrap();
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
fn training_finds_the_embeddings_of_its_images() {
    let (folder, source) = (tempfile::tempdir().unwrap(), source());
    let manifest = manifest(&source);
    write(folder.path(), &source, &manifest, usize::MAX);
    let store = Store::open(folder.path()).unwrap();
    assert!(manifest.shards() > 2);
    let config = LoaderConfig::default()
        .with_batch_size(16)
        .with_seed(77)
        .with_workers(2)
        .with_augment(Some(manifest.augment.clone()))
        .with_views(vec![InputSpec::new("student", preprocess()).with_context_length(16)])
        .with_policy(ErrorPolicy::Fail)
        .with_variants(Some(VARIANTS))
        .with_epochs(4);
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
    // Four epochs show several of three variants, and repeat some.
    let samples = source.len();
    assert!(seen.len() > samples && seen.len() < 3 * samples, "{} of {samples}", seen.len());
    assert!(store.texts(0, &["a class"]).is_ok());
    let error = store.texts(0, &["never written"]).unwrap_err().to_string();
    assert!(error.contains("never written"), "{error}");
    assert!(store.images(0, &[samples as u64 * 3]).is_err());
    assert!(store.images(1, &[0]).is_err());
}

#[test]
fn interrupted_store_resumes_to_equal_files() {
    let source = source();
    let manifest = manifest(&source);
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(whole.path(), &source, &manifest, usize::MAX);
    write(parts.path(), &source, &manifest, 1);
    let error = Store::open(parts.path()).unwrap_err().to_string();
    assert!(error.contains("not finished"), "{error}");
    // A killed process leaves a temporary file, which is replaced.
    std::fs::write(parts.path().join("shard-00001.safetensors.partial"), b"half").unwrap();
    write(parts.path(), &source, &manifest, 1);
    // A truncated shard is computed again.
    std::fs::write(parts.path().join("shard-00001.safetensors"), b"broken").unwrap();
    write(parts.path(), &source, &manifest, usize::MAX);
    assert_eq!(files(whole.path()), files(parts.path()));
    // A damaged shard in the middle costs only that shard.
    std::fs::write(parts.path().join("shard-00001.safetensors"), b"broken").unwrap();
    let writer = StoreWriter::open(parts.path(), manifest.clone()).unwrap();
    assert_eq!((writer.next(), writer.written()), (Some(1), manifest.shards() - 1));
    drop(writer);
    write(parts.path(), &source, &manifest, 1);
    assert_eq!(files(whole.path()), files(parts.path()));
}

#[test]
fn store_without_extra_texts_differs_from_one_with_them() {
    let (folder, source) = (tempfile::tempdir().unwrap(), source());
    let plain = manifest(&source).with_extra_texts(Vec::new());
    write(folder.path(), &source, &plain, 1);
    let error = StoreWriter::open(folder.path(), manifest(&source)).unwrap_err().to_string();
    assert!(error.contains("extra_texts"), "{error}");
}

#[test]
fn store_with_extra_texts_resumes_for_a_manifest_without_them() {
    let (folder, source) = (tempfile::tempdir().unwrap(), source());
    write(folder.path(), &source, &manifest(&source), 1);
    let plain = manifest(&source).with_extra_texts(Vec::new());
    write(folder.path(), &source, &plain, usize::MAX);
    assert!(Store::open(folder.path()).unwrap().has_texts(&manifest(&source).extra_texts));
}

#[test]
fn damaged_sample_has_no_embedding() {
    let (folder, source) = (tempfile::tempdir().unwrap(), source());
    let manifest = manifest(&source).with_shard_samples(1000);
    let mut writer = StoreWriter::open(folder.path(), manifest).unwrap();
    let mut images = Array2::zeros((source.len() * 3, WIDTH));
    images.column_mut(0).fill(1.0);
    images.row_mut(4).fill(0.0);
    let texts = Array2::zeros((0, WIDTH));
    writer
        .write(&ShardEmbeddings { images: vec![images], captions: Vec::new(), texts: vec![texts] })
        .unwrap();
    drop(writer);
    let store = Store::open(folder.path()).unwrap();
    assert!(store.images(0, &[3, 5]).is_ok());
    let error = store.images(0, &[3, 4]).unwrap_err().to_string();
    assert!(error.contains("row 4") && error.contains("damaged"), "{error}");
}

#[test]
fn damage_is_detected() {
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
    assert!(Store::open(folder.path().join("nothing")).unwrap_err().to_string().contains("reinforce"));
}

#[test]
fn store_of_other_data_is_refused() {
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
    assert!(writer.write(&ShardEmbeddings::default()).is_err());
    let long = ShardEmbeddings {
        images: vec![Array2::from_elem((90, WIDTH), 0.5)],
        captions: Vec::new(),
        texts: vec![Array2::zeros((0, WIDTH))],
    };
    assert!(writer.write(&long).unwrap_err().to_string().contains("length"));
}
