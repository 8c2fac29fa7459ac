//! Fidelity by hand, and under changes that must not affect it.

use super::*;
use crate::Error;
use crate::seeded::made_up;
use ndarray::{Array2, Axis, array};
use proptest::prelude::*;

fn sides<'a>(teacher: &'a Array2<f32>, student: &'a Array2<f32>) -> Sides<'a> {
    Sides { teacher: teacher.view(), student: student.view() }
}

fn only_images<'a>(teacher: &'a Array2<f32>, student: &'a Array2<f32>) -> FidelityInput<'a> {
    FidelityInput {
        images: sides(teacher, student),
        texts: None,
        image_of: None,
        classes: None,
        class_names: None,
    }
}

#[test]
fn by_hand() {
    // The student rotates the teacher's plane by a right angle, doubles the norms and adds a third dimension.
    let images = array![[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]];
    let texts = array![[0.6, 0.8], [0.0, -1.0]];
    let turn = |rows: &Array2<f32>| {
        Array2::from_shape_fn((rows.nrows(), 3), |(i, j)| match j {
            0 => -2.0 * rows[[i, 1]],
            1 => 2.0 * rows[[i, 0]],
            _ => 0.0,
        })
    };
    let (student_images, student_texts) = (turn(&images), turn(&texts));
    let input = FidelityInput {
        images: sides(&images, &student_images),
        texts: Some(sides(&texts, &student_texts)),
        image_of: Some(&[0, 1]),
        classes: Some(sides(&texts, &student_texts)),
        class_names: None,
    };
    let options = FidelityOptions { neighbors: 1, ..FidelityOptions::default() };
    let found = fidelity(&input, &options).unwrap();
    assert_eq!((found.images, found.texts), (3, Some(2)));
    for value in [found.cka_images, found.cka_texts, found.cka_stacked] {
        assert!((value.unwrap() - 1.0).abs() < 1e-6);
    }
    assert_eq!(found.spearman_images, Some(1.0));
    assert_eq!(found.spearman_texts, None, "one pair has no order");
    assert_eq!(found.spearman_image_text, Some(1.0));
    assert_eq!(found.neighbor_overlap_images, Some(1.0));
    assert_eq!(found.neighbor_overlap_texts, None, "the one other text is always the neighbour");
    // Centroids (0, 1/3) and (0.3, -0.1).
    let gap = (0.09 + (1.0 / 3.0 + 0.1f64).powi(2)).sqrt();
    assert!((found.modality_gap_teacher.unwrap() - gap).abs() < 1e-6);
    assert!((found.modality_gap_student.unwrap() - gap).abs() < 1e-6);
    assert!((found.modality_gap_ratio.unwrap() - 1.0).abs() < 1e-6);
    assert_eq!(found.neighbor_overlap_image_text, Some(1.0));
    // Cosines 0.6 and -1.
    assert!((found.pair_cosine_teacher.unwrap() + 0.2).abs() < 1e-6);
    assert!((found.pair_cosine_student.unwrap() + 0.2).abs() < 1e-6);
    assert_eq!(found.top1_agreement, Some(1.0));
}

#[test]
fn a_collapsed_student_has_no_fidelity() {
    let teacher = made_up(40, 4, 0);
    let found = fidelity(
        &only_images(&teacher, &Array2::from_elem((40, 3), 0.3)),
        &FidelityOptions { neighbors: 3, ..FidelityOptions::default() },
    );
    let found = found.unwrap();
    assert_eq!((found.cka_images, found.spearman_images), (None, None));
    assert!(found.neighbor_overlap_images.unwrap() < 0.3);
    let classes = Array2::from_elem((5, 3), 0.3);
    let collapsed = Array2::from_elem((40, 3), 0.3);
    let mut input = only_images(&collapsed, &collapsed);
    input.classes = Some(sides(&classes, &classes));
    assert_eq!(fidelity(&input, &FidelityOptions::default()).unwrap().top1_agreement, Some(0.0));
}

#[test]
fn a_single_embedding_has_no_relations() {
    let row = array![[0.6, 0.8]];
    let mut input = only_images(&row, &row);
    input.texts = Some(sides(&row, &row));
    input.image_of = Some(&[0]);
    let found = fidelity(&input, &FidelityOptions::default()).unwrap();
    let none = [found.cka_images, found.spearman_images, found.neighbor_overlap_images, found.cka_stacked];
    assert_eq!(none, [None; 4]);
    assert_eq!(found.spearman_image_text, None);
    assert_eq!((found.modality_gap_teacher, found.modality_gap_ratio), (Some(0.0), None));
    assert!((found.pair_cosine_student.unwrap() - 1.0).abs() < 1e-6);
}

