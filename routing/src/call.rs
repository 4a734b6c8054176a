//! One call between services, from its first attempt to what it comes to: faults, deadline, retries.
//!
//! A sans-IO state machine. Whoever makes the call does what a [`Step`] says and tells what happened by `on_*`; `now` and all
//! randomness are arguments. It decides nothing about where an attempt goes, which is the table's and the balancer's.

use std::time::Duration;

use crate::Moment;
use crate::policy::{Cause, Fault, Retry, RetryBudget, Try};

/// What a call goes by: what the route says that takes it, or else its client.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CallPolicy<'p> {
    /// What goes wrong on purpose.
    pub fault: Option<Fault>,
    /// How long it may take, to the head of its answer; for as long as its caller waits where there is none.
    pub timeout: Option<Duration>,
    /// When it is tried again.
    pub retry: Option<&'p Retry>,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Wait until this moment; then [`Call::on_time`].
    Wait(Moment),
    /// Send the request, and give the attempt up at this moment; then [`Call::on_ended`].
    Send(Moment),
    /// Answer it with this status: it is one of those that are refused on purpose.
    Abort(u16),
    /// What the last attempt came to is what the call comes to.
    Over,
    /// Its time is over.
    Expired,
}

/// What an attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The status of its answer or how it failed; none where trying again does not help.
    pub cause: Option<Cause>,
    /// For how long the endpoint asks to be left alone.
    pub retry_after: Option<Duration>,
    /// Whether the request can be sent again.
    pub replayable: bool,
}

/// A call under way.
#[derive(Debug)]
pub struct Call<'p> {
    policy: CallPolicy<'p>,
    method: &'p str,
    deadline: Moment,
    made: u32,
    waits_for: Wait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// The fault's delay.
    Fault,
    /// The next attempt.
    Backoff,
}

impl<'p> Call<'p> {
    /// A call that begins at `now` and is over at `deadline` at the latest, where its caller set one.
    #[must_use]
    pub fn new(policy: CallPolicy<'p>, method: &'p str, deadline: Option<Moment>, now: Moment) -> Self {
        let own = policy.timeout.map(|timeout| now + timeout);
        Self {
            policy,
            method,
            deadline: own.into_iter().chain(deadline).min().unwrap_or(Moment(u64::MAX)),
            made: 0,
            waits_for: Wait::Fault,
        }
    }

    /// When it is over.
    #[must_use]
    pub fn deadline(&self) -> Moment {
        self.deadline
    }

    /// The first step. The two random numbers are uniform over all of `u64`.
    pub fn begin(&mut self, budget: &RetryBudget, now: Moment, [delay, abort]: [u64; 2]) -> Step {
        budget.deposit(now);
        let fault = self.policy.fault.unwrap_or_default();
        match fault.delay.filter(|fault| fault.chance.hits(delay)) {
            // The wait is a part of the call's time.
            Some(fault) => Step::Wait(self.deadline.min(now + fault.duration)),
            None => self.abort_or_send(now, abort),
        }
    }

    /// Goes on when a wait is over; `abort` as in [`begin`](Self::begin).
    pub fn on_time(&mut self, now: Moment, abort: u64) -> Step {
        match self.waits_for {
            Wait::Fault => self.abort_or_send(now, abort),
            Wait::Backoff => self.send(now),
        }
    }

    /// Goes on when an attempt was answered or failed.
    pub fn on_ended(&mut self, ended: &Ended, budget: &RetryBudget, now: Moment, random: u64) -> Step {
        let (Some(cause), Some(retry)) = (ended.cause, self.policy.retry) else {
            return Step::Over;
        };
        let failed = Try {
            method: self.method,
            made: self.made,
            cause,
            retry_after: ended.retry_after,
            replayable: ended.replayable,
            deadline: self.deadline,
        };
        match retry.next(&failed, budget, now, random) {
            Some(at) if at > now => Step::Wait(at),
            Some(_) => self.send(now),
            None => Step::Over,
        }
    }

    fn abort_or_send(&mut self, now: Moment, random: u64) -> Step {
        self.waits_for = Wait::Backoff;
        let abort = self.policy.fault.and_then(|fault| fault.abort);
        match abort.filter(|abort| abort.chance.hits(random)) {
            Some(abort) => Step::Abort(abort.status),
            None => self.send(now),
        }
    }

