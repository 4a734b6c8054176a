//! A request happens here: the one driver, whoever decides and whichever codec carries the bytes.
//!
//! The exchange says what to do next, in [`Step`]s; this does it and tells what happened, in [`Event`]s, until a step is the
//! last. There is no policy in this file: no status is chosen, no header field judged, nothing retried but what a step says.

use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use gateway::exchange::{Answer, Arrival, Attempt, AttemptId, BodyRead, Edit, Event, Failure, Observe, Respond, RouteId, Step};
use routing::RequestHead;

use crate::access_log::Record;
use crate::body::read_whole;
use crate::core::Core;
use crate::engine::{Engine, Fault};
use crate::inbound::Inbound;
use crate::mirror;
use crate::refusal::Refusal;
use crate::reply::Reply;
use crate::upstream::{Answered, Failed};

/// Answers one request.
pub(crate) async fn answer<E: Engine>(core: &Rc<Core<E>>, inbound: &Inbound, record: &mut Record) -> Result<Reply, Refusal> {
    Driver { core, inbound, record }.run().await
}

/// One exchange.
struct Driver<'a, E> {
    core: &'a Rc<Core<E>>,
    inbound: &'a Inbound,
    record: &'a mut Record,
}

impl<'a, E: Engine> Driver<'a, E> {
    /// Step after step, until one is the last. Where the first one is, there is no exchange: the decision took one crossing.
    async fn run(mut self) -> Result<Reply, Refusal> {
        let (mut exchange, mut step) = self.start()?;
        let mut underway = Underway::default();
        // When the last thing happened: one look at the clock for each.
        let mut at = self.record.began;
        loop {
            let next = match step {
                Step::Respond(respond) => return Ok(self.respond(respond)),
                Step::Forward { attempt, edits, observe } => {
                    let answered = underway.take(attempt).ok_or_else(|| self.broken())?;
                    return Ok(self.forward(answered, edits, observe));
                }
                Step::Read { limit } => Next::Tell(Event::Body(self.read(limit).await)),
                Step::Verify(verify) => Next::Tell(Event::Verified(self.core.engine().gateway().verify(&verify))),
                Step::Fetch(fetch) => Next::Tell(Event::Keys(self.core.keys().keys(&fetch).await)),
                Step::Enter { key, limit } => {
                    self.record.entered = self.core.quotas().enter(key, limit);
                    Next::Tell(Event::Entered(self.record.entered.is_some()))
                }
                Step::Take(takes) => Next::Tell(Event::Taken(
                    self.core.quotas().take(&takes, self.core.now_at(at).moment).await,
                )),
                Step::Send { route, attempts } => self.send(&mut underway, route, attempts, at).await?,
                Step::Wait { until } => {
                    let until = pin!(tokio::time::sleep_until(self.core.instant(until).into()));
                    let idle = underway.is_idle();
                    tokio::select! {
                        biased;
                        next = self.next(&mut underway), if !idle => next?,
                        () = until => Next::Tell(Event::Time),
                    }
                }
                Step::Pending => self.next(&mut underway).await?,
            };
            let event = match next {
                Next::Tell(event) => event,
                Next::Forward(answered, edits, observe) => return Ok(self.forward(answered, edits, observe)),
            };
            // Where the exchange was over when its last attempt was sent, it has nothing to say of that one's failure.
            at = Instant::now();
            let told = match &mut exchange {
                Some(exchange) => self.core.engine().on(exchange, event, self.core.now_at(at)),
                None => Ok(Step::Pending),
            };
            step = told.map_err(|fault| self.faulted(fault))?;
            if matches!(step, Step::Pending) && underway.is_idle() {
                let (route, attempt, failure) = underway.lost.take().ok_or_else(|| self.broken())?;
                return Ok(self.respond(gateway::exchange::failed(route, &attempt, failure)));
            }
        }
    }

    fn start(&self) -> Result<(Option<E::Exchange>, Step), Refusal> {
        let head = &self.inbound.head;
        let arrival = Arrival {
            head: RequestHead {
                method: head.method(),
                scheme: self.inbound.scheme,
                authority: head.authority(),
                target: head.target(),
                fields: head,
                peer: Some(self.inbound.client.ip()),
            },
            has_body: self.inbound.body.expected(),
            now: self.core.now_at(self.record.began),
            entropy: self.core.entropy(),
        };
        self.core.engine().start(&arrival, head).map_err(|fault| self.faulted(fault))
    }

    /// Reads the request's body for a policy.
    async fn read(&self, limit: u64) -> BodyRead {
        self.inbound.body.read(limit, self.core.limits().body_timeout).await
    }

    /// Makes attempts, beside those under way, and waits as [`next`](Self::next) does.
    async fn send(
        &mut self,
        underway: &mut Underway<'a>,
        route: RouteId,
        attempts: Vec<Attempt>,
        at: Instant,
    ) -> Result<Next, Refusal> {
        self.on_route(route);
        let attempts = mirror::split_off(self.core, self.inbound, attempts);
        attempts.iter().for_each(|attempt| self.on_attempt(attempt));
        // An answer that was judged and not forwarded was judged wanting.
        underway.judged.clear();
        let (core, inbound) = (self.core, self.inbound);
        let mut attempts = attempts.into_iter();
        if attempts.len() == 1 && underway.is_idle() {
            // The usual case, without a box and a queue for it.
            let attempt = attempts.next().ok_or_else(|| self.broken())?;
            let occurrence = attempted(core, inbound, route, attempt, at).await;
            return self.occurred(underway, occurrence);
        }
        for attempt in attempts {
            underway.push(Box::pin(attempted(core, inbound, route, attempt, at)));
        }
        self.next(underway).await
    }

