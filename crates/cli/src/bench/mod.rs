//! Measures the training step on random data: time, throughput, memory, and the share of the device's peak.

mod memory;
mod rounds;
mod step;

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;
pub(crate) use rounds::serve;
use serde::{Deserialize, Serialize};
pub(crate) use step::measure;
use trainer::recipe::{DeviceSetting, PrecisionConfig};
use zeroshot_eval::table::{Cell, Table};

/// One measurement: a student, with or without a teacher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Case {
    /// Preset of the student.
    pub student: String,
    /// Preset of the teacher. The losses are then those of CLIP-KD (task, CRD, FD, ICL), otherwise the task loss.
    pub teacher: Option<String>,
    /// Pairs per batch.
    pub batch: u64,
    /// Pairs per forward and backward pass of the student (`train.micro_batch`); `None` for the whole batch.
    #[serde(default)]
    pub micro_batch: Option<usize>,
    /// Image size of the student in pixels, if not the preset's.
    #[serde(default)]
    pub image_size: Option<i64>,
    /// Precision of matrix products.
    pub precision: PrecisionConfig,
    /// Device to measure.
    pub device: DeviceSetting,
    /// Number of measured steps, after two warm-up steps.
    pub steps: usize,
}

/// Result of a measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Median seconds of a step.
    pub step_seconds: f64,
    /// Fastest and slowest step, in seconds.
    pub step_range: [f64; 2],
    /// Pairs per second, at the median.
    pub samples_per_second: f64,
    /// Floating-point operations per second, at the median.
    pub flops: f64,
    /// Operations per second of a large matrix product on the device, in the same precision.
    pub peak_flops: f64,
    /// Peak memory of the process in bytes: resident memory on a CPU, device memory on a GPU, if known.
    pub memory: Option<u64>,
}

/// A measurement with its result, or the reason for its failure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    #[serde(flatten)]
    pub case: Case,
    #[serde(flatten)]
    pub measured: Option<Measured>,
    pub error: Option<String>,
}

/// Measures a case in a separate process, so that its peak memory excludes other cases and a case that runs out of
/// memory does not end the others.
///
/// # Errors
/// If the process cannot be started. A case that fails is a [`Row`] with an error.
pub(crate) fn in_process(program: &Path, case: Case) -> anyhow::Result<Row> {
    let child = Command::new(program)
        .args(["bench", "--case", &serde_json::to_string(&case)?])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", program.display()))?;
    let (measured, error) = match serde_json::from_slice::<Measured>(&child.stdout) {
        Ok(measured) if child.status.success() => (Some(measured), None),
        _ => (None, Some(failure(&String::from_utf8_lossy(&child.stderr), &child.status.to_string()))),
    };
    Ok(Row { case, measured, error })
}

/// Describes a failed process: its last error message, or its exit status.
fn failure(errors: &str, status: &str) -> String {
    let memory = ["not enough memory", "out of memory", "alloc"];
    if memory.iter().any(|text| errors.to_lowercase().contains(text)) || status.contains("signal: 9") {
        return "out of memory".into();
    }
    let line = errors.lines().rev().find(|line| line.starts_with("error"));
    line.unwrap_or(status).trim_start_matches("error: ").to_string()
}

/// Returns the measurements as a table.
pub(crate) fn table(rows: &[Row]) -> Table {
    let numbers = [
        "image, px",
        "batch",
        "micro-batch",
        "step, ms",
        "samples/s",
        "TFLOP/s",
        "of peak, %",
        "memory, MiB",
    ];
    let mut table = Table::new(["student", "teacher", "precision"]).with_numbers(numbers);
    for Row { case, measured, error } in rows {
        let teacher = case.teacher.as_deref().map_or(Cell::Missing, Cell::from);
        let precision = format!("{:?}", case.precision).to_lowercase();
        let count = |number: Option<u64>| number.map_or(Cell::Missing, Cell::Count);
        let mut cells = vec![
            case.student.as_str().into(),
            teacher,
            precision.as_str().into(),
            count(case.image_size.map(i64::unsigned_abs)),
            Cell::Count(case.batch),
            count(case.micro_batch.map(|size| size as u64)),
        ];
        match measured {
            Some(found) => cells.extend([
                Cell::number(found.step_seconds * 1e3, 1),
                Cell::number(found.samples_per_second, 1),
                Cell::number(found.flops * 1e-12, 3),
                Cell::percent(found.flops / found.peak_flops),
                found.memory.map_or(Cell::Missing, |bytes| Cell::Count(bytes >> 20)),
            ]),
            None => cells.push(error.as_deref().unwrap_or("failed").into()),
        }
        table.push(cells);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_described_in_one_line() {
        assert_eq!(failure("note\nerror: no preset `x`\n", "exit status: 1"), "no preset `x`");
        assert_eq!(failure("", "exit status: 7"), "exit status: 7");
        assert_eq!(failure("", "signal: 9 (SIGKILL)"), "out of memory");
        assert_eq!(
            failure("error: CUDA out of memory. Tried to …\ntrace", "exit status: 1"),
            "out of memory"
        );
    }

    #[test]
    fn a_table_shows_results_and_failures() {
        let case = Case {
            student: "ViT-T-16".into(),
            teacher: Some("ViT-B-16".into()),
            batch: 16,
            micro_batch: Some(4),
            image_size: Some(160),
            precision: PrecisionConfig::Bf16,
            device: DeviceSetting::Cpu,
            steps: 3,
        };
        let measured = Measured {
            step_seconds: 0.5,
            step_range: [0.4, 0.6],
            samples_per_second: 32.0,
            flops: 2e12,
            peak_flops: 8e12,
            memory: Some(3 << 20),
        };
        let failed = Row { case: case.clone(), measured: None, error: Some("out of memory".into()) };
        let text = table(&[Row { case, measured: Some(measured), error: None }, failed]).to_string();
        for part in ["ViT-B-16", "bf16", "500.0", "32.0", "2.000", "25.0", "160", "out of memory"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
