//! `wasi:http/handler`: the component serves requests by itself and drives its own exchanges.

mod attempt;
mod body;
mod config;
mod keys;
mod message;
mod quotas;
mod request;
mod upstream;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use gateway::Exchange;
use gateway::exchange::{Answer, Attempt, AttemptId, BodyRead, Event, RouteId, Step, failed};
use routing::Moment;
use routing::policy::Entered;
use spin_sdk::http::Request;
use spin_sdk::wasip3::http::types::Response;
use spin_sdk::wasip3::spawn;

use self::attempt::{Answered, Outcome};
use self::config::Edge;
use self::request::Inbound;
use self::upstream::Tried;
use crate::clock;

/// How long a body may take that is waited for before anything is sent, as in native-host.
const BODY: Duration = Duration::from_secs(30);

/// Answers one request.
pub(crate) async fn answer(request: Request) -> Response {
    let Ok(edge) = Edge::current().await else {
        return message::misconfigured();
    };
    match within(BODY, Inbound::new(request)).await {
        Some(Ok(inbound)) => Driver::new(&edge, inbound).run().await,
        Some(Err(_)) => message::malformed("the body broke off before it began"),
        None => message::malformed("the body did not begin in time"),
    }
}

type Work = Pin<Box<dyn Future<Output = Told>>>;

/// What a piece of work under way has to tell.
enum Told {
    /// An attempt ended before its answer's body.
    Attempt(Box<Attempt>, Outcome),
    /// The body of an attempt's answer was read.
    Body(AttemptId, BodyRead),
}

/// Drives one exchange.
struct Driver<'a> {
    edge: &'a Edge,
    inbound: Inbound,
    /// Attempts, and the bodies of their answers, under way.
    work: FuturesUnordered<Work>,
    /// Answers that the exchange judges.
    held: HashMap<AttemptId, Answered>,
    tried: Tried,
    /// The request's place among those under way.
    entered: Option<Entered>,
}

impl<'a> Driver<'a> {
    fn new(edge: &'a Edge, inbound: Inbound) -> Self {
        Self {
            edge,
            inbound,
            work: FuturesUnordered::new(),
            held: HashMap::new(),
            tried: Tried::new(),
            entered: None,
        }
    }

    async fn run(self) -> Response {
        let (exchange, step) = {
            let (gateway, inbound) = (&self.edge.gateway, &self.inbound);
            self.edge
                .with_memory(|memory| Exchange::start(gateway, memory, &inbound.arrival(clock::now(), clock::entropy())))
        };
        match exchange {
            Some(exchange) => self.drive(exchange, step).await,
            None => self.last(step).await,
        }
    }

    /// Does what the steps say until one of them is the last.
    async fn drive(mut self, mut exchange: Exchange, mut step: Step) -> Response {
        loop {
            let event = match step {
                Step::Read { limit } => {
                    let read = within(BODY, self.inbound.read(limit)).await;
                    Event::Body(read.unwrap_or(BodyRead::Broken))
                }
                Step::Verify(verify) => Event::Verified(self.edge.gateway.verify(&verify)),
                Step::Fetch(fetch) => Event::Keys(self.edge.keys.keys(&fetch).await),
                Step::Enter { key, limit } => {
                    self.entered = self.edge.occupancy.enter(key, limit);
                    Event::Entered(self.entered.is_some())
                }
                Step::Take(takes) => Event::Taken(self.edge.quotas.take(&takes).await),
                Step::Send { route: _, attempts } => {
                    for attempt in attempts {
                        self.send(attempt);
                    }
                    match self.next(None).await {
                        Next::Event(event) => event,
                        Next::Answer(response) => return response,
                    }
                }
                Step::Wait { until } => match self.next(Some(until)).await {
                    Next::Event(event) => event,
                    Next::Answer(response) => return response,
                },
                Step::Pending => match self.next(None).await {
                    Next::Event(event) => event,
                    Next::Answer(response) => return response,
                },
                Step::Forward { attempt, edits, observe } => {
                    return match self.held.remove(&attempt) {
                        Some(answered) => message::forward(self.edge, answered, &edits, observe, self.entered),
                        None => message::impossible("an answer that nobody holds was to be forwarded"),
                    };
                }
                Step::Respond(respond) => return message::respond(respond),
            };
            let now = clock::now();
            step = self.edge.with_memory(|memory| exchange.on(memory, event, now));
        }
    }

    /// Does a step that came without an exchange.
    async fn last(mut self, step: Step) -> Response {
        match step {
            Step::Respond(respond) => message::respond(respond),
            Step::Send { route, attempts } => {
                for attempt in attempts {
                    self.send(attempt);
                }
                self.only(route).await
            }
            _ => message::impossible("a step that is not a last one came without its exchange"),
        }
    }

