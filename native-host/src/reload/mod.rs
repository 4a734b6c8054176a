//! The config changes while requests are served: the next one is compiled aside, and swapped whole on every core or not at all.
//!
//! A request in flight ends with what it began with. What belongs to an upstream and not to a config comes along: connections,
//! breakers, the health of endpoints. What cannot change under a listener's feet is said and waits for a restart.

mod early;
mod files;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway::{Gateway, Settings};
use tokio::sync::{mpsc, oneshot};

use crate::engine::{Decider, Source};
use crate::listener::tls;
use crate::memory;
use crate::snapshot::{Snapshot, Snapshots};
use crate::upstream::Shared;
use early::Early;
pub(crate) use files::Files;
use files::Found;

/// How long a file may be half written before the config that it belongs to is refused. Its writer's end is noticed all the same.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a core is given to serve with from here on.
#[derive(Debug)]
pub(crate) struct Next {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) decider: Decider,
    /// Dropped once the core serves with it.
    pub(crate) live: oneshot::Sender<()>,
}

/// Tells the cores of changes.
#[derive(Debug)]
pub(crate) struct Reloader {
    files: Files,
    /// What the process started with, and keeps of it until it ends.
    started: Settings,
    snapshots: Arc<Snapshots>,
    source: Source,
    shared: Arc<Shared>,
    tls: Option<tls::Current>,
    cores: Vec<mpsc::UnboundedSender<Next>>,
}

/// What came of looking at the config again.
enum Outcome {
    /// It is the one that serves.
    Unchanged,
    /// It serves on every core.
    Applied { routes: usize },
    /// It cannot serve; the one before goes on.
    Refused(String),
}

impl Reloader {
    /// Tells `cores` of changes to what `snapshots` holds, which was read from `files`.
    pub(crate) fn new(
        files: Files,
        snapshots: Arc<Snapshots>,
        source: Source,
        shared: Arc<Shared>,
        tls: Option<tls::Current>,
        cores: Vec<mpsc::UnboundedSender<Next>>,
    ) -> Self {
        let started = snapshots.current().gateway().settings().clone();
        Self {
            files,
            started,
            snapshots,
            source,
            shared,
            tls,
            cores,
        }
    }

    /// Looks at the config whenever it is asked to and whenever one of its files changes, until nobody can ask any more.
    pub(crate) async fn run(mut self, mut asked: mpsc::Receiver<()>) {
        loop {
            let mut on_request = tokio::select! {
                asked = asked.recv() => match asked {
                    Some(()) => true,
                    None => return,
                },
                () = self.files.changed() => false,
            };
            let patience = tokio::time::Instant::now() + PATIENCE;
            loop {
                let patient = tokio::time::Instant::now() < patience;
                let attempt = tokio::task::spawn_blocking(move || {
                    let is_over = self.attempt(on_request, patient);
                    (self, is_over)
                });
                let is_over;
                (self, is_over) = match attempt.await {
                    Ok(attempted) => attempted,
                    Err(error) => {
                        tracing::error!(%error, "reloading the config failed, changes take a restart");
                        return;
                    }
                };
                if is_over {
                    break;
                }
                tokio::select! {
                    asked = asked.recv() => match asked {
                        Some(()) => on_request = true,
                        None => return,
                    },
                    () = self.files.changed() => {}
                    () = tokio::time::sleep_until(patience) => {}
                }
            }
        }
    }

    /// Brings what is on disk into force, or tells why not; false where it is worth waiting for the rest of it.
    fn attempt(&mut self, on_request: bool, patient: bool) -> bool {
        let began = Instant::now();
        let (found, early) = self.find(patient);
        let outcome = match found {
            Found::Config(snapshot) => self.apply(Arc::new(*snapshot), early),
            Found::Unfinished(_) if patient => return false,
            Found::Unfinished(why) => Outcome::Refused(why),
            Found::Unfit(error) => Outcome::Refused(error.to_string()),
        };
        self.tell(outcome, began, on_request);
        memory::give_back();
        true
    }

