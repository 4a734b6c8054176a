//! Drives the registry: one task owns it, stores what it changes, and only then acknowledges and tells the watchers.
//!
//! Everything that waits is applied together and stored by one commit, so that members that register at once share an
//! fsync. Readers never ask the task: they see the last stored [`View`].

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use identity::ServiceName;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::audience::Audience;
use super::{Changes, Endpoint, Lease, Limits, Refusal, Registration, Registry, Sealed, View, Watcher};
use crate::authority::Mark;
use crate::metrics::Metrics;
use crate::now_unix;
use crate::store::{Outcome, Records, StoreError};

/// How many requests share one commit at most.
const GROUP: usize = 512;
/// How many requests may wait.
const QUEUE: usize = 4096;
/// How many revisions a watcher may be behind before it is told everything anew.
const BACKLOG: usize = 256;
/// How late the task may be for the end of a lease before it is a standstill.
const STANDSTILL: Duration = Duration::from_secs(2);
/// How long the task waits before it reads a store again that failed.
const RELOAD_PAUSE: Duration = Duration::from_secs(1);

/// The handle to the registry's task, which ends when the last handle is gone.
#[derive(Clone)]
pub(crate) struct Registrar {
    requests: mpsc::Sender<Request>,
    published: Arc<Published>,
    metrics: Arc<Metrics>,
}

/// What watchers read.
pub(super) struct Published {
    /// The last stored picture. It is swapped before its changes are broadcast, so that whoever subscribes first and
    /// looks at the picture then misses nothing.
    pub(super) view: ArcSwap<View>,
    pub(super) changes: broadcast::Sender<Arc<Changes>>,
    pub(super) audience: Audience,
}

enum Request {
    Register {
        speaker: ServiceName,
        mark: Option<Mark>,
        endpoint: Endpoint,
        answer: Reply<Lease>,
    },
    Heartbeat {
        speaker: ServiceName,
        id: String,
        answer: Reply<Lease>,
    },
    Deregister {
        speaker: ServiceName,
        id: String,
        answer: Reply<u64>,
    },
    Evict {
        marks: HashSet<Mark>,
        answer: Reply<usize>,
    },
    List {
        service: Option<String>,
        answer: oneshot::Sender<Vec<Registration>>,
    },
}

type Reply<T> = oneshot::Sender<Result<T, RegistrarError>>;

/// An answer that waits for the commit, and is told the revision of it; none where nothing was stored.
type Held = Box<dyn FnOnce(Option<u64>) + Send>;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistrarError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the control plane could not store the change; try again")]
    NotStored,
    #[error("the control plane is stopping")]
    Stopped,
}

impl Registrar {
    /// Reads what is stored and starts the task.
    pub(crate) async fn start(records: Records, limits: Limits, metrics: Arc<Metrics>) -> Result<Self, StoreError> {
        let registry = load(&records, limits).await?;
        metrics.registrations.set(count(registry.len()));
        let published = Arc::new(Published {
            view: ArcSwap::from_pointee(registry.view().clone()),
            changes: broadcast::channel(BACKLOG).0,
            audience: Audience::default(),
        });
        let (requests, queue) = mpsc::channel(QUEUE);
        let task = Task {
            registry,
            records,
            limits,
            published: Arc::clone(&published),
            metrics: Arc::clone(&metrics),
        };
        tokio::spawn(task.run(queue));
        Ok(Self {
            requests,
            published,
            metrics,
        })
    }

    pub(crate) async fn register(
        &self,
        speaker: ServiceName,
        mark: Option<Mark>,
        endpoint: Endpoint,
    ) -> Result<Lease, RegistrarError> {
        self.ask(|answer| Request::Register {
            speaker,
            mark,
            endpoint,
            answer,
        })
        .await
    }

    pub(crate) async fn heartbeat(&self, speaker: ServiceName, id: String) -> Result<Lease, RegistrarError> {
        self.ask(|answer| Request::Heartbeat { speaker, id, answer }).await
    }

    /// Takes an endpoint out; says the revision as of which it is.
    pub(crate) async fn deregister(&self, speaker: ServiceName, id: String) -> Result<u64, RegistrarError> {
        self.ask(|answer| Request::Deregister { speaker, id, answer }).await
    }

    /// Takes out the endpoints whose members have SVIDs with one of these marks; how many they were.
    pub(crate) async fn evict(&self, marks: HashSet<Mark>) -> Result<usize, RegistrarError> {
        self.ask(|answer| Request::Evict { marks, answer }).await
    }

    /// Waits until everybody who watches `service` has heard of `revision`, for as long as `limit`; says how many have not.
    pub(crate) async fn heard(&self, service: &ServiceName, revision: u64, limit: Duration) -> usize {
        self.published.audience.heard(service.as_str(), revision, limit).await
    }

    /// Notes that what `speaker` was told by the watch of this number is in use there.
    pub(crate) fn confirm(&self, speaker: &ServiceName, watch: u64, revision: u64) {
        self.published.audience.confirm(speaker, watch, revision);
    }

    /// The registrations of a service (`None`: all), by service and id.
    pub(crate) async fn list(&self, service: Option<String>) -> Result<Vec<Registration>, RegistrarError> {
        let (answer, answered) = oneshot::channel();
        let request = Request::List { service, answer };
        self.requests.send(request).await.map_err(|_| RegistrarError::Stopped)?;
        answered.await.map_err(|_| RegistrarError::Stopped)
    }

