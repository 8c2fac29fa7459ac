//! Compares a student with its teacher from stored embeddings.
//!
//! Run with `cargo run -p zeroshot-eval --example stored_rows`.

use std::io::Write;

use ndarray::{Array2, Axis, s};
use zeroshot_eval::{Labels, Report, StoredEmbeddings, StoredOptions, StoredSet, evaluate_stored, retention};

const CLASSES: [&str; 4] = ["cat", "dog", "fox", "owl"];
const TEST: usize = 400;
const TRAIN: usize = 800;

/// Returns numbers between -1 and 1, the noise of a model.
fn noise(rows: usize, width: usize, seed: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, width), |(i, j)| {
        let x = ((i * width + j) as f64 * 12.9898 + seed as f64 * 78.233).sin() * 43_758.545_3;
        (2.0 * (x - x.floor()) - 1.0) as f32
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let classes = CLASSES.map(String::from);
    let labels = (0..TEST + TRAIN).map(|i| i % CLASSES.len()).collect::<Vec<_>>();
    let (test_labels, train_labels) = labels.split_at(TEST);

    // The teacher's images lie around its class embeddings. The student has half the width, and noise.
    let teacher_classes = noise(CLASSES.len(), 64, 1);
    let teacher_images = teacher_classes.select(Axis(0), &labels) + noise(labels.len(), 64, 2) * 2.5;
    let squeeze = noise(64, 32, 3) / 8.0;
    let student_images = teacher_images.dot(&squeeze) + noise(labels.len(), 32, 4);
    let student_classes = teacher_classes.dot(&squeeze);

    let set = StoredSet {
        name: "animals",
        labels: Some(Labels { classes: &classes, test: test_labels, train: Some(train_labels) }),
        image_of: None, // the image of each caption
    };
    let teacher = StoredEmbeddings {
        images: teacher_images.slice(s![..TEST, ..]),
        classes: Some(teacher_classes.view()), // or a `Classifier`'s embeddings, from prompts
        texts: None,
        train_images: Some(teacher_images.slice(s![TEST.., ..])),
        logit_scale: Some(100.0),
    };
    let student = StoredEmbeddings {
        images: student_images.slice(s![..TEST, ..]),
        classes: Some(student_classes.view()),
        train_images: Some(student_images.slice(s![TEST.., ..])),
        ..teacher
    };

    let options = StoredOptions::default().with_confused(3);
    let teacher_results = evaluate_stored(&set, &teacher, None, &options)?;
    let found = evaluate_stored(&set, &student, Some(&teacher), &options)?;
    let teacher = Report { model: "teacher".into(), sets: teacher_results.scores() };
    let student = Report { model: "student".into(), sets: found.scores() };
    let mut out = std::io::stdout();
    writeln!(out, "The student:")?;
    for table in found.tables() {
        writeln!(out, "\n{table}")?;
    }
    writeln!(out, "Its classes:\n\n{}", found.class_table())?;
    writeln!(out, "Beside its teacher:\n\n{}", retention(&student, &teacher).table())?;
    Ok(())
}
