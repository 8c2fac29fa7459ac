//! The optimiser of the pruning masks: RMSprop with steps clipped to the learning rate.

use std::collections::HashMap;

use tch::Tensor;

use crate::{Error, Result};

/// Decay of the mean square of the gradient.
const DECAY: f64 = 0.9;

/// RMSprop with clipped steps: x ← x ∓ lr · clamp(g / √v̂, −1, 1), with v the decaying mean of g².
///
/// Adam is not suitable here. The scores start at values for which the probability hardly changes. The gradient then
/// grows by a factor of a million, so Adam's steps would be many times the learning rate. Moreover, the penalty is zero
/// as soon as the sparsity reaches its target, while momentum would continue for about ten more steps.
#[derive(Debug)]
pub(super) struct ClippedRmsProp {
    slots: Vec<(String, Tensor, Tensor)>, // name, parameter, mean square
    direction: f64,
}

impl ClippedRmsProp {
    /// Creates an optimiser that minimises.
    pub(super) fn descent(parameters: Vec<(String, Tensor)>) -> Result<Self> {
        Self::new(parameters, -1.0)
    }

    /// Creates an optimiser that maximises.
    pub(super) fn ascent(parameters: Vec<(String, Tensor)>) -> Result<Self> {
        Self::new(parameters, 1.0)
    }

    fn new(parameters: Vec<(String, Tensor)>, direction: f64) -> Result<Self> {
        let slots = parameters.into_iter().map(|(name, parameter)| {
            let square = parameter.detach().f_zeros_like()?;
            Ok((name, parameter, square))
        });
        Ok(ClippedRmsProp { slots: slots.collect::<Result<_>>()?, direction })
    }

    /// Resets all gradients.
    pub(super) fn zero_grad(&mut self) {
        self.slots.iter_mut().for_each(|(_, parameter, _)| parameter.zero_grad());
    }

    /// Performs step number `updates` (from 1).
    pub(super) fn step(&mut self, lr: f64, updates: u64) {
        let correction = 1.0 - DECAY.powf(updates as f64);
        tch::no_grad(|| {
            for (_, parameter, square) in &mut self.slots {
                let gradient = parameter.grad();
                if !gradient.defined() {
                    continue;
                }
                let _ = square.lerp_(&(&gradient * &gradient), 1.0 - DECAY);
                // The constant avoids 0 / 0 and is far below the square of any gradient.
                let root = (&*square / correction + 1e-30).sqrt();
                let _ = parameter.g_add_(&((&gradient / root).clamp(-1.0, 1.0) * (self.direction * lr)));
            }
        });
    }

    /// Returns the parameters by name, and mean squares under `<name>.square`.
    pub(super) fn state(&self) -> Vec<(String, Tensor)> {
        let tensors = self.slots.iter().flat_map(|(name, parameter, square)| {
            [(name.clone(), parameter.shallow_clone()), (format!("{name}.square"), square.shallow_clone())]
        });
        tensors.collect()
    }

    /// Restores the state from [`ClippedRmsProp::state`].
    pub(super) fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        for (name, tensor) in self.state() {
            let saved = state
                .get(&name)
                .filter(|saved| saved.size() == tensor.size())
                .ok_or_else(|| Error::StateShape { part: "masks", name: name.clone() })?;
            tch::no_grad(|| tensor.shallow_clone().f_copy_(saved))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn steps_by_hand() {
        let start = || Tensor::from_slice(&[1.0f32, 1.0]).set_requires_grad(true);
        let (down, up) = (start(), start());
        let named = |tensor: &Tensor| vec![("x".to_string(), tensor.shallow_clone())];
        let mut descent = ClippedRmsProp::descent(named(&down)).unwrap();
        let mut ascent = ClippedRmsProp::ascent(named(&up)).unwrap();
        // The gradients of the first element are 1, 100 (still a step of one learning rate) and 1; those of the other
        // are 0.
        let mut expected = 1.0f64;
        let mut square = 0.0f64;
        for (update, gradient) in [1.0, 100.0, 1.0].into_iter().enumerate() {
            for (tensor, optimizer) in [(&down, &mut descent), (&up, &mut ascent)] {
                optimizer.zero_grad();
                (tensor * Tensor::from_slice(&[gradient, 0.0f32])).sum(Kind::Float).backward();
                optimizer.step(0.5, update as u64 + 1);
            }
            square = 0.9 * square + 0.1 * f64::from(gradient).powi(2);
            let root = (square / (1.0 - 0.9f64.powi(update as i32 + 1))).sqrt();
            expected -= 0.5 * (f64::from(gradient) / root).min(1.0);
        }
        assert!((down.double_value(&[0]) - expected).abs() < 1e-5, "{expected}");
        assert!((up.double_value(&[0]) - (2.0 - expected)).abs() < 1e-5);
        assert_eq!((down.double_value(&[1]), up.double_value(&[1])), (1.0, 1.0));
        assert!(expected > -0.02 && expected < 0.0);
    }

    #[test]
    fn steps_do_not_depend_on_the_size_of_the_gradient() {
        let tensor = Tensor::from_slice(&[0.0f32]).set_requires_grad(true);
        let mut descent = ClippedRmsProp::descent(vec![("x".to_string(), tensor.shallow_clone())]).unwrap();
        (&tensor * 1e-10).sum(Kind::Float).backward();
        descent.step(0.25, 1);
        assert!((tensor.double_value(&[0]) + 0.25).abs() < 1e-3);
    }
}
