//! The training step on a loaded batch: without and with a teacher.

use clip_model::{Clip, presets};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kd_losses::{Loss, Objective, Term};
use tch::{Device, Kind, Tensor};
use trainer::optim::adamw::OptimizerConfig;
use trainer::recipe::TargetRule;
use trainer::step::{MicroBatch, TeacherInput, TrainState, ViewTensors};
use trainer::teacher::frozen::Teacher;
use trainer::teacher::signal::TeacherSignal;

const BATCH: i64 = 64;

fn model(name: &str) -> Clip {
    let config = presets::get(name).expect("a preset");
    Clip::new(&config, Device::Cpu, 0).expect("a model")
}

fn batch() -> MicroBatch {
    let images = Tensor::randn([BATCH, 3, 32, 32], (Kind::Float, Device::Cpu));
    let tokens = Tensor::randint(1000, [BATCH, 12], (Kind::Int64, Device::Cpu));
    MicroBatch { student: ViewTensors::new(images, tokens), teachers: Vec::new() }
}

fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("step of ViT-nano-32px");
    group.throughput(Throughput::Elements(BATCH as u64)).sample_size(10);
    let term = Term::new;
    let cases = [
        ("task", vec![term(Loss::Task, 1.0)]),
        (
            "task, CRD, FD, ICL with ViT-micro-32px",
            vec![term(Loss::Task, 1.0), term(Loss::Crd, 1.0), term(Loss::Fd, 2000.0), term(Loss::Icl, 1.0)],
        ),
    ];
    for (name, terms) in cases {
        let teacher = (terms.len() > 1).then(|| Teacher::new(model("ViT-micro-32px")));
        let guides = teacher.map(TeacherSignal::live).into_iter().collect::<Vec<_>>();
        let widths = guides.iter().map(TeacherSignal::width).collect::<Vec<_>>();
        let student = model("ViT-nano-32px");
        let objective =
            Objective::new(&terms, student.config().embed_dim, &widths, Device::Cpu).expect("an objective");
        let mut trainee =
            TrainState::new(student, objective, &OptimizerConfig::default(), None).expect("a trainee");
        let teachers = guides.iter().map(|_| TeacherInput::AsStudent).collect();
        let batches = [MicroBatch { teachers, ..batch() }];
        group.bench_function(name, |b| {
            b.iter(|| trainee.step(&batches, &guides, TargetRule::Diagonal, 1e-5));
        });
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
