//! How long to wait before the control plane is tried again. Pure: the random part is an argument.

use std::time::Duration;

/// Doubles from `first` to `most`; the random part keeps members that lost their control plane together from coming back together.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            failures: 0,
        }
    }

    /// The wait after another failure: between half and all of the doubled time, by `random` in 0.0..1.0.
    pub(crate) fn after_failure(&mut self, random: f64) -> Duration {
        let whole = self.first.saturating_mul(1 << self.failures.min(16)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        whole.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    pub(crate) fn after_success(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most_and_begin_anew_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let waits: Vec<_> = (0..6).map(|_| backoff.after_failure(1.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        backoff.after_success();
        assert_eq!(backoff.after_failure(0.0), Duration::from_millis(50));
    }

    #[test]
    fn any_number_of_failures_is_survived() {
        let mut backoff = Backoff {
            failures: u32::MAX,
            ..Backoff::new(Duration::from_secs(9), Duration::MAX)
        };
        assert!(backoff.after_failure(0.5) <= Duration::MAX);
    }
}
