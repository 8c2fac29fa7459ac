//! A fake encoder whose answers are computed by hand.

mod common;

use common::{Colors, pixels, strings};
use ndarray::{Array2, Array4, ArrayView4};
use zeroshot_eval::{Classifier, EncodeError, Encoder, Error, classification, retrieval_set};

#[test]
fn classification_by_hand() {
    let classes = strings(&["red", "green", "blue"]);
    let classifier = Classifier::new(&Colors::default(), &classes, &strings(&["a {} thing", "{}"])).unwrap();
    let batches = [
        // Red as red; a green one that looks blue.
        Ok((pixels(&[[5.0, 1.0, 0.0], [0.0, 1.0, 2.0]]), vec![0, 1])),
        // Blue as blue; one with a tie, which is wrong.
        Ok((pixels(&[[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]), vec![2, 0])),
    ];
    let found = classification(&Colors::default(), &classifier, &classes, batches).unwrap();
    assert_eq!(found.top1, 0.5);
    assert_eq!(found.mean_per_class_recall, (0.5 + 0.0 + 1.0) / 3.0);
    assert_eq!(found.per_class.iter().map(|c| c.samples).collect::<Vec<_>>(), [2, 1, 1]);
}

#[test]
fn classes_with_equal_names_have_equal_embeddings() {
    // An encoder whose embeddings depend on the position of a text in its batch, as with a tensor library.
    struct PositionDependent;
    impl Encoder for PositionDependent {
        fn encode_images(&self, images: ArrayView4<'_, f32>) -> Result<Array2<f32>, EncodeError> {
            Colors::default().encode_images(images)
        }
        fn encode_texts(&self, texts: &[String]) -> Result<Array2<f32>, EncodeError> {
            let mut rows = Colors::default().encode_texts(texts)?;
            for (index, mut row) in rows.rows_mut().into_iter().enumerate() {
                row[2] += 1e-6 * index as f32;
            }
            Ok(rows)
        }
    }
    let classes = strings(&["red", "green", "red"]);
    let classifier = Classifier::new(&PositionDependent, &classes, &strings(&["{}", "a {} thing"])).unwrap();
    assert_eq!(classifier.embeddings().row(0), classifier.embeddings().row(2));
    let red = || Ok((pixels(&[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), vec![0, 2]));
    let found = classification(&PositionDependent, &classifier, &classes, [red()]).unwrap();
    assert_eq!(found.per_class.iter().map(|c| c.recall).collect::<Vec<_>>(), [Some(1.0), None, Some(0.0)]);
}

#[test]
fn prompts_are_normalised_before_and_after_the_mean() {
    // "red green" has length sqrt 2; normalised first, the class embedding is (1/sqrt 2 + 1, 1/sqrt 2) over its length.
    let classifier =
        Classifier::new(&Colors::default(), &strings(&["red"]), &strings(&["{} green", "{}"])).unwrap();
    let half = std::f32::consts::FRAC_1_SQRT_2;
    let length = ((half + 1.0).powi(2) + half * half).sqrt();
    let row = classifier.embeddings();
    assert!((row[[0, 0]] - (half + 1.0) / length).abs() < 1e-6);
    assert!((row[[0, 1]] - half / length).abs() < 1e-6);
}

#[test]
fn retrieval_with_several_captions() {
    let batches = [
        Ok((pixels(&[[1.0, 0.1, 0.0]]), vec![strings(&["red", "a blue text"])])),
        Ok((pixels(&[[0.0, 0.1, 1.0]]), vec![strings(&["blue"])])),
    ];
    let found = retrieval_set(&Colors::default(), batches).unwrap();
    // Image 0 finds "red". Image 1 ties between "a blue text", which is wrong, and "blue".
    assert_eq!(found.image_to_text.at_1, 0.5);
    // "red" finds image 0; "a blue text" finds image 1, which is wrong; "blue" finds image 1.
    assert_eq!(found.text_to_image.at_1, 2.0 / 3.0);
    assert_eq!((found.images, found.texts), (2, 3));
}

#[test]
fn errors_of_encoder_and_batches_are_returned() {
    let classes = strings(&["broken"]);
    let error = Classifier::new(&Colors::default(), &classes, &strings(&["{}"])).unwrap_err();
    assert!(matches!(error, Error::Encoder(_)));
    // The message is that of the encoder.
    assert_eq!(error.to_string(), "a broken text");
    let classes = strings(&["red"]);
    assert!(matches!(
        Classifier::new(&Colors::default(), &classes, &strings(&["no braces"])),
        Err(Error::Input(_))
    ));
    assert!(matches!(Classifier::new(&Colors::default(), &[], &strings(&["{}"])), Err(Error::Input(_))));
    let classifier = Classifier::new(&Colors::default(), &classes, &strings(&["{}"])).unwrap();
    let failing = [Err::<(Array4<f32>, Vec<usize>), EncodeError>("a broken file".into())];
    assert!(matches!(
        classification(&Colors::default(), &classifier, &classes, failing),
        Err(Error::Encoder(_))
    ));
    assert!(matches!(classification(&Colors::default(), &classifier, &classes, []), Err(Error::Input(_))));
    assert!(matches!(retrieval_set(&Colors::default(), []), Err(Error::Input(_))));
}

#[test]
fn each_class_may_have_its_own_number_of_prompts() {
    let classes = strings(&["red", "green"]);
    let lists = [strings(&["a red thing", "red"]), strings(&["green"])];
    let own = Classifier::from_prompts(&Colors::default(), &classes, &lists).unwrap();
    let red = Classifier::from_prompts(&Colors::default(), &classes[..1], &lists[..1]).unwrap();
    assert_eq!(own.embeddings().row(0), red.embeddings().row(0));
    let template = Classifier::new(&Colors::default(), &classes, &strings(&["{}"])).unwrap();
    assert_eq!(own.embeddings().row(1), template.embeddings().row(1));
    let error = |lists: &[Vec<String>]| {
        Classifier::from_prompts(&Colors::default(), &classes, lists).unwrap_err().to_string()
    };
    assert!(error(&[strings(&["red"]), vec![]]).contains("`green` has no prompt"));
    assert!(error(&lists[..1]).contains("lists of prompts"));
}
