//! Faults that a route makes on purpose: some requests wait, some are refused, to see what that does to whoever calls.

use routing::{Moment, Now, Reason};

use super::pipeline::{Progress, act};
use super::problem::Problem;
use super::request::{Request, Turn};
use super::{Stage, Step};
use crate::Memory;

/// Lets the request wait, where that is its lot.
pub(super) fn delay(request: &mut Request, memory: &mut Memory, now: Now) -> Progress {
    let delay = request.policy().fault.as_ref().and_then(|fault| fault.delay);
    match delay.filter(|delay| delay.chance.hits(request.random(Turn::Delay))) {
        // The wait is a part of the request's time: what comes after it has less.
        Some(delay) => wait(request.deadline.min(now.moment + delay.duration)),
        None => abort(request, memory, now),
    }
}

/// Goes on when the wait is over.
pub(super) fn delayed(request: &mut Request, memory: &mut Memory, until: Moment, now: Now) -> Progress {
    if now.moment < until {
        return wait(until);
    }
    if now.moment >= request.deadline {
        let detail = "the delay that the route injects took all the time that the request has";
        return Progress::Over(request.refuse(Problem::new(Reason::DeadlineExceeded, detail)));
    }
    abort(request, memory, now)
}

fn wait(until: Moment) -> Progress {
    Progress::Going(Stage::Delay(until), Step::Wait { until })
}

/// Refuses the request, where that is its lot.
fn abort(request: &mut Request, memory: &mut Memory, now: Now) -> Progress {
    let abort = request.policy().fault.as_ref().and_then(|fault| fault.abort);
    match abort.filter(|abort| abort.chance.hits(request.random(Turn::Abort))) {
        Some(abort) => {
            let problem = Problem::new(Reason::FaultInjected, "the route refuses some requests on purpose");
            Progress::Over(request.refuse(problem.with_status(abort.status)))
        }
        None => act(request, memory, now),
    }
}
