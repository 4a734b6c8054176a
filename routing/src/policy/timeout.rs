//! How long a request may take, and how long one attempt of it.

use std::time::Duration;

use crate::Moment;

/// The timeouts of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's head to the answer's head, all attempts and waits included.
    pub request: Duration,
    /// From an attempt's start to its answer's head; never longer than what is left of the request's.
    pub per_try: Option<Duration>,
}

impl Timeouts {
    /// The request timeout where a config does not say: long enough for slow reports, short enough that a hanging upstream does not
    /// pile up requests for minutes. (Envoy has 15 s, nginx 60 s.)
    pub const REQUEST: Duration = Duration::from_secs(30);
    /// The shortest timeout that a config may ask for.
    pub const MIN: Duration = Duration::from_millis(1);
    /// The longest.
    pub const MAX: Duration = Duration::from_secs(3600);

    /// When a request that arrives at `now` is over.
    #[must_use]
    pub fn deadline(&self, now: Moment) -> Moment {
        now + self.request
    }

    /// When an attempt that starts at `now` is over, in a request with this deadline.
    #[must_use]
    pub fn attempt_deadline(&self, now: Moment, deadline: Moment) -> Moment {
        self.per_try.map_or(deadline, |per_try| deadline.min(now + per_try))
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request: Self::REQUEST,
            per_try: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_never_outlives_its_request() {
        let timeouts = Timeouts {
            request: Duration::from_secs(2),
            per_try: Some(Duration::from_millis(500)),
        };
        let start = Moment(1_000);
        let deadline = timeouts.deadline(start);
        assert_eq!(deadline, start + Duration::from_secs(2));
        assert_eq!(timeouts.attempt_deadline(start, deadline), start + Duration::from_millis(500));
        let late = start + Duration::from_millis(1_800);
        assert_eq!(timeouts.attempt_deadline(late, deadline), deadline);
        assert_eq!(Timeouts::default().attempt_deadline(late, deadline), deadline);
    }
}
