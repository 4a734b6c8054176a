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
}

impl Default for BreakerSettings {
    /// 1024 and 1024, Envoy's.
    fn default() -> Self {
        Self {
            max_requests: 1024,
            max_pending: 1024,
        }
    }
}

/// Counts what is under way towards one upstream; shared between cores.
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    requests: AtomicU32,
    pending: AtomicU32,
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
}

impl Breaker {
    /// A breaker with nothing under way.
    #[must_use]
    pub fn new(settings: BreakerSettings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            requests: AtomicU32::new(0),
            pending: AtomicU32::new(0),
        })
    }

    /// Admits a request until the permit is dropped.
    ///
    /// # Errors
    ///
    /// Where `max_requests` are under way.
    pub fn admit(self: &Arc<Self>) -> Result<Permit, Refused> {
        if !enter(&self.requests, self.settings.max_requests) {
            return Err(Refused::Requests);
        }
        Ok(Permit(Arc::clone(self)))
    }

    /// Admits one that has to wait for a connection, until the guard is dropped.
    ///
    /// # Errors
    ///
    /// Where `max_pending` wait.
    pub fn wait(self: &Arc<Self>) -> Result<Pending, Refused> {
        if !enter(&self.pending, self.settings.max_pending) {
            return Err(Refused::Pending);
        }
        Ok(Pending(Arc::clone(self)))
    }

    /// How many requests are under way, and how many wait.
    #[must_use]
    pub fn load(&self) -> (u32, u32) {
        (self.requests.load(Ordering::Relaxed), self.pending.load(Ordering::Relaxed))
    }

    /// Its limits.
    #[must_use]
    pub fn settings(&self) -> BreakerSettings {
        self.settings
    }
}

/// Counts one up unless that would pass the limit.
fn enter(count: &AtomicU32, limit: u32) -> bool {
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < limit).then_some(count + 1)
        })
        .is_ok()
}

/// A request under way; over when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Permit(Arc<Breaker>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that waits for a connection; over when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Pending(Arc<Breaker>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
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
        });
        let first = breaker.admit().unwrap();
        let _second = breaker.admit().unwrap();
        assert_eq!(breaker.admit().unwrap_err(), Refused::Requests);
        assert_eq!(breaker.wait().unwrap_err(), Refused::Pending);
        drop(first);
        assert!(breaker.admit().is_ok());
        assert_eq!(breaker.load(), (1, 0));
    }

    #[test]
    fn cores_that_race_never_pass_the_limit() {
        let breaker = Breaker::new(BreakerSettings {
            max_requests: 8,
            max_pending: 8,
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
