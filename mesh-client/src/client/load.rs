//! Counting what is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use routing::balance::Picked;
use routing::policy::Permit;

use super::service::Target;

/// How much is under way in one place.
#[derive(Debug, Clone, Default)]
pub(super) struct Load(Arc<AtomicU32>);

impl Load {
    pub(super) fn enter(&self) -> Entered {
        self.0.fetch_add(1, Ordering::Relaxed);
        Entered(Arc::clone(&self.0))
    }

    pub(super) fn now(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One more under way, until it is dropped.
pub(super) struct Entered(Arc<AtomicU32>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that is under way: for its endpoint, by which the balancer chooses, for its connection, and for its service's breaker.
pub(super) struct InFlight {
    _endpoint: Picked<Target>,
    _connection: Option<Entered>,
    _service: Permit,
}

impl InFlight {
    pub(super) const fn new(endpoint: Picked<Target>, connection: Option<Entered>, service: Permit) -> Self {
        Self {
            _endpoint: endpoint,
            _connection: connection,
            _service: service,
        }
    }
}
