//! One service as one client sees it: the endpoints of the last snapshot, a pool for each, and the balancer over them.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use identity::{Matcher, ServiceName, SpiffeId};
use routing::Moment;
use routing::balance::{Balancer, Picked};
use routing::policy::{OutlierSettings, RetryBudget};
use tokio::sync::watch;
use tokio::time::timeout;

use super::options::ClientOptions;
use super::pool::{Dial, Pool};
use crate::discovery::{Directory, Endpoint, Snapshot, Source};
use crate::tls::{ClientTls, Credentials, Protocol};

/// A connection that cannot be made or that breaks takes its endpoint out at once: discovery will tell, but later. Only briefly,
/// because one connection is little evidence, and never the last endpoint, since the fraction is rounded down.
const OUTLIER: OutlierSettings = OutlierSettings {
    consecutive_failures: 1,
    ejection: Duration::from_secs(2),
    max_ejected: 0.99,
};

/// An endpoint and the connections to it; known again by id and address.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) endpoint: Endpoint,
    pub(super) pool: Arc<Pool>,
}

impl Target {
    fn key(&self) -> (&str, &str) {
        (self.endpoint.id(), self.endpoint.address())
    }
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Target {}

impl Hash for Target {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

pub(super) struct Upstream {
    pub(super) service: ServiceName,
    pub(super) budget: RetryBudget,
    dial: Dial,
    discovery_timeout: Duration,
    current: Mutex<Current>,
}

struct Current {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    balancer: Balancer<Target>,
}

impl Upstream {
    pub(super) fn new(
        service: ServiceName,
        directory: &Arc<Directory>,
        credentials: &Credentials,
        options: &ClientOptions,
    ) -> Self {
        let held = credentials.held();
        let id = SpiffeId::of_service(held.bundle.trust_domain(), &service);
        let dial = Dial {
            tls: Arc::new(ClientTls::new(credentials.clone(), Matcher::Id(id))),
            credentials: credentials.clone(),
            connect_timeout: options.connect_timeout,
            most: options.connections.max(1),
        };
        let mut snapshots = directory.subscribe(&service);
        // Whatever is known already counts as a change.
        snapshots.mark_changed();
        let balancer = Balancer::new(options.balance, Some(OUTLIER), []);
        let budget = RetryBudget::new(options.retry.as_ref().map_or(0.0, |retry| retry.budget));
        let current = Mutex::new(Current { snapshots, balancer });
        Self {
            service,
            budget,
            dial,
            discovery_timeout: options.discovery_timeout,
            current,
        }
    }

    /// Chooses an endpoint, another than `tried` where there is one; None where none is known.
    pub(super) async fn choose(&self, tried: Option<&Target>, now: Moment) -> Option<Picked<Target>> {
        if let Some(picked) = self.pick(tried, now) {
            return Some(picked);
        }
        let mut snapshots = self.current().snapshots.clone();
        if snapshots.borrow().source != Source::Unknown {
            return None;
        }
        let known = snapshots.wait_for(|snapshot| snapshot.source != Source::Unknown);
        timeout(self.discovery_timeout, known).await.ok()?.ok()?;
        self.pick(tried, now)
    }

    fn pick(&self, tried: Option<&Target>, now: Moment) -> Option<Picked<Target>> {
        let balancer = {
            let mut current = self.current();
            if current.snapshots.has_changed().unwrap_or(false) {
                let snapshot = Arc::clone(&current.snapshots.borrow_and_update());
                current.balancer = self.follow(&current.balancer, &snapshot);
            }
            current.balancer.clone()
        };
        match tried {
            Some(tried) => balancer.pick_except(tried, now, rand::random()),
            None => balancer.pick(now, rand::random()),
        }
    }

    /// The balancer over another snapshot; endpoints that stay keep their connections.
    fn follow(&self, balancer: &Balancer<Target>, snapshot: &Snapshot) -> Balancer<Target> {
        let known: HashMap<_, _> = balancer
            .endpoints()
            .iter()
            .map(|known| (known.address().key(), known.address()))
            .collect();
        let http = snapshot
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.protocol() == Protocol::Http2);
        balancer.replace(http.map(|endpoint| {
            let known = known.get(&(endpoint.id(), endpoint.address()));
            let new = || Pool::new(endpoint.address().to_owned(), self.dial.clone());
            let pool = known.map_or_else(new, |known| Arc::clone(&known.pool));
            (
                Target {
                    endpoint: endpoint.clone(),
                    pool,
                },
                endpoint.weight(),
            )
        }))
    }

    /// Whether any endpoint is known.
    pub(super) fn is_served(&self) -> bool {
        let current = self.current();
        let snapshot = current.snapshots.borrow();
        snapshot.source == Source::Unknown || !snapshot.endpoints.is_empty()
    }

    /// Whether it is served, and never as HTTP.
    pub(super) fn is_opaque(&self) -> bool {
        let current = self.current();
        let snapshot = current.snapshots.borrow();
        let mut endpoints = snapshot.endpoints.iter();
        !snapshot.endpoints.is_empty() && endpoints.all(|endpoint| endpoint.protocol() == Protocol::Tcp)
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
