//! Retry budgets.
//!
//! A limit per request does not stop a storm: when an upstream fails, three attempts each are three times the load on something
//! that is already down, and callers stacked on callers multiply it (three layers of three attempts are 27). A *budget* bounds the
//! sum: retries may be at most a fraction of the requests of the last ten seconds, whatever each of them would be entitled to. So a
//! handful of failures is always retried and a failing upstream sees its load grow by that fraction at most. This is Finagle's
//! `RetryBudget`, which linkerd and tower took over.
//!
//! A rate limit on retries would need a number that fits every load; a fraction fits by itself. What a fraction cannot do is serve
//! an upstream with one request a minute, hence the floor of [`RetryBudget::FLOOR`] retries per window.
//!
//! Counters lie in a ring of one-second slots, each one atomic word of its second and its count, so the budget is shared between
//! cores without a lock; a slot whose second is over is worth nothing and needs no sweeping.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Moment;

/// How many of the last seconds count.
const WINDOW: u64 = 10;

/// Counts requests and retries of the last ten seconds and says whether one more retry is within the budget.
#[derive(Debug)]
pub struct RetryBudget {
    ratio: f64,
    requests: Ring,
    retries: Ring,
}

impl RetryBudget {
    /// The fraction where a config does not say (Finagle's and linkerd's).
    pub const RATIO: f64 = 0.2;
    /// How many retries a window may have whatever the fraction gives.
    pub const FLOOR: u64 = 10;

    /// A budget of `ratio` retries per request, from 0 (the floor alone) to 10.
    #[must_use]
    pub fn new(ratio: f64) -> Self {
        Self {
            ratio: if ratio.is_finite() { ratio.clamp(0.0, 10.0) } else { 0.0 },
            requests: Ring::default(),
            retries: Ring::default(),
        }
    }

    /// How many retries per request it allows.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.ratio
    }

    /// Counts a request's first attempt.
    pub fn deposit(&self, now: Moment) {
        self.requests.count(now);
    }

    /// Takes a retry out of the budget; false where it is spent.
    pub fn withdraw(&self, now: Moment) -> bool {
        let earned = self.requests.sum(now) as f64 * self.ratio;
        // Two cores that ask at once may overdraw by one each; a lock would cost more than that.
        if self.retries.sum(now) as f64 + 1.0 > earned + Self::FLOOR as f64 {
            return false;
        }
        self.retries.count(now);
        true
    }
}

/// Counts of the last seconds. A slot's word is its second in the upper half and its count in the lower one.
#[derive(Debug, Default)]
struct Ring([AtomicU64; WINDOW as usize]);

impl Ring {
    fn count(&self, now: Moment) {
        let second = second(now);
        let slot = &self.0[(second % WINDOW) as usize];
        let next = |word: u64| {
            Some(if word >> 32 == second {
                word.saturating_add(1)
            } else {
                second << 32 | 1
            })
        };
        // The closure always gives a value, so this cannot fail.
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    fn sum(&self, now: Moment) -> u64 {
        let second = second(now);
        let words = self.0.iter().map(|slot| slot.load(Ordering::Relaxed));
        let recent = words.filter(|word| *word != 0 && word >> 32 <= second && second - (word >> 32) < WINDOW);
        recent.map(|word| word & u64::from(u32::MAX)).sum()
    }
}

/// The second of a moment; 32 bits of it are 136 years.
fn second(now: Moment) -> u64 {
    (now.0 / 1_000_000_000) & u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn spend(budget: &RetryBudget, now: Moment) -> usize {
        (0..1_000).take_while(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn retries_are_a_fraction_of_the_requests_above_a_floor() {
        let budget = RetryBudget::new(0.2);
        let now = Moment(5_000_000_000);
        (0..100).for_each(|_| budget.deposit(now));
        assert_eq!(spend(&budget, now), 30);
        (0..5).for_each(|_| budget.deposit(now));
        assert_eq!(spend(&budget, now), 1);
    }

    #[test]
    fn what_was_earned_and_spent_is_forgotten_after_ten_seconds() {
        let budget = RetryBudget::new(0.5);
        let start = Moment::default();
        (0..100).for_each(|_| budget.deposit(start));
        assert_eq!(spend(&budget, start + Duration::from_secs(9)), 60);
        assert_eq!(
            spend(&budget, start + Duration::from_secs(10)),
            0,
            "the 60 are still spent, the 100 no longer earned"
        );
        assert_eq!(spend(&budget, start + Duration::from_secs(19)), 10);
    }

    #[test]
    fn an_idle_upstream_has_the_floor() {
        assert_eq!(spend(&RetryBudget::new(0.0), Moment(77_000_000_000)), 10);
        assert_eq!(spend(&RetryBudget::new(f64::NAN), Moment::default()), 10);
    }
}
