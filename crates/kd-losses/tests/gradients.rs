//! Every loss's gradient against central differences along random directions.

use kd_losses::objective::Side;
use kd_losses::{Embeddings, Loss, Objective, Targets, Term, contrastive, logit};
use tch::{Device, Kind, Tensor};

const BATCH: i64 = 6;
/// Half the distance of the two points; float32 values of about 1 leave 4 digits of the difference.
const STEP: f64 = 5e-3;

fn randn(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu))
}

/// Compares the gradients of `loss` at `leaves` with differences along three directions.
fn check(name: &str, leaves: &[Tensor], loss: impl Fn() -> Tensor) {
    let leaves = leaves.iter().map(|leaf| leaf.set_requires_grad(true)).collect::<Vec<_>>();
    for leaf in &leaves {
        leaf.shallow_clone().zero_grad();
    }
    loss().backward();
    let gradients = leaves.iter().map(|leaf| leaf.grad().copy()).collect::<Vec<_>>();
    for direction in 0..3 {
        let ways = leaves.iter().map(|leaf| randn(&leaf.size())).collect::<Vec<_>>();
        let along =
            |(gradient, way): (&Tensor, &Tensor)| (gradient * way).sum(Kind::Double).double_value(&[]);
        let expected = gradients.iter().zip(&ways).map(along).sum::<f64>();
        let at = |factor: f64| {
            tch::no_grad(|| {
                let old = leaves.iter().map(Tensor::copy).collect::<Vec<_>>();
                for (leaf, way) in leaves.iter().zip(&ways) {
                    let _ = leaf.shallow_clone().g_add_(&(way * factor));
                }
                let value = loss().double_value(&[]);
                for (leaf, old) in leaves.iter().zip(&old) {
                    leaf.shallow_clone().copy_(old);
                }
                value
            })
        };
        let found = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        let sizes = |(gradient, way): (&Tensor, &Tensor)| (gradient.norm() * way.norm()).double_value(&[]);
        let scale = gradients.iter().zip(&ways).map(sizes).sum::<f64>();
        assert!(scale > 1e-6, "{name}: there is no gradient");
        assert!(
            (found - expected).abs() <= 5e-3 * scale,
            "{name}, direction {direction}: {found} and {expected}"
        );
    }
}

#[test]
fn terms_of_the_objective() {
    for teacher_width in [8, 12] {
        for loss in Loss::ALL {
            tch::manual_seed(3);
            let terms = [Term { loss, weight: 1.0 }];
            let objective = Objective::new(&terms, 8, Some(teacher_width), Device::Cpu).unwrap();
            let (image, text) = (randn(&[BATCH, 8]), randn(&[BATCH, 8]));
            let scale = Tensor::from(5.0f32);
            let theirs = || randn(&[BATCH, teacher_width]);
            let teacher = Embeddings::new(theirs(), theirs()).unwrap().normalized();
            let teacher_scale = Tensor::from(7.0f32);
            let mut leaves = vec![image.shallow_clone(), text.shallow_clone()];
            leaves.extend(objective.parts().named().iter().map(|(_, tensor)| tensor.shallow_clone()));
            // Feature terms do not read the student's scale.
            if loss != Loss::Fd && loss != Loss::Icl {
                leaves.push(scale.shallow_clone());
            }
            check(&format!("{} from width {teacher_width}", loss.name()), &leaves, || {
                let student = Embeddings::new(image.shallow_clone(), text.shallow_clone()).unwrap();
                let student = Side { local: &student, all: &student, scale: &scale };
                let teacher = Side { local: &teacher, all: &teacher, scale: &teacher_scale };
                let targets = Targets::Diagonal { offset: 0 };
                objective.evaluate(&student, Some(&teacher), &targets).unwrap().total
            });
        }
    }
}

#[test]
fn losses_on_logits() {
    tch::manual_seed(4);
    let (student, teacher) = (randn(&[BATCH, 10]), randn(&[BATCH, 10]));
    check("hinton", &[student.shallow_clone()], || logit::hinton(&student, &teacher, 3.0).unwrap());
    let (logits, bias) = (randn(&[BATCH, BATCH]), Tensor::from(-1.0f32));
    check("siglip", &[logits.shallow_clone(), bias.shallow_clone()], || {
        contrastive::siglip(&logits, &bias, 0).unwrap()
    });
}