    fn send(&mut self, now: Moment) -> Step {
        if now >= self.deadline {
            return Step::Expired;
        }
        self.made += 1;
        let per_try = self.policy.retry.and_then(|retry| retry.per_try_timeout);
        Step::Send(per_try.map_or(self.deadline, |per_try| self.deadline.min(now + per_try)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Abort, Backoff, Chance, Delay, RetryOn};

    const HIT: u64 = 0;
    const MISS: u64 = u64::MAX;

    fn at(millis: u64) -> Moment {
        Moment(1_000_000_000 + millis * 1_000_000)
    }

    fn policy(retry: &Retry) -> CallPolicy<'_> {
        let chance = Chance::percent(50.0).unwrap();
        CallPolicy {
            fault: Some(Fault {
                delay: Some(Delay {
                    duration: Duration::from_millis(100),
                    chance,
                }),
                abort: Some(Abort { status: 418, chance }),
            }),
            timeout: Some(Duration::from_secs(1)),
            retry: Some(retry),
        }
    }

    fn retry() -> Retry {
        Retry {
            attempts: 3,
            on: RetryOn::usual(),
            per_try_timeout: Some(Duration::from_millis(300)),
            backoff: Backoff {
                min: Duration::from_millis(20),
                max: Duration::from_millis(20),
            },
            ..Retry::default()
        }
    }

    fn answered(status: u16) -> Ended {
        Ended {
            cause: Some(Cause::Status(status)),
            retry_after: None,
            replayable: true,
        }
    }

    #[test]
    fn a_call_is_tried_until_it_is_answered_or_its_attempts_are_made() {
        let (retry, budget) = (retry(), RetryBudget::new(1.0));
        let policy = policy(&retry);
        let mut call = Call::new(policy, "GET", None, at(0));
        assert_eq!(call.begin(&budget, at(0), [MISS, MISS]), Step::Send(at(300)));
        assert_eq!(
            call.on_ended(&answered(503), &budget, at(10), u64::MAX / 2 + 1),
            Step::Wait(at(20))
        );
        assert_eq!(
            call.on_time(at(20), HIT),
            Step::Send(at(320)),
            "only the first attempt can be refused on purpose"
        );
        assert_eq!(
            call.on_ended(&answered(503), &budget, at(30), 0),
            Step::Send(at(330)),
            "a wait of nothing is none"
        );
        assert_eq!(call.on_ended(&answered(503), &budget, at(40), 0), Step::Over);
        let mut call = Call::new(policy, "GET", None, at(0));
        let _ = call.begin(&budget, at(0), [MISS, MISS]);
        assert_eq!(call.on_ended(&answered(200), &budget, at(1), 0), Step::Over);
    }

    #[test]
    fn what_cannot_be_sent_again_is_not() {
        let (retry, budget) = (retry(), RetryBudget::new(1.0));
        let policy = policy(&retry);
        let ended = |method, ended| {
            let mut call = Call::new(policy, method, None, at(0));
            let _ = call.begin(&budget, at(0), [MISS, MISS]);
            call.on_ended(&ended, &budget, at(1), 0)
        };
        let taken = Ended {
            replayable: false,
            ..answered(503)
        };
        let hopeless = Ended {
            cause: None,
            ..answered(503)
        };
        assert_eq!(ended("POST", answered(503)), Step::Over);
        assert_eq!((ended("GET", taken), ended("GET", hopeless)), (Step::Over, Step::Over));
    }

    #[test]
    fn a_delay_on_purpose_counts_into_the_calls_time() {
        let (retry, budget) = (retry(), RetryBudget::new(1.0));
        let policy = policy(&retry);
        let mut call = Call::new(policy, "GET", None, at(0));
        assert_eq!(call.begin(&budget, at(0), [HIT, MISS]), Step::Wait(at(100)));
        assert_eq!(call.on_time(at(100), HIT), Step::Abort(418));
        let mut call = Call::new(policy, "GET", Some(at(50)), at(0));
        assert_eq!(call.begin(&budget, at(0), [HIT, MISS]), Step::Wait(at(50)));
        assert_eq!(call.on_time(at(50), MISS), Step::Expired);
    }

    #[test]
    fn the_sooner_of_two_deadlines_holds_and_nothing_is_sent_after_it() {
        let (retry, budget) = (retry(), RetryBudget::new(1.0));
        let policy = policy(&retry);
        let late = Call::new(policy, "GET", Some(at(5_000)), at(0));
        assert_eq!(late.deadline(), at(1_000), "the policy's own");
        let mut over = Call::new(policy, "GET", Some(at(0)), at(0));
        assert_eq!(over.begin(&budget, at(0), [MISS, MISS]), Step::Expired);
        let mut call = Call::new(policy, "GET", Some(at(200)), at(0));
        assert_eq!(call.begin(&budget, at(0), [MISS, MISS]), Step::Send(at(200)));
        let asks = Ended {
            retry_after: Some(Duration::from_millis(500)),
            ..answered(503)
        };
        assert_eq!(
            call.on_ended(&asks, &budget, at(1), 0),
            Step::Over,
            "who asks for longer than there is, is not asked"
        );
        let mut call = Call::new(CallPolicy::default(), "GET", None, at(0));
        assert_eq!(call.begin(&budget, at(0), [HIT, HIT]), Step::Send(Moment(u64::MAX)));
    }
}
