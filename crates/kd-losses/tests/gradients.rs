//! Every loss's gradient against central differences along random directions.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kd_losses::{
    AuxOutputs, BlockPairs, Embeddings, Loss, ModelOutputs, Objective, Targets, Term, TokenStates,
    TokenWidths, WeightSchedule, contrastive, logit,
};
use tch::{Device, Kind, Tensor};

const BATCH: i64 = 6;
/// Half the distance between the two points of a central difference. For values of about 1, float32 leaves 4 digits of
/// the difference.
const STEP: f64 = 5e-3;

/// Locks torch's generator, which all threads share, so that tests that seed it run one at a time.
fn lock_generator() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

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
        let directions = leaves.iter().map(|leaf| randn(&leaf.size())).collect::<Vec<_>>();
        let along = |(gradient, direction): (&Tensor, &Tensor)| {
            (gradient * direction).sum(Kind::Double).double_value(&[])
        };
        let expected = gradients.iter().zip(&directions).map(along).sum::<f64>();
        let at = |factor: f64| {
            tch::no_grad(|| {
                let old = leaves.iter().map(Tensor::copy).collect::<Vec<_>>();
                for (leaf, direction) in leaves.iter().zip(&directions) {
                    let _ = leaf.shallow_clone().g_add_(&(direction * factor));
                }
                let value = loss().double_value(&[]);
                for (leaf, old) in leaves.iter().zip(&old) {
                    leaf.shallow_clone().copy_(old);
                }
                value
            })
        };
        let found = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        let sizes = |(gradient, direction): (&Tensor, &Tensor)| {
            (gradient.norm() * direction.norm()).double_value(&[])
        };
        let scale = gradients.iter().zip(&directions).map(sizes).sum::<f64>();
        assert!(scale > 1e-6, "{name}: the gradient is 0");
        assert!(
            (found - expected).abs() <= 5e-3 * scale,
            "{name}, direction {direction}: {found} and {expected}"
        );
    }
}

/// Terms that read the student's own logit scale.
const READ_THE_SCALE: [Loss; 6] =
    [Loss::Task, Loss::Siglip, Loss::Hinton, Loss::Crd, Loss::Gd, Loss::Affinity];

/// Terms whose target depends on the student, but is a constant in the gradient. A difference of values includes the
/// change of the target. The golden values check the gradients of these terms.
const MOVING_TARGETS: [Loss; 2] = [Loss::ClipRdVrd, Loss::ClipRdXrd];

/// Creates the token states of a model: patches on a square grid, two image blocks and one text block.
fn tokens(width: i64, grid: i64) -> TokenStates {
    let image = |tokens: i64| randn(&[BATCH, tokens, width]);
    TokenStates {
        patches: Some(image(grid * grid)),
        image_blocks: vec![image(1 + grid * grid), image(1 + grid * grid)],
        text_blocks: vec![randn(&[BATCH, 3, width + 2])],
        text_counts: Some(randn(&[BATCH, 3]).gt(-0.5)),
    }
}

#[test]
fn gradients_of_terms_agree_with_differences() {
    let _lock = lock_generator();
    for teacher_width in [8, 12] {
        for loss in Loss::all().filter(|loss| !MOVING_TARGETS.contains(loss)) {
            tch::manual_seed(3);
            let terms = [Term::new(loss, 1.0)];
            // A wider teacher has a finer grid and an even wider text tower.
            let (widths, grid) = (|image: i64| TokenWidths { image, text: image + 2 }, teacher_width / 4);
            let objective = Objective::new(&terms, 8, &[teacher_width], Device::Cpu)
                .and_then(|objective| {
                    let pairs = BlockPairs { image: 2, text: 1 };
                    objective.with_tokens(widths(8), &[widths(teacher_width)], pairs, Device::Cpu)
                })
                .unwrap();
            let (student_tokens, teacher_tokens) = (tokens(8, 2), tokens(teacher_width, grid));
            let (image, text, masked) = (randn(&[BATCH, 8]), randn(&[BATCH, 8]), randn(&[BATCH, 8]));
            let classes = randn(&[5, 8]);
            let scale = Tensor::from(5.0f32);
            let theirs = |rows: i64| randn(&[rows, teacher_width]);
            let teacher = Embeddings::new(theirs(BATCH), theirs(BATCH)).unwrap().normalized();
            let bank = Embeddings::new(theirs(9), theirs(9)).unwrap().normalized();
            let (teacher_scale, teacher_classes) = (Tensor::from(7.0f32), theirs(5));
            let mut leaves = vec![image.shallow_clone(), text.shallow_clone()];
            leaves.extend(objective.parts().map(|(_, tensor)| tensor.shallow_clone()));
            if READ_THE_SCALE.contains(&loss) {
                leaves.push(scale.shallow_clone());
            }
            match loss {
                Loss::Mfd => leaves[0] = masked.shallow_clone(),
                Loss::Hinton | Loss::Vocabulary => leaves[1] = classes.shallow_clone(),
                Loss::GramImageImage => drop(leaves.remove(1)),
                Loss::PatchTokens => {
                    drop(leaves.drain(..2));
                    leaves.extend(student_tokens.patches.iter().map(Tensor::shallow_clone));
                }
                Loss::Hidden => {
                    drop(leaves.drain(..2));
                    let blocks = student_tokens.image_blocks.iter().chain(&student_tokens.text_blocks);
                    leaves.extend(blocks.map(Tensor::shallow_clone));
                }
                Loss::GramTextText => drop(leaves.remove(0)),
                _ => {}
            }
            check(&format!("{} from width {teacher_width}", loss.name()), &leaves, || {
                let student = Embeddings::new(image.shallow_clone(), text.shallow_clone()).unwrap();
                let extra = AuxOutputs {
                    masked_image: Some(&masked),
                    classes: Some(&classes),
                    tokens: Some(&student_tokens),
                    ..AuxOutputs::default()
                };
                let student = ModelOutputs { extra, ..ModelOutputs::new(&student, &scale) };
                let extra = AuxOutputs {
                    classes: Some(&teacher_classes),
                    anchors: Some(&bank),
                    tokens: Some(&teacher_tokens),
                    ..AuxOutputs::default()
                };
                let teacher = ModelOutputs { extra, ..ModelOutputs::new(&teacher, &teacher_scale) };
                let targets = Targets::Diagonal { offset: 0 };
                objective.evaluate(0, &student, &[teacher], &targets).unwrap().total
            });
        }
    }
}

