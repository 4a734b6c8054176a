//! Who serves what, where: the state machine. It reads no clock and writes nothing; time is an argument, and what has to
//! be kept and told comes back as [`Sealed`].
//!
//! Inputs are [`register`](Registry::register), [`heartbeat`](Registry::heartbeat), [`deregister`](Registry::deregister),
//! [`evict`](Registry::evict) and [`expire`](Registry::expire); after any number of them [`seal`](Registry::seal) gives what they changed one
//! revision. Whoever drives it (the [`registrar`]) stores that first, and then tells the watchers.

mod audience;
mod endpoint;
mod registrar;
mod view;
mod watcher;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::ServiceName;

pub(crate) use endpoint::Endpoint;
pub(crate) use registrar::{Registrar, RegistrarError};
pub(crate) use view::{Changes, Update, View};
pub(crate) use watcher::{News, Watcher};

use crate::authority::Mark;
use crate::store::{Batch, RegistrationRecord};

/// How long leases last, and what is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// How long a lease lasts without a heartbeat.
    pub(crate) lease: Duration,
    /// How long leases last after a restart: members first have to find out and come back.
    pub(crate) grace: Duration,
    /// How many updates a resuming watcher can be told.
    pub(crate) history: usize,
    /// How many endpoints there may be.
    pub(crate) endpoints: usize,
}

/// A lease as the member is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) ttl: Duration,
}

/// A registration as an operator is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registration {
    pub(crate) endpoint: Arc<Endpoint>,
    /// Seconds since 1970-01-01T00:00:00Z.
    pub(crate) registered_at: u64,
    /// Until the lease expires.
    pub(crate) left: Duration,
}

/// What a revision changed: to be stored, and then to be told.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) batch: Batch,
    pub(crate) changes: Arc<Changes>,
}

/// The registry.
pub(crate) struct Registry {
    limits: Limits,
    leases: HashMap<String, Held>,
    /// When each lease expires, soonest first.
    deadlines: BTreeSet<(Instant, String)>,
    view: View,
    /// What changed since the last seal.
    pending: Vec<Update>,
}

struct Held {
    endpoint: Arc<Endpoint>,
    registered_at: u64,
    /// Of the SVID that registered it.
    mark: Option<Mark>,
    expires: Instant,
}

impl Registry {
    /// The registry as it was stored: every registration with a new lease that lasts for the grace period.
    pub(crate) fn restore(
        records: impl IntoIterator<Item = RegistrationRecord>,
        revision: u64,
        limits: Limits,
        now: Instant,
    ) -> Self {
        let mut registry = Self {
            limits,
            leases: HashMap::new(),
            deadlines: BTreeSet::new(),
            view: View::new(revision, limits.history),
            pending: Vec::new(),
        };
        for RegistrationRecord {
            endpoint,
            registered_at,
            mark,
        } in records
        {
            let endpoint = Arc::new(endpoint);
            registry.view.insert(Arc::clone(&endpoint));
            registry.hold(Held {
                endpoint,
                registered_at,
                mark: mark.as_deref().and_then(Mark::of_serial),
                expires: now + limits.grace,
            });
        }
        registry
    }

    /// `speaker` says, by an SVID with this mark, that it serves `endpoint`. Saying it again renews the lease and changes the attributes.
    pub(crate) fn register(
        &mut self,
        speaker: &ServiceName,
        mark: Option<Mark>,
        endpoint: Endpoint,
        now: Instant,
        unix: u64,
    ) -> Result<Lease, Refusal> {
        if endpoint.service != speaker.as_str() {
            return Err(Refusal::NotYours {
                speaker: speaker.clone(),
                service: endpoint.service,
            });
        }
        let known = self.leases.get(&endpoint.id);
        match known {
            Some(held) if held.endpoint.service != endpoint.service => return Err(Refusal::IdTaken(endpoint.id)),
            None if self.leases.len() >= self.limits.endpoints => return Err(Refusal::Full(self.limits.endpoints)),
            _ => {}
        }
        let registered_at = known.map_or(unix, |held| held.registered_at);
        let unchanged = known
            .filter(|held| *held.endpoint == endpoint && held.mark == mark)
            .map(|held| Arc::clone(&held.endpoint));
        let endpoint = unchanged.unwrap_or_else(|| {
            let endpoint = Arc::new(endpoint);
            self.view.insert(Arc::clone(&endpoint));
            self.pending.push(Update::Add(Arc::clone(&endpoint)));
            endpoint
        });
        self.hold(Held {
            endpoint,
            registered_at,
            mark,
            expires: now + self.limits.lease,
        });
        Ok(Lease { ttl: self.limits.lease })
    }

    /// `speaker` still serves the endpoint.
    pub(crate) fn heartbeat(&mut self, speaker: &ServiceName, id: &str, now: Instant) -> Result<Lease, Refusal> {
        let held = self.owned(speaker, id)?;
        let (endpoint, registered_at, mark) = (Arc::clone(&held.endpoint), held.registered_at, held.mark);
        self.hold(Held {
            endpoint,
            registered_at,
            mark,
            expires: now + self.limits.lease,
        });
        Ok(Lease { ttl: self.limits.lease })
    }

