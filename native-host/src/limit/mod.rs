//! The quotas of rate limits: kept once for the whole process, so that they are exact whichever core a request comes to, and the same
//! whether a decision is made natively or in a guest. They outlive a config: a limit that stays as it was goes on counting.

use std::sync::Arc;

use routing::Moment;
use routing::policy::{Entered, LimitKey, Limiter, Occupancy, Take, Taken};

/// The quotas, and what is under way, shared by all cores.
#[derive(Debug, Clone)]
pub(crate) struct Quotas {
    limiter: Arc<Limiter>,
    occupancy: Arc<Occupancy>,
}

impl Quotas {
    /// Quotas that are all whole.
    pub(crate) fn new() -> Self {
        Self {
            limiter: Arc::new(Limiter::new(Limiter::KEYS, rand::random())),
            occupancy: Arc::default(),
        }
    }

    /// Takes one request from each quota, or from none where one refuses.
    pub(crate) fn take(&self, takes: &[Take], now: Moment) -> Vec<Taken> {
        self.limiter.take_all(takes, now)
    }

    /// Counts a request among those under way until the guard is dropped, where there is room for it.
    pub(crate) fn enter(&self, key: LimitKey, limit: u32) -> Option<Entered> {
        self.occupancy.enter(key, limit)
    }
}
