//! What all cores know of the upstreams together: which endpoints there are, how they do, how much is under way.

use std::sync::Arc;

use gateway::Gateway;
use gateway::exchange::Failure;
use http::{HeaderValue, StatusCode};
use mesh_client::Mesh;
use routing::balance::{Balancer, Outcome, Picked};
use routing::policy::{self, Breaker, Connected, Pending, Permit};
use routing::upstream::{EndpointAddress, Target};
use routing::{Moment, Now};

use super::mesh::Service;
use crate::clock::Clock;
use crate::keys::KeyStore;
use crate::limit::Quotas;

/// The upstreams of one snapshot.
#[derive(Debug)]
pub(crate) struct Shared {
    upstreams: Vec<Upstream>,
    /// Where the config has a `[mesh]`. Dropping it leaves.
    mesh: Option<Mesh>,
    keys: Arc<KeyStore>,
    quotas: Quotas,
    clock: Clock,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) name: Arc<str>,
    pub(super) way: Way,
    /// What the config says of it.
    pub(super) definition: routing::upstream::Upstream,
}

/// How an upstream is reached.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// Over this host's own connections to endpoints that the config names.
    Balanced(Balanced),
    /// Through the mesh.
    Mesh(Service),
    /// Not at all: its name cannot be one of the mesh.
    Nowhere,
}

/// Endpoints and what limits the requests to them.
#[derive(Debug, Clone)]
pub(super) struct Balanced {
    /// By place: each core has its own connections to an endpoint.
    balancer: Balancer<u32>,
    breaker: Arc<Breaker>,
}

impl Shared {
    pub(crate) fn new(gateway: &Gateway, mesh: Option<Mesh>, keys: Arc<KeyStore>, quotas: Quotas, clock: Clock) -> Self {
        Self {
            upstreams: gateway
                .upstreams()
                .iter()
                .map(|upstream| Upstream::new(upstream, None, clock.now().moment))
                .collect(),
            mesh,
            keys,
            quotas,
            clock,
        }
    }

    /// The upstreams of the next snapshot. What is known of those that stay comes along: breakers, the health of endpoints, what is
    /// under way, and the keys of issuers.
    pub(crate) fn succeed(&self, gateway: &Gateway) -> Self {
        let now = self.clock.now().moment;
        let upstreams = gateway.upstreams().iter().map(|upstream| {
            let before = self.upstreams.iter().find(|before| *before.name == *upstream.name);
            Upstream::new(upstream, before, now)
        });
        Self {
            upstreams: upstreams.collect(),
            mesh: self.mesh.clone(),
            keys: self.keys.succeed(gateway),
            quotas: self.quotas.succeed(gateway),
            clock: self.clock,
        }
    }

    /// The quotas of rate limits.
    pub(crate) fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// The keys that issuers publish.
    pub(crate) fn keys(&self) -> &Arc<KeyStore> {
        &self.keys
    }

    pub(super) fn mesh(&self) -> Option<&Mesh> {
        self.mesh.as_ref()
    }

    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        self.upstreams.iter()
    }
}

impl Upstream {
    fn new(definition: &routing::upstream::Upstream, before: Option<&Self>, now: Moment) -> Self {
        let way = match (&definition.target, before) {
            (_, Some(before)) if before.definition == *definition => before.way.clone(),
            (Target::Mesh(service), _) => Service::new(service, definition).map_or(Way::Nowhere, Way::Mesh),
            (Target::Endpoints(endpoints), before) => Way::Balanced(Balanced::new(definition, endpoints, before, now)),
        };
        Self {
            name: Arc::from(&*definition.name),
            way,
            definition: definition.clone(),
        }
    }

    /// The endpoints by their places in the balancer; none for the mesh, whose client has its own.
    pub(super) fn endpoints(&self) -> &[EndpointAddress] {
        match &self.definition.target {
            Target::Endpoints(endpoints) => endpoints,
            Target::Mesh(_) => &[],
        }
    }
}

impl Balanced {
    fn new(
        definition: &routing::upstream::Upstream,
        endpoints: &[EndpointAddress],
        before: Option<&Upstream>,
        now: Moment,
    ) -> Self {
        let connection = &definition.connection;
        let places = (0..).zip(endpoints);
        // Places change when others come or go, and names do not.
        let name = |place: &u32| endpoints.get(*place as usize).map(ToString::to_string);
        let Some((before, Way::Balanced(balanced))) = before.map(|before| (before, &before.way)) else {
            let places = places.map(|(place, endpoint)| (place, endpoint.weight));
            return Self {
                balancer: Balancer::named(connection.balancing, places, name),
                breaker: Breaker::new(connection.breaker),
            };
        };
        let was = |endpoint: &EndpointAddress| {
            let mut known = before.endpoints().iter();
            known.position(|known| known.host == endpoint.host && known.port == endpoint.port)
        };
        let places = places.map(|(place, endpoint)| ((place, endpoint.weight), was(endpoint)));
        // What is under way stays, and counts.
        balanced.breaker.limit(connection.breaker);
        Self {
            balancer: balanced.balancer.succeed(connection.balancing, places, name, now),
            breaker: Arc::clone(&balanced.breaker),
        }
    }

    /// Chooses an endpoint, another than `tried` where there is one.
    pub(super) fn choose(&self, tried: Option<u32>, now: Moment, random: u64) -> Result<Choice, Failure> {
        let permit = self.breaker.admit().map_err(|_| Failure::Overloaded)?;
        let picked = match tried {
            Some(tried) => self.balancer.pick_except(&tried, now, random),
            None => self.balancer.pick(now, random),
        };
        let picked = picked.ok_or(Failure::NoEndpoint)?;
        Ok(Choice {
            picked,
            breaker: Arc::clone(&self.breaker),
            _permit: permit,
        })
    }
}

/// An endpoint that was chosen. It counts as under way until this is dropped, which is when the answer's body ends.
#[derive(Debug)]
pub(super) struct Choice {
    picked: Picked<u32>,
    breaker: Arc<Breaker>,
    _permit: Permit,
}

impl Choice {
    /// The endpoint's place.
    pub(super) fn place(&self) -> u32 {
        *self.picked.address()
    }

    /// Waits in line for a connection, unless the line is too long.
    pub(super) fn queue(&self) -> Result<Pending, Failure> {
        self.breaker.wait().map_err(|_| Failure::Overloaded)
    }

    /// Counts a connection that is to be made, for as long as it is there.
    pub(super) fn connect(&self) -> Result<Connected, Failure> {
        self.breaker.connect().map_err(|_| Failure::Overloaded)
    }

    /// Notes that the endpoint asks to be left alone for a while.
    pub(super) fn rest(&self, retry_after: &HeaderValue, now: Now) {
        let after = retry_after
            .to_str()
            .ok()
            .and_then(|value| policy::retry_after(value, now.unix));
        if let Some(after) = after {
            self.picked.rest(after, now.moment);
        }
    }

    /// Notes how the attempt went, for every core to see.
    pub(super) fn answered(&self, answer: Result<StatusCode, Failure>, now: Moment) {
        let outcome = match answer {
            Ok(status) if status.is_server_error() => Outcome::Failure,
            Ok(_) => Outcome::Success,
            // The breaker is the upstream's, and says nothing of this endpoint.
            Err(Failure::Overloaded) => return,
            Err(_) => Outcome::Failure,
        };
        self.picked.answered(outcome, now);
    }
}
