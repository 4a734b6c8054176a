//! The way to the upstreams: an endpoint is chosen, one attempt goes there on this core's own connections, and how it went is
//! noted where every core sees it.

mod answered;
mod body;
mod by_codec;
mod by_hyper;
mod endpoint;
mod mesh;
pub(crate) mod pool;
mod request;
mod shared;

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use gateway::exchange::{Attempt, Failure, UpstreamId};
use http::StatusCode;

use crate::alarm::Alarms;
use crate::body::Fault;
use crate::clock::{Clock, Random};
use crate::inbound::Inbound;
use crate::metrics::{self, Outcome};
use crate::options::Http1;
use endpoint::Endpoint;
use mesh::Connected;
use shared::{Balanced, Way};

pub(crate) use answered::{Answered, Head};
pub(crate) use body::UpstreamBody;
pub(crate) use mesh::join;
pub(crate) use shared::Shared;

/// An attempt that came to nothing.
#[derive(Debug, Clone)]
pub(crate) struct Failed {
    /// How.
    pub(crate) failure: Failure,
    /// Whether the request can be sent again.
    pub(crate) replayable: bool,
    /// The endpoint that it was for, where one was chosen.
    pub(crate) endpoint: Option<Arc<str>>,
}

/// The upstreams as one core sees them.
#[derive(Debug)]
pub(crate) struct Upstreams {
    upstreams: Vec<Upstream>,
    http1: Http1,
    metrics: Arc<metrics::Core>,
    clock: Clock,
    random: Rc<RefCell<Random>>,
    alarms: Alarms,
}

#[derive(Debug)]
struct Upstream {
    name: Arc<str>,
    way: Connection,
}

/// An upstream with connections of this core's own.
#[derive(Debug)]
enum Connection {
    /// To endpoints, by their places in the balancer.
    Pooled(Balanced, Vec<Endpoint>),
    /// Through the mesh.
    Mesh(Connected),
    /// A mesh upstream without a mesh.
    Nowhere,
}

impl Upstreams {
    pub(crate) fn new(
        shared: &Shared,
        http1: Http1,
        metrics: Arc<metrics::Core>,
        clock: Clock,
        random: Rc<RefCell<Random>>,
    ) -> Self {
        Self {
            upstreams: shared
                .upstreams()
                .map(|upstream| Upstream::new(upstream, shared, http1, None))
                .collect(),
            http1,
            metrics,
            clock,
            random,
            alarms: Alarms::default(),
        }
    }

    /// The upstreams of the next snapshot; the connections to endpoints that stay are kept.
    pub(crate) fn succeed(&self, shared: &Shared) -> Self {
        let upstreams = shared.upstreams().map(|upstream| {
            let before = self.upstreams.iter().find(|before| before.name == upstream.name);
            Upstream::new(upstream, shared, self.http1, before)
        });
        Self {
            upstreams: upstreams.collect(),
            http1: self.http1,
            metrics: Arc::clone(&self.metrics),
            clock: self.clock,
            random: Rc::clone(&self.random),
            alarms: Alarms::default(),
        }
    }

    /// An upstream's name.
    pub(crate) fn name(&self, id: UpstreamId) -> Option<&Arc<str>> {
        self.upstream(id).map(|upstream| &upstream.name)
    }

    /// Makes one attempt: from `began` until the answer's head is there, or the attempt's deadline.
    pub(crate) async fn send(&self, attempt: &Attempt, inbound: &Inbound, began: Instant) -> Result<Answered, Failed> {
        let deadline = self.clock.instant(attempt.deadline);
        let Some(upstream) = self.upstream(attempt.upstream) else {
            return Err(Failed {
                failure: Failure::NoEndpoint,
                replayable: false,
                endpoint: None,
            });
        };
        let (answered, ended) = match &upstream.way {
            Connection::Mesh(service) => {
                // On the heap: otherwise every connection of a client would take 16 KB instead of 5.
                let sending = Box::pin(service.send(attempt, inbound, deadline));
                let sent = self.alarms.until(deadline, sending).await;
                (sent.unwrap_or(Err(Failure::Timeout)), Instant::now())
            }
            Connection::Pooled(balanced, endpoints) => {
                let way = (balanced, endpoints.as_slice());
                self.send_to_endpoint(way, attempt, inbound, began, deadline).await
            }
            Connection::Nowhere => (Err(Failure::NoEndpoint), began),
        };
        let answered = answered.map_err(|failure| match inbound.body.fault() {
            Some(Fault::TooLong) => Failure::BodyTooLarge,
            _ => failure,
        });
        let outcome = match &answered {
            Ok(answered) => Outcome::Status(answered.status()),
            Err(failure) => Outcome::Failed(label(*failure)),
        };
        self.metrics
            .attempted(&upstream.name, outcome, ended.saturating_duration_since(began));
        answered.map_err(|failure| Failed {
            failure,
            replayable: endpoint::replayable(attempt, inbound),
            endpoint: upstream.tried(attempt, inbound),
        })
    }

