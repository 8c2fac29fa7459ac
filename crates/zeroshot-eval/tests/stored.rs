//! Metrics from stored embeddings, compared with those of streamed evaluations.

mod common;

use common::{Colors, pixels, strings};
use ndarray::{Array2, Array4, array};
use zeroshot_eval::{
    Classifier, EncodeError, Error, Evaluation, KnnOptions, Labels, ProbeOptions, Report, StoredEmbeddings,
    StoredOptions, StoredSet, classification, encode_captioned, encode_labelled, evaluate_stored, retention,
    retrieval_set,
};

type Labelled = Result<(Array4<f32>, Vec<usize>), EncodeError>;
type Captioned = Result<(Array4<f32>, Vec<Vec<String>>), EncodeError>;

fn labelled() -> [Labelled; 2] {
    // Red; a green one that looks blue; blue; a tie of red with green.
    [
        Ok((pixels(&[[5.0, 1.0, 0.0], [0.0, 1.0, 2.0]]), vec![0, 1])),
        Ok((pixels(&[[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]), vec![2, 0])),
    ]
}

fn captioned() -> [Captioned; 2] {
    [
        Ok((pixels(&[[1.0, 0.1, 0.0]]), vec![strings(&["red", "a blue text"])])),
        Ok((pixels(&[[0.0, 0.1, 1.0]]), vec![strings(&["blue"])])),
    ]
}

fn bare(images: &Array2<f32>) -> StoredEmbeddings<'_> {
    StoredEmbeddings {
        images: images.view(),
        classes: None,
        texts: None,
        train_images: None,
        logit_scale: None,
    }
}

#[test]
fn all_classification_metrics_use_one_encoding() {
    let classes = strings(&["red", "green", "blue"]);
    let encoder = Colors::default();
    let classifier = Classifier::new(&encoder, &classes, &strings(&["a {} thing"])).unwrap();
    let rows = encode_labelled(&encoder, labelled()).unwrap();
    let train = array![[1.0, 0.0, 0.0], [0.0, 0.5, 0.9], [0.0, 0.0, 1.0], [0.6, 0.6, 0.0]];
    let set = StoredSet {
        name: "colours",
        labels: Some(Labels { classes: &classes, test: &rows.labels, train: Some(&rows.labels) }),
        image_of: None,
    };
    let model = StoredEmbeddings {
        classes: Some(classifier.embeddings()),
        train_images: Some(train.view()),
        logit_scale: Some(100.0),
        ..bare(&rows.images)
    };
    let options = StoredOptions::default()
        .with_knn(Some(KnnOptions::default().with_neighbors(1)))
        .with_probe(Some(ProbeOptions::default().with_l2([1e-3])));
    let found = evaluate_stored(&set, &model, None, &options).unwrap();
    assert_eq!(encoder.0.get(), 4, "each image is encoded once");
    let streamed = classification(&encoder, &classifier, &classes, labelled()).unwrap();
    assert_eq!(found.classification.as_ref(), Some(&streamed));
    // The green image counts as blue, and the tie as green.
    let pairs = found.confused.iter().map(|p| (p.class.as_str(), p.predicted.as_str(), p.count));
    assert_eq!(pairs.collect::<Vec<_>>(), [("red", "green", 1), ("green", "blue", 1)]);
    assert_eq!(found.per_class.iter().map(|c| c.support).collect::<Vec<_>>(), [2, 1, 1]);
    // With scale 100 red and blue are certain; so is the wrong blue; the tie has confidence 1/2.
    let calibration = found.calibration.as_ref().unwrap();
    assert!(
        (calibration.expected_calibration_error - (1.0 / 4.0 + 0.5 / 4.0)).abs() < 1e-6,
        "{calibration:?}"
    );
    // Training images are the neighbours of the test images, so both classifiers learn what zero-shot scores miss.
    assert_eq!(found.knn.as_ref().unwrap().top1, 1.0);
    assert_eq!(found.probe.as_ref().unwrap().classification.top1, 1.0);
    assert_eq!((found.retrieval, found.fidelity.as_ref()), (None, None));
    let table = found.tables().iter().map(ToString::to_string).collect::<String>();
    assert!(table.contains("| zero-shot    | top-1                      |  50.0 |"), "{table}");
    assert!(table.contains("| red   | green     |      1 |           50.0 |"), "{table}");
    assert!(
        found
            .class_table()
            .to_markdown()
            .contains("| red   | 2      |            1 |     50.0 |       100.0 |")
    );
    let json = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<Evaluation>(&json).unwrap(), found);
}

