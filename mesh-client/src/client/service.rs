//! A service as this member knows it. What is known of its endpoints, and what limits the calls to them, is the same for every client
//! of the member: a program with a client per core sees one endpoint fail once, and not once per core.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use identity::ServiceName;
use routing::Moment;
use routing::balance::{Balance, Balancer, Member, Settings};
use routing::policy::{Breaker, RetryBudget};
use routing::upstream::{ConnectionPolicy, Kind};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::discovery::{Directory, Endpoint, Snapshot, Source};
use crate::outside::Outward;
use crate::policy::{Known, Policies, Routes};
use crate::tls::{Credentials, Protocol};

/// Services that a member remembers before it forgets those that nobody serves.
const REMEMBERED: usize = 256;

/// The services that a member calls.
pub(crate) struct Services {
    directory: Arc<Directory>,
    policies: Known,
    credentials: Credentials,
    /// Where this member is; empty where it does not say.
    zone: String,
    /// By which the endpoints of a ring-hash are found that goes by the source: this process.
    source: u64,
    start: Instant,
    services: Mutex<HashMap<ServiceName, Arc<Service>>>,
}

impl Services {
    pub(crate) fn new(directory: Arc<Directory>, policies: Known, credentials: Credentials, zone: String) -> Arc<Self> {
        Arc::new(Self {
            directory,
            policies,
            credentials,
            zone,
            source: rand::random(),
            start: Instant::now(),
            services: Mutex::default(),
        })
    }

    pub(crate) fn now(&self) -> Moment {
        self.moment(Instant::now())
    }

    pub(super) fn moment(&self, at: Instant) -> Moment {
        Moment::default() + at.saturating_duration_since(self.start)
    }

    pub(super) fn instant(&self, at: Moment) -> tokio::time::Instant {
        // What lies more than a year ahead is as good as never.
        const NEVER: Duration = Duration::from_secs(365 * 86_400);
        (self.start + at.since(Moment::default()).min(NEVER)).into()
    }

    pub(crate) const fn source(&self) -> u64 {
        self.source
    }

    pub(crate) const fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Whether the member has left, so that nothing new will be known.
    pub(crate) fn has_left(&self) -> bool {
        self.directory.has_left()
    }

    pub(crate) fn service(&self, name: &ServiceName) -> Arc<Service> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(service) = services.get(name) {
            return Arc::clone(service);
        }
        // Names come from URLs, and URLs may come from anybody.
        if services.len() >= REMEMBERED {
            services.retain(|_, service| service.is_served());
        }
        let new = Service::new(name.clone(), self);
        Arc::clone(services.entry(name.clone()).or_insert_with(|| Arc::new(new)))
    }

    /// Waits until the policies of the mesh are known, so that no call escapes its route; not for longer than `limit`, since a member
    /// works on what it knows while no control plane answers.
    pub(crate) async fn policies_known(&self, limit: Duration) {
        if self.policies.borrow().is_none() {
            let mut policies = self.policies.clone();
            // Where nothing follows any more, the member has left.
            let _ = timeout(limit, policies.wait_for(Option::is_some)).await;
        }
    }

    /// The endpoints of a snapshot that are called by `protocol`, as a balancer takes them. A snapshot may be older than the document that
    /// says whether the service is outside the mesh, and is not believed about that.
    fn members(&self, snapshot: &Snapshot, protocol: Protocol, is_external: bool) -> Vec<Member<Target>> {
        let is_near = |endpoint: &Endpoint| !self.zone.is_empty() && endpoint.zone() == self.zone;
        let callable = snapshot.callable(protocol).filter(|one| one.is_external() == is_external);
        let members = callable.map(|endpoint| Member {
            address: Target(endpoint.clone()),
            weight: endpoint.weight(),
            distance: match endpoint.outward() {
                Some(outward) => outward.rank,
                None => u16::from(!is_near(endpoint)),
            },
        });
        members.collect()
    }
}

/// One of them.
pub(crate) struct Service {
    pub(crate) name: ServiceName,
    pub(crate) breaker: Arc<Breaker>,
    current: Mutex<Current>,
}

struct Current {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    policies: Known,
    /// Of which credentials the routes are: another name may have others.
    credentials: u64,
    view: Arc<View>,
}

/// What is known at one time.
pub(crate) struct View {
    /// Another one for another view.
    pub(super) generation: u64,
    /// Of the endpoints that are called by requests.
    pub(super) balancer: Balancer<Target>,
    /// Of those that opaque connections are opened to.
    pub(crate) opaque: Balancer<Target>,
    pub(crate) connection: ConnectionPolicy,
    pub(super) routes: Routes,
    /// The retry budgets of routes that have one of their own.
    pub(super) budgets: HashMap<Box<str>, Arc<RetryBudget>>,
}

