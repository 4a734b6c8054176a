//! One service as one client calls it: a pool for each endpoint, and the balancers by which it chooses among them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use identity::{Matcher, SpiffeId};
use routing::Moment;
use routing::balance::{Balance, Balancer, Picked};
use routing::policy::RetryBudget;

use super::options::ClientOptions;
use super::outside::OutsidePool;
use super::pool::{Dial, Pool};
use super::service::{Service, Services, Target, View};
use crate::tls::ClientTls;

pub(super) struct Upstream {
    pub(super) service: Arc<Service>,
    /// For calls whose route has no budget of its own.
    pub(super) budget: RetryBudget,
    /// In place of what the mesh says.
    balance: Option<Balance>,
    dial: Dial,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    /// Of the view that the rest is made of.
    generation: u64,
    /// By the version that they are for.
    balancers: Vec<(Option<Box<str>>, Balancer<Target>)>,
    pools: HashMap<Target, Connections>,
}

/// The connections to one endpoint.
#[derive(Clone)]
pub(super) enum Connections {
    /// Over mutual TLS, to the one identity that the service has.
    Mesh(Arc<Pool>),
    /// To somebody outside the mesh, who has none.
    Outside(Arc<OutsidePool>),
}

impl Upstream {
    pub(super) fn new(service: Arc<Service>, services: &Services, options: &ClientOptions) -> Self {
        let credentials = services.credentials();
        let id = SpiffeId::of_service(credentials.held().bundle.trust_domain(), &service.name);
        let dial = Dial {
            tls: Arc::new(ClientTls::new(credentials.clone(), Matcher::Id(id))),
            credentials: credentials.clone(),
            breaker: Arc::clone(&service.breaker),
            connect_timeout: options.connect_timeout,
            most: options.connections.max(1),
        };
        Self {
            service,
            budget: RetryBudget::new(options.retry.as_ref().map_or(0.0, |retry| retry.budget)),
            balance: options.balance,
            dial,
            current: Mutex::default(),
        }
    }

    /// Chooses an endpoint of `version`, where there is one, and another than `tried`; None where none is known.
    pub(super) fn pick(
        &self,
        view: &View,
        version: Option<&str>,
        tried: Option<&Target>,
        now: Moment,
        random: u64,
    ) -> Option<(Picked<Target>, Connections)> {
        let mut current = self.current();
        if current.generation < view.generation {
            current.follow(view);
        }
        let balancer = current.balancer(view, version, self.balance);
        let picked = match tried {
            Some(tried) => balancer.pick_except(tried, now, random),
            None => balancer.pick(now, random),
        }?;
        let target = picked.address().clone();
        let pool = current
            .pools
            .entry(target.clone())
            .or_insert_with(|| self.connections(&target));
        let pool = pool.clone();
        Some((picked, pool))
    }

    fn connections(&self, target: &Target) -> Connections {
        let address = target.0.address();
        match target.0.outward() {
            None => Connections::Mesh(Pool::new(address.to_owned(), self.dial.clone())),
            Some(outward) => {
                let (breaker, limit) = (Arc::clone(&self.dial.breaker), self.dial.connect_timeout);
                Connections::Outside(Arc::new(OutsidePool::new(address, outward, breaker, limit)))
            }
        }
    }

    /// Whether any endpoint is known.
    pub(super) fn is_served(&self) -> bool {
        self.service.is_served()
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    /// Goes on with another view; endpoints that stay keep their connections.
    fn follow(&mut self, view: &View) {
        self.generation = view.generation;
        self.balancers.clear();
        let known = view.balancer.endpoints();
        let mut pools = std::mem::take(&mut self.pools);
        let kept = known.iter().filter_map(|endpoint| pools.remove_entry(endpoint.address()));
        self.pools = kept.collect();
    }

    fn balancer(&mut self, view: &View, version: Option<&str>, balance: Option<Balance>) -> Balancer<Target> {
        let known = self.balancers.iter().find(|(of, _)| of.as_deref() == version);
        if let Some((_, known)) = known {
            return known.clone();
        }
        let balance = balance.unwrap_or(view.connection.balancing.balance);
        let keep = |target: &Target| version.is_none_or(|version| target.0.version() == version);
        let balancer = view.balancer.view(balance, keep);
        // Another call may have gone on to the next view.
        if self.generation == view.generation {
            self.balancers.push((version.map(Into::into), balancer.clone()));
        }
        balancer
    }
}
