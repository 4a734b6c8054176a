//! Who watches, and how far each of them is: an endpoint that leaves serves on until everybody who might call it has heard of it.
//!
//! What was handed to a connection is not yet in use at its other end. So watchers are asked to confirm what takes an endpoint away;
//! one that does not know how counts as having heard what it was handed.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use identity::ServiceName;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Everybody who watches.
#[derive(Default)]
pub(super) struct Audience {
    listeners: Mutex<HashMap<u64, Arc<Listener>>>,
    last: AtomicU64,
    /// One of them is farther than before, or gone.
    moved: Notify,
}

/// One of them.
pub(super) struct Listener {
    /// By which it confirms.
    number: u64,
    /// Empty: all.
    services: Vec<String>,
    /// Whose SVID confirms, where it does.
    confirms: OnceLock<ServiceName>,
    /// Everything up to this revision was handed to it.
    handed: AtomicU64,
    /// The last revision that it was asked to confirm; 0 where there was none.
    asked: AtomicU64,
    confirmed: AtomicU64,
}

impl Audience {
    pub(super) fn enter(&self, services: Vec<String>) -> Arc<Listener> {
        let listener = Arc::new(Listener {
            number: self.last.fetch_add(1, Ordering::Relaxed) + 1,
            services,
            confirms: OnceLock::new(),
            handed: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
        });
        self.listeners().insert(listener.number, Arc::clone(&listener));
        listener
    }

    pub(super) fn leave(&self, listener: &Listener) {
        self.listeners().remove(&listener.number);
        // Nobody is there who could call anybody.
        self.move_to(&listener.confirmed, u64::MAX);
    }

    /// Notes that everything up to `revision` was handed to `listener`.
    pub(super) fn handed(&self, listener: &Listener, revision: u64) {
        self.move_to(&listener.handed, revision);
    }

    /// Notes what `speaker` says of the watch of this number. One that is over, or another's, has nothing to confirm.
    pub(super) fn confirm(&self, speaker: &ServiceName, number: u64, revision: u64) {
        let listener = self.listeners().get(&number).cloned();
        if let Some(listener) = listener.filter(|listener| listener.confirms.get() == Some(speaker)) {
            self.move_to(&listener.confirmed, revision);
        }
    }

    /// Waits until everybody who watches `service` has heard of `revision`, for as long as `limit`; says how many have not.
    pub(super) async fn heard(&self, service: &str, revision: u64, limit: Duration) -> usize {
        let until = Instant::now() + limit;
        let mut waited_for: Vec<_> = self.listeners().values().cloned().collect();
        waited_for.retain(|listener| listener.wants(service));
        loop {
            let mut moved = pin!(self.moved.notified());
            // From here on no move is missed.
            moved.as_mut().enable();
            waited_for.retain(|listener| !listener.has_heard(revision));
            if waited_for.is_empty() || timeout_at(until, moved).await.is_err() {
                return waited_for.len();
            }
        }
    }

    fn move_to(&self, place: &AtomicU64, revision: u64) {
        place.fetch_max(revision, Ordering::AcqRel);
        self.moved.notify_waiters();
    }

    fn listeners(&self) -> MutexGuard<'_, HashMap<u64, Arc<Listener>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn wants(&self, service: &str) -> bool {
        self.services.is_empty() || self.services.iter().any(|wanted| wanted == service)
    }

    /// From here on it confirms by the SVID of `speaker`.
    pub(super) fn will_confirm(&self, speaker: ServiceName) {
        // A watch is of one member for as long as it lives.
        let _ = self.confirms.set(speaker);
    }

    pub(super) fn confirms(&self) -> bool {
        self.confirms.get().is_some()
    }

    /// Asks it to confirm `revision`, before that is handed over.
    pub(super) fn ask(&self, revision: u64) {
        self.asked.store(revision, Ordering::Release);
    }

    /// What it was asked about comes before what it is handed, so that whoever sees the latter sees the former.
    fn has_heard(&self, revision: u64) -> bool {
        let (handed, confirmed) = (self.handed.load(Ordering::Acquire), self.confirmed.load(Ordering::Acquire));
        confirmed >= revision || (handed >= revision && confirmed >= self.asked.load(Ordering::Acquire))
    }
}
