//! Checks of a machine against reference values: towers, losses, a short training and a resumed run.
#![doc = include_str!("../README.md")]

mod error;
pub mod fill;
pub mod losses;
mod resume;
mod tensors;
mod towers;
pub mod training;

use std::time::Instant;

use clip_model::Precision;
pub use error::{Error, Result};
use serde::Serialize;
use tch::Device;
use zeroshot_eval::table::{Cell, Table};

/// Result of one check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// Name of the check, such as `tower tiny/vit-32px` or `loss crd`.
    pub name: String,
    /// Precision of matrix products: `float32` or `bfloat16`.
    pub precision: String,
    /// Largest deviation from the reference, relative to its largest value. Missing if the computation failed.
    pub deviation: Option<f64>,
    /// Largest deviation that passes.
    pub tolerance: f64,
    /// Error message, if the computation failed.
    pub error: Option<String>,
    /// Duration in seconds.
    pub seconds: f64,
}

impl Check {
    /// Whether the result agrees with the reference.
    pub fn passed(&self) -> bool {
        // NaN fails the comparison.
        self.deviation.is_some_and(|deviation| deviation <= self.tolerance)
    }
}

/// Results of all checks on a device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The device, such as `cpu` or `cuda:0 (NVIDIA H200)`.
    pub device: String,
    /// The checks in the order in which they ran.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether all checks passed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(Check::passed)
    }

    /// Returns the checks as a table.
    pub fn table(&self) -> Table {
        let columns = ["check", "precision", "result"];
        let mut table = Table::new(columns).with_numbers(["deviation", "tolerance", "seconds"]);
        for check in &self.checks {
            let result = match (check.passed(), &check.error) {
                (true, _) => "ok".to_string(),
                (false, None) => "DIFFERS".into(),
                (false, Some(error)) => format!("FAILED: {error}"),
            };
            table.push([
                Cell::from(check.name.as_str()),
                Cell::from(check.precision.as_str()),
                Cell::from(result.as_str()),
                check.deviation.map_or(Cell::Missing, |value| Cell::Text(format!("{value:.1e}"))),
                Cell::Text(format!("{:.0e}", check.tolerance)),
                Cell::number(check.seconds, 1),
            ]);
        }
        table
    }
}

/// Largest deviations that pass.
#[derive(Clone, Copy, Debug)]
struct Tolerances {
    /// Embeddings.
    towers: f64,
    /// Losses and gradient norms of a training.
    training: f64,
}

impl Tolerances {
    /// The tolerances of the golden tests apply to float32 on a CPU. cuDNN convolves float32 with TF32 (10 bits), and
    /// bfloat16 has 7 bits.
    fn new(device: Device, precision: Precision) -> Self {
        match precision {
            Precision::BFloat16 => Tolerances { towers: 5e-2, training: 1e-2 },
            Precision::Float32 if device.is_cuda() => Tolerances { towers: 5e-3, training: 5e-3 },
            Precision::Float32 => Tolerances { towers: 1e-4, training: 1e-3 },
        }
    }
}

/// Runs the checks on a device in the given precisions. Losses always use float32 and are checked once.
///
/// Failures are part of the report.
pub fn run(device: Device, precisions: &[Precision]) -> Report {
    let mut report = Report { device: trainer::model::device::describe(device), checks: Vec::new() };
    for (index, precision) in precisions.iter().copied().enumerate() {
        let tolerances = Tolerances::new(device, precision);
        for reference in &towers::REFERENCES {
            let name = format!("tower {}", reference.name);
            report.add(name, precision, tolerances.towers, || reference.deviation(device, precision));
        }
        if index == 0 {
            for case in losses::embedded() {
                match case {
                    Ok(case) => check_losses(&mut report, &case, device),
                    Err(error) => {
                        report.add("losses".into(), Precision::Float32, losses::TOLERANCE, || Err(error))
                    }
                }
            }
        }
        for (name, text) in training::REFERENCES {
            report.add(format!("training {name}"), precision, tolerances.training, || {
                training::Reference::parse(name, text)?.deviation(device, precision)
            });
        }
        let tolerance = resume::tolerance(device);
        report.add("resume".into(), precision, tolerance, || {
            // The lines of three trainings are not results of the check.
            let silent = tracing::subscriber::NoSubscriber::default();
            tracing::subscriber::with_default(silent, || resume::deviation(device, precision))
        });
    }
    report
}

fn check_losses(report: &mut Report, case: &losses::Case, device: Device) {
    for name in case.names() {
        let loss = title_of(&name);
        let title = format!("loss {loss} ({})", case.title);
        report.add(title, Precision::Float32, losses::TOLERANCE, || case.deviation(&name, device));
    }
}

/// Returns the program's name of a loss in a reference file, which writes a hyphen as an underscore and adds a
/// temperature, as in `hinton_t4`.
fn title_of(name: &str) -> String {
    let Some(loss) = losses::loss(name) else { return name.into() };
    match name.rsplit_once("_t") {
        Some((_, temperature)) if loss.name() != name.replace('_', "-") => {
            format!("{}, temperature {temperature}", loss.name())
        }
        _ => loss.name().into(),
    }
}

impl Report {
    /// Performs a check, logs its result and adds it.
    fn add(
        &mut self,
        name: String,
        precision: Precision,
        tolerance: f64,
        check: impl FnOnce() -> Result<f64>,
    ) {
        let start = Instant::now();
        let outcome = check();
        let (deviation, error) = match outcome {
            Ok(deviation) => (Some(deviation), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let seconds = start.elapsed().as_secs_f64();
        let precision = precision.to_string();
        let check = Check { name, precision, deviation, tolerance, error, seconds };
        let result = if check.passed() { "ok" } else { "DIFFERS" };
        tracing::info!("{}, {}: {result}", check.name, check.precision);
        self.checks.push(check);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use torch_ext::products::{self, Library};

    fn check(deviation: Option<f64>, error: Option<&str>) -> Check {
        Check {
            name: "tower a".into(),
            precision: "float32".into(),
            deviation,
            tolerance: 1e-4,
            error: error.map(String::from),
            seconds: 0.25,
        }
    }

    #[test]
    fn every_library_of_products_agrees_with_the_reference() {
        for library in Library::ALL.into_iter().filter(|library| library.is_available()) {
            products::choose(library);
            let report = run(Device::Cpu, &[Precision::Float32]);
            assert!(report.passed(), "{library}\n{}", report.table());
        }
    }

    #[test]
    fn losses_have_the_names_of_the_program() {
        for (name, title) in [
            ("patch_tokens", "patch-tokens"),
            ("hinton_t4", "hinton, temperature 4"),
            ("hinton", "hinton"),
            ("gram_text_text", "gram-text-text"),
        ] {
            assert_eq!(title_of(name), title);
        }
    }

    #[test]
    fn only_a_deviation_within_the_tolerance_passes() {
        assert!(check(Some(1e-4), None).passed());
        assert!(!check(Some(2e-4), None).passed());
        assert!(!check(Some(f64::NAN), None).passed());
        assert!(!check(None, Some("out of memory")).passed());
        let checks = vec![check(Some(0.0), None), check(Some(1.0), None), check(None, Some("out of memory"))];
        let report = Report { device: "cpu".into(), checks };
        assert!(!report.passed());
        let text = report.table().to_string();
        assert!(
            text.contains("ok") && text.contains("DIFFERS") && text.contains("FAILED: out of memory"),
            "{text}"
        );
    }
}
