//! Who serves what, where: snapshots of the endpoints of each service that is called, kept up to date by the control plane.
//!
//! A service is watched from its first use until a while after its last. The endpoints that were last known stay in use
//! while the control plane is away; the watch resumes by itself from the revision that it had seen. What the document of the mesh
//! places outside of it is asked of the document and of DNS, and never of the registry.

mod state;
mod store;
mod watcher;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use identity::ServiceName;
use mesh_api::v1;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::control::Control;
use crate::drain;
use crate::metrics::Metrics;
use crate::outside::{Dns, Outward};
use crate::policy::Known;
use crate::tls::Protocol;
use store::Store;

/// One place where a service is served. Cheap to clone.
///
/// In a response's extensions it says who answered.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint(Arc<Attributes>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Attributes {
    id: String,
    address: String,
    #[serde(default)]
    protocol: Protocol,
    version: String,
    zone: String,
    weight: u16,
    #[serde(default)]
    health: Health,
    #[serde(default)]
    expired: bool,
    /// Where it is outside the mesh. Never saved: it is the document's to say.
    #[serde(skip)]
    outward: Option<Arc<Outward>>,
}

/// What the checks of its own member say of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Nobody checks it, which counts as serving.
    #[default]
    Unknown,
    /// It serves.
    Serving,
    /// It does not.
    NotServing,
}

impl Health {
    /// Its name in tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Serving => "serving",
            Self::NotServing => "not-serving",
        }
    }
}

impl From<Health> for v1::Health {
    fn from(health: Health) -> Self {
        match health {
            Health::Unknown => Self::Unknown,
            Health::Serving => Self::Serving,
            Health::NotServing => Self::NotServing,
        }
    }
}

impl From<v1::Health> for Health {
    fn from(health: v1::Health) -> Self {
        match health {
            v1::Health::Unknown => Self::Unknown,
            v1::Health::Serving => Self::Serving,
            v1::Health::NotServing => Self::NotServing,
        }
    }
}

impl Endpoint {
    /// One outside the mesh.
    pub(crate) fn outside(address: SocketAddr, weight: u16, outward: Outward) -> Self {
        Self(Arc::new(Attributes {
            id: format!("external-{address}"),
            address: address.to_string(),
            protocol: outward.way.protocol(),
            version: String::new(),
            zone: String::new(),
            weight,
            health: Health::Unknown,
            expired: false,
            outward: Some(Arc::new(outward)),
        }))
    }

    /// What there is to know of it where it is outside the mesh.
    pub(crate) fn outward(&self) -> Option<&Outward> {
        self.0.outward.as_deref()
    }

    /// Whether it is outside the mesh, and so has no identity there.
    #[must_use]
    pub fn is_external(&self) -> bool {
        self.0.outward.is_some()
    }

    /// Unique for the life of its registration.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// What it speaks inside TLS. Of one outside the mesh, by what it is called: by requests, whichever version of HTTP it speaks, or by
    /// connections.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.0.protocol
    }

    /// The version that it says it is of; may be empty.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// The zone that it says it is in; may be empty.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.0.zone
    }

    /// Its share of the requests, 1 to 65,535.
    #[must_use]
    pub fn weight(&self) -> u16 {
        self.0.weight
    }

    /// What its own checks say of it.
    #[must_use]
    pub fn health(&self) -> Health {
        self.0.health
    }

    /// Whether the control plane has not heard of its member for a whole lease. Such an endpoint is known only where it is the last
    /// of its service: the member may be dead, or only cut off from the control plane.
    #[must_use]
    pub fn has_expired(&self) -> bool {
        self.0.expired
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where the knowledge of a snapshot comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: the control plane has not answered yet.
    Unknown,
    /// What was saved by a member that ran here before.
    Saved,
    /// The control plane, lately or a while ago.
    Control,
    /// The document of the mesh, and DNS where that names it: it is outside the mesh.
    External,
}

/// The endpoints of a service at one time, ordered by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Where this is known from.
    pub source: Source,
}

impl Snapshot {
    const fn unknown() -> Self {
        Self {
            endpoints: Vec::new(),
            source: Source::Unknown,
        }
    }

