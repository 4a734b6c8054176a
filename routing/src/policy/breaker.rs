//! Circuit breakers: how much may be under way towards one upstream.
//!
//! A limit on concurrency rather than on errors: an upstream that slows down fills it by itself, and one that recovers empties it,
//! without a state that has to be probed half-open. Errors of single endpoints are [outlier ejection](super::Health)'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The limits of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// How many requests may be under way: 1 to 1,000,000.
    pub max_requests: u32,
    /// How many more may wait for a connection: 0 to 1,000,000.
    pub max_pending: u32,
    /// How many connections there may be: 1 to 1,000,000.
    pub max_connections: u32,
}

impl Default for BreakerSettings {
    /// 1024 requests and 1024 that wait, Envoy's. As many connections as there can be: how many are right depends on how many endpoints
    /// there are.
    fn default() -> Self {
        Self {
            max_requests: 1024,
            max_pending: 1024,
            max_connections: 1_000_000,
        }
    }
}

/// Counts what is under way towards one upstream; shared between cores.
#[derive(Debug, Default)]
pub struct Breaker {
    requests: Count,
    pending: Count,
    connections: Count,
}

/// How many there are, and how many there may be.
#[derive(Debug, Default)]
struct Count {
    now: AtomicU32,
    limit: AtomicU32,
}

/// The breaker is open: the limit that is named is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// `max_requests`.
    #[error("too many requests are under way")]
    Requests,
    /// `max_pending`.
    #[error("too many requests wait for a connection")]
    Pending,
    /// `max_connections`.
    #[error("too many connections are open")]
    Connections,
}

impl Breaker {
    /// A breaker with nothing under way.
    #[must_use]
    pub fn new(settings: BreakerSettings) -> Arc<Self> {
        let breaker = Self::default();
        breaker.limit(settings);
        Arc::new(breaker)
    }

    /// Changes the limits. What is under way stays, and counts.
    pub fn limit(&self, settings: BreakerSettings) {
        self.requests.limit.store(settings.max_requests, Ordering::Relaxed);
        self.pending.limit.store(settings.max_pending, Ordering::Relaxed);
        self.connections.limit.store(settings.max_connections, Ordering::Relaxed);
    }

    /// Admits a request until the permit is dropped.
    ///
    /// # Errors
    ///
    /// Where `max_requests` are under way.
    pub fn admit(self: &Arc<Self>) -> Result<Permit, Refused> {
        self.requests.enter(Refused::Requests)?;
        Ok(Permit(Arc::clone(self)))
    }

    /// Admits one that has to wait for a connection, until the guard is dropped.
    ///
    /// # Errors
    ///
    /// Where `max_pending` wait.
    pub fn wait(self: &Arc<Self>) -> Result<Pending, Refused> {
        self.pending.enter(Refused::Pending)?;
        Ok(Pending(Arc::clone(self)))
    }

    /// Admits a connection until the guard is dropped.
    ///
    /// # Errors
    ///
    /// Where there are `max_connections`.
    pub fn connect(self: &Arc<Self>) -> Result<Connected, Refused> {
        self.connections.enter(Refused::Connections)?;
        Ok(Connected(Arc::clone(self)))
    }

    /// Counts a connection that has to be, whatever the limit, until the guard is dropped: the first to an endpoint, say, which
    /// would get no requests otherwise.
    pub fn connect_anyway(self: &Arc<Self>) -> Connected {
        self.connections.now.fetch_add(1, Ordering::Relaxed);
        Connected(Arc::clone(self))
    }

    /// How many requests are under way, and how many wait.
    #[must_use]
    pub fn load(&self) -> (u32, u32) {
        (self.requests.now(), self.pending.now())
    }

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.connections.now()
    }
}

impl Count {
    /// Counts one up unless that would pass the limit.
    fn enter(&self, refused: Refused) -> Result<(), Refused> {
        let limit = self.limit.load(Ordering::Relaxed);
        let entered = self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < limit).then_some(count + 1)
        });
        entered.map(drop).map_err(|_| refused)
    }

    fn leave(&self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
    }

    fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }
}

/// A request under way; over when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Permit(Arc<Breaker>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.requests.leave();
    }
}

/// A request that waits for a connection; over when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Pending(Arc<Breaker>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.leave();
    }
}

/// A connection; gone when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Connected(Arc<Breaker>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_the_limit_is_refused_until_something_ends() {
        let breaker = Breaker::new(BreakerSettings {
            max_requests: 2,
            max_pending: 0,
            max_connections: 1,
        });
        let first = breaker.admit().unwrap();
        let _second = breaker.admit().unwrap();
        assert_eq!(breaker.admit().unwrap_err(), Refused::Requests);
        assert_eq!(breaker.wait().unwrap_err(), Refused::Pending);
        drop(first);
        assert!(breaker.admit().is_ok());
        assert_eq!(breaker.load(), (1, 0));
        let connected = breaker.connect().unwrap();
        assert_eq!(
            (breaker.connect().unwrap_err(), breaker.connections()),
            (Refused::Connections, 1)
        );
        let another = breaker.connect_anyway();
        assert_eq!((breaker.connections(), breaker.connect().is_err()), (2, true));
        drop((connected, another));
        assert!(breaker.connect().is_ok());
    }

    #[test]
    fn other_limits_hold_for_what_is_under_way() {
        let breaker = Breaker::new(BreakerSettings::default());
        let permits: Vec<_> = (0..3).map(|_| breaker.admit().unwrap()).collect();
        breaker.limit(BreakerSettings {
            max_requests: 2,
            ..BreakerSettings::default()
        });
        assert_eq!(breaker.admit().unwrap_err(), Refused::Requests);
        drop(permits);
        assert!(breaker.admit().is_ok());
    }

    #[test]
    fn cores_that_race_never_pass_the_limit() {
        let breaker = Breaker::new(BreakerSettings {
            max_requests: 8,
            ..BreakerSettings::default()
        });
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        let _permits: Vec<_> = (0..4).filter_map(|_| breaker.admit().ok()).collect();
                        assert!(breaker.load().0 <= 8);
                    }
                });
            }
        });
        assert_eq!(breaker.load(), (0, 0));
    }
}
