//! Whether a failed attempt is made again, and when.

use std::time::{Duration, SystemTime};

use super::RetryBudget;
use crate::Moment;

/// The retry policy of a route.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// How many attempts, the first included: 1 to [`Retry::MAX_ATTEMPTS`].
    pub attempts: u32,
    /// After what.
    pub on: RetryOn,
    /// How long one attempt may take.
    pub per_try_timeout: Option<Duration>,
    /// How long to wait before the next.
    pub backoff: Backoff,
    /// Which fraction of the requests may be retried; see [`RetryBudget`].
    pub budget: f64,
}

/// What an attempt came to that did not serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No connection could be made; the upstream saw nothing.
    ConnectFailure,
    /// The connection broke before an answer came.
    Reset,
    /// It did not answer in time.
    Timeout,
    /// It answered with this status code.
    Status(u16),
}

/// The causes after which an attempt is made again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// After [`Cause::ConnectFailure`].
    pub connect_failure: bool,
    /// After [`Cause::Reset`].
    pub reset: bool,
    /// After [`Cause::Timeout`].
    pub timeout: bool,
    /// After these status codes.
    pub statuses: Vec<u16>,
}

/// Exponential backoff with full jitter: before the second attempt up to `min`, then up to twice that, and so on until `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first step.
    pub min: Duration,
    /// The last.
    pub max: Duration,
}

/// A failed attempt, as far as a retry depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Try<'a> {
    /// The request's method.
    pub method: &'a str,
    /// How many attempts were made, this one included.
    pub made: u32,
    /// What it came to.
    pub cause: Cause,
    /// For how long the upstream asks to be left alone (RFC 9110 §10.2.3).
    pub retry_after: Option<Duration>,
    /// Whether the request can be sent again: its body is buffered, or none of it was taken.
    pub replayable: bool,
    /// When the request is over.
    pub deadline: Moment,
}

impl Retry {
    /// How many attempts where a config does not say.
    pub const ATTEMPTS: u32 = 2;
    /// The most that a config may ask for.
    pub const MAX_ATTEMPTS: u32 = 10;

    /// The moment of the next attempt; None where there is to be none. One that is given has been taken out of the budget.
    ///
    /// A connection that could not be made is tried again whatever the method, since the upstream saw nothing. Everything else is
    /// only where the method is idempotent:
    ///
    /// > A proxy MUST NOT automatically retry non-idempotent requests. (RFC 9110 §9.2.2)
    #[must_use]
    pub fn next(&self, failed: &Try<'_>, budget: &RetryBudget, now: Moment, random: u64) -> Option<Moment> {
        let safe = failed.cause == Cause::ConnectFailure || is_idempotent(failed.method);
        if failed.made >= self.attempts || !failed.replayable || !safe || !self.on.covers(failed.cause) {
            return None;
        }
        let wait = self.backoff.delay(failed.made, random);
        // Who asks to be left alone for longer than the request has is not asked again.
        let at = now + failed.retry_after.map_or(wait, |after| after.max(wait));
        (at < failed.deadline && budget.withdraw(now)).then_some(at)
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: Self::ATTEMPTS,
            on: RetryOn::default(),
            per_try_timeout: None,
            backoff: Backoff::default(),
            budget: RetryBudget::RATIO,
        }
    }
}

impl RetryOn {
    /// After which causes where a config does not say: those that say nothing about the request itself.
    #[must_use]
    pub fn usual() -> Self {
        Self {
            connect_failure: true,
            reset: true,
            timeout: false,
            statuses: vec![503],
        }
    }

    /// Whether an attempt that came to this is made again.
    #[must_use]
    pub fn covers(&self, cause: Cause) -> bool {
        match cause {
            Cause::ConnectFailure => self.connect_failure,
            Cause::Reset => self.reset,
            // An attempt that timed out would be answered with 504, so whoever lists that means this as well.
            Cause::Timeout => self.timeout || self.statuses.contains(&504),
            Cause::Status(status) => self.statuses.contains(&status),
        }
    }
}

impl Backoff {
    /// The delay before the attempt that follows `made` attempts, by a random number that is uniform over all of `u64`.
    ///
    /// Full jitter spreads clients that failed together over the whole step; half of it would keep them in a bunch.
    #[must_use]
    pub fn delay(&self, made: u32, random: u64) -> Duration {
        let doublings = made.saturating_sub(1).min(20);
        let step = self.min.saturating_mul(1 << doublings).min(self.max);
        let nanos = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(u64::try_from((u128::from(nanos) * u128::from(random)) >> 64).unwrap_or(nanos))
    }
}

impl Default for Backoff {
    /// 25 ms to 250 ms, as Envoy has it.
    fn default() -> Self {
        Self {
            min: Duration::from_millis(25),
            max: Duration::from_millis(250),
        }
    }
}

