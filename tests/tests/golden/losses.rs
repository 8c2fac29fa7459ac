//! Losses: values within a relative error of 1e-5, gradients within 1e-4 of their largest value.
//!
//! `losses` and `losses-2` are reference values of published losses. `tests/python/golden_losses.py` computes those of
//! `losses-extra`: the project's own losses, and published ones that the other two do not contain.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use clip_distill_tests::golden::{Coverage, assert_close, difference, files};
use kd_losses::Loss;
use self_check::losses::{Case, GRADIENT_TOLERANCE, Outcome, TOLERANCE, loss};
use tch::{Device, Kind, Tensor};

/// The cases of each loss: embeddings of one width, and of a wider teacher.
const CASES: [&str; 2] = ["same-width", "wider-teacher"];

/// Losses of the reference files that this project does not implement. Their values are not compared.
///
/// The test fails for any other unknown name, and if a loss of this list is implemented.
const NOT_IMPLEMENTED: [&str; 10] = [
    "crd_diagonal_t5",
    "crd_off_diagonal_t5",
    "crd_standardized",
    "dist",
    "gram_frobenius",
    "matryoshka_crd",
    "matryoshka_task",
    "procrustes",
    "sigmoid_kd",
    "sigmoid_kd_bce",
];

/// Splits the keys of a file into `<loss>.value` and `<loss>.grad.<input>`, and fails for any other key.
fn by_loss(reference: &HashMap<String, Tensor>) -> BTreeMap<&str, Vec<&str>> {
    let mut losses = BTreeMap::<&str, Vec<&str>>::new();
    for key in reference.keys() {
        let (name, rest) = key.split_once('.').unwrap_or_else(|| panic!("unknown key `{key}`"));
        let inputs = losses.entry(name).or_default();
        match rest.strip_prefix("grad.") {
            Some(input) => inputs.push(input),
            None => assert_eq!(rest, "value", "unknown key `{key}`"),
        }
    }
    losses
}

#[test]
fn losses_agree_with_the_reference() {
    let mut coverage = Coverage::new("losses");
    let mut skipped = BTreeSet::new();
    for file in files("losses", "safetensors") {
        let case = Case::read(&file.name, &std::fs::read(&file.path).unwrap()).unwrap();
        for (name, inputs) in by_loss(&case.reference) {
            let what = format!("{name} of {}", file.path.display());
            if NOT_IMPLEMENTED.contains(&name) {
                assert!(loss(name).is_none(), "{what}: implemented, but listed as not implemented");
                skipped.insert(name.to_string());
                continue;
            }
            let Outcome { value, gradients } =
                case.compute(name, Device::Cpu).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_close(&value, &case.reference[&format!("{name}.value")], TOLERANCE, &what);
            assert!(!inputs.is_empty(), "{what}: no gradient to compare");
            for leaf in &inputs {
                let found = gradients.get(*leaf).unwrap_or_else(|| panic!("{what}: no gradient of {leaf}"));
                let expected = &case.reference[&format!("{name}.grad.{leaf}")];
                assert_close(found, expected, GRADIENT_TOLERANCE, &format!("{what}, gradient of {leaf}"));
            }
            // A gradient that the reference does not have must be zero.
            for (leaf, gradient) in &gradients {
                if !inputs.contains(&leaf.as_str()) {
                    let (largest, _) = difference(gradient, &gradient.zeros_like().to_kind(Kind::Float));
                    assert!(largest == 0.0, "{what}: unexpected gradient of {leaf}");
                }
            }
            let (_, case) = file.name.rsplit_once('/').unwrap();
            coverage.add(&file, format!("{name} {case}"));
        }
    }
    println!("losses: not compared, because they are not implemented: {skipped:?}");
    // Every loss has a reference value. `hinton` has two: one of its term, and one of plain class logits.
    let names = Loss::all().map(|loss| loss.name().replace('-', "_")).chain(["hinton_t4".to_string()]);
    coverage.assert_exactly(names.flat_map(|name| CASES.map(|case| format!("{name} {case}"))));
    assert_eq!(skipped, NOT_IMPLEMENTED.map(String::from).into(), "losses that are not implemented");
}
