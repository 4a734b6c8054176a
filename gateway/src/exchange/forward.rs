//! Attempts at one upstream: send, judge, wait, send again.

use std::time::Duration;

use http::header::RETRY_AFTER;
use routing::policy::{Cause, Try, retry_after};
use routing::{Moment, Now, Reason};

use super::problem::{Problem, detail_of, reason_of};
use super::request::{Request, Turn};
use super::{Answer, Attempt, AttemptBody, AttemptId, Edits, Event, Failure, Inherit, Observe, Step};
use crate::Memory;
use crate::config::{Mirror, policy_edit_count};
use crate::validate::Chosen;

/// Copies are numbered from here on, beyond every attempt that a retry policy may ask for.
const COPIES: u32 = 1 << 16;

/// How far the attempts are.
#[derive(Debug)]
pub(super) struct Forwarding {
    /// How many were made.
    made: u32,
    /// Whether the next one is waited for.
    is_waiting: bool,
    /// What each of them edits.
    edits: Edits,
}

/// What a forwarded request comes to.
pub(super) enum Forwarded {
    /// A step after which something will be told.
    Going(Step),
    /// The last step.
    Over(Step),
}

impl Forwarding {
    /// Makes the first attempt, and the copies for the route's mirrors.
    pub(super) fn start(request: &mut Request, memory: &mut Memory, now: Now) -> (Self, Forwarded) {
        let mut this = Self {
            made: 0,
            is_waiting: false,
            edits: edits(request),
        };
        if request.backend().is_none() {
            let problem = Problem::new(Reason::NoBackend, "every backend of the route has the weight 0");
            return (this, Forwarded::Over(request.refuse(problem)));
        }
        if let Some(budget) = memory.budget(request.route) {
            budget.deposit(now.moment);
        }
        let mut step = this.send(request, now);
        if let Step::Send { attempts, .. } = &mut step {
            mirror(request, attempts);
        }
        let is_last = request.policy().retry.is_none();
        (
            this,
            if is_last {
                Forwarded::Over(step)
            } else {
                Forwarded::Going(step)
            },
        )
    }

    /// Tells what became of an attempt, or that the wait is over.
    pub(super) fn on(&mut self, request: &Request, memory: &mut Memory, event: &Event, now: Now) -> Forwarded {
        match *event {
            Event::Head {
                attempt,
                status,
                ref fields,
            } if attempt == self.current() && !self.is_waiting => {
                let failed = Failed {
                    cause: Cause::Status(status),
                    retry_after: fields
                        .get(RETRY_AFTER)
                        .and_then(|value| retry_after(value.to_str().ok()?, now.unix)),
                    replayable: self.is_replayable(request),
                };
                match self.next(request, memory, &failed, now) {
                    Some(at) => self.wait(request, at, now),
                    None => Forwarded::Over(Step::Forward {
                        attempt,
                        edits: request.response_edits(),
                        observe: observe(request),
                    }),
                }
            }
            Event::Failed {
                attempt,
                failure,
                replayable,
            } if attempt == self.current() && !self.is_waiting => {
                let replayable = replayable || request.is_buffered;
                let failed = cause(failure).map(|cause| Failed {
                    cause,
                    retry_after: None,
                    replayable,
                });
                let retry = failed.and_then(|failed| self.next(request, memory, &failed, now));
                match retry {
                    Some(at) => self.wait(request, at, now),
                    None => Forwarded::Over(request.refuse(Problem::new(reason_of(failure), detail_of(failure)))),
                }
            }
            Event::Time if self.is_waiting => {
                self.is_waiting = false;
                Forwarded::Going(self.send(request, now))
            }
            // An attempt that was given up has nothing more to say.
            _ => Forwarded::Going(Step::Pending),
        }
    }

    fn current(&self) -> AttemptId {
        AttemptId(self.made.saturating_sub(1))
    }

    /// Whether the body can be sent once more after an upstream answered, which may have taken some of it.
    fn is_replayable(&self, request: &Request) -> bool {
        !request.has_body || request.is_buffered
    }

    /// When the next attempt is made, if one is. A request's own judgement of what may be repeated is [`Retry::next`](
    /// routing::policy::Retry::next)'s, the same that the mesh uses.
    fn next(&self, request: &Request, memory: &mut Memory, failed: &Failed, now: Now) -> Option<Moment> {
        let retry = request.policy().retry.as_ref()?;
        let budget = memory.budget(request.route)?;
        let failed = Try {
            method: request.method.as_str(),
            made: self.made,
            cause: failed.cause,
            retry_after: failed.retry_after,
            replayable: failed.replayable,
            deadline: request.deadline,
        };
        retry.next(&failed, budget, now.moment, request.random(Turn::Backoff(self.made)))
    }

