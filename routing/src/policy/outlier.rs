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
    /// Whether those are ejected, too, that serve less than the others do.
    pub success_rate: Option<SuccessRate>,
}

impl Default for OutlierSettings {
    /// 5 failures, 10 s, half of the endpoints.
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            ejection: Duration::from_secs(10),
            max_ejected: 0.5,
            success_rate: None,
        }
    }
}

/// When an endpoint serves so much less than the others that it is ejected: what fails now and then never fails often enough in a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SuccessRate {
    /// How often rates are compared: those of the requests since the last time.
    pub interval: Duration,
    /// An endpoint with fewer requests in that time is not looked at: 1 to 1,000,000.
    pub min_requests: u32,
    /// With fewer endpoints to look at nothing is compared: 2 to 1,000.
    pub min_endpoints: u32,
    /// By how many standard deviations a rate has to be below the mean of all: 0 to 10.
    pub deviations: f64,
}

impl Default for SuccessRate {
    /// 10 s, 100 requests, 5 endpoints, 1.9 deviations: Envoy's. With fewer endpoints none can be 1.9 deviations away.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            min_requests: 100,
            min_endpoints: 5,
            deviations: 1.9,
        }
    }
}

impl SuccessRate {
    /// The rate below which an endpoint is unlike these; none where they are too few to say.
    #[must_use]
    pub fn least(&self, rates: &[f64]) -> Option<f64> {
        let count = u32::try_from(rates.len()).unwrap_or(u32::MAX);
        if count < self.min_endpoints.max(1) {
            return None;
        }
        let mean = rates.iter().sum::<f64>() / f64::from(count);
        let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / f64::from(count);
        Some(mean - self.deviations * variance.sqrt())
    }
}

/// How an endpoint has been doing; shared between cores.
#[derive(Debug, Default)]
pub struct Health {
    failures: AtomicU32,
    ejections: AtomicU32,
    /// The end of the ejection in [`Moment`]'s nanoseconds; 0 where there was none.
    until: AtomicU64,
    /// What it served and what it did not since rates were last taken, in the halves of one word.
    rate: AtomicU64,
}

/// One request served in [`Health`]'s word of both; one that was not is 1.
const SERVED: u64 = 1 << 32;

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

    /// Counts a request for [`take_rate`](Self::take_rate).
    pub fn count(&self, served: bool) {
        self.rate.fetch_add(if served { SERVED } else { 1 }, Ordering::Relaxed);
    }

    /// Which fraction of its requests it served since this was last asked; none where there were fewer than `least`.
    pub fn take_rate(&self, least: u32) -> Option<f64> {
        let word = self.rate.swap(0, Ordering::Relaxed);
        let (served, failed) = (word >> 32, word & u64::from(u32::MAX));
        let all = served + failed;
        (all >= u64::from(least.max(1))).then(|| served as f64 / all as f64)
    }

    /// Ejects it for this time, where it is the first time in a row; the n-th time for n times that.
    pub fn eject(&self, ejection: Duration, now: Moment) {
        let times = self.ejections.fetch_add(1, Ordering::Relaxed).saturating_add(1).min(10);
        self.failures.store(0, Ordering::Relaxed);
        self.until.store((now + ejection * times).0.max(1), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: OutlierSettings = OutlierSettings {
        consecutive_failures: 3,
        ejection: Duration::from_secs(10),
        max_ejected: 0.5,
        success_rate: None,
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
        health.eject(SETTINGS.ejection, at(1));
        assert!(!health.is_available(at(10)) && health.is_available(at(11)));
    }

    #[test]
    fn whoever_fails_again_is_left_out_longer_until_it_serves() {
        let health = Health::default();
        health.eject(SETTINGS.ejection, at(0));
        health.eject(SETTINGS.ejection, at(10));
        assert!(!health.is_available(at(29)) && health.is_available(at(30)));
        health.succeeded(at(12));
        health.eject(SETTINGS.ejection, at(30));
        assert!(
            !health.is_available(at(59)),
            "a straggler's success during the ejection changes nothing"
        );
        health.succeeded(at(60));
        health.eject(SETTINGS.ejection, at(60));
        assert!(health.is_available(at(70)));
    }

    #[test]
    fn a_rate_is_that_of_the_requests_since_it_was_taken() {
        let health = Health::default();
        assert_eq!(health.take_rate(0), None);
        [true, true, false, true].into_iter().for_each(|served| health.count(served));
        assert_eq!(health.take_rate(4), Some(0.75));
        assert_eq!(health.take_rate(1), None, "what was taken is forgotten");
        health.count(true);
        assert_eq!(health.take_rate(2), None, "one request says too little");
    }

    #[test]
    fn unlike_is_who_is_far_below_the_mean_of_enough() {
        let rate = SuccessRate::default();
        assert_eq!(rate.least(&[1.0, 1.0, 1.0, 0.0]), None, "too few");
        let least = rate.least(&[1.0, 1.0, 1.0, 1.0, 0.5]).unwrap();
        assert!((0.5..0.53).contains(&least), "{least}");
        assert_eq!(rate.least(&[0.5; 6]), Some(0.5), "whoever is like all others is not below");
    }
}
