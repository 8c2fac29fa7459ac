//! `clip-distill self-check`: this machine's results against reference values.

use serde_json::json;
use trainer::recipe::PrecisionConfig;

use crate::args::SelfCheck;
use crate::exit::Code;
use crate::output;
use crate::provenance::VERSION;

pub(crate) fn run(args: SelfCheck) -> anyhow::Result<Code> {
    let device = args.device.resolve()?;
    let precisions = args.precision.iter().map(|precision| PrecisionConfig::from(*precision).on(device));
    output::note(format!(
        "checking {}: about a minute on a CPU with two cores",
        trainer::model::device::describe(device)
    ));
    let report = self_check::run(device, &precisions.collect::<Vec<_>>());
    let failed = report.checks.iter().filter(|check| !check.passed()).count();
    match args.output.json {
        true => output::json(&json!({ "program": VERSION, "passed": report.passed(), "report": report }))?,
        false => output::text(format!(
            "{}\n{}: {} checks, {failed} failed\n",
            report.table(),
            report.device,
            report.checks.len()
        ))?,
    }
    Ok(if report.passed() { Code::Done } else { Code::Failed })
}