#[test]
fn terms_without_weight_are_not_evaluated() {
    let _lock = lock_generator();
    let pairs = Embeddings::new(randn(&[3, 4]), randn(&[3, 4])).unwrap();
    let (scale, targets) = (Tensor::from(2.0f32), Targets::Diagonal { offset: 0 });
    let mut late = Term::new(Loss::Fd, 5.0);
    (late.weight.from, late.weight.until) = (2, 4);
    let early = WeightSchedule::linear(1.0, 0.0).between(0, 4);
    let terms = [Term::new(Loss::Task, 1.0).with_schedule(early), late];
    let objective = Objective::new(&terms, 4, &[4], Device::Cpu).unwrap();
    let side = ModelOutputs::new(&pairs, &scale);
    let weights = |step: u64, teachers: &[ModelOutputs<'_>]| {
        let terms = objective.evaluate(step, &side, teachers, &targets)?.terms;
        Ok::<_, kd_losses::Error>(terms.into_iter().map(|term| (term.loss, term.weight)).collect::<Vec<_>>())
    };
    assert_eq!(weights(0, &[]).unwrap(), [(Loss::Task, 1.0)]);
    assert!(weights(2, &[]).is_err(), "the late term needs a teacher");
    let teacher = pairs.normalized();
    let teacher = [ModelOutputs::new(&teacher, &scale)];
    assert_eq!(weights(2, &teacher).unwrap(), [(Loss::Task, 0.5), (Loss::Fd, 5.0)]);
    assert!(weights(4, &teacher).is_err(), "nothing is left");
}

#[test]
fn several_teachers_are_averaged() {
    let _lock = lock_generator();
    tch::manual_seed(6);
    let pairs = |width: i64| Embeddings::new(randn(&[5, width]), randn(&[5, width])).unwrap();
    let (student, scale) = (pairs(4), Tensor::from(3.0f32));
    let teachers = [(pairs(4).normalized(), Tensor::from(10.0f32)), (pairs(6).normalized(), scale.copy())];
    let value = |loss: Loss, teachers: &[&(Embeddings, Tensor)]| {
        let widths = teachers.iter().map(|(pairs, _)| pairs.width()).collect::<Vec<_>>();
        tch::manual_seed(7); // equal projections
        let objective = Objective::new(&[Term::new(loss, 1.0)], 4, &widths, Device::Cpu).unwrap();
        let sides = teachers.iter().map(|(pairs, scale)| ModelOutputs::new(pairs, scale)).collect::<Vec<_>>();
        let targets = Targets::Diagonal { offset: 0 };
        let report = objective.evaluate(0, &ModelOutputs::new(&student, &scale), &sides, &targets).unwrap();
        let names = objective.parts().map(|(name, _)| name).collect::<Vec<_>>();
        (report.total.double_value(&[]), names)
    };
    let [first, second] = &teachers;
    for loss in [Loss::Affinity, Loss::Fd] {
        let (both, names) = value(loss, &[first, second]);
        let mean = (value(loss, &[first]).0 + value(loss, &[second]).0) / 2.0;
        assert!((both - mean).abs() < 1e-6, "{both} and {mean}");
        let projected = names.iter().filter(|name| name.starts_with("1.")).count();
        assert_eq!(projected, if loss == Loss::Fd { 4 } else { 0 }, "{names:?}");
    }
}

#[test]
fn gradients_of_losses_on_logits_agree_with_differences() {
    let _lock = lock_generator();
    tch::manual_seed(4);
    let (student, teacher) = (randn(&[BATCH, 10]), randn(&[BATCH, 10]));
    check("hinton", &[student.shallow_clone()], || logit::hinton(&student, &teacher, 3.0).unwrap());
    let (logits, bias) = (randn(&[BATCH, BATCH]), Tensor::from(-1.0f32));
    check("siglip", &[logits.shallow_clone(), bias.shallow_clone()], || {
        contrastive::siglip(&logits, &bias, 0).unwrap()
    });
}