#[test]
fn retrieval_fidelity_and_retention_use_one_encoding() {
    let encoder = Colors::default();
    let rows = encode_captioned(&encoder, captioned()).unwrap();
    let set = StoredSet { name: "photos", labels: None, image_of: Some(&rows.image_of) };
    let teacher = StoredEmbeddings { texts: Some(rows.texts.view()), ..bare(&rows.images) };
    // A student that swaps red and blue in its images only.
    let turned = Array2::from_shape_fn(rows.images.dim(), |(i, j)| rows.images[[i, 2 - j]]);
    let student = StoredEmbeddings { images: turned.view(), ..teacher };
    let own = evaluate_stored(&set, &teacher, Some(&teacher), &StoredOptions::default()).unwrap();
    assert_eq!(own.retrieval, Some(retrieval_set(&encoder, captioned()).unwrap()));
    let fidelity = own.fidelity.clone().unwrap();
    assert!((fidelity.cka_stacked.unwrap() - 1.0).abs() < 1e-6);
    // Cosines 1 / |(1, 0.1)| of the first pair and of the last, and 0 of the second.
    let pairs = 2.0 / 3.0 / 1.01f64.sqrt();
    assert!((fidelity.pair_cosine_teacher.unwrap() - pairs).abs() < 1e-6, "{fidelity:?}");
    assert_eq!((fidelity.spearman_image_text, fidelity.modality_gap_ratio), (Some(1.0), Some(1.0)));
    let found = evaluate_stored(&set, &student, Some(&teacher), &StoredOptions::default()).unwrap();
    let fidelity = found.fidelity.as_ref().unwrap();
    assert!((fidelity.cka_images.unwrap() - 1.0).abs() < 1e-6, "relations among images are unchanged");
    assert!(fidelity.spearman_image_text.unwrap() < 0.0, "relations of images with texts are reversed");
    assert_eq!(found.classification, None);
    let report = |model: &str, found: &Evaluation| Report { model: model.into(), sets: found.scores() };
    let kept = retention(&report("student", &found), &report("teacher", &own));
    let main = |found: &Evaluation| found.scores()[0].main();
    assert_eq!(kept.mean, Some(main(&found) / main(&own)));
    assert!(kept.mean.unwrap() < 1.0);
    let without = StoredOptions::default().with_fidelity(None);
    assert_eq!(evaluate_stored(&set, &student, Some(&teacher), &without).unwrap().fidelity, None);
}

#[test]
fn a_set_with_labels_and_captions_has_two_scores_with_different_names() {
    let rows = Array2::<f32>::eye(3);
    let classes = strings(&["a", "b", "c"]);
    let set = StoredSet {
        name: "both",
        labels: Some(Labels { classes: &classes, test: &[0, 1, 2], train: None }),
        image_of: Some(&[0, 1, 2]),
    };
    let model = StoredEmbeddings { classes: Some(rows.view()), texts: Some(rows.view()), ..bare(&rows) };
    let found = evaluate_stored(&set, &model, None, &StoredOptions::default()).unwrap();
    let scores = found.scores();
    assert_eq!(scores.iter().map(|s| s.set.as_str()).collect::<Vec<_>>(), ["both", "both (retrieval)"]);
    assert!(scores.iter().all(|score| score.main() == 1.0));
    assert!(found.calibration.is_none(), "without a logit scale");
}

