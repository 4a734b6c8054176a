//! What watchers see: an immutable picture of the registry at one revision, and how it got there from recent ones.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::Endpoint;

/// One change of the endpoints of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Update {
    /// A new endpoint, or new attributes of a known one.
    Add(Arc<Endpoint>),
    /// It is gone: deregistered, or its lease `expired`.
    Remove { service: String, id: String, expired: bool },
}

impl Update {
    pub(crate) fn service(&self) -> &str {
        match self {
            Self::Add(endpoint) => &endpoint.service,
            Self::Remove { service, .. } => service,
        }
    }
}

/// What one revision changed. Every watcher is handed the same one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) revision: u64,
    pub(crate) updates: Vec<Update>,
}

/// The endpoints of one service, by id.
pub(crate) type Endpoints = BTreeMap<Arc<str>, Arc<Endpoint>>;

/// The registry at one revision. A clone shares everything with its original until one of them changes.
#[derive(Debug, Clone)]
pub(crate) struct View {
    revision: u64,
    services: BTreeMap<String, Arc<Endpoints>>,
    history: VecDeque<Arc<Changes>>,
    /// How many updates are in the history.
    remembered: usize,
    /// How many may be.
    capacity: usize,
    /// The revision that the history begins after.
    floor: u64,
}

impl View {
    /// A picture without endpoints at `revision` that remembers the last `capacity` updates.
    pub(crate) fn new(revision: u64, capacity: usize) -> Self {
        Self {
            revision,
            services: BTreeMap::new(),
            history: VecDeque::new(),
            remembered: 0,
            capacity,
            floor: revision,
        }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The services that have endpoints.
    pub(crate) fn services(&self) -> impl Iterator<Item = (&str, &Endpoints)> {
        self.services.iter().map(|(name, endpoints)| (name.as_str(), &**endpoints))
    }

    /// What changed after `revision`; `None` where that is not known (too long ago, or never given).
    pub(crate) fn since(&self, revision: u64) -> Option<impl Iterator<Item = &Arc<Changes>>> {
        let known = (self.floor..=self.revision).contains(&revision);
        // The history is in the order of its revisions.
        let start = self.history.partition_point(|changes| changes.revision <= revision);
        known.then(|| self.history.range(start..))
    }

    /// Shows an endpoint without a new revision.
    pub(super) fn insert(&mut self, endpoint: Arc<Endpoint>) {
        let endpoints = Arc::make_mut(self.services.entry(endpoint.service.clone()).or_default());
        endpoints.insert(endpoint.id.as_str().into(), endpoint);
    }

    /// Hides an endpoint without a new revision.
    pub(super) fn remove(&mut self, service: &str, id: &str) {
        if let Some(endpoints) = self.services.get_mut(service) {
            Arc::make_mut(endpoints).remove(id);
            if endpoints.is_empty() {
                self.services.remove(service);
            }
        }
    }

    /// Gives the updates that were made the next revision, and remembers them for whoever resumes.
    pub(super) fn seal(&mut self, updates: Vec<Update>) -> Arc<Changes> {
        self.revision += 1;
        self.remembered += updates.len();
        let changes = Arc::new(Changes {
            revision: self.revision,
            updates,
        });
        self.history.push_back(Arc::clone(&changes));
        while self.remembered > self.capacity
            && let Some(oldest) = self.history.pop_front()
        {
            self.remembered -= oldest.updates.len();
            self.floor = oldest.revision;
        }
        changes
    }
}
