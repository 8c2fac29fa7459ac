//! Automatic weight inheritance during training: masks with their optimisers, the penalty, and the cut.

mod bounded;

use std::collections::HashMap;

use clip_model::prune::{GateSample, Masks, PruningPlan};
use clip_model::{Clip, ClipConfig};
use tch::{Device, Kind, Tensor};

use self::bounded::ClippedRmsProp;
use crate::optim::adamw::AdamW;
use crate::optim::ema::Ema;
use crate::recipe::{PruneConfig, Recipe};
use crate::step::{TrainState, trainable, trained};
use crate::{Error, Result};

/// Deviation from the requested sparsity above which pruning logs a warning.
const MAX_DEVIATION: f64 = 0.1;
/// Initial value of the two Lagrange multipliers of the missing sparsity.
const MULTIPLIERS: f32 = 10.0;

/// The learned masks of a student that is not pruned yet, with their optimisers.
#[derive(Debug)]
pub struct Pruner {
    config: PruneConfig,
    masks: Masks,
    multipliers: Tensor, // [2]
    descent: ClippedRmsProp,
    ascent: ClippedRmsProp,
    drawn: Option<GateSample>,
}

impl Pruner {
    /// Creates masks over a student with this configuration. At first, they keep all parts.
    ///
    /// # Errors
    /// [`crate::Error::Model`] if a tower does not support gates.
    pub fn new(config: &PruneConfig, student: &ClipConfig, device: Device) -> Result<Self> {
        let masks = Masks::new(student, device)?;
        let multipliers =
            Tensor::f_full([2], f64::from(MULTIPLIERS), (Kind::Float, device))?.set_requires_grad(true);
        let named = vec![("multipliers".to_string(), multipliers.shallow_clone())];
        Ok(Pruner {
            descent: ClippedRmsProp::descent(masks.named())?,
            ascent: ClippedRmsProp::ascent(named)?,
            config: config.clone(),
            masks,
            multipliers,
            drawn: None,
        })
    }

    /// Creates the masks of a run of `steps` steps, or `None` if its recipe has no `[prune]` or its student is already
    /// pruned.
    ///
    /// # Errors
    /// [`Error::Recipe`] if the cut would come after the last step, and the errors of [`Pruner::new`].
    pub(crate) fn open(recipe: &Recipe, student: &Clip, is_cut: bool, steps: u64) -> Result<Option<Self>> {
        let Some(config) = recipe.prune.as_ref() else { return Ok(None) };
        config.check_end(steps).map_err(|reason| Error::recipe(&recipe.name, reason))?;
        if is_cut {
            return Ok(None);
        }
        Pruner::new(config, student.config(), student.device()).map(Some)
    }

    /// Returns the masks.
    pub fn masks(&self) -> &Masks {
        &self.masks
    }

    fn is_on(&self, step: u64) -> bool {
        step >= self.config.start
    }

    /// Resets the gradients of the previous step.
    pub(crate) fn zero_grad(&mut self) {
        self.descent.zero_grad();
        self.ascent.zero_grad();
    }

    /// Adds gates to the student, drawn with its mode's seed.
    pub(crate) fn apply_masks(&mut self, student: &mut Clip, step: u64) -> Result<()> {
        if self.is_on(step) {
            let (gates, drawn) = self.masks.sample(student.mode())?;
            student.set_gates(Some(gates))?;
            self.drawn = Some(drawn);
        }
        Ok(())
    }

    /// Removes the gates, and adds their gradients to the scores' gradients.
    pub(crate) fn remove_masks(&mut self, student: &mut Clip) -> Result<()> {
        student.set_gates(None)?;
        match self.drawn.take() {
            Some(drawn) => Ok(drawn.backward(&self.masks)?),
            None => Ok(()),
        }
    }

