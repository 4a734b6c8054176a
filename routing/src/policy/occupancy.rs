//! How many requests may be under way at once, whatever upstream they are for.
//!
//! A [breaker](super::Breaker) protects one upstream; this bounds what one route may occupy of the gateway, of which every request
//! under way takes some memory and a place. Both are limits on concurrency, so that what is slow fills them by itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::LimitKey;

/// Counts what is under way for each key; shared between cores. A key with nothing under way takes no memory.
#[derive(Debug, Default)]
pub struct Occupancy {
    /// One lock, held for as long as it takes to count: only routes with a limit come here, and each of their requests twice.
    counts: Mutex<BTreeMap<LimitKey, u32>>,
}

/// A request under way; over when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Entered {
    of: Arc<Occupancy>,
    key: LimitKey,
}

impl Occupancy {
    /// Admits a request until the guard is dropped. None where as many as `limit` are under way.
    #[must_use]
    pub fn enter(self: &Arc<Self>, key: LimitKey, limit: u32) -> Option<Entered> {
        let mut counts = self.counts();
        let count = counts.get(&key).copied().unwrap_or_default();
        if count >= limit {
            return None;
        }
        counts.insert(key, count + 1);
        Some(Entered {
            of: Arc::clone(self),
            key,
        })
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<LimitKey, u32>> {
        // A count is changed in one go, so that a panic leaves none half changed.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut counts = self.of.counts();
        match counts.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: LimitKey = LimitKey([1; 16]);
    const B: LimitKey = LimitKey([2; 16]);

    #[test]
    fn what_is_over_the_limit_is_refused_until_something_ends() {
        let all = Arc::new(Occupancy::default());
        let first = all.enter(A, 2).unwrap();
        let second = all.enter(A, 2).unwrap();
        assert!(all.enter(A, 2).is_none());
        assert!(all.enter(B, 1).is_some());
        drop(first);
        let third = all.enter(A, 2);
        assert!(third.is_some() && all.enter(A, 2).is_none());
        drop((second, third));
        assert!(all.counts().is_empty(), "nothing stays behind");
    }

    #[test]
    fn cores_that_race_never_pass_the_limit() {
        let all = Arc::new(Occupancy::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        let _entered: Vec<_> = (0..4).filter_map(|_| all.enter(A, 8)).collect();
                        assert!(all.counts().get(&A).is_none_or(|count| *count <= 8));
                    }
                });
            }
        });
        assert!(all.counts().is_empty());
    }
}
