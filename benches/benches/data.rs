//! The data pipeline: tokenising, decoding, resizing, and whole batches of emoji.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use data_pipeline::image::{
    AugmentConfig, Interpolation, OPENAI_MEAN, OPENAI_STD, Preprocess, ResizeMode, decode, eval_pixels,
};
use data_pipeline::loader::{CaptionChoice, InputSpec, Loader, LoaderConfig, Position};
use data_pipeline::mixture::Mixture;
use data_pipeline::policy::ErrorPolicy;
use data_pipeline::sources::{EmojiConfig, SourceConfig};
use data_pipeline::tokenizer::{ClipTokenizer, Tokenizer};

fn preprocess(size: usize) -> Preprocess {
    Preprocess {
        size,
        mean: OPENAI_MEAN,
        std: OPENAI_STD,
        interpolation: Interpolation::Bicubic,
        resize_mode: ResizeMode::Shortest,
    }
}

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
        let wanted = preprocess(size);
        group.bench_function(format!("evaluation transform to {size}"), |b| {
            b.iter(|| eval_pixels(black_box(&decoded), &wanted));
        });
    }
    group.finish();
}

fn batches(c: &mut Criterion) {
    let mut group = c.benchmark_group("loader");
    group.throughput(Throughput::Elements(128)).sample_size(20);
    let source =
        SourceConfig::Emoji(EmojiConfig::default()).open(Path::new(".")).expect("emoji are embedded");
    let config = LoaderConfig {
        batch_size: 128,
        seed: 0,
        shuffle: true,
        drop_last: true,
        workers: 0,
        prefetch: 1,
        augment: Some(AugmentConfig::default()),
        views: vec![InputSpec {
            name: "student".into(),
            image: preprocess(32),
            tokenizer: Arc::new(ClipTokenizer::new()),
            context_length: 32,
        }],
        policy: ErrorPolicy::Fail,
        caption: CaptionChoice::Random,
        variants: None,
        epochs: u64::MAX,
    };
    let mixture = Mixture::single(source).expect("there are emoji");
    let mut loader = Loader::new(mixture, config, Position::default()).expect("a loader");
    group.bench_function("emoji batch of 128 at 32 px", |b| b.iter(|| loader.next_batch()));
    group.finish();
}

criterion_group!(benches, tokenizer, images, batches);
criterion_main!(benches);