    fn wait(&mut self, request: &Request, at: Moment, now: Now) -> Forwarded {
        if at <= now.moment {
            return Forwarded::Going(self.send(request, now));
        }
        self.is_waiting = true;
        Forwarded::Going(Step::Wait { until: at })
    }

    fn send(&mut self, request: &Request, now: Now) -> Step {
        let policy = request.policy();
        let backend = request.backend().expect("a request without a backend was refused");
        let id = AttemptId(self.made);
        self.made += 1;
        let attempt = Attempt {
            id,
            upstream: backend.upstream,
            affinity: request.affinity(backend.upstream),
            method: None,
            target: request.target.clone(),
            host: policy.rewrite.host.clone(),
            inherit: Inherit::Request,
            edits: self.edits.clone(),
            body: if request.has_body {
                AttemptBody::Request
            } else {
                AttemptBody::Empty
            },
            max_body: request.max_body.filter(|_| !request.is_buffered),
            deadline: policy.timeouts.attempt_deadline(now.moment, request.deadline),
            answer: Answer::Forward {
                edits: request.response_edits(),
                judge: self.judged(request),
                observe: observe(request),
            },
        };
        Step::Send {
            route: request.route,
            attempts: vec![attempt],
        }
    }

    /// The status codes that this attempt's answer is judged for: none where nothing could follow from it, so that the answer goes
    /// on its way without asking.
    fn judged(&self, request: &Request) -> Vec<u16> {
        match &request.policy().retry {
            Some(retry) if self.made < retry.attempts && self.is_replayable(request) && request.method.is_idempotent() => {
                retry.on.statuses.clone()
            }
            _ => Vec::new(),
        }
    }
}

/// What every attempt edits: what the request begins with, and then what its route and its backend say.
fn edits(request: &mut Request) -> Edits {
    let mut edits = std::mem::take(&mut request.edits);
    edits.reserve_exact(policy_edit_count(&request.policy().request_edits));
    request.request_edits(&mut edits);
    edits.into()
}

/// What an attempt came to, as far as another may follow.
struct Failed {
    cause: Cause,
    retry_after: Option<Duration>,
    replayable: bool,
}

/// How the answer is judged on its way. One to HEAD has no body.
fn observe(request: &Request) -> Option<Observe> {
    let rules = request.policy().answers.as_ref()?;
    (request.method != http::Method::HEAD).then(|| Observe {
        route: request.route,
        operation: request.chosen.and_then(Chosen::operation),
        max_body: rules.max_body,
    })
}

/// Adds a copy of the first attempt for each mirror that gets one. A copy carries no body but one that was read, since a body that
/// streams through cannot be sent twice: where the client sends one that no policy reads, there is no copy.
fn mirror(request: &Request, attempts: &mut Vec<Attempt>) {
    let mirrors = &request.policy().mirrors;
    let Some(first) = attempts
        .first()
        .filter(|_| !mirrors.is_empty() && (!request.has_body || request.is_buffered))
    else {
        return;
    };
    let hit = |&(place, mirror): &(u8, &Mirror)| mirror.chance.hits(request.random(Turn::Mirror(place)));
    let copies: Vec<Attempt> = (0..)
        .zip(mirrors)
        .filter(hit)
        .map(|(place, mirror)| Attempt {
            id: AttemptId(COPIES + u32::from(place)),
            upstream: mirror.upstream,
            affinity: request.affinity(mirror.upstream),
            deadline: request.deadline,
            answer: Answer::Discard,
            ..first.clone()
        })
        .collect();
    attempts.extend(copies);
}

/// What a retry policy calls a failure; none where another attempt would fare no better.
fn cause(failure: Failure) -> Option<Cause> {
    match failure {
        Failure::Connect => Some(Cause::ConnectFailure),
        Failure::Reset => Some(Cause::Reset),
        Failure::Timeout => Some(Cause::Timeout),
        // A full upstream or one without endpoints is not helped by more requests, and what is wrong stays wrong.
        Failure::NoEndpoint | Failure::Overloaded | Failure::Identity | Failure::Protocol | Failure::BodyTooLarge => None,
    }
}
