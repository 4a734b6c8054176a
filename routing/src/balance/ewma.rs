//! Peak-EWMA: a moving average of latency that believes bad news at once and good news slowly (Finagle's, and linkerd's).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Outcome;
use crate::Moment;

/// After this time an observation counts for 1/e. Also how long an endpoint that looks slow goes unasked at most.
const DECAY: Duration = Duration::from_secs(10);

/// What an endpoint is taken for until its first request is answered.
const UNKNOWN: Duration = Duration::from_secs(1);

/// A failure counts for at least this long: what fails fast must not look fast and draw everything to itself.
const FAILED: Duration = Duration::from_secs(1);

/// A moving average in nanoseconds. The two words are not written as one; a reader that comes between is off by one observation,
/// which a choice between two endpoints can bear.
#[derive(Debug, Default)]
pub(super) struct PeakEwma {
    /// The bits of an `f64`.
    nanos: AtomicU64,
    /// When it was written, plus one; 0 where it never was.
    stamp: AtomicU64,
}

impl PeakEwma {
    /// What one more request would cost at `now`, beside those under way: its expected latency times how many share it.
    ///
    /// An endpoint that has never answered costs nothing while it has nothing to do, so that it is tried at once, and much while that
    /// first request is under way, so that it is tried by one and not by all. So is one that has not answered anybody for [`DECAY`]: a peak
    /// of a second would keep it from being asked for half a minute beside one that answers within 50 ms, however fast it is by then.
    pub(super) fn load(&self, in_flight: u32, now: Moment) -> f64 {
        let expected = match self.stamp.load(Ordering::Relaxed) {
            0 if in_flight == 0 => 0.0,
            0 => UNKNOWN.as_nanos() as f64,
            stamp if in_flight == 0 && age(stamp, now) >= DECAY => 0.0,
            stamp => f64::from_bits(self.nanos.load(Ordering::Relaxed)) * remaining(stamp, now),
        };
        expected * (f64::from(in_flight) + 1.0)
    }

    /// Takes an observation in.
    pub(super) fn observe(&self, latency: Duration, outcome: Outcome, now: Moment) {
        let latency = match outcome {
            Outcome::Success => latency,
            Outcome::Failure | Outcome::Unreachable => latency.max(FAILED),
        };
        let observed = latency.as_nanos() as f64;
        let stamp = self.stamp.load(Ordering::Relaxed);
        let average = f64::from_bits(self.nanos.load(Ordering::Relaxed));
        let next = if stamp == 0 || observed > average {
            observed
        } else {
            observed + (average - observed) * remaining(stamp, now)
        };
        self.nanos.store(next.to_bits(), Ordering::Relaxed);
        self.stamp.store(now.0.saturating_add(1), Ordering::Relaxed);
    }
}

/// How much of what was written then still counts.
fn remaining(stamp: u64, now: Moment) -> f64 {
    (-(age(stamp, now).as_secs_f64() / DECAY.as_secs_f64())).exp()
}

fn age(stamp: u64, now: Moment) -> Duration {
    now.since(Moment(stamp - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment(millis * 1_000_000)
    }

    #[test]
    fn a_peak_counts_at_once_and_fades_slowly() {
        let ewma = PeakEwma::default();
        let millis = |now| (ewma.load(0, now) / 1e6).round();
        ewma.observe(Duration::from_millis(5), Outcome::Success, at(0));
        assert_eq!(millis(at(0)), 5.0);
        ewma.observe(Duration::from_millis(100), Outcome::Success, at(0));
        assert_eq!(millis(at(0)), 100.0);
        ewma.observe(Duration::from_millis(5), Outcome::Success, at(1_000));
        assert_eq!(millis(at(1_000)), 91.0);
        assert_eq!(millis(at(10_999)), 33.0);
        assert_eq!((ewma.load(2, at(11_000)) / 1e6).round(), 100.0);
    }

    #[test]
    fn what_looks_slow_and_was_not_asked_for_long_is_tried_by_one() {
        let ewma = PeakEwma::default();
        ewma.observe(Duration::from_secs(60), Outcome::Success, at(0));
        assert!(ewma.load(0, at(9_999)) > 20e9);
        assert_eq!(ewma.load(0, at(10_000)), 0.0);
        assert!(ewma.load(1, at(10_000)) > 40e9, "and not by all");
        ewma.observe(Duration::from_millis(5), Outcome::Success, at(10_000));
        assert!(ewma.load(0, at(10_001)) > 20e9, "good news are believed slowly");
    }

    #[test]
    fn a_fast_failure_looks_slow() {
        let ewma = PeakEwma::default();
        ewma.observe(Duration::from_micros(50), Outcome::Failure, at(0));
        assert_eq!(ewma.load(0, at(0)), 1e9);
    }

    #[test]
    fn the_unknown_is_tried_by_one_and_not_by_all() {
        let ewma = PeakEwma::default();
        assert_eq!(ewma.load(0, at(0)), 0.0);
        assert_eq!(ewma.load(1, at(0)), 2e9);
    }
}
