//! The quotas of rate limits: kept once for the whole process, so that they are exact whichever core a request comes to, and the same
//! whether a decision is made natively or in a guest; or in a store that several gateways share. They outlive a config: a limit that
//! stays as it was goes on counting.

mod store;

use std::sync::Arc;

use gateway::Gateway;
use routing::Moment;
use routing::policy::{Entered, LimitKey, Limiter, Occupancy, Take, Taken};
use tokio::runtime::Handle;

pub(crate) use store::Asked;
use store::Store;

/// The quotas, and what is under way, shared by all cores.
#[derive(Debug, Clone)]
pub(crate) struct Quotas {
    limiter: Arc<Limiter>,
    occupancy: Arc<Occupancy>,
    store: Option<Arc<Store>>,
    background: Handle,
    asked: Arc<Asked>,
}

impl Quotas {
    /// Quotas that are all whole. A store is asked from the background; how often it was is counted.
    pub(crate) fn start(gateway: &Gateway, background: Handle, asked: Arc<Asked>) -> Self {
        let none = Self {
            limiter: Arc::new(Limiter::new(Limiter::KEYS, rand::random())),
            occupancy: Arc::default(),
            store: None,
            background,
            asked,
        };
        none.succeed(gateway)
    }

    /// The quotas of the next gateway, which are these. A store that stays the same comes along.
    pub(crate) fn succeed(&self, gateway: &Gateway) -> Self {
        let store = gateway.settings().quotas.as_ref().map(|settings| match &self.store {
            Some(store) if store.is_of(settings) => Arc::clone(store),
            _ => Store::open(settings.clone(), &self.background, Arc::clone(&self.asked)),
        });
        Self { store, ..self.clone() }
    }

    /// Takes one request from each quota, or from none where one refuses.
    pub(crate) async fn take(&self, takes: &[Take], now: Moment) -> Vec<Option<Taken>> {
        let half = self.limiter.take_here(takes, now);
        let elsewhere = half.elsewhere();
        let said = match &self.store {
            Some(store) if !elsewhere.is_empty() => store.take(&elsewhere).await,
            _ => None,
        };
        half.settle(&self.limiter, said, now)
    }

    /// Counts a request among those under way until the guard is dropped, where there is room for it.
    pub(crate) fn enter(&self, key: LimitKey, limit: u32) -> Option<Entered> {
        self.occupancy.enter(key, limit)
    }
}
