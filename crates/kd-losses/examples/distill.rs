//! Distils a linear teacher into a linear student with CRD and FD.
//!
//! Run with `cargo run -p kd-losses --example distill`.

use std::io::Write;

use kd_losses::{Embeddings, Loss, ModelOutputs, Objective, Targets, Term};
use tch::{Device, Kind, Tensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tch::manual_seed(0);
    let float = (Kind::Float, Device::Cpu);
    let (inputs, width) = (32, 16);
    let teacher = Tensor::randn([inputs, width], float);
    let mut student = (Tensor::randn([inputs, width], float) * 0.1).set_requires_grad(true);
    let scale = Tensor::from(20.0f32);
    let terms = [Term::new(Loss::Crd, 1.0), Term::new(Loss::Fd, 100.0)];
    let objective = Objective::new(&terms, width, &[width], Device::Cpu)?;

    for step in 0..=200 {
        let (images, texts) = (Tensor::randn([64, inputs], float), Tensor::randn([64, inputs], float));
        let target = Embeddings::new(images.matmul(&teacher), texts.matmul(&teacher))?.normalized();
        let embeddings = Embeddings::new(images.matmul(&student), texts.matmul(&student))?;
        let report = objective.evaluate(
            step,
            &ModelOutputs::new(&embeddings, &scale),
            &[ModelOutputs::new(&target, &scale)],
            &Targets::Diagonal { offset: 0 },
        )?;
        student.zero_grad();
        report.total.backward();
        tch::no_grad(|| student -= student.grad() * 0.002);
        if step % 50 == 0 {
            let values =
                report.terms.iter().map(|term| format!("{} {:.5}", term.loss, term.value.double_value(&[])));
            writeln!(std::io::stdout(), "step {step:3}: {}", values.collect::<Vec<_>>().join(", "))?;
        }
    }
    Ok(())
}