/// For how long the sender of this `retry-after` asks to be left alone, where it is `unix` seconds after 1970: a number of seconds or a
/// date (RFC 9110 §10.2.3). Anything else asks for nothing.
#[must_use]
pub fn retry_after(value: &str, unix: u64) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let date = date.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Duration::from_secs(date.as_secs().saturating_sub(unix)))
}

/// RFC 9110 §9.2.2.
fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(1_000_000_000);

    fn failed(cause: Cause) -> Try<'static> {
        Try {
            method: "GET",
            made: 1,
            cause,
            retry_after: None,
            replayable: true,
            deadline: NOW + Duration::from_secs(1),
        }
    }

    fn retry() -> Retry {
        Retry {
            attempts: 3,
            on: RetryOn::usual(),
            ..Retry::default()
        }
    }

    #[test]
    fn only_what_is_listed_is_tried_again() {
        let next = |failed: Try<'_>| retry().next(&failed, &RetryBudget::new(1.0), NOW, 0).is_some();
        assert!(next(failed(Cause::ConnectFailure)) && next(failed(Cause::Reset)) && next(failed(Cause::Status(503))));
        assert!(!next(failed(Cause::Status(500))) && !next(failed(Cause::Timeout)));
        assert!(
            next(Try {
                made: 2,
                ..failed(Cause::Reset)
            }) && !next(Try {
                made: 3,
                ..failed(Cause::Reset)
            })
        );
        assert!(!next(Try {
            replayable: false,
            ..failed(Cause::Reset)
        }));
    }

    #[test]
    fn what_is_not_idempotent_is_only_tried_again_where_nobody_saw_it() {
        let next = |cause| {
            retry()
                .next(
                    &Try {
                        method: "POST",
                        ..failed(cause)
                    },
                    &RetryBudget::new(1.0),
                    NOW,
                    0,
                )
                .is_some()
        };
        assert!(next(Cause::ConnectFailure));
        assert!(!next(Cause::Reset) && !next(Cause::Status(503)));
    }

    #[test]
    fn a_listed_504_covers_a_timeout() {
        let on = RetryOn {
            statuses: vec![504],
            ..RetryOn::default()
        };
        assert!(on.covers(Cause::Timeout) && !RetryOn::usual().covers(Cause::Timeout));
    }

    #[test]
    fn the_delay_grows_up_to_its_maximum_and_never_passes_the_deadline() {
        let backoff = Backoff::default();
        let longest = |made| backoff.delay(made, u64::MAX).as_micros().div_ceil(1_000);
        assert_eq!([1, 2, 3, 4, 5, 4_000_000_000].map(longest), [25, 50, 100, 200, 250, 250]);
        assert_eq!(backoff.delay(1, 0), Duration::ZERO);
        assert_eq!(backoff.delay(1, 1 << 63), Duration::from_micros(12_500));
        let soon = Try {
            deadline: NOW + Duration::from_millis(10),
            ..failed(Cause::Reset)
        };
        assert_eq!(retry().next(&soon, &RetryBudget::new(1.0), NOW, u64::MAX), None);
        assert_eq!(retry().next(&soon, &RetryBudget::new(1.0), NOW, 0), Some(NOW));
    }

    #[test]
    fn an_upstream_is_left_alone_for_as_long_as_it_asks() {
        let next = |millis| {
            let asked = Try {
                retry_after: Some(Duration::from_millis(millis)),
                ..failed(Cause::Status(503))
            };
            retry().next(&asked, &RetryBudget::new(1.0), NOW, u64::MAX)
        };
        assert_eq!(next(500), Some(NOW + Duration::from_millis(500)));
        assert!(
            next(0).is_some_and(|at| at > NOW + Duration::from_millis(24)),
            "the backoff holds all the same"
        );
        assert_eq!(next(1_000), None, "the request would be over");
    }

    #[test]
    fn a_request_to_be_left_alone_is_seconds_or_a_date() {
        assert_eq!(retry_after(" 7 ", 0), Some(Duration::from_secs(7)));
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(retry_after(date, 784_111_770), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(date, 784_111_999), Some(Duration::ZERO), "the date is over");
        for none in ["", "-1", "soon", "1.5"] {
            assert_eq!(retry_after(none, 0), None, "{none}");
        }
    }

    #[test]
    fn a_storm_is_held_to_the_budget() {
        let budget = RetryBudget::new(0.1);
        let retried = (0..1_000)
            .filter(|_| {
                budget.deposit(NOW);
                retry().next(&failed(Cause::Reset), &budget, NOW, 0).is_some()
            })
            .count();
        assert_eq!(retried, 110);
    }
}
