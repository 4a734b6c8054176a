//! The upstreams as an instance at the edge sees them: their endpoints, how they did lately, and how much is under way.

use std::collections::HashMap;
use std::sync::Arc;

use gateway::exchange::{Attempt, Failure, UpstreamId};
use gateway::{Gateway, Upstream};
use routing::Moment;
use routing::balance::{Balancer, Outcome, Picked};
use routing::policy::{Breaker, Permit};
use routing::upstream::{EndpointAddress, Target};

/// An instance has no such number of answers on their way: Spin retires it after 128 requests.
const UNREACHED: u32 = 1024;

/// All of them, by [`UpstreamId`]. What an instance learns of them is its own and ends with it.
pub(super) struct Upstreams(Vec<Way>);

enum Way {
    Endpoints {
        balancer: Balancer<EndpointAddress>,
        breaker: Arc<Breaker>,
        /// Whether it makes a difference how long an answer is under way: not with one endpoint, and a limit that answers do not reach.
        counts: bool,
    },
    /// A mesh service of this name: out of reach, because a component cannot present a client certificate.
    Mesh { service: Box<str> },
}

/// The endpoints that one request has tried already.
pub(super) type Tried = HashMap<UpstreamId, EndpointAddress>;

/// An endpoint that was chosen; it counts as under way until this is dropped.
pub(super) struct Choice {
    picked: Picked<EndpointAddress>,
    _permit: Permit,
    counts: bool,
}

impl Upstreams {
    pub(super) fn of(gateway: &Gateway) -> Self {
        Self(gateway.upstreams().iter().map(Way::to).collect())
    }

    /// Chooses an endpoint, another than the one that `tried` names where there is one, and notes it there.
    pub(super) fn choose(&self, attempt: &Attempt, tried: &mut Tried, now: Moment) -> Result<Choice, Failure> {
        let id = attempt.upstream;
        let random = attempt.affinity.unwrap_or_else(|| fastrand::u64(..));
        let way = usize::try_from(id.0)
            .ok()
            .and_then(|place| self.0.get(place))
            .ok_or(Failure::NoEndpoint)?;
        let (balancer, breaker, counts) = match way {
            Way::Endpoints {
                balancer,
                breaker,
                counts,
            } => (balancer, breaker, *counts),
            Way::Mesh { service } => {
                eprintln!("gateway: the mesh service `{service}` cannot be reached from the edge: give its upstream endpoints");
                return Err(Failure::NoEndpoint);
            }
        };
        let permit = breaker.admit().map_err(|_| Failure::Overloaded)?;
        let picked = match tried.get(&id) {
            Some(tried) => balancer.pick_except(tried, now, random),
            None => balancer.pick(now, random),
        };
        let picked = picked.ok_or(Failure::NoEndpoint)?;
        tried.insert(id, picked.address().clone());
        Ok(Choice {
            picked,
            _permit: permit,
            counts,
        })
    }
}

impl Way {
    fn to(upstream: &Upstream) -> Self {
        match &upstream.target {
            Target::Endpoints(endpoints) => {
                let weighted = endpoints.iter().map(|endpoint| (endpoint.clone(), endpoint.weight));
                let settings = upstream.connection.breaker;
                Self::Endpoints {
                    balancer: Balancer::named(upstream.connection.balancing, weighted, EndpointAddress::to_string),
                    breaker: Breaker::new(settings),
                    counts: endpoints.len() > 1 || settings.max_requests < UNREACHED,
                }
            }
            Target::Mesh(service) => Self::Mesh {
                service: service.clone(),
            },
        }
    }
}

impl Choice {
    /// This, where it makes a difference how long the answer's body is under way. To hear of its end is two more crossings between host
    /// and guest.
    pub(super) fn counted(self) -> Option<Self> {
        self.counts.then_some(self)
    }

    /// Where it is.
    pub(super) fn authority(&self) -> String {
        self.picked.address().to_string()
    }

    /// Notes how the attempt went: at the answer's head, or at its failure.
    pub(super) fn answered(&self, answer: Result<u16, Failure>, now: Moment) {
        let outcome = match answer {
            Ok(status) if status >= 500 => Outcome::Failure,
            Ok(_) => Outcome::Success,
            Err(_) => Outcome::Failure,
        };
        self.picked.answered(outcome, now);
    }
}