    /// Follows the endpoints of `services` (empty: all) from `resume` on.
    pub(crate) fn watch(&self, services: Vec<String>, resume: u64) -> Watcher {
        Watcher::new(Arc::clone(&self.published), services, resume, self.metrics.watchers())
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, RegistrarError> {
        let (answer, answered) = oneshot::channel();
        self.requests
            .send(request(answer))
            .await
            .map_err(|_| RegistrarError::Stopped)?;
        answered.await.map_err(|_| RegistrarError::Stopped)?
    }
}

struct Task {
    registry: Registry,
    records: Records,
    limits: Limits,
    published: Arc<Published>,
    metrics: Arc<Metrics>,
}

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut group = Vec::with_capacity(GROUP);
        loop {
            let expiry = self.registry.next_expiry().map(tokio::time::Instant::from_std);
            tokio::select! {
                received = queue.recv_many(&mut group, GROUP) => if received == 0 { return },
                () = sleep_until(expiry) => {}
            }
            let now = tokio::time::Instant::now().into_std();
            self.forgive_standstill(expiry.map(tokio::time::Instant::into_std), now);
            // What came in time counts, even where it waited behind the clock: heartbeats first, then what is overdue.
            let held: Vec<Held> = group.drain(..).filter_map(|request| self.apply(request, now)).collect();
            let expired = self.registry.expire(now);
            if expired > 0 {
                tracing::info!(expired, "endpoints without heartbeats were taken out");
                self.metrics.expired.inc_by(count(expired).unsigned_abs());
            }
            let stored = match self.registry.seal() {
                Some(sealed) => self.store(sealed).await,
                None => true,
            };
            let revision = stored.then(|| self.registry.view().revision());
            for answer in held {
                answer(revision);
            }
        }
    }

    /// A process that was stopped, or starved, wakes up far behind its own clock. The heartbeats of that time are still on
    /// their way, and leases that ended in it say nothing about the members.
    fn forgive_standstill(&mut self, expiry: Option<Instant>, now: Instant) {
        let late = expiry.map_or(Duration::ZERO, |expiry| now.saturating_duration_since(expiry));
        if late >= STANDSTILL {
            tracing::warn!(?late, "the control plane stood still; leases are extended");
            self.registry.extend_all(late + self.limits.lease);
        }
    }

    /// Applies a request; what is to be said when the commit is done, where that matters.
    fn apply(&mut self, request: Request, now: Instant) -> Option<Held> {
        match request {
            Request::Register {
                speaker,
                mark,
                endpoint,
                answer,
            } => {
                let outcome = self.registry.register(&speaker, mark, endpoint, now, now_unix());
                hold(answer, outcome, |lease, _| lease)
            }
            Request::Heartbeat { speaker, id, answer } => {
                let outcome = self.registry.heartbeat(&speaker, &id, now);
                hold(answer, outcome, |lease, _| lease)
            }
            Request::Deregister { speaker, id, answer } => {
                let outcome = self.registry.deregister(&speaker, &id);
                hold(answer, outcome, |(), revision| revision)
            }
            Request::Evict { marks, answer } => {
                let evicted = self.registry.evict(&marks);
                hold(answer, Ok(evicted), |evicted, _| evicted)
            }
            Request::List { service, answer } => {
                // Whoever asked may have gone.
                let _ = answer.send(self.registry.list(service.as_deref(), now));
                None
            }
        }
    }

    /// Stores a revision and tells the watchers. Where it cannot be stored, the registry is what is stored.
    async fn store(&mut self, sealed: Sealed) -> bool {
        match self.records.commit(sealed.batch).await {
            Ok(Outcome::Committed) => {
                self.publish(sealed.changes);
                true
            }
            Ok(Outcome::Conflict) => unreachable!("the batch of a revision has no conditions"),
            Err(error) => {
                tracing::error!(%error, "the registry's changes could not be stored; going back to what is stored");
                self.metrics.store_failures.inc();
                self.reload().await;
                false
            }
        }
    }

    fn publish(&self, changes: Arc<Changes>) {
        self.metrics.registrations.set(count(self.registry.len()));
        self.published.view.store(Arc::new(self.registry.view().clone()));
        // Nobody may be watching.
        let _ = self.published.changes.send(changes);
    }

    async fn reload(&mut self) {
        loop {
            match load(&self.records, self.limits).await {
                Ok(registry) => {
                    self.registry = registry;
                    // A commit may have failed after it was durable: a revision without known changes makes every
                    // watcher look at the picture again.
                    let revision = self.registry.view().revision();
                    self.publish(Arc::new(Changes {
                        revision,
                        updates: Vec::new(),
                    }));
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "the store cannot be read; trying again");
                    tokio::time::sleep(RELOAD_PAUSE).await;
                }
            }
        }
    }
}

fn hold<T: Send + 'static, S: Send + 'static>(
    answer: Reply<S>,
    outcome: Result<T, Refusal>,
    tell: impl FnOnce(T, u64) -> S + Send + 'static,
) -> Option<Held> {
    Some(Box::new(move |revision| {
        let said = match (outcome, revision) {
            (Ok(value), Some(revision)) => Ok(tell(value, revision)),
            (Ok(_), None) => Err(RegistrarError::NotStored),
            (Err(refusal), _) => Err(refusal.into()),
        };
        // Whoever asked may have gone.
        let _ = answer.send(said);
    }))
}

async fn load(records: &Records, limits: Limits) -> Result<Registry, StoreError> {
    let revision = records.revision().await?;
    let registrations = records
        .registrations()
        .await?
        .into_iter()
        .map(|(_, registration)| registration);
    Ok(Registry::restore(
        registrations,
        revision,
        limits,
        tokio::time::Instant::now().into_std(),
    ))
}

async fn sleep_until(instant: Option<tokio::time::Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "registrar_tests.rs"]
mod tests;