    /// Waits until something that is under way has something to tell, or an answer is there that is forwarded as it is.
    async fn next(&mut self, underway: &mut Underway<'a>) -> Result<Next, Refusal> {
        let running = underway.running.as_mut().ok_or_else(|| self.broken())?;
        match running.next().await {
            Some(occurrence) => self.occurred(underway, occurrence),
            None => Err(self.broken()),
        }
    }

    fn occurred(&mut self, underway: &mut Underway<'a>, occurrence: Occurrence) -> Result<Next, Refusal> {
        Ok(match occurrence {
            Occurrence::Answered(attempt, answered) => match attempt.answer {
                Answer::Forward { edits, judge, observe } if !judge.contains(&answered.status()) => {
                    Next::Forward(answered, edits, observe)
                }
                Answer::Forward { .. } => {
                    let event = head_of(attempt.id, &answered);
                    underway.judged.push((attempt.id, answered));
                    Next::Tell(event)
                }
                // Copies are sent on their own.
                Answer::Discard => return Err(self.broken()),
                Answer::Read { limit } => {
                    let event = head_of(attempt.id, &answered);
                    underway.read(attempt.id, answered, limit, self.core.instant(attempt.deadline));
                    Next::Tell(event)
                }
            },
            Occurrence::Read(attempt, body) => Next::Tell(Event::UpstreamBody { attempt, body }),
            Occurrence::Failed(route, attempt, failed) => {
                let Failed {
                    failure,
                    replayable,
                    endpoint,
                } = failed;
                self.record.tried(endpoint.as_ref());
                let id = attempt.id;
                underway.lost = Some((route, attempt, failure));
                Next::Tell(Event::Failed {
                    attempt: id,
                    failure,
                    replayable,
                })
            }
        })
    }

    /// An upstream's answer, its body streaming through.
    fn forward(&mut self, mut answered: Answered, edits: Vec<Edit>, observe: Option<Observe>) -> Reply {
        self.record.tried(Some(&answered.endpoint));
        if let Some(observe) = observe {
            let observer = self.core.observer(observe, &answered, &edits);
            answered.body.observe(observer);
        }
        Reply::Forward(answered, edits)
    }

    /// An answer of our own.
    fn respond(&mut self, respond: Respond) -> Reply {
        if let Some(route) = respond.route {
            self.on_route(route);
        }
        self.record.reason = respond.reason.map(|reason| reason.label());
        self.record.answers(&respond.fields);
        respond.into()
    }

    fn on_route(&mut self, route: RouteId) {
        self.record.route = self.core.route_name(route);
    }

    fn on_attempt(&mut self, attempt: &Attempt) {
        self.record
            .attempts(self.core.upstreams().name(attempt.upstream), &attempt.edits);
    }

    fn faulted(&self, fault: Fault) -> Refusal {
        tracing::error!(%fault, path = self.inbound.head.path(), "no decision could be made");
        Refusal::undecided()
    }

    fn broken(&self) -> Refusal {
        tracing::error!(path = self.inbound.head.path(), "the exchange asked for what it may not");
        Refusal::undecided()
    }
}

/// One attempt, to the head of its answer.
async fn attempted<E: Engine>(core: &Core<E>, inbound: &Inbound, route: RouteId, attempt: Attempt, at: Instant) -> Occurrence {
    match core.upstreams().send(&attempt, inbound, at).await {
        Ok(answered) => Occurrence::Answered(attempt, answered),
        Err(failed) => Occurrence::Failed(route, attempt, failed),
    }
}

/// The head of an answer, as the exchange is told it.
fn head_of(attempt: AttemptId, answered: &Answered) -> Event {
    Event::Head {
        attempt,
        status: answered.status(),
        fields: answered.fields(),
    }
}

/// What waiting brought.
enum Next {
    /// Something to tell the exchange.
    Tell(Event),
    /// An answer that is forwarded with these edits; the exchange is over.
    Forward(Answered, Vec<Edit>, Option<Observe>),
}

/// What an attempt came to.
enum Occurrence {
    Answered(Attempt, Answered),
    Failed(RouteId, Attempt, Failed),
    Read(AttemptId, BodyRead),
}

/// The attempts of one exchange. Dropping it gives them up, and with them their connections.
#[derive(Default)]
struct Underway<'a> {
    /// None until there are several at once: it allocates as soon as it is made.
    running: Option<FuturesUnordered<LocalBoxFuture<'a, Occurrence>>>,
    /// Answers that the exchange judges at the moment.
    judged: Vec<(AttemptId, Answered)>,
    /// The attempt that failed last, and how.
    lost: Option<(RouteId, Attempt, Failure)>,
}

impl<'a> Underway<'a> {
    fn is_idle(&self) -> bool {
        self.running.as_ref().is_none_or(FuturesUnordered::is_empty)
    }

    fn push(&mut self, attempt: LocalBoxFuture<'a, Occurrence>) {
        self.running.get_or_insert_default().push(attempt);
    }

    fn read(&mut self, attempt: AttemptId, answered: Answered, limit: u64, deadline: Instant) {
        self.push(Box::pin(async move {
            let read = tokio::time::timeout_at(deadline.into(), read_whole(answered.body, limit)).await;
            Occurrence::Read(attempt, read.unwrap_or(BodyRead::Broken))
        }));
    }

    fn take(&mut self, attempt: AttemptId) -> Option<Answered> {
        let place = self.judged.iter().position(|(id, _)| *id == attempt)?;
        Some(self.judged.swap_remove(place).1)
    }
}
