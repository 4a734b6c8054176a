//! What one core serves with: an engine, its own pools, its own counters.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use gateway::Gateway;
use gateway::exchange::{Edit, Entropy, Observe, RouteId};
use routing::{Moment, Now};

use crate::access_log::Record;
use crate::clock::{Clock, Random};
use crate::drive;
use crate::engine::{Decider, Engine};
use crate::inbound::Inbound;
use crate::keys::KeyStore;
use crate::limit::Quotas;
use crate::listener::Front;
use crate::metrics;
use crate::observe::Observer;
use crate::options::Limits;
use crate::refusal::Refusal;
use crate::reload::Next;
use crate::reply::Reply;
use crate::upstream::{Answered, Shared, Upstreams};

/// A core's share of one snapshot.
#[derive(Debug)]
pub(crate) struct Core<E> {
    engine: E,
    upstreams: Upstreams,
    keys: Arc<KeyStore>,
    routes: Vec<Arc<str>>,
    metrics: Arc<metrics::Core>,
    limits: Limits,
    quotas: Quotas,
    clock: Clock,
    random: Rc<RefCell<Random>>,
}

impl<E: Engine> Core<E> {
    pub(crate) fn new(
        engine: E,
        upstreams: Upstreams,
        shared: &Shared,
        metrics: Arc<metrics::Core>,
        limits: Limits,
        clock: Clock,
        random: Rc<RefCell<Random>>,
    ) -> Self {
        Self {
            routes: names(&engine),
            engine,
            upstreams,
            keys: Arc::clone(shared.keys()),
            metrics,
            limits,
            quotas: shared.quotas().clone(),
            clock,
            random,
        }
    }

    /// This core's share of the next snapshot; none where its decider is another engine's.
    fn succeed(&self, gateway: Arc<Gateway>, shared: &Shared, decider: Decider) -> Option<Self> {
        let engine = self.engine.succeed(gateway, shared.keys(), decider)?;
        Some(Self {
            routes: names(&engine),
            engine,
            upstreams: self.upstreams.succeed(shared),
            keys: Arc::clone(shared.keys()),
            metrics: Arc::clone(&self.metrics),
            limits: self.limits.clone(),
            quotas: shared.quotas().clone(),
            clock: self.clock,
            random: Rc::clone(&self.random),
        })
    }

    pub(crate) fn engine(&self) -> &E {
        &self.engine
    }

    pub(crate) fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    pub(crate) fn keys(&self) -> &KeyStore {
        &self.keys
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// Who looks at an answer that goes out with these edits.
    pub(crate) fn observer(&self, observe: Observe, answered: &Answered, edits: &[Edit]) -> Observer {
        let id = edits.iter().find_map(|edit| match edit {
            Edit::Set(name, value) if *name == "x-request-id" => value.to_str().ok(),
            _ => None,
        });
        Observer {
            gateway: Arc::clone(self.engine.gateway()),
            observe,
            route: self.route_name(observe.route).unwrap_or_default(),
            request_id: id.unwrap_or_default().to_owned(),
            status: answered.status(),
            fields: answered.fields(),
            copy: Some(BytesMut::new()),
            metrics: Arc::clone(&self.metrics),
        }
    }

    pub(crate) fn route_name(&self, route: RouteId) -> Option<Arc<str>> {
        self.routes.get(usize::try_from(route.0).ok()?).cloned()
    }

    /// That time on both clocks.
    pub(crate) fn now_at(&self, at: Instant) -> Now {
        self.clock.now_at(at)
    }

    pub(crate) fn instant(&self, moment: Moment) -> Instant {
        self.clock.instant(moment)
    }

    pub(crate) fn entropy(&self) -> Entropy {
        self.random.borrow_mut().entropy()
    }
}

fn names(engine: &impl Engine) -> Vec<Arc<str>> {
    let routes = engine.gateway().routes();
    routes.iter().map(|route| Arc::from(&*route.name)).collect()
}

/// The one place where a core's snapshot is swapped: requests that came before keep the one that they began with.
#[derive(Debug)]
pub(crate) struct Current<E>(RefCell<Rc<Core<E>>>);

impl<E: Engine> Current<E> {
    pub(crate) fn new(core: Core<E>) -> Self {
        Self(RefCell::new(Rc::new(core)))
    }

    pub(crate) fn get(&self) -> Rc<Core<E>> {
        Rc::clone(&self.0.borrow())
    }
}

impl<E: Engine> Front for Current<E> {
    fn sweep(&self) {
        self.get().upstreams().sweep();
    }

    fn adopt(&self, next: Next) {
        let Next {
            gateway,
            shared,
            decider,
            live,
        } = next;
        match self.get().succeed(gateway, &shared, decider) {
            Some(core) => drop(self.0.replace(Rc::new(core))),
            None => tracing::error!("a core was given another engine's decider, and keeps its config"),
        }
        drop(live);
    }

    fn metrics(&self) -> Arc<metrics::Core> {
        Arc::clone(&self.0.borrow().metrics)
    }

    fn entropy(&self) -> Entropy {
        self.get().entropy()
    }

    async fn answer(&self, inbound: &Inbound, record: &mut Record) -> Result<Reply, Refusal> {
        let core = self.get();
        drive::answer(&core, inbound, record).await
    }
}
