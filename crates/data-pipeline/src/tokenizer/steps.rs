//! Counts the steps of the tokenizer in tests, so that they check its complexity without a clock.

#[cfg(test)]
thread_local! {
    static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Adds steps to the count of this thread. Outside of tests, it does nothing.
#[inline(always)]
pub(super) fn add(steps: usize) {
    #[cfg(test)]
    STEPS.with(|count| count.set(count.get() + steps as u64));
    #[cfg(not(test))]
    let _ = steps;
}

/// Returns the count of this thread, and sets it to 0.
#[cfg(test)]
pub(super) fn take() -> u64 {
    STEPS.with(std::cell::Cell::take)
}
