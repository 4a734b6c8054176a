//! How much comes at once and how much comes from a caller: the limits of a route.

use http::header::RETRY_AFTER;
use routing::policy::Taken;
use routing::{Now, Reason};

use super::pipeline::{Progress, admitted};
use super::problem::Problem;
use super::request::Request;
use super::{Edit, Stage, Step, names};
use crate::Memory;
use crate::config::WhenDown;
use crate::limit::{Concurrency, Limits, whole_seconds};

/// Counts the request among those under way, before any quota is charged for it.
pub(super) fn enter(request: &mut Request, memory: &mut Memory, now: Now) -> Progress {
    match request.policy().concurrency {
        Some(Concurrency { key, limit }) => Progress::Going(Stage::Door, Step::Enter { key, limit }),
        None => count(request, memory, now),
    }
}

/// Goes on when it is clear whether there was room.
pub(super) fn entered(request: &mut Request, memory: &mut Memory, is_in: bool, now: Now) -> Progress {
    if is_in {
        return count(request, memory, now);
    }
    let problem = Problem::new(
        Reason::ConcurrencyLimited,
        "as many requests as this route may have at once are under way",
    );
    // Something ends soon where so much is under way; how soon nobody knows.
    Progress::Over(request.refuse(problem.with_field(RETRY_AFTER, "1")))
}

/// Counts the request against the route's quotas.
fn count(request: &mut Request, memory: &mut Memory, now: Now) -> Progress {
    match &request.policy().limits {
        Some(limits) => Progress::Going(Stage::Quotas, Step::Take(limits.takes(request))),
        None => admitted(request, memory, now),
    }
}

/// Goes on when the quotas were asked.
pub(super) fn taken(request: &mut Request, memory: &mut Memory, taken: &[Option<Taken>], now: Now) -> Progress {
    let Some(limits) = &request.policy().limits else {
        return admitted(request, memory, now);
    };
    let edits = tell(limits, taken);
    let when_down = request.gateway.settings().quotas.as_ref().map(|store| store.when_down);
    let refusal = refusal(limits, taken, when_down);
    request.answer_edits.extend(edits);
    match refusal {
        Some(problem) => Progress::Over(request.refuse(problem)),
        None => admitted(request, memory, now),
    }
}

/// What every answer says of the limits, whoever makes it. An upstream's own word on its limits is replaced: it would be about this
/// gateway, and not about the client.
fn tell(limits: &Limits, taken: &[Option<Taken>]) -> Vec<Edit> {
    let mut edits = vec![Edit::Set(names::RATELIMIT_POLICY, limits.policy.clone())];
    edits.extend(limits.state(taken).map(|state| Edit::Set(names::RATELIMIT, state)));
    edits
}

/// The refusal by the limit for which the client has to wait longest, or by what the config says of limits that nobody knows.
fn refusal(limits: &Limits, taken: &[Option<Taken>], when_down: Option<WhenDown>) -> Option<Problem> {
    if taken.len() != limits.list.len() {
        return Some(lost());
    }
    let refused = limits
        .list
        .iter()
        .zip(taken)
        .filter_map(|(limit, taken)| Some((limit, taken.as_ref()?.refused?)));
    let Some((limit, wait)) = refused.max_by_key(|(_, wait)| *wait) else {
        let is_known = taken.iter().all(Option::is_some);
        return match when_down {
            _ if is_known => None,
            Some(WhenDown::Open) => None,
            Some(WhenDown::Closed) => Some(unknown()),
            Some(WhenDown::Local) | None => Some(lost()),
        };
    };
    let seconds = whole_seconds(wait).max(1);
    let detail = format!(
        "the limit `{}` is exhausted; it admits the next request in {seconds} s",
        limit.name
    );
    Some(Problem::new(Reason::RateLimited, detail).with_field(RETRY_AFTER, &seconds.to_string()))
}

/// Nobody knows whether a limit admits the request.
fn unknown() -> Problem {
    let detail = "what counts the requests of this route does not answer";
    Problem::new(Reason::QuotasUnavailable, detail).with_field(RETRY_AFTER, "1")
}

/// Whoever keeps the quotas did not say enough to let the request in.
fn lost() -> Problem {
    Problem::new(Reason::Internal, "the gateway lost track of the request")
}