    /// `speaker` does not serve the endpoint any more. Saying so of one that is gone is no error.
    pub(crate) fn deregister(&mut self, speaker: &ServiceName, id: &str) -> Result<(), Refusal> {
        match self.owned(speaker, id) {
            Ok(_) => self.release(id, false),
            Err(Refusal::Unknown(_)) => {}
            Err(refusal) => return Err(refusal),
        }
        Ok(())
    }

    /// Takes out the endpoints whose members have SVIDs with one of these marks; how many they were.
    pub(crate) fn evict(&mut self, marks: &HashSet<Mark>) -> usize {
        let marked = |held: &Held| held.mark.is_some_and(|mark| marks.contains(&mark));
        let gone: Vec<_> = self
            .leases
            .iter()
            .filter(|(_, held)| marked(held))
            .map(|(id, _)| id.clone())
            .collect();
        for id in &gone {
            self.release(id, false);
        }
        gone.len()
    }

    /// Takes out the endpoints whose lease is over; how many they were.
    pub(crate) fn expire(&mut self, now: Instant) -> usize {
        let mut expired = 0;
        while let Some((deadline, id)) = self.deadlines.first()
            && *deadline <= now
        {
            let id = id.clone();
            self.release(&id, true);
            expired += 1;
        }
        expired
    }

    /// Makes every lease last longer by `time`: while this process stood still, nobody could be heard.
    pub(crate) fn extend_all(&mut self, time: Duration) {
        self.deadlines.clear();
        for (id, held) in &mut self.leases {
            held.expires += time;
            self.deadlines.insert((held.expires, id.clone()));
        }
    }

    /// When the next lease expires.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Gives everything since the last seal one revision; `None` where nothing changed.
    pub(crate) fn seal(&mut self) -> Option<Sealed> {
        if self.pending.is_empty() {
            return None;
        }
        let changes = self.view.seal(std::mem::take(&mut self.pending));
        let mut batch = Batch::default();
        for update in &changes.updates {
            match update {
                Update::Add(endpoint) => {
                    // One that was added and has gone again since has its removal further down in the batch.
                    let held = self.leases.get(&endpoint.id);
                    batch.put_registration(&RegistrationRecord {
                        endpoint: (**endpoint).clone(),
                        registered_at: held.map_or(0, |held| held.registered_at),
                        mark: held.and_then(|held| held.mark).map(Mark::id),
                    });
                }
                Update::Remove { id, .. } => {
                    batch.delete_registration(id);
                }
            }
        }
        batch.put_revision(changes.revision);
        Some(Sealed { batch, changes })
    }

    /// The picture for watchers. Only after [`seal`](Self::seal) does it agree with its revision.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    pub(crate) fn len(&self) -> usize {
        self.leases.len()
    }

    /// The registrations of a service (`None`: all), by service and id.
    pub(crate) fn list(&self, service: Option<&str>, now: Instant) -> Vec<Registration> {
        let wanted = |name: &str| service.is_none_or(|service| service == name);
        let endpoints = self
            .view
            .services()
            .filter(|(name, _)| wanted(name))
            .flat_map(|(_, endpoints)| endpoints.keys());
        let held = endpoints.filter_map(|id| self.leases.get(&**id));
        held.map(|held| Registration {
            endpoint: Arc::clone(&held.endpoint),
            registered_at: held.registered_at,
            left: held.expires.saturating_duration_since(now),
        })
        .collect()
    }

    fn owned(&self, speaker: &ServiceName, id: &str) -> Result<&Held, Refusal> {
        let held = self.leases.get(id).ok_or_else(|| Refusal::Unknown(id.to_owned()))?;
        if held.endpoint.service != speaker.as_str() {
            return Err(Refusal::NotYours {
                speaker: speaker.clone(),
                service: held.endpoint.service.clone(),
            });
        }
        Ok(held)
    }

    fn hold(&mut self, held: Held) {
        let id = held.endpoint.id.clone();
        self.deadlines.insert((held.expires, id.clone()));
        let new = held.expires;
        if let Some(before) = self.leases.insert(id.clone(), held)
            && before.expires != new
        {
            self.deadlines.remove(&(before.expires, id));
        }
    }

    fn release(&mut self, id: &str, expired: bool) {
        if let Some(held) = self.leases.remove(id) {
            self.deadlines.remove(&(held.expires, id.to_owned()));
            self.view.remove(&held.endpoint.service, id);
            self.pending.push(Update::Remove {
                service: held.endpoint.service.clone(),
                id: id.to_owned(),
                expired,
            });
        }
    }
}

/// Why the registry does not do what a member asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("an SVID of `{speaker}` speaks only for endpoints of `{speaker}`, not of `{service}`")]
    NotYours { speaker: ServiceName, service: String },
    #[error("the endpoint id `{0}` belongs to another service; choose another")]
    IdTaken(String),
    #[error("there is no endpoint `{0}`, or its lease expired; register it again")]
    Unknown(String),
    #[error("the registry is full: {0} endpoints")]
    Full(usize),
}
