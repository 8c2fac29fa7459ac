//! Evaluates a custom encoder without a network: images by their mean colour, texts by the colours that they name.
//!
//! Run with `cargo run -p zeroshot-eval --example own_encoder`.

use std::io::Write;

use ndarray::{Array2, Array4, ArrayView4, Axis};
use zeroshot_eval::{Classifier, EncodeError, Encoder, Report, Score, SetScore, classification};

struct MeanColor;

impl Encoder for MeanColor {
    fn encode_images(&self, images: ArrayView4<'_, f32>) -> Result<Array2<f32>, EncodeError> {
        let mean = images.mean_axis(Axis(3)).and_then(|rows| rows.mean_axis(Axis(2)));
        mean.ok_or_else(|| "images without pixels".into())
    }

    fn encode_texts(&self, texts: &[String]) -> Result<Array2<f32>, EncodeError> {
        let colors = ["red", "green", "blue"];
        Ok(Array2::from_shape_fn((texts.len(), 3), |(i, c)| {
            f32::from(u8::from(texts[i].contains(colors[c])))
        }))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let classes = ["red", "green", "blue"].map(String::from);
    let classifier = Classifier::new(&MeanColor, &classes, &["a {} picture".into()])?;
    // One picture of each colour, and a violet one that is labelled red.
    let pictures = [[0.9, 0.1, 0.1], [0.2, 0.8, 0.1], [0.1, 0.2, 0.9], [0.5, 0.1, 0.6]];
    let images = Array4::from_shape_fn((4, 3, 8, 8), |(i, c, _, _)| pictures[i][c]);
    let found = classification(&MeanColor, &classifier, &classes, [Ok((images, vec![0, 1, 2, 0]))])?;
    let sets = vec![SetScore::new("colours", Score::Classification(found))];
    let report = Report { model: "mean colour".into(), sets };
    std::io::stdout().write_all(report.table().to_markdown().as_bytes())?;
    Ok(())
}