#[test]
fn bad_input_is_an_error() {
    let options = FidelityOptions::default();
    let (rows, fewer, wider) = (made_up(12, 3, 0), made_up(11, 3, 0), made_up(12, 4, 0));
    let shape = |input: &FidelityInput<'_>| matches!(fidelity(input, &options), Err(Error::Shape { .. }));
    let bad = |input: &FidelityInput<'_>| matches!(fidelity(input, &options), Err(Error::Input(_)));
    let good = FidelityInput { texts: Some(sides(&rows, &rows)), ..only_images(&rows, &rows) };
    assert!(fidelity(&good, &options).is_ok());
    assert!(shape(&only_images(&rows, &fewer)));
    assert!(shape(&FidelityInput { texts: Some(sides(&rows, &fewer)), ..good }));
    assert!(shape(&FidelityInput { texts: Some(sides(&wider, &rows)), ..good }));
    assert!(shape(&FidelityInput { texts: Some(sides(&rows, &wider)), ..good }));
    assert!(shape(&FidelityInput { classes: Some(sides(&wider, &rows)), ..good }));
    let one = ["a".to_string()];
    assert!(shape(&FidelityInput { classes: Some(sides(&rows, &rows)), class_names: Some(&one), ..good }));
    assert!(shape(&FidelityInput { image_of: Some(&[0]), ..good }));
    assert!(bad(&FidelityInput { image_of: Some(&[12; 12]), ..good }));
    assert!(bad(&FidelityInput { image_of: Some(&[0; 12]), texts: None, ..good }));
    let mut broken = rows.clone();
    broken[[3, 0]] = f32::INFINITY;
    assert!(bad(&only_images(&broken, &rows)));
    assert!(bad(&FidelityInput { texts: Some(sides(&rows, &broken)), ..good }));
    assert!(bad(&FidelityInput { classes: Some(sides(&rows, &broken)), ..good }));
    let empty = Array2::zeros((0, 3));
    assert!(bad(&only_images(&empty, &empty)));
    assert!(bad(&FidelityInput { texts: Some(sides(&empty, &empty)), ..good }));
    assert!(fidelity(&good, &FidelityOptions { neighbors: 0, ..options }).is_err());
    assert!(fidelity(&good, &FidelityOptions { max_pairs: 1, ..options }).is_err());
    assert!(fidelity(&good, &FidelityOptions { max_rows: 1, ..options }).is_err());
}

#[test]
fn drawn_pairs_approximate_the_correlation_of_all_pairs() {
    let teacher = made_up(200, 8, 0);
    let student = &teacher + &(made_up(200, 8, 1) * 0.7);
    let measure = |max_pairs| {
        let options = FidelityOptions { max_pairs, ..FidelityOptions::default() };
        fidelity(&only_images(&teacher, &student), &options).unwrap().spearman_images.unwrap()
    };
    let (all, drawn) = (measure(19_900), measure(4_000));
    assert!(all > 0.5 && all < 0.95, "{all}");
    assert!((all - drawn).abs() < 0.05, "{all} {drawn}");
    assert_eq!(drawn, measure(4_000));
}

#[test]
fn the_gap_ratio_is_student_over_teacher() {
    let (images, texts) = (array![[1.0, 0.0]], array![[0.0, 1.0]]);
    let closer = array![[0.8, 0.6]];
    let mut input = only_images(&images, &images);
    input.texts = Some(sides(&texts, &closer));
    // Distances sqrt 2 and sqrt (0.04 + 0.36).
    let ratio = fidelity(&input, &FidelityOptions::default()).unwrap().modality_gap_ratio.unwrap();
    assert!((ratio - 0.2f64.sqrt()).abs() < 1e-6, "{ratio}");
}

