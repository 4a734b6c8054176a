//! Outlier ejection: an endpoint that fails again and again gets no requests for a while.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::Moment;

/// When an endpoint is ejected, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutlierSettings {
    /// How many failures in a row eject it: 1 to 1,000.
    pub consecutive_failures: u32,
    /// For how long the first time; the n-th time in a row n times that, up to ten times.
    pub ejection: Duration,
    /// Which fraction of the endpoints may be ejected at once, from 0 to 1, rounded down. Where everything fails, the fault is
    /// seldom every endpoint's own, and leaving all of them out would turn an incident into an outage.
    pub max_ejected: f64,
}

impl Default for OutlierSettings {
    /// 5 failures, 10 s, half of the endpoints.
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            ejection: Duration::from_secs(10),
            max_ejected: 0.5,
        }
    }
}

/// How an endpoint has been doing; shared between cores.
#[derive(Debug, Default)]
pub struct Health {
    failures: AtomicU32,
    ejections: AtomicU32,
    /// The end of the ejection in [`Moment`]'s nanoseconds; 0 where there was none.
    until: AtomicU64,
}

impl Health {
    /// Whether it gets requests.
    #[must_use]
    pub fn is_available(&self, now: Moment) -> bool {
        self.until.load(Ordering::Relaxed) <= now.0
    }

    /// Notes a request that it served. One that it serves after an ejection makes the next ejection a first one again.
    pub fn succeeded(&self, now: Moment) {
        // Loads first: writing on every success would have the cores pass the cache line around.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if self.ejections.load(Ordering::Relaxed) != 0 && self.is_available(now) {
            self.ejections.store(0, Ordering::Relaxed);
        }
    }

    /// Notes a failure; true where it is one too many and the endpoint ought to be ejected.
    pub fn failed(&self, settings: &OutlierSettings, now: Moment) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        failures >= settings.consecutive_failures && self.is_available(now)
    }

    /// Ejects it.
    pub fn eject(&self, settings: &OutlierSettings, now: Moment) {
        let times = self.ejections.fetch_add(1, Ordering::Relaxed).saturating_add(1).min(10);
        self.failures.store(0, Ordering::Relaxed);
        self.until
            .store((now + settings.ejection * times).0.max(1), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: OutlierSettings = OutlierSettings {
        consecutive_failures: 3,
        ejection: Duration::from_secs(10),
        max_ejected: 0.5,
    };

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000_000)
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_between_does_not() {
        let health = Health::default();
        assert!(!health.failed(&SETTINGS, at(0)) && !health.failed(&SETTINGS, at(0)));
        health.succeeded(at(0));
        assert!(!health.failed(&SETTINGS, at(1)) && !health.failed(&SETTINGS, at(1)) && health.failed(&SETTINGS, at(1)));
        health.eject(&SETTINGS, at(1));
        assert!(!health.is_available(at(10)) && health.is_available(at(11)));
    }

    #[test]
    fn whoever_fails_again_is_left_out_longer_until_it_serves() {
        let health = Health::default();
        health.eject(&SETTINGS, at(0));
        health.eject(&SETTINGS, at(10));
        assert!(!health.is_available(at(29)) && health.is_available(at(30)));
        health.succeeded(at(12));
        health.eject(&SETTINGS, at(30));
        assert!(
            !health.is_available(at(59)),
            "a straggler's success during the ejection changes nothing"
        );
        health.succeeded(at(60));
        health.eject(&SETTINGS, at(60));
        assert!(health.is_available(at(70)));
    }
}