    /// Computes the sparsity penalty λ₁ (t − e)₊ + λ₂ (t − e)₊² and its gradient, with the target sparsity t and the
    /// expected sparsity e.
    pub(crate) fn penalty(&self, step: u64) -> Result<Penalty> {
        if !self.is_on(step) {
            return Ok(Penalty::default());
        }
        let sparsity = self.masks.expected_sparsity();
        let missing = (self.config.target(step) - &sparsity).clamp_min(0.0);
        let penalty = self.multipliers.get(0) * &missing + self.multipliers.get(1) * (&missing * &missing);
        penalty.f_backward()?;
        Ok(Penalty { value: penalty.f_double_value(&[])?, sparsity: sparsity.f_double_value(&[])? })
    }

    /// Updates the scores by a descent step and the multipliers by an ascent step.
    pub(crate) fn update(&mut self, step: u64) {
        if !self.is_on(step) {
            return;
        }
        let updates = step + 1 - self.config.start;
        self.descent.step(self.config.lr, updates);
        self.ascent.step(self.config.multiplier_lr, updates);
    }

    /// Whether the student is to be pruned after `steps` steps.
    pub(crate) fn is_due(&self, steps: u64) -> bool {
        steps >= self.config.at_step
    }

    /// Returns the complete state, under the names of its files.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.descent.state().into_iter().chain(self.ascent.state()).collect()
    }

    /// Restores the state from [`Pruner::state`].
    ///
    /// # Errors
    /// [`crate::Error::StateShape`] if a tensor is missing or has another shape.
    pub fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        self.descent.restore(state)?;
        self.ascent.restore(state)
    }
}

/// The sparsity penalty of a step, and the expected sparsity.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Penalty {
    pub(crate) value: f64,
    pub(crate) sparsity: f64,
}