#[test]
fn draws_are_bounded_and_keep_texts_with_their_images() {
    // For both models, text t equals image t / 2. The models share nothing else, so an image without its texts would have
    // other neighbours.
    let (teacher, student) = (made_up(60, 6, 0), made_up(60, 5, 1));
    let image_of = (0..120).map(|text| text / 2).collect::<Vec<_>>();
    let (teacher_texts, student_texts) =
        (teacher.select(Axis(0), &image_of), student.select(Axis(0), &image_of));
    let mut input = only_images(&teacher, &student);
    input.texts = Some(sides(&teacher_texts, &student_texts));
    input.image_of = Some(&image_of);
    let options = FidelityOptions { neighbors: 2, max_rows: 40, ..FidelityOptions::default() };
    let found = fidelity(&input, &options).unwrap();
    assert_eq!((found.images, found.images_drawn), (60, 40));
    assert_eq!((found.texts, found.texts_drawn), (Some(120), Some(40)));
    assert_eq!(found, fidelity(&input, &options).unwrap());
    let other = fidelity(&input, &FidelityOptions { seed: 1, ..options }).unwrap();
    assert_ne!(found.spearman_images, other.spearman_images);
    assert_eq!(found.modality_gap_student, other.modality_gap_student, "the gap uses all embeddings");
    // Unbounded, both texts of an image are its neighbours.
    let unbounded = fidelity(&input, &FidelityOptions { max_rows: 120, ..options }).unwrap();
    assert_eq!((unbounded.texts_drawn, unbounded.neighbor_overlap_image_text), (Some(120), Some(1.0)));
    // One text per image: a sixth of the images come with their text.
    let firsts = (0..60).collect::<Vec<_>>();
    input.texts = Some(input.images);
    input.image_of = Some(&firsts);
    let few = FidelityOptions { neighbors: 1, max_rows: 10, ..options };
    assert_eq!(fidelity(&input, &few).unwrap().neighbor_overlap_image_text, Some(1.0));
    input.image_of = None;
    assert!(fidelity(&input, &few).unwrap().neighbor_overlap_image_text.unwrap() < 0.9);
}

#[test]
fn json_and_table() {
    let rows = made_up(12, 3, 0);
    let found = fidelity(&only_images(&rows, &rows), &FidelityOptions::default()).unwrap();
    let json = serde_json::to_string(&found).unwrap();
    assert!(json.contains(r#""cka_texts":null"#), "{json}");
    assert_eq!(serde_json::from_str::<Fidelity>(&json).unwrap(), found);
    let expected = "\
| of     | metric          |  value |
|--------|-----------------|-------:|
| images | linear CKA      | 1.0000 |
| images | Spearman        | 1.0000 |
| images | k-NN overlap    | 1.0000 |
| images | top-1 agreement |      - |
";
    assert_eq!(found.table().to_markdown(), expected);
    let mut input = only_images(&rows, &rows);
    input.texts = Some(input.images);
    let table = fidelity(&input, &FidelityOptions::default()).unwrap().table().to_markdown();
    assert!(table.contains("| student / teacher | modality gap    |      - |"), "{table}");
    assert!(table.contains("| images to texts   | k-NN overlap    | 1.0000 |"), "{table}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_rotated_and_scaled_student_has_full_fidelity(n in 13usize..30, seed in 0u64..999, angle in 0.0f32..6.0) {
        let (images, texts) = (made_up(n, 4, seed), made_up(n + 3, 4, seed + 1));
        let turn = |rows: &Array2<f32>| Array2::from_shape_fn(rows.dim(), |(i, j)| {
            let (x, y) = (rows[[i, 0]], rows[[i, 3]]);
            (i + 1) as f32 * match j {
                0 => angle.cos() * x - angle.sin() * y,
                3 => angle.sin() * x + angle.cos() * y,
                _ => rows[[i, j]],
            }
        });
        let (student_images, student_texts) = (turn(&images), turn(&texts));
        let mut input = only_images(&images, &student_images);
        input.texts = Some(sides(&texts, &student_texts));
        let found = fidelity(&input, &FidelityOptions::default()).unwrap();
        for value in [found.cka_images, found.cka_texts, found.cka_stacked] {
            prop_assert!((value.unwrap() - 1.0).abs() < 1e-5);
        }
        // Rounding may swap two cosines that are nearly equal.
        for value in [found.spearman_images, found.spearman_texts, found.spearman_image_text] {
            prop_assert!(value.unwrap() > 0.9999);
        }
        prop_assert!(found.neighbor_overlap_images.unwrap() > 0.98);
        let gaps = found.modality_gap_teacher.unwrap() - found.modality_gap_student.unwrap();
        prop_assert!(gaps.abs() < 1e-5);
    }
}
