//! A term of an objective: a loss with its weight and settings.

use crate::{Error, Loss, LossSettings, Result, WeightSchedule};

/// A loss with its weight and settings.
///
/// ```no_run
/// use kd_losses::{HintonSettings, Loss, Term, WeightSchedule};
///
/// let fading = Term::new(Loss::Hinton, 1.0)
///     .with_schedule(WeightSchedule::cosine(1.0, 0.0).between(0, 1000))
///     .with_settings(HintonSettings::default().with_temperature(2.0));
/// assert!(fading.check().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Term {
    /// The loss.
    pub loss: Loss,
    /// Its weight in the sum.
    pub weight: WeightSchedule,
    /// Its own settings, of the kind of [`Loss::default_settings`].
    pub settings: LossSettings,
}

impl Term {
    /// Creates a term with a constant weight and the loss's default settings.
    pub fn new(loss: Loss, weight: f64) -> Self {
        Term { loss, weight: WeightSchedule::constant(weight), settings: loss.default_settings() }
    }

    /// Sets the weight over the steps.
    pub fn with_schedule(mut self, weight: WeightSchedule) -> Self {
        self.weight = weight;
        self
    }

    /// Sets the loss's own settings.
    pub fn with_settings(mut self, settings: impl Into<LossSettings>) -> Self {
        self.settings = settings.into();
        self
    }

    /// Checks the settings that the types do not.
    ///
    /// # Errors
    /// [`Error::Setting`] for a weight that is negative, not finite or never above 0, for settings of another loss, and
    /// for the errors of [`LossSettings::validate`].
    pub fn check(&self) -> Result<()> {
        let loss = self.loss;
        if self.settings.kind() != loss.kind() {
            let reason = format!("its settings are of another loss: {:?}", self.settings);
            return Err(Error::Setting { loss, reason });
        }
        let checked = self.weight.validate().and_then(|()| self.settings.validate());
        checked.map_err(|error| Error::Setting { loss, reason: error.to_string() })
    }
}

/// Returns the first step of a run in which no term has a nonzero weight.
///
/// ```no_run
/// use kd_losses::{Loss, Term, WeightSchedule, first_gap};
///
/// let early = Term::new(Loss::Task, 1.0).with_schedule(WeightSchedule::constant(1.0).between(0, 10));
/// assert_eq!(first_gap(&[early], 100), Some(10));
/// ```
pub fn first_gap(terms: &[Term], steps: u64) -> Option<u64> {
    // Between these steps, no weight changes to or from 0. A rising weight is 0 at its first step.
    let changes = terms.iter().flat_map(|term| {
        let WeightSchedule { from, until, .. } = term.weight;
        [from, from.saturating_add(1), until]
    });
    let mut changes = changes.chain([0]).filter(|step| *step < steps).collect::<Vec<_>>();
    changes.sort_unstable();
    changes.into_iter().find(|step| terms.iter().all(|term| term.weight.at(*step) <= 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GramSettings, HintonSettings};

    #[test]
    fn steps_without_any_weight_are_found() {
        let term = |from, until| {
            Term::new(Loss::Task, 1.0).with_schedule(WeightSchedule::constant(1.0).between(from, until))
        };
        assert_eq!(first_gap(&[term(0, 10), term(10, 20)], 20), None);
        assert_eq!(first_gap(&[term(0, 10), term(10, 20)], 21), Some(20));
        assert_eq!(first_gap(&[term(0, 10), term(11, 20)], 20), Some(10));
        assert_eq!(first_gap(&[term(1, 10)], 5), Some(0));
        let rising = WeightSchedule::linear(0.0, 1.0).between(0, 9);
        assert_eq!(first_gap(&[Term::new(Loss::Fd, 1.0).with_schedule(rising)], 20), Some(0));
    }

    #[test]
    fn invalid_terms_are_refused() {
        assert!(Term::new(Loss::Fd, 2000.0).check().is_ok());
        let one = WeightSchedule::constant(1.0);
        for (loss, weight, settings) in [
            (Loss::Fd, WeightSchedule::constant(0.0), LossSettings::Plain),
            (Loss::Fd, WeightSchedule::constant(-1.0), LossSettings::Plain),
            (Loss::Fd, WeightSchedule::constant(f64::NAN), LossSettings::Plain),
            (Loss::Fd, one.between(5, 5), LossSettings::Plain),
            (Loss::Fd, one, HintonSettings::default().into()),
            (Loss::Hinton, one, GramSettings::default().into()),
            (Loss::Gram, one, GramSettings::default().with_temperatures([0.1, 0.0]).into()),
        ] {
            let term = Term::new(loss, 1.0).with_schedule(weight).with_settings(settings);
            assert!(matches!(term.check(), Err(Error::Setting { loss: of, .. }) if of == loss), "{term:?}");
        }
        let rising = WeightSchedule::linear(0.0, 1.0).between(0, 9);
        let gram = GramSettings::default().with_temperatures([0.1, 1.0]);
        assert!(Term::new(Loss::Gram, 1.0).with_schedule(rising).with_settings(gram).check().is_ok());
    }
}
