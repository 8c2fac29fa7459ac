//! The data pipeline: tokenising, decoding, resizing, and whole batches of emoji.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use data_pipeline::image::{AugmentConfig, AugmentParams, ColorJitter, augment_into, decode, eval_into};
use data_pipeline::sources::{EmojiConfig, Source, WebDataset, WebDatasetConfig};
use data_pipeline::{
    ClipTokenizer, ErrorPolicy, InputSpec, Loader, LoaderConfig, Mixture, Position, Preprocess, SourceConfig,
    Tokenizer,
};

fn tokenizer(c: &mut Criterion) {
    let tokenizer = ClipTokenizer::new();
    let mut row = [0; 77];
    let mut group = c.benchmark_group("tokenize");
    group.throughput(Throughput::Elements(1));
    for (name, text) in [
        ("plain caption", "a brown dog runs along the beach with a stick in its mouth"),
        ("broken caption", "A cafÃ© &amp; its â€œterraceâ€ on a Sunday, naïve crème brûlée"),
    ] {
        group.bench_function(name, |b| b.iter(|| tokenizer.encode_into(black_box(text), &mut row)));
    }
    group.finish();
    // Hostile texts of a megabyte; a quadratic step would take hours.
    let mut group = c.benchmark_group("tokenize a megabyte");
    group.throughput(Throughput::Bytes(1 << 20)).sample_size(10);
    for unit in ["x", "&amp;", "Ã©", "â€™ б", "\u{300}", "\n"] {
        let text = unit.repeat((1 << 20) / unit.len());
        group.bench_function(format!("{unit:?}"), |b| {
            b.iter(|| tokenizer.encode_into(black_box(&text), &mut row))
        });
    }
    group.finish();
}

/// A photo-like picture of 640 x 480 as JPEG.
fn jpeg() -> Vec<u8> {
    let picture = image::RgbImage::from_fn(640, 480, |x, y| {
        let wave = |f: f32| (127.0 + 120.0 * ((x as f32 * f).sin() * (y as f32 * f * 0.7).cos())) as u8;
        image::Rgb([wave(0.02), wave(0.05), wave(0.11)])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Jpeg).expect("a picture can be written");
    bytes.into_inner()
}

fn images(c: &mut Criterion) {
    let bytes = jpeg();
    let decoded = decode(&bytes).expect("what was written can be read");
    let mut group = c.benchmark_group("image 640x480");
    group.throughput(Throughput::Elements(1));
    group.bench_function("decode jpeg", |b| b.iter(|| decode(black_box(&bytes))));
    for size in [224, 32] {
        let wanted = Preprocess::new(size);
        let mut planes = vec![0f32; 3 * size * size];
        group.bench_function(format!("evaluation transform to {size}"), |b| {
            b.iter(|| eval_into(black_box(&decoded), &wanted, &mut planes));
        });
    }
    let wanted = Preprocess::new(224);
    let mut planes = vec![0f32; 3 * 224 * 224];
    let jitter = ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1, probability: 1.0 };
    for (name, jitter) in
        [("training transform", None), ("training transform with colour jitter", Some(jitter))]
    {
        let config = AugmentConfig::default().with_flip(0.5).with_color_jitter(jitter);
        let params = AugmentParams::draw(&config, 7, decoded.width(), decoded.height());
        group.bench_function(format!("{name} to 224"), |b| {
            b.iter(|| augment_into(black_box(&decoded), &params, &wanted, &mut planes));
        });
    }
    group.finish();
}

/// Measures reading of WebDataset samples without decoding, in order and shuffled. The shards are in the page cache.
fn shards(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut random = 1u64;
    let photo = std::iter::repeat_with(|| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 56) as u8
    });
    let photo = photo.take(100 << 10).collect::<Vec<_>>();
    for shard in 0..4 {
        let file = std::fs::File::create(folder.path().join(format!("{shard:05}.tar"))).expect("a new file");
        let mut tar = tar::Builder::new(file);
        for sample in 0..160 {
            for (ending, content) in [("jpg", &photo[..]), ("txt", b"a brown dog runs along the beach")] {
                let mut header = tar::Header::new_ustar();
                header.set_size(content.len() as u64);
                header.set_mode(0o644);
                let name = format!("{shard:05}{sample:04}.{ending}");
                tar.append_data(&mut header, name, content).expect("space for the shards");
            }
        }
        tar.finish().expect("space for the shards");
    }
    let source = WebDataset::open(&WebDatasetConfig::new("."), folder.path()).expect("what was written");
    let mut group = c.benchmark_group("read 64 MB of shards without decoding");
    group.throughput(Throughput::Bytes((source.len() * photo.len()) as u64)).sample_size(20);
    for (name, step) in [("in order", 1), ("shuffled", 257)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                (0..source.len()).for_each(|i| drop(black_box(source.read(i * step % source.len(), 0))));
            });
        });
    }
    group.finish();
}

fn batches(c: &mut Criterion) {
    let mut group = c.benchmark_group("loader");
    group.throughput(Throughput::Elements(128)).sample_size(20);
    let source = SourceConfig::Emoji(EmojiConfig::default()).open(".").expect("emoji are embedded");
    let config = LoaderConfig::default()
        .with_batch_size(128)
        .with_prefetch(1)
        .with_augment(Some(AugmentConfig::default()))
        .with_views(vec![InputSpec::new("student", Preprocess::new(32)).with_context_length(32)])
        .with_policy(ErrorPolicy::Fail)
        .with_epochs(u64::MAX);
    let mixture = Mixture::single(source).expect("a source with emoji");
    let mut loader = Loader::new(mixture, config, Position::default()).expect("a loader");
    group.bench_function("emoji batch of 128 at 32 px", |b| b.iter(|| loader.next_batch()));
    group.finish();
}

criterion_group!(benches, tokenizer, images, shards, batches);
criterion_main!(benches);
