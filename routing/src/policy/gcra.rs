//! How often: the generic cell rate algorithm.
//!
//! All that is kept of a key is one moment, the *theoretical arrival time*: when its quota will be whole again. A request moves it
//! on by the interval between two requests of the rate; one that would move it further ahead of the clock than the burst allows is
//! refused and moves nothing. So there is no window whose edge lets twice as much through, nothing to reset, and a key that
//! has been quiet for long is as good as none. (ITU-T I.371, annex A, has it as "virtual scheduling".)
//!
//! Over any stretch of time a key is admitted at most `burst` requests more than its rate gives.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Moment;

/// How often, in the form that is reckoned with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rate {
    /// Nanoseconds between two requests.
    pub(super) interval: u64,
    /// How many may come at once.
    pub(super) burst: u32,
}

/// What taking one request from a quota came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Where the request is refused: after what time one like it would be admitted.
    pub refused: Option<Duration>,
    /// How many more would be admitted right after it.
    pub remaining: u32,
    /// After what time the whole quota is there again, if no more come.
    pub reset: Duration,
}

impl Rate {
    /// `limit` requests in each `window`, of which `burst` may come at once. None where that is no rate: no request, no time, or
    /// more than one request in a nanosecond.
    #[must_use]
    pub fn new(limit: u32, window: Duration, burst: u32) -> Option<Self> {
        let window = u64::try_from(window.as_nanos()).ok()?;
        let interval = window.checked_div(u64::from(limit))?;
        (interval > 0 && burst > 0).then_some(Self { interval, burst })
    }

    /// Takes one request at `now` from the quota that is whole at `whole`. Gives when it will be whole then.
    #[must_use]
    pub fn take(self, whole: Moment, now: Moment) -> (Moment, Taken) {
        let base = whole.max(now);
        let Moment(next) = base + Duration::from_nanos(self.interval);
        let ahead = next.saturating_sub(now.0);
        let refused = ahead.checked_sub(self.tolerance()).filter(|&excess| excess > 0);
        let after = if refused.is_some() { base } else { Moment(next) };
        let taken = Taken {
            refused: refused.map(Duration::from_nanos),
            remaining: self.remaining(after, now),
            reset: after.since(now),
        };
        (after, taken)
    }

    /// Gives one request back that was taken before.
    #[must_use]
    pub fn give_back(self, whole: Moment) -> Moment {
        whole - Duration::from_nanos(self.interval)
    }

    /// How far ahead of the clock the quota's moment may be: the time in which a whole burst comes back.
    fn tolerance(self) -> u64 {
        self.interval.saturating_mul(u64::from(self.burst))
    }

    fn remaining(self, whole: Moment, now: Moment) -> u32 {
        let ahead = whole.0.saturating_sub(now.0);
        // From a wire, an interval of 0 may come.
        let left = self.tolerance().saturating_sub(ahead).checked_div(self.interval);
        left.and_then(|left| u32::try_from(left).ok()).unwrap_or(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Moment = Moment(1_000_000_000);

    fn rate(limit: u32, seconds: u64, burst: u32) -> Rate {
        Rate::new(limit, Duration::from_secs(seconds), burst).unwrap()
    }

    /// Takes at each of these milliseconds; tells which were admitted.
    fn admitted(rate: Rate, at: &[u64]) -> Vec<bool> {
        let mut whole = Moment::default();
        let mut take = |millis: &u64| {
            let (next, taken) = rate.take(whole, START + Duration::from_millis(*millis));
            whole = next;
            taken.refused.is_none()
        };
        at.iter().map(&mut take).collect()
    }

    #[test]
    fn a_burst_is_admitted_at_once_and_comes_back_one_by_one() {
        // Three in three seconds: one each second once the burst is used.
        let three = rate(3, 3, 3);
        assert_eq!(admitted(three, &[0, 0, 0, 0]), [true, true, true, false]);
        assert_eq!(
            admitted(three, &[0, 0, 0, 999, 1000, 1001, 2000]),
            [true, true, true, false, true, false, true]
        );
        assert_eq!(
            admitted(rate(3, 3, 1), &[0, 0, 1000, 1999, 2000]),
            [true, false, true, false, true]
        );
    }

    #[test]
    fn what_is_refused_costs_nothing() {
        let one = rate(1, 1, 1);
        let hammering: Vec<u64> = (0..=1000).step_by(10).collect();
        let admitted = admitted(one, &hammering);
        assert_eq!(admitted.iter().filter(|&&admitted| admitted).count(), 2);
        assert!(admitted[0] && admitted[100]);
    }

    #[test]
    fn what_is_left_and_when_it_comes_back_is_told() {
        let two = rate(2, 10, 2);
        let (whole, first) = two.take(Moment::default(), START);
        assert_eq!(
            (first.refused, first.remaining, first.reset),
            (None, 1, Duration::from_secs(5))
        );
        let (whole, second) = two.take(whole, START);
        assert_eq!(
            (second.refused, second.remaining, second.reset),
            (None, 0, Duration::from_secs(10))
        );
        let later = START + Duration::from_secs(3);
        let (same, third) = two.take(whole, later);
        assert_eq!(
            (third.refused, third.remaining, third.reset),
            (Some(Duration::from_secs(2)), 0, Duration::from_secs(7))
        );
        assert_eq!(same, whole);
        let (_, fourth) = two.take(two.give_back(whole), later);
        assert_eq!(fourth.refused, None);
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        let second = Duration::from_secs(1);
        assert_eq!(Rate::new(0, second, 1), None);
        assert_eq!(Rate::new(1, second, 0), None);
        assert_eq!(Rate::new(1, Duration::ZERO, 1), None);
        assert_eq!(Rate::new(3, Duration::from_nanos(2), 1), None);
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_has_more_than_its_rate_and_a_burst(
            limit in 1..50_u32, burst in 1..20_u32, steps in proptest::collection::vec(0..400_u64, 1..200),
        ) {
            let rate = rate(limit, 1, burst);
            let mut now = START;
            let mut whole = Moment::default();
            let mut admitted: Vec<Moment> = Vec::new();
            for step in steps {
                now = now + Duration::from_millis(step);
                let (next, taken) = rate.take(whole, now);
                // As long as it is told to wait is exactly long enough.
                if let Some(wait) = taken.refused {
                    prop_assert!(rate.take(next, now + wait).1.refused.is_none());
                    prop_assert!(rate.take(next, now + wait - Duration::from_nanos(1)).1.refused.is_some());
                } else {
                    admitted.push(now);
                }
                whole = next;
            }
            for (first, from) in admitted.iter().enumerate() {
                for (last, to) in admitted.iter().enumerate().skip(first) {
                    let given = to.since(*from).as_nanos() / u128::from(rate.interval);
                    prop_assert!((last - first + 1) as u128 <= given + u128::from(burst));
                }
            }
        }

        #[test]
        fn no_numbers_from_a_wire_make_it_panic(interval: u64, burst: u32, whole: u64, now: u64) {
            let rate = Rate { interval, burst };
            let (after, _) = rate.take(Moment(whole), Moment(now));
            let _ = rate.give_back(after);
        }
    }
}
