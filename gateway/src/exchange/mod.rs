//! One request and its answer.

mod authenticate;
mod cors;
mod event;
mod fault;
mod forward;
mod forwarded;
mod gather;
mod limit;
mod made;
mod names;
mod pipeline;
mod problem;
mod request;
mod step;
mod trace;
pub mod wire;

use std::sync::Arc;

use http::HeaderValue;
use routing::{Moment, Now, Reason};

use crate::{Gateway, Memory};

pub use event::{Arrival, BodyRead, Entropy, Event, Failure, Keys};
pub(crate) use forwarded::{Cidr, Told};
pub(crate) use gather::{ITEM, MAX_BRANCHES};
pub use problem::refuse;
pub use step::{
    Answer, Attempt, AttemptBody, AttemptId, Edit, Edits, Fetch, Inherit, KeyId, KeySetId, Observe, Respond, RouteId, Step,
    UpstreamId, Verify, VerifyKey,
};

use authenticate::Checking;
use forward::{Forwarded, Forwarding};
use gather::Gathering;
use pipeline::Progress;
use problem::{Problem, detail_of, reason_of};
use request::{Request, edited};

/// One request and its answer: events in, steps out.
///
/// | class | methods |
/// |---|---|
/// | inputs | [`start`](Self::start), [`on`](Self::on); time is a part of both |
/// | outputs | the [`Step`] that each of them gives |
///
/// It holds no borrow of its request or its driver, so that a driver may keep it across an await, or on the other side of a
/// boundary. Told the same events at the same times, it takes the same steps.
#[derive(Debug)]
pub struct Exchange {
    /// Boxed, since an exchange is handed on from driver to driver.
    request: Box<Request>,
    stage: Stage,
}

/// What an exchange waits for.
#[derive(Debug)]
enum Stage {
    /// What a driver finds out about the request's credentials.
    Credentials(Box<Checking>),
    /// Whether there is room for it beside those under way.
    Door,
    /// What is left of the quotas that it is counted against.
    Quotas,
    /// The end of a delay that the route injects.
    Delay(Moment),
    /// The request's body.
    Body,
    /// What becomes of an attempt.
    Forward(Forwarding),
    /// What becomes of an aggregate's branches.
    /// On the heap, since it is large and seldom.
    Gather(Box<Gathering>),
    /// Nothing: it took its last step.
    Over,
}

impl Exchange {
    /// Starts an exchange. Everything that needs the request's head is computed here.
    ///
    /// There is no exchange beside a step that is its last one: [`Step::Respond`], or [`Step::Send`] of one attempt whose
    /// answer is forwarded whatever it is, beside any whose answer is discarded. Where such an attempt fails, its driver answers [`failed`].
    #[must_use]
    pub fn start(gateway: &Arc<Gateway>, memory: &mut Memory, arrival: &Arrival<'_>) -> (Option<Self>, Step) {
        memory.belong_to(gateway);
        pipeline::arrive(gateway, memory, arrival)
    }

    /// Tells what happened, and gives the next step. After a last step ([`Step::Forward`], [`Step::Respond`], or
    /// [`Step::Send`] as [`start`](Self::start) says) there is nothing to tell, and nothing but [`Step::Pending`] comes of it.
    ///
    /// An event that answers no step, such as the body of a request that was not asked for, is a driver's mistake and ends the
    /// exchange with [`Reason::Internal`]. Late news of an attempt that was given up is none.
    #[must_use]
    pub fn on(&mut self, memory: &mut Memory, event: Event, now: Now) -> Step {
        let request = &mut self.request;
        let progress = match (std::mem::replace(&mut self.stage, Stage::Over), event) {
            (Stage::Credentials(checking), Event::Verified(right)) if authenticate::awaits_signature(&checking) => {
                let checked = authenticate::verified(*checking, right, request, memory, now);
                pipeline::checked_so_far(checked, request, memory, now)
            }
            (Stage::Credentials(checking), Event::Keys(keys)) if !authenticate::awaits_signature(&checking) => {
                let checked = authenticate::keys(*checking, &keys, request, memory, now);
                pipeline::checked_so_far(checked, request, memory, now)
            }
            (Stage::Door, Event::Entered(is_in)) => limit::entered(request, memory, is_in, now),
            (Stage::Quotas, Event::Taken(taken)) => limit::taken(request, memory, &taken, now),
            (Stage::Delay(until), _) => fault::delayed(request, memory, until, now),
            (Stage::Body, Event::Body(body)) => pipeline::read(request, memory, &body, now),
            (Stage::Forward(mut forwarding), event) => match forwarding.on(request, memory, &event, now) {
                Forwarded::Going(step) => Progress::Going(Stage::Forward(forwarding), step),
                Forwarded::Over(step) => Progress::Over(step),
            },
            (Stage::Gather(mut gathering), event) => {
                let step = gathering.on(request, event, now);
                Progress::Going(Stage::Gather(gathering), step)
            }
            (Stage::Over, _) => Progress::Over(Step::Pending),
            (stage @ (Stage::Credentials(_) | Stage::Door | Stage::Quotas | Stage::Body), Event::Time) => {
                Progress::Going(stage, Step::Pending)
            }
            (Stage::Credentials(_) | Stage::Door | Stage::Quotas | Stage::Body, _) => {
                Progress::Over(request.refuse(Problem::new(Reason::Internal, "the gateway lost track of the request")))
            }
        };
        match progress {
            // A gathering ends by its answer.
            Progress::Going(_, step @ Step::Respond(_)) | Progress::Over(step) => step,
            Progress::Going(stage, step) => {
                self.stage = stage;
                step
            }
        }
    }

    /// Whether it took its last step.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }
}

/// The answer to a request whose only attempt failed and whose exchange was over when the attempt was sent.
#[must_use]
pub fn failed(route: RouteId, attempt: &Attempt, failure: Failure) -> Respond {
    let edits = match &attempt.answer {
        Answer::Forward { edits, .. } => edits.as_slice(),
        Answer::Read { .. } | Answer::Discard => &[],
    };
    let request_id = edits.iter().find_map(|edit| match edit {
        Edit::Set(name, value) if *name == names::REQUEST_ID => Some(value.clone()),
        _ => None,
    });
    let request_id = request_id.unwrap_or_else(|| HeaderValue::from_static(""));
    edited(
        Problem::new(reason_of(failure), detail_of(failure)).answer(Some(route), &request_id),
        edits,
    )
}
