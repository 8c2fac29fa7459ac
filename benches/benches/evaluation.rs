//! Evaluation of stored embeddings: classification by number of classes, retrieval by gallery size.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ndarray::Array2;
use zeroshot_eval::{Accuracy, Classifier, retrieval};

/// Width of the embeddings.
const WIDTH: usize = 256;
const IMAGES: usize = 1000;

/// Returns `count` deterministic pseudo-random rows of unit length, `[count, WIDTH]`.
fn rows(count: usize) -> Array2<f32> {
    let mut state = 1u64;
    let mut rows = Array2::from_shape_simple_fn((count, WIDTH), || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    });
    zeroshot_eval::normalize_rows(&mut rows);
    rows
}

fn classes(c: &mut Criterion) {
    let mut group = c.benchmark_group("classify 1,000 images");
    group.throughput(Throughput::Elements(IMAGES as u64)).sample_size(10);
    let images = rows(IMAGES);
    for count in [10, 100, 1000, 10_000] {
        let classifier = Classifier::from_embeddings(rows(count).view()).expect("a classifier");
        let names = (0..count).map(|class| format!("class {class}")).collect::<Vec<_>>();
        let labels = (0..IMAGES).map(|image| image % count).collect::<Vec<_>>();
        group.bench_function(BenchmarkId::new("classes", count), |b| {
            b.iter(|| {
                let mut accuracy = Accuracy::new(&names);
                let scores = classifier.scores(images.view()).expect("scores");
                accuracy.add(scores.view(), &labels).expect("labels");
                accuracy.finish().expect("an accuracy")
            });
        });
    }
    group.finish();
}

/// Measures retrieval with up to a million texts, whose embeddings take 1 GB.
fn galleries(c: &mut Criterion) {
    let mut group = c.benchmark_group("retrieval with 1,000 images");
    group.sample_size(10);
    let images = rows(IMAGES);
    for count in [1000, 10_000, 100_000, 1_000_000] {
        let texts = rows(count);
        let image_of = (0..count).map(|text| text % IMAGES).collect::<Vec<_>>();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("texts", count), |b| {
            b.iter(|| retrieval(images.view(), texts.view(), &image_of).expect("recalls"));
        });
    }
    group.finish();
}

criterion_group!(benches, classes, galleries);
criterion_main!(benches);