    async fn only(mut self, route: RouteId) -> Response {
        match self.work.next().await {
            Some(Told::Attempt(attempt, Outcome::Answered(answered))) => match &attempt.answer {
                Answer::Forward { edits, observe, .. } => message::forward(self.edge, answered, edits, *observe, self.entered),
                Answer::Read { .. } | Answer::Discard => message::impossible("an answer to be read came without its exchange"),
            },
            Some(Told::Attempt(attempt, Outcome::Failed { failure, .. })) => message::respond(failed(route, &attempt, failure)),
            _ => message::impossible("an attempt ended without an outcome"),
        }
    }

    /// Starts an attempt. A request of which nothing was taken, because there is nobody to send it to, can be sent again.
    fn send(&mut self, attempt: Attempt) {
        if attempt.answer == Answer::Discard {
            return self.copy(&attempt);
        }
        let now = clock::moment();
        match self.edge.upstreams.choose(&attempt, &mut self.tried, now) {
            Ok(choice) => {
                let left = attempt.deadline.since(now);
                let outbound = self.inbound.outbound(&attempt);
                self.work.push(Box::pin(async move {
                    let outcome = attempt::send(left, choice, outbound).await;
                    Told::Attempt(Box::new(attempt), outcome)
                }));
            }
            Err(failure) => {
                let replayable = self.inbound.is_whole(&attempt);
                self.work.push(Box::pin(std::future::ready(Told::Attempt(
                    Box::new(attempt),
                    Outcome::Failed { failure, replayable },
                ))));
            }
        }
    }

    /// Sends a copy of the request, which is on its own from then on: nobody waits for it or hears of it.
    fn copy(&mut self, attempt: &Attempt) {
        let now = clock::moment();
        let chosen = self.edge.upstreams.choose(attempt, &mut Tried::new(), now);
        let Ok(choice) = chosen else { return };
        let (deadline, outbound) = (attempt.deadline, self.inbound.outbound(attempt));
        spawn(async move {
            if let Outcome::Answered(answered) = attempt::send(deadline.since(now), choice, outbound).await {
                answered.discard(deadline).await;
            }
        });
    }

    /// Waits for what happens next: something under way, or the moment.
    async fn next(&mut self, until: Option<Moment>) -> Next {
        let told = match until {
            None => self.work.next().await,
            Some(until) => {
                let wait = until.since(clock::moment());
                if self.work.is_empty() {
                    sleep(wait).await;
                    return Next::Event(Event::Time);
                }
                match select(self.work.next(), std::pin::pin!(sleep(wait))).await {
                    Either::Left((told, _)) => told,
                    Either::Right(_) => return Next::Event(Event::Time),
                }
            }
        };
        match told {
            Some(Told::Attempt(attempt, Outcome::Answered(answered))) => self.answered(&attempt, answered),
            Some(Told::Attempt(attempt, Outcome::Failed { failure, replayable })) => Next::Event(Event::Failed {
                attempt: attempt.id,
                failure,
                replayable,
            }),
            Some(Told::Body(attempt, body)) => Next::Event(Event::UpstreamBody { attempt, body }),
            None => Next::Answer(message::impossible("an exchange waits for nothing")),
        }
    }

    /// An upstream's head came: forwards the answer, or tells the exchange, and reads the body where it wants that.
    fn answered(&mut self, attempt: &Attempt, answered: Answered) -> Next {
        let (status, fields) = (answered.status, answered.fields.clone());
        match &attempt.answer {
            Answer::Forward { edits, judge, observe } if !judge.contains(&status) => {
                return Next::Answer(message::forward(self.edge, answered, edits, *observe, self.entered.take()));
            }
            Answer::Forward { .. } => {
                self.held.insert(attempt.id, answered);
            }
            Answer::Discard => return Next::Answer(message::impossible("a copy told of its answer")),
            &Answer::Read { limit } => {
                let (id, deadline) = (attempt.id, attempt.deadline);
                self.work
                    .push(Box::pin(async move { Told::Body(id, answered.read(limit, deadline).await) }));
            }
        }
        Next::Event(Event::Head {
            attempt: attempt.id,
            status,
            fields,
        })
    }
}

enum Next {
    Event(Event),
    Answer(Response),
}

async fn sleep(duration: Duration) {
    spin_sdk::time::sleep(duration).await;
}

/// Runs `work` until `deadline`.
async fn before<T>(deadline: Moment, work: impl Future<Output = T>) -> Option<T> {
    within(deadline.since(clock::moment()), work).await
}

/// Runs `work` for so long.
async fn within<T>(left: Duration, work: impl Future<Output = T>) -> Option<T> {
    match select(std::pin::pin!(work), std::pin::pin!(sleep(left))).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(_) => None,
    }
}
