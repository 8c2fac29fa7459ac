//! The learning rate as a pure function of the step.

/// Learning rate schedule: linear warm-up, then cosine decay to zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LrSchedule {
    /// Highest learning rate.
    pub base_lr: f64,
    /// Steps of the warm-up.
    pub warmup_steps: u64,
    /// Total steps, including the warm-up.
    pub total_steps: u64,
}

impl LrSchedule {
    /// Returns the learning rate of a step (from 0), as in open_clip's `cosine_lr`.
    pub fn lr_at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.base_lr * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        let progress = (step - self.warmup_steps).min(decay_steps) as f64 / decay_steps as f64;
        0.5 * (1.0 + (std::f64::consts::PI * progress).cos()) * self.base_lr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_peaks_and_ends_near_zero() {
        let schedule = LrSchedule { base_lr: 2.0, warmup_steps: 4, total_steps: 12 };
        assert_eq!(schedule.lr_at(0), 0.5);
        assert_eq!(schedule.lr_at(3), 2.0);
        assert_eq!(schedule.lr_at(4), 2.0);
        assert!((schedule.lr_at(8) - 1.0).abs() < 1e-12);
        assert!(schedule.lr_at(12).abs() < 1e-12);
        assert!(schedule.lr_at(1_000).abs() < 1e-12);
        assert_eq!(LrSchedule { base_lr: 1.0, warmup_steps: 0, total_steps: 0 }.lr_at(0), 1.0);
    }
}