    /// The endpoints to call by `protocol`: those that serve, or all of them where none says that it does. Checks that fail everywhere
    /// at once say more about the checks than about the endpoints, and a call that may fail is better than one that must.
    pub fn callable(&self, protocol: Protocol) -> impl Iterator<Item = &Endpoint> {
        let serves = |endpoint: &Endpoint| endpoint.health() != Health::NotServing && !endpoint.has_expired();
        let spoken = move |endpoint: &&Endpoint| endpoint.protocol() == protocol;
        let any = self.endpoints.iter().filter(spoken).any(serves);
        self.endpoints
            .iter()
            .filter(spoken)
            .filter(move |endpoint| !any || serves(endpoint))
    }
}

type Published = watch::Sender<Arc<Snapshot>>;

/// The snapshots of every service that is watched.
pub(crate) struct Directory {
    control: Arc<Control>,
    /// What is outside the mesh is said there.
    policies: Known,
    dns: Dns,
    metrics: Arc<Metrics>,
    store: Option<Store>,
    leave: drain::Watch,
    /// Watches live on the runtime that joined, whichever runtime asks first.
    runtime: tokio::runtime::Handle,
    watched: Mutex<HashMap<ServiceName, Arc<Published>>>,
}

impl Directory {
    pub(crate) fn new(
        control: Arc<Control>,
        policies: Known,
        dns: Dns,
        metrics: Arc<Metrics>,
        state_dir: Option<PathBuf>,
        leave: drain::Watch,
    ) -> Arc<Self> {
        Arc::new(Self {
            control,
            policies,
            dns,
            metrics,
            store: state_dir.map(Store::new),
            leave,
            runtime: tokio::runtime::Handle::current(),
            watched: Mutex::default(),
        })
    }

    /// The snapshots of `service` from here on; begins to watch it where nobody does.
    pub(crate) fn subscribe(self: &Arc<Self>, service: &ServiceName) -> watch::Receiver<Arc<Snapshot>> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(published) = watched.get(service) {
            return published.subscribe();
        }
        let (published, receiver) = watch::channel(Arc::new(Snapshot::unknown()));
        let published = Arc::new(published);
        watched.insert(service.clone(), Arc::clone(&published));
        self.runtime.spawn(watcher::run(Arc::clone(self), service.clone(), published));
        receiver
    }

    /// Whether the member has left, so that nothing new will be known.
    pub(crate) fn has_left(&self) -> bool {
        self.leave.has_started()
    }

    /// Forgets a service that nobody asks for; false where somebody came in the meantime.
    fn forget(&self, service: &ServiceName) -> bool {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = watched.get(service).is_none_or(|published| published.receiver_count() == 0);
        if idle {
            watched.remove(service);
        }
        idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(id: &str, health: Health) -> Endpoint {
        Endpoint(Arc::new(Attributes {
            id: id.into(),
            address: "127.0.0.1:1".into(),
            protocol: Protocol::Http2,
            version: String::new(),
            zone: String::new(),
            weight: 1,
            health,
            expired: false,
            outward: None,
        }))
    }

    fn callable(health: &[(&str, Health)]) -> Vec<String> {
        let endpoints = health.iter().map(|(id, health)| endpoint(id, *health)).collect();
        let source = Source::Control;
        let snapshot = Snapshot { endpoints, source };
        snapshot
            .callable(Protocol::Http2)
            .map(|endpoint| endpoint.id().to_owned())
            .collect()
    }

    #[test]
    fn what_does_not_serve_is_left_out_while_another_does() {
        let (unknown, serving, not) = (Health::Unknown, Health::Serving, Health::NotServing);
        assert_eq!(callable(&[("a", not), ("b", serving), ("c", unknown)]), ["b", "c"]);
        assert_eq!(callable(&[("a", not), ("b", unknown)]), ["b"], "nobody checks it: it serves");
        assert_eq!(callable(&[("a", not), ("b", not)]), ["a", "b"], "none serves: each is tried");
        assert!(callable(&[]).is_empty());
    }
}
