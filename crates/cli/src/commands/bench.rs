//! `clip-distill bench`: speed and memory of training and distillation steps.

use std::num::NonZeroUsize;

use anyhow::{Context, bail};
use clip_model::{Precision, presets};
use serde_json::json;
use tch::Device;
use trainer::model::device;

use crate::args::{Bench, ProductPrecision};
use crate::bench::{Case, in_process, measure, serve, table};
use crate::exit::Code;
use crate::output;
use crate::provenance::VERSION;

/// Students and batch sizes on a CPU.
const ON_CPU: [(&str, &[u64]); 2] = [("ViT-nano-32px", &[128]), ("ViT-T-16", &[16])];
/// Students and batch sizes on a GPU.
const ON_GPU: [(&str, &[u64]); 2] = [("ViT-T-16", &[256, 1024]), ("MobileNetV3-Small-100", &[256, 1024])];

pub(crate) fn run(args: Bench) -> anyhow::Result<Code> {
    if let Some(case) = &args.case {
        let case = serde_json::from_str::<Case>(case).context("--case")?;
        output::json(&measure(&case)?)?;
        return Ok(Code::Done);
    }
    if let [case, results] = &args.rounds[..] {
        serve(case, results)?;
        return Ok(Code::Done);
    }
    let device = args.device.resolve()?;
    let cases = cases(&args, device)?;
    let program = std::env::current_exe()
        .context("cannot find the path of this program, which is started for each case")?;
    let mut rows = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let teacher = case.teacher.as_ref().map(|teacher| format!(" with {teacher}")).unwrap_or_default();
        output::note(format!(
            "{} of {}: {}{teacher}, batch {}",
            index + 1,
            cases.len(),
            case.student,
            case.batch
        ));
        rows.push(in_process(&program, case.clone())?);
    }
    let failed = rows.iter().all(|row| row.measured.is_none());
    let name = device::describe(device);
    let threads = tch::get_num_threads();
    match args.output.json {
        true => {
            output::json(&json!({ "program": VERSION, "device": name, "threads": threads, "cases": rows }))?
        }
        false => output::text(format!(
            "{VERSION} on {name}, {threads} threads\n\n{}\n\
             Random data, texts of full context. TFLOP/s: operations of the models; peak: a large matrix product in \
             the same precision.\n",
            table(&rows)
        ))?,
    }
    Ok(if failed { Code::Failed } else { Code::Done })
}

/// Returns the measurements that the arguments select: every student, batch and precision, without and with a teacher.
fn cases(args: &Bench, device: Device) -> anyhow::Result<Vec<Case>> {
    let defaults = if device.is_cuda() { &ON_GPU } else { &ON_CPU };
    let mut students = match args.preset.is_empty() {
        true => {
            defaults.iter().map(|(name, batches)| (name.to_string(), batches.to_vec())).collect::<Vec<_>>()
        }
        false => args
            .preset
            .iter()
            .map(|name| (name.clone(), vec![if device.is_cuda() { 256 } else { 16 }]))
            .collect(),
    };
    if !args.batch.is_empty() {
        students.iter_mut().for_each(|(_, batches)| batches.clone_from(&args.batch));
    }
    if students.iter().any(|(_, batches)| batches.contains(&0)) {
        bail!("--batch 0: pass at least 1 pair per batch");
    }
    let fast_bf16 = Precision::fastest(device) == Precision::BFloat16;
    let precisions = match (args.precision.is_empty(), fast_bf16) {
        (false, _) => args.precision.clone(),
        (true, true) => vec![ProductPrecision::Fp32, ProductPrecision::Bf16],
        (true, false) => vec![ProductPrecision::Fp32],
    };
    let mut cases = Vec::new();
    for (student, batches) in &students {
        let preset = presets::get(student)?.vision_cfg.image_size;
        let small = preset < 64;
        let sizes = if args.image_size.is_empty() { &vec![preset] } else { &args.image_size };
        let teacher =
            args.teacher.clone().unwrap_or_else(|| if small { "ViT-micro-32px" } else { "ViT-B-16" }.into());
        presets::get(&teacher)?;
        for (image_size, batch) in
            sizes.iter().flat_map(|size| batches.iter().map(move |batch| (size, batch)))
        {
            for precision in &precisions {
                for teacher in
                    [None, Some(teacher.clone())].into_iter().filter(|t| t.is_none() || !args.no_teacher)
                {
                    cases.push(Case {
                        student: student.clone(),
                        teacher,
                        batch: *batch,
                        micro_batch: args.micro_batch.map(NonZeroUsize::get),
                        image_size: Some(*image_size),
                        precision: (*precision).into(),
                        device: args.device.chosen.unwrap_or_default(),
                        steps: args.steps.get(),
                    });
                }
            }
        }
    }
    Ok(cases)
}
