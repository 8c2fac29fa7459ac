//! Training: runs of the reference implementation, compared at every step.

use clip_distill_tests::golden::{Coverage, assert_close, files, tensors};
use clip_model::Precision;
use self_check::training::Reference;
use tch::Device;

#[test]
fn training_agrees_with_the_reference() {
    let mut coverage = Coverage::new("training");
    for file in files("training", "json") {
        let name = file.path.display().to_string();
        let reference = Reference::parse(&name, &std::fs::read_to_string(&file.path).unwrap()).unwrap();
        let mut step = 0_u64;
        let each = |report: &trainer::step::StepReport, row: &serde_json::Value| {
            assert_eq!(row["step"], step, "{name}: rows are in the order of the steps");
            let term = |name: &str| {
                let name = name.replace('_', "-");
                report.terms.iter().find(|(term, ..)| *term == name).map(|term| term.1)
            };
            let keys = row.as_object().unwrap().keys().filter(|key| *key != "step").collect::<Vec<_>>();
            for key in &keys {
                let (found, tolerance) = match key.as_str() {
                    "lr" => (report.lr, 1e-9),
                    "loss" => (report.loss, 1e-3),
                    "grad_norm" => (report.grad_norm, 5e-3),
                    "logit_scale" => (report.logit_scale, 1e-4),
                    // Any other key is the name of a loss term.
                    other => (term(other).unwrap_or_else(|| panic!("{name}: unknown key `{other}`")), 1e-3),
                };
                let expected = row[key.as_str()].as_f64().unwrap();
                assert!(
                    (found - expected).abs() <= tolerance * expected.abs() + 1e-9,
                    "{name}, step {step}: {key} is {found}, expected {expected}"
                );
            }
            // All keys except the four above are terms. A file with a single term need not list it.
            let parts = keys.len() - 4;
            let is_complete = parts == report.terms.len() || (parts == 0 && report.terms.len() == 1);
            assert!(is_complete, "{name}, step {step}: not all of {:?} are compared: {keys:?}", report.terms);
            step += 1;
        };
        let state = reference.run(Device::Cpu, Precision::Float32, each).unwrap();
        assert!(step > 0, "{name}: no steps");
        let last = tensors(&file.path.with_extension("safetensors"));
        assert!(!last.is_empty(), "{name}: no weights after the last step");
        for (key, expected) in last {
            let found = state.student.params().get(&key).unwrap();
            assert_close(found, &expected, 1e-3, &format!("{name}: final {key}"));
        }
        coverage.add(&file, &file.name);
    }
    coverage.assert_exactly(["training/clip", "training/distill"]);
}