    /// Reads and compiles what is on disk, and configures guests with it beside that.
    fn find(&mut self, patient: bool) -> (Found, Option<Early>) {
        let Self {
            files,
            source,
            snapshots,
            cores,
            ..
        } = self;
        let (before, config) = (snapshots.current(), files.config().to_owned());
        let begin = || Early::begin(source, &config, before.setup(), cores.len());
        std::thread::scope(|scope| {
            let mut early = None;
            let found = files.find(patient, || {
                if source.configures_guests() {
                    early = std::thread::Builder::new().spawn_scoped(scope, begin).ok();
                }
            });
            (found, early.and_then(|early| early.join().unwrap_or(None)))
        })
    }

    fn tell(&self, outcome: Outcome, began: Instant, on_request: bool) {
        let config = self.files.config().display();
        match outcome {
            Outcome::Unchanged => {
                self.snapshots.unchanged();
                if on_request {
                    tracing::info!(%config, "the config is unchanged");
                }
            }
            Outcome::Applied { routes } => {
                let took = began.elapsed();
                let waiting = self.waiting();
                tracing::info!(%config, routes, ?took, "the changed config serves");
                if !waiting.is_empty() {
                    tracing::warn!(%config, "a change of {} takes a restart", waiting.join(", "));
                }
                self.snapshots.applied(took, waiting);
            }
            Outcome::Refused(why) => {
                let first = why.lines().next().unwrap_or_default();
                tracing::error!(%config, "the changed config is refused, the one before it goes on serving: {first}");
                self.snapshots.refused(why);
            }
        }
    }

    fn apply(&mut self, snapshot: Arc<Snapshot>, early: Option<Early>) -> Outcome {
        if snapshot.same(&self.snapshots.current()) {
            return Outcome::Unchanged;
        }
        let setup = snapshot.setup();
        let deciders = match early.and_then(|early| early.of(setup)) {
            Some(deciders) => deciders,
            None => match self.source.deciders(setup, self.cores.len()) {
                Ok(deciders) => deciders,
                Err(error) => return Outcome::Refused(format!("{error:#}")),
            },
        };
        if let Some(warnings) = snapshot.warnings() {
            tracing::warn!("{warnings}");
        }
        self.swap(&snapshot, deciders);
        Outcome::Applied {
            routes: snapshot.gateway().routes().len(),
        }
    }

    /// Hands every core its share and waits until it serves with it.
    fn swap(&mut self, snapshot: &Arc<Snapshot>, deciders: Vec<Decider>) {
        self.shared = Arc::new(self.shared.succeed(snapshot.gateway()));
        let mut alive = Vec::with_capacity(self.cores.len());
        for (core, decider) in self.cores.iter().zip(deciders) {
            let (live, is_live) = oneshot::channel();
            let next = Next {
                gateway: Arc::clone(snapshot.gateway()),
                shared: Arc::clone(&self.shared),
                decider,
                live,
            };
            if core.send(next).is_ok() {
                alive.push(is_live);
            }
        }
        for is_live in alive {
            // The sender is dropped and nothing sent; a core that is gone drops it as well.
            let _live = is_live.blocking_recv();
        }
        if let (Some(tls), Some(certificates)) = (&self.tls, snapshot.certificates())
            && !self.snapshots.current().shows(certificates)
        {
            tls.store(Arc::clone(certificates.config()));
        }
        self.snapshots.swap(Arc::clone(snapshot));
    }

    /// The keys that the config on disk has otherwise than the process started with, and that a running process keeps.
    fn waiting(&self) -> Vec<&'static str> {
        let snapshot = self.snapshots.current();
        let (started, settings) = (&self.started, snapshot.gateway().settings());
        [
            ("`listen`", started.listen != settings.listen),
            ("`admin`", started.admin != settings.admin),
            ("`name`", started.name != settings.name),
            (
                "`tls` from off to on or back",
                started.tls.is_empty() != settings.tls.is_empty(),
            ),
            ("`max_header`", started.max_header != settings.max_header),
            ("`drain`", started.drain != settings.drain),
            ("[mesh]", started.mesh != settings.mesh),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }
}