    /// The answer, and when its head was there.
    async fn send_to_endpoint(
        &self,
        (balanced, endpoints): (&Balanced, &[Endpoint]),
        attempt: &Attempt,
        inbound: &Inbound,
        now: Instant,
        deadline: Instant,
    ) -> (Result<Answered, Failure>, Instant) {
        let random = attempt.affinity.unwrap_or_else(|| self.random.borrow_mut().word());
        // A retry goes elsewhere: a second attempt at the same endpoint seldom does better.
        let choice = match balanced.choose(inbound.tried_at(attempt.upstream), self.clock.moment(now), random) {
            Ok(choice) => choice,
            Err(failure) => return (Err(failure), now),
        };
        inbound.tried.set(Some((attempt.upstream, choice.place())));
        let endpoint = usize::try_from(choice.place()).ok().and_then(|place| endpoints.get(place));
        let Some(endpoint) = endpoint else {
            return (Err(Failure::NoEndpoint), now);
        };
        let sent = {
            let sending = pin!(endpoint.send(&choice, attempt, inbound, now, &self.metrics));
            let sent = self.alarms.until(deadline, sending).await;
            sent.unwrap_or(Err(Failure::Timeout))
        };
        let ended = Instant::now();
        let status = sent
            .as_ref()
            .map(|(head, _)| StatusCode::from_u16(head.status()).unwrap_or_default())
            .map_err(|failure| *failure);
        // What the client does wrong says nothing of the endpoint.
        if sent.is_ok() || inbound.body.fault().is_none() {
            choice.answered(status, self.clock.moment(ended));
        }
        let answered = sent.map(|(head, source)| {
            if let Some(retry_after) = head.retry_after() {
                choice.rest(&retry_after, self.clock.now_at(ended));
            }
            Answered {
                head,
                body: UpstreamBody::pooled(source, choice),
                endpoint: Arc::clone(&endpoint.name),
            }
        });
        (answered, ended)
    }

    /// Closes connections that have been idle for too long.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        for upstream in &self.upstreams {
            if let Connection::Pooled(_, endpoints) = &upstream.way {
                endpoints.iter().for_each(|endpoint| endpoint.sweep(now));
            }
        }
    }

    fn upstream(&self, id: UpstreamId) -> Option<&Upstream> {
        self.upstreams.get(usize::try_from(id.0).ok()?)
    }
}

impl Upstream {
    fn new(upstream: &shared::Upstream, shared: &Shared, http1: Http1, before: Option<&Self>) -> Self {
        let before = before.map(|before| &before.way);
        let way = match (&upstream.way, shared.mesh()) {
            (Way::Balanced(balanced), _) => {
                let known = match before {
                    Some(Connection::Pooled(_, known)) => known.as_slice(),
                    _ => &[],
                };
                let endpoints = upstream.endpoints().iter().map(|at| Endpoint::known_or_new(at, http1, known));
                Connection::Pooled(balanced.clone(), endpoints.collect())
            }
            (Way::Mesh(service), Some(mesh)) => match before {
                Some(Connection::Mesh(connected)) if connected.is_of(service) => Connection::Mesh(connected.clone()),
                _ => Connection::Mesh(service.connected(mesh)),
            },
            (Way::Mesh(_), None) | (Way::Nowhere, _) => Connection::Nowhere,
        };
        Self {
            name: Arc::clone(&upstream.name),
            way,
        }
    }

    /// The endpoint that the request was last sent to here.
    fn tried(&self, attempt: &Attempt, inbound: &Inbound) -> Option<Arc<str>> {
        let Connection::Pooled(_, endpoints) = &self.way else {
            return None;
        };
        let place = usize::try_from(inbound.tried_at(attempt.upstream)?).ok()?;
        endpoints.get(place).map(|endpoint| Arc::clone(&endpoint.name))
    }
}

/// A failure as a metric's label.
fn label(failure: Failure) -> &'static str {
    match failure {
        Failure::Connect => "connect",
        Failure::Reset => "reset",
        Failure::Timeout => "timeout",
        Failure::NoEndpoint => "no-endpoint",
        Failure::Overloaded => "overloaded",
        Failure::Identity => "identity",
        Failure::Protocol => "protocol",
        Failure::BodyTooLarge => "body-too-large",
    }
}