#[test]
fn the_first_of_classes_with_equal_names_wins() {
    let classes = strings(&["missile", "cat", "missile"]);
    let rows = array![[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]];
    // Two missiles of each class and a cat.
    let images = array![[1.0, 0.1], [0.9, 0.0], [0.1, 1.0], [1.0, 0.1], [0.8, 0.0]];
    let labels = [0, 0, 1, 2, 2];
    let set = StoredSet {
        name: "arms",
        labels: Some(Labels { classes: &classes, test: &labels, train: Some(&labels) }),
        image_of: None,
    };
    let model = StoredEmbeddings {
        classes: Some(rows.view()),
        train_images: Some(images.view()),
        logit_scale: Some(100.0),
        ..bare(&images)
    };
    let options = StoredOptions::default().with_probe(None);
    let found = evaluate_stored(&set, &model, Some(&model), &options).unwrap();
    let classified = found.classification.as_ref().unwrap();
    assert_eq!(classified.top1, 3.0 / 5.0);
    assert_eq!(classified.mean_per_class_recall, 2.0 / 3.0);
    assert_eq!(
        found.per_class.iter().map(|c| (c.right, c.predicted)).collect::<Vec<_>>(),
        [(2, 4), (1, 1), (0, 0)]
    );
    assert_eq!((found.confused.len(), found.confused[0].count), (1, 2));
    let calibration = found.calibration.as_ref().unwrap();
    assert_eq!(calibration.accuracy, classified.top1);
    // The four missiles have a confidence of one half and half of them are right; the cat has full confidence.
    assert!(calibration.expected_calibration_error < 1e-6, "{calibration:?}");
    assert_eq!(found.fidelity.as_ref().unwrap().top1_agreement, Some(1.0));
    // A collapsed model scores nothing: all different classes tie.
    let flat = Array2::ones((3, 2));
    let collapsed = StoredEmbeddings { classes: Some(flat.view()), train_images: None, ..model };
    let found = evaluate_stored(&set, &collapsed, None, &StoredOptions::scores()).unwrap();
    assert_eq!(found.classification.unwrap().top1, 0.0);
}

#[test]
fn mismatched_input_is_an_error() {
    let rows = Array2::<f32>::eye(3);
    let wide = Array2::<f32>::eye(4);
    let classes = strings(&["a", "b", "c"]);
    let labels = Labels { classes: &classes, test: &[0, 1, 2], train: None };
    let set = StoredSet { name: "set", labels: Some(labels), image_of: None };
    let usual = StoredOptions::default();
    let run = |set: &StoredSet<'_>, model: &StoredEmbeddings<'_>| evaluate_stored(set, model, None, &usual);
    let with_classes = StoredEmbeddings { classes: Some(rows.view()), ..bare(&rows) };
    assert!(run(&set, &with_classes).is_ok());
    let error = run(&set, &bare(&rows)).unwrap_err();
    assert!(error.to_string().contains("nothing can be measured on `set`"), "{error}");
    let with = |labels| StoredSet { labels: Some(labels), ..set };
    assert!(matches!(
        run(&with(Labels { test: &[0, 1], ..labels }), &with_classes),
        Err(Error::Shape { .. })
    ));
    assert!(matches!(run(&with(Labels { test: &[0, 1, 3], ..labels }), &with_classes), Err(Error::Input(_))));
    assert!(matches!(
        run(&with(Labels { classes: &strings(&["a", "b", "c", "d"]), ..labels }), &with_classes),
        Err(Error::Shape { .. })
    ));
    let model = StoredEmbeddings { classes: Some(wide.view()), ..bare(&rows) };
    assert!(matches!(run(&set, &model), Err(Error::Shape { .. })));
    let model = StoredEmbeddings { train_images: Some(rows.view()), ..bare(&rows) };
    assert!(matches!(run(&set, &model), Err(Error::Input(_))), "training images without labels");
    let model = StoredEmbeddings { texts: Some(rows.view()), ..bare(&rows) };
    assert!(matches!(run(&set, &model), Err(Error::Input(_))), "texts without their images");
    let model = StoredEmbeddings { logit_scale: Some(0.0), ..with_classes };
    assert!(matches!(run(&set, &model), Err(Error::Input(_))));
    let broken = rows.mapv(|value| if value > 0.0 { f32::NAN } else { 0.0 });
    assert!(matches!(
        run(&set, &StoredEmbeddings { classes: Some(rows.view()), ..bare(&broken) }),
        Err(Error::Input(_))
    ));
    let teacher = bare(&wide);
    let found = evaluate_stored(&set, &with_classes, Some(&teacher), &usual);
    assert!(matches!(found, Err(Error::Shape { .. })), "another number of images");
    let uneven = [Ok::<_, EncodeError>((pixels(&[[1.0, 0.0, 0.0]]), vec![0, 1]))];
    assert!(matches!(encode_labelled(&Colors::default(), uneven), Err(Error::Shape { .. })));
    assert!(matches!(encode_labelled(&Colors::default(), []), Err(Error::Input(_))));
    assert!(matches!(encode_captioned(&Colors::default(), []), Err(Error::Input(_))));
}
