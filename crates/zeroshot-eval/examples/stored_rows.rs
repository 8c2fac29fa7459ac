//! Evaluates a student beside its teacher from rows that are there already, as an embedding file would give them.
//!
//! Run with `cargo run -p zeroshot-eval --example stored_rows`.

use std::io::Write;

use ndarray::{Array2, Axis, s};
use zeroshot_eval::{Labels, Report, StoredOptions, StoredRows, StoredSet, evaluate_stored, retention};

const CLASSES: [&str; 4] = ["cat", "dog", "fox", "owl"];
const TEST: usize = 400;
const TRAIN: usize = 800;

/// Numbers between -1 and 1 that stand for a model's noise.
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

    // The teacher's images lie around its class rows; the student, of half the width, sees them with noise.
    let teacher_classes = noise(CLASSES.len(), 64, 1);
    let teacher_images = teacher_classes.select(Axis(0), &labels) + noise(labels.len(), 64, 2) * 2.5;
    let squeeze = noise(64, 32, 3) / 8.0;
    let student_images = teacher_images.dot(&squeeze) + noise(labels.len(), 32, 4);
    let student_classes = teacher_classes.dot(&squeeze);

    let set = StoredSet {
        name: "animals",
        labels: Some(Labels { classes: &classes, test: test_labels, train: Some(train_labels) }),
        image_of: None, // which image each text belongs to, where there are captions
    };
    let teacher = StoredRows {
        images: teacher_images.slice(s![..TEST, ..]),
        classes: Some(teacher_classes.view()), // or a `Classifier`'s rows, from prompts
        texts: None,
        train_images: Some(teacher_images.slice(s![TEST.., ..])),
        logit_scale: Some(100.0),
    };
    let student = StoredRows {
        images: student_images.slice(s![..TEST, ..]),
        classes: Some(student_classes.view()),
        train_images: Some(student_images.slice(s![TEST.., ..])),
        ..teacher
    };

    let options = StoredOptions { confused: 3, ..StoredOptions::default() };
    let own = evaluate_stored(&set, &teacher, None, &options)?;
    let found = evaluate_stored(&set, &student, Some(&teacher), &options)?;
    let teacher = Report { model: "teacher".into(), sets: own.scores() };
    let student = Report { model: "student".into(), sets: found.scores() };
    let mut out = std::io::stdout();
    writeln!(out, "The student:\n\n{}", found.table())?;
    writeln!(out, "Its classes:\n\n{}", found.class_table())?;
    writeln!(out, "Beside its teacher:\n\n{}", retention(&student, &teacher).table())?;
    Ok(())
}
