//! Exponential moving average of the student's weights.

use std::collections::HashMap;

use tch::Tensor;

use crate::{Error, Result};

/// Averaged copies of named parameters.
#[derive(Debug)]
pub struct Ema {
    decay: f64,
    shadows: Vec<(String, Tensor, Tensor)>, // name, parameter, average
}

impl Ema {
    /// Creates averages that start at the parameters' values.
    ///
    /// # Errors
    /// [`Error::Recipe`] unless 0 < decay < 1.
    pub fn new(decay: f64, parameters: impl IntoIterator<Item = (String, Tensor)>) -> Result<Self> {
        if !(decay > 0.0 && decay < 1.0) {
            return Err(Error::recipe("train.ema", format!("a decay of {decay} is not between 0 and 1")));
        }
        let shadows = parameters.into_iter().map(|(name, p)| {
            let average = p.detach().copy();
            (name, p, average)
        });
        Ok(Ema { decay, shadows: shadows.collect() })
    }

    /// Returns the decay.
    pub fn decay(&self) -> f64 {
        self.decay
    }

    /// Updates the averages: average ← decay · average + (1 − decay) · parameter.
    ///
    /// # Errors
    /// [`Error::Torch`] if memory runs out.
    pub fn update(&mut self) -> Result<()> {
        let (averages, parameters): (Vec<_>, Vec<_>) = self
            .shadows
            .iter()
            .map(|(_, parameter, average)| (average.shallow_clone(), parameter.shallow_clone()))
            .unzip();
        Ok(torch_ext::lists::lerp(&averages, &parameters, 1.0 - self.decay)?)
    }

    /// Returns the averages with the parameters' names.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.shadows.iter().map(|(name, _, average)| (name.clone(), average.shallow_clone())).collect()
    }

    /// Restores the state from [`Ema::state`].
    ///
    /// # Errors
    /// [`Error::StateShape`] if an average is missing or has another shape.
    pub fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        for (name, _, average) in &mut self.shadows {
            match state.get(name.as_str()) {
                Some(saved) if saved.size() == average.size() => average.f_copy_(saved)?,
                _ => {
                    return Err(Error::StateShape { part: "averaged weights", name: name.clone() });
                }
            }
        }
        Ok(())
    }

    /// Runs `f` with the averages in place of the parameters, and restores the parameters.
    pub fn with_averages<T>(&self, f: impl FnOnce() -> T) -> T {
        let swap = || {
            tch::no_grad(|| {
                for (_, parameter, average) in &self.shadows {
                    let saved = parameter.detach().copy();
                    parameter.shallow_clone().copy_(average);
                    average.shallow_clone().copy_(&saved);
                }
            });
        };
        swap();
        let result = f();
        swap();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_follow_the_parameter_and_are_swapped_back() {
        let weight = Tensor::from_slice(&[1.0f32]);
        let mut ema = Ema::new(0.75, [("w".to_string(), weight.shallow_clone())]).unwrap();
        let _ = weight.shallow_clone().fill_(5.0);
        ema.update().unwrap();
        assert_eq!(ema.with_averages(|| weight.double_value(&[0])), 2.0);
        assert_eq!(weight.double_value(&[0]), 5.0);
        assert!(Ema::new(1.0, []).is_err());
    }
}