/// An endpoint, known again by id, address, and how it is spoken to: a connection that was made in another way is not its own.
#[derive(Debug, Clone)]
pub(crate) struct Target(pub(crate) Endpoint);

impl Target {
    fn key(&self) -> (&str, &str, Option<&Outward>) {
        (self.0.id(), self.0.address(), self.0.outward())
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
        // Its place on a ring follows from who and where it is.
        (self.0.id(), self.0.address()).hash(state);
    }
}

impl Service {
    fn new(name: ServiceName, services: &Services) -> Self {
        let mut snapshots = services.directory.subscribe(&name);
        // Whatever is known already counts as a change.
        snapshots.mark_changed();
        let connection = ConnectionPolicy::usual(Kind::Service);
        let view = View {
            generation: 0,
            balancer: Balancer::new(connection.balancing, Vec::<(Target, u16)>::new()),
            opaque: Balancer::new(connection.balancing, Vec::<(Target, u16)>::new()),
            connection: connection.clone(),
            routes: Policies::default().routes(services.credentials.held().svid.id(), &name),
            budgets: HashMap::new(),
        };
        let mut policies = services.policies.clone();
        policies.mark_changed();
        let current = Current {
            snapshots,
            policies,
            credentials: services.credentials.held().generation,
            view: Arc::new(view),
        };
        Self {
            name,
            breaker: Breaker::new(connection.breaker),
            current: Mutex::new(current),
        }
    }

    /// What is known now.
    pub(crate) fn view(&self, services: &Services) -> Arc<View> {
        let mut current = self.current();
        let endpoints = current.snapshots.has_changed().unwrap_or(false);
        let policies = current.policies.has_changed().unwrap_or(false);
        let held = services.credentials.held();
        if endpoints || policies || held.generation != current.credentials {
            let snapshot = Arc::clone(&current.snapshots.borrow_and_update());
            let known = current.policies.borrow_and_update().clone();
            current.credentials = held.generation;
            let view = self.next(&current.view, &snapshot, known.as_deref(), services);
            current.view = Arc::new(view);
        }
        Arc::clone(&current.view)
    }

    fn next(&self, before: &View, snapshot: &Snapshot, policies: Option<&Policies>, services: &Services) -> View {
        let id = services.credentials.held().svid.id().clone();
        let none = Policies::default();
        let policies = policies.unwrap_or(&none);
        let connection = policies.connection(&self.name);
        self.breaker.limit(connection.breaker);
        let now = services.now();
        let is_external = policies.is_external(&self.name);
        let http = services.members(snapshot, Protocol::Http2, is_external);
        let opaque = services.members(snapshot, Protocol::Tcp, is_external);
        let routes = policies.routes(&id, &self.name);
        let budget = |name: &str, ratio: f64| match before.budgets.get(name) {
            Some(known) if known.ratio() == ratio => Arc::clone(known),
            _ => Arc::new(RetryBudget::new(ratio)),
        };
        let with_retries = routes.policies().filter_map(|policy| Some((policy, policy.retry.as_ref()?)));
        let budgets = with_retries.map(|(policy, retry)| (policy.name.clone(), budget(&policy.name, retry.budget)));
        View {
            generation: before.generation + 1,
            balancer: before.balancer.replace(connection.balancing, http, now),
            opaque: before.opaque.replace(of_connections(connection.balancing), opaque, now),
            connection,
            budgets: budgets.collect(),
            routes,
        }
    }

    /// Waits for a service of which nothing is known yet.
    pub(crate) async fn discovered(&self, limit: Duration) {
        let mut snapshots = self.current().snapshots.clone();
        if snapshots.borrow().source == Source::Unknown {
            let known = snapshots.wait_for(|snapshot| snapshot.source != Source::Unknown);
            // Nothing in time is nothing known.
            let _ = timeout(limit, known).await;
        }
    }

    /// Whether any endpoint is known, or may be.
    pub(crate) fn is_served(&self) -> bool {
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

    /// Whether endpoints are known, by whatever they are called.
    pub(crate) fn has_endpoints(&self) -> bool {
        !self.current().snapshots.borrow().endpoints.is_empty()
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How endpoints are chosen for connections. They last, so what counts of an endpoint is how many it has: how soon it accepted the last
/// ones says little.
fn of_connections(settings: Settings) -> Settings {
    let balance = match settings.balance {
        Balance::PeakEwma => Balance::LeastRequest,
        other => other,
    };
    Settings { balance, ..settings }
}