/// Prunes the student to the smaller model that its masks select. Optimiser moments and averages are pruned with it.
pub(crate) fn cut(train: &mut TrainState, pruner: &Pruner) -> Result<()> {
    let cut = PruningPlan::new(train.student.config(), &pruner.masks.harden()?)?;
    let before = pruner.masks.parameters();
    let student = cut.apply(&train.student)?;
    let named = || trained(&student, &train.objective);
    let mut optimizer = AdamW::new(train.optimizer.config(), named())?;
    // Moments are named like their parameters with a suffix, which is removed while pruning.
    let mut moments = HashMap::new();
    for ending in [".exp_avg", ".exp_avg_sq"] {
        let state = train.optimizer.state().into_iter();
        let state = state.filter_map(|(name, moment)| Some((name.strip_suffix(ending)?.to_string(), moment)));
        moments.extend(cut.state(state, false)?.into_iter().map(|(name, t)| (format!("{name}{ending}"), t)));
    }
    optimizer.restore(&moments, train.optimizer.updates())?;
    let ema = match &train.ema {
        Some(old) => {
            let mut ema = Ema::new(old.decay(), trainable(&student))?;
            ema.restore(&cut.state(old.state(), true)?)?;
            Some(ema)
        }
        None => None,
    };
    let blocks = student.params().iter().filter(|p| p.name.contains(".resblocks."));
    let kept = blocks.map(|p| p.tensor.numel()).sum::<usize>();
    data_pipeline::log_info!(
        "pruned after step {}: kept {kept} of {before} parameters of the blocks",
        train.step
    );
    let (removed, sparsity) = (1.0 - kept as f64 / before.max(1.0), pruner.config.sparsity);
    if (removed - sparsity).abs() > MAX_DEVIATION {
        data_pipeline::log_warn!(
            "{:.0} % of the blocks' parameters were removed instead of {:.0} %: a score changes by at most prune.lr per step and has to fall by about 12; \
             if too little was removed, raise prune.lr or prune.at_step; if too much, lower prune.lr",
            removed * 100.0,
            sparsity * 100.0
        );
    }
    (train.student, train.optimizer, train.ema) = (student, optimizer, ema);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::adamw::OptimizerConfig;
    use kd_losses::{Loss, Objective, Term};

    fn train() -> TrainState {
        let config = clip_model::presets::get("ViT-nano-32px").unwrap();
        let student = Clip::new(&config, Device::Cpu, 1).unwrap();
        let objective = Objective::new(&[Term::new(Loss::Fd, 1.0)], 128, &[64], Device::Cpu).unwrap();
        TrainState::new(student, objective, &OptimizerConfig::default(), Some(0.5)).unwrap()
    }

    #[test]
    fn moments_and_averages_are_pruned_with_the_weights() {
        let mut train = train();
        // Moments and averages equal the weights, and must still do so after the cut.
        let weights = trained(&train.student, &train.objective);
        let copies = |ending: &str| {
            weights.iter().map(|(name, t)| (format!("{name}{ending}"), t.detach().copy())).collect::<Vec<_>>()
        };
        let moments = copies(".exp_avg").into_iter().chain(copies(".exp_avg_sq")).collect();
        train.optimizer.restore(&moments, 17).unwrap();
        let prune =
            PruneConfig { sparsity: 0.5, start: 0, warmup_steps: 1, at_step: 1, lr: 1.0, multiplier_lr: 1.0 };
        let pruner = Pruner::new(&prune, train.student.config(), Device::Cpu).unwrap();
        tch::no_grad(|| {
            for (name, scores) in pruner.masks().named() {
                // Every third gate is removed, but no whole branch. At a score of 60, a remaining gate is 1.
                let is_branch = name.contains("attention") || name.contains("whole");
                let index = Tensor::arange(scores.size()[0], (Kind::Int64, Device::Cpu));
                let removed = index.remainder(3).eq(if is_branch { 4 } else { 1 }).to_kind(Kind::Float);
                scores.shallow_clone().copy_(&(removed * -120.0 + 60.0));
            }
        });
        let before = train.student.params().count();
        let hard = pruner.masks().harden().unwrap();
        let gates = hard.gates(train.student.config(), Device::Cpu).unwrap();
        train.student.set_gates(Some(gates)).unwrap();
        let tokens = Tensor::arange(32, (Kind::Int64, Device::Cpu)).view([1, 32]);
        let masked = train.student.encode_text(&tokens).unwrap();
        train.student.set_gates(None).unwrap();
        let plain = train.student.encode_text(&tokens).unwrap();
        cut(&mut train, &pruner).unwrap();
        assert!(train.student.params().count() < before);
        let text = train.student.encode_text(&tokens).unwrap();
        assert!(text.allclose(&masked, 1e-4, 1e-5, false) && !text.allclose(&plain, 1e-2, 1e-3, false));
        assert_eq!(train.student.config().vision_cfg.width, 64);
        assert_eq!(train.optimizer.updates(), 17);
        let state = train.optimizer.state().into_iter().collect::<HashMap<_, _>>();
        let averages = train.ema.as_ref().unwrap().state().into_iter().collect::<HashMap<_, _>>();
        for (name, weight) in trained(&train.student, &train.objective) {
            for moment in ["exp_avg", "exp_avg_sq"] {
                assert!(state[&format!("{name}.{moment}")].equal(&weight), "{name}.{moment}");
            }
            assert!(name.starts_with("loss.") || averages[&name].equal(&weight), "{name}");
        }
    }

    #[test]
    fn the_penalty_depends_on_the_missing_sparsity() {
        let prune =
            PruneConfig { sparsity: 0.4, start: 2, warmup_steps: 4, at_step: 9, lr: 1.0, multiplier_lr: 0.5 };
        assert_eq!([0, 1, 2, 5, 8].map(|step| prune.target(step)), [0.0, 0.0, 0.1, 0.4, 0.4]);
        let mut pruner = Pruner::new(&prune, train().student.config(), Device::Cpu).unwrap();
        assert_eq!(pruner.penalty(1).unwrap().value, 0.0);
        let Penalty { value, sparsity } = pruner.penalty(5).unwrap();
        let missing = 0.4 - sparsity;
        assert!((value - 10.0 * (missing + missing * missing)).abs() < 1e-4, "{value}");
        pruner.update(5);
        // All scores fall and both multipliers rise by their learning rates.
        assert!(
            pruner
                .masks()
                .named()
                .iter()
                .all(|(_, scores)| (scores - 9.0).abs().max().double_value(&[]) < 1e-3)
        );
        assert!((&pruner.multipliers - 10.5).abs().max().double_value(&[]) < 1e-4);
    }
}
