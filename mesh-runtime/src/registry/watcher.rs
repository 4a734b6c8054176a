//! One watcher: what it has been told, and what it is told next.
//!
//! A watcher holds a place in the shared log of changes and nothing else, so a thousand of them cost a thousand places.
//! One that reads too slowly falls out of the log and is told everything anew. How far it is, is known to the
//! [`Audience`](super::audience::Audience).

use std::sync::Arc;

use identity::ServiceName;
use tokio::sync::broadcast;

use super::audience::Listener;
use super::registrar::Published;
use super::{Changes, Endpoint, Update};
use crate::metrics::Counted;

/// Follows the endpoints of some services.
pub(crate) struct Watcher {
    published: Arc<Published>,
    changes: broadcast::Receiver<Arc<Changes>>,
    listener: Arc<Listener>,
    /// The revision that has been told.
    told: u64,
    first: bool,
    /// Whether what was told last is to be confirmed.
    asks: bool,
    _counted: Counted,
}

/// What a watcher is told at once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Everything, in place of what was told before.
    Snapshot {
        revision: u64,
        services: Vec<(String, Vec<Arc<Endpoint>>)>,
    },
    /// What changed since.
    Changes { revision: u64, updates: Vec<Update> },
}

impl Watcher {
    pub(super) fn new(published: Arc<Published>, services: Vec<String>, resume: u64, counted: Counted) -> Self {
        // Subscribed before anything is looked at, so that nothing falls in between.
        let changes = published.changes.subscribe();
        let listener = published.audience.enter(services);
        Self {
            published,
            changes,
            listener,
            told: resume,
            first: true,
            asks: false,
            _counted: counted,
        }
    }

    /// The same for somebody who confirms what it is asked to, by the SVID of `speaker`.
    pub(crate) fn confirming(self, speaker: ServiceName) -> Self {
        self.listener.will_confirm(speaker);
        self
    }

    /// The next news. The first come at once. Whoever asks for more has been handed what came before.
    pub(crate) async fn next(&mut self) -> News {
        let knew = self.told != 0;
        let news = if std::mem::take(&mut self.first) {
            self.catch_up()
        } else {
            self.later().await
        };
        // Who knew nothing used nothing that is gone.
        self.asks = knew && self.listener.confirms() && news.takes_away();
        if self.asks {
            self.listener.ask(self.told);
        }
        news
    }

    /// By which number the last news are to be confirmed; 0 where they need not be.
    pub(crate) fn to_confirm(&self) -> u64 {
        if self.asks { self.listener.number() } else { 0 }
    }

    async fn later(&mut self) -> News {
        loop {
            self.published.audience.handed(&self.listener, self.told);
            match self.changes.recv().await {
                // A revision that is part of what was told already, for the picture is swapped before it is sent.
                Ok(changes) if changes.revision <= self.told && !changes.updates.is_empty() => {}
                Ok(changes) if changes.updates.is_empty() => return self.snapshot(),
                Ok(changes) => {
                    self.told = changes.revision;
                    let updates: Vec<_> = self.wanted(&changes).cloned().collect();
                    if !updates.is_empty() {
                        return News::Changes {
                            revision: self.told,
                            updates,
                        };
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => return self.catch_up(),
                // The sender is in what this watcher holds.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    /// From what was told to the picture: by what changed since where that is known, else by all of it.
    fn catch_up(&mut self) -> News {
        let view = self.published.view.load_full();
        // 0 says that nothing is known, which is not the same as knowing the registry at its beginning.
        let known = if self.told == 0 { None } else { view.since(self.told) };
        let Some(known) = known else { return self.snapshot() };
        let updates: Vec<_> = known.flat_map(|changes| self.wanted(changes)).cloned().collect();
        self.told = view.revision();
        News::Changes {
            revision: self.told,
            updates,
        }
    }

    fn snapshot(&mut self) -> News {
        let view = self.published.view.load_full();
        self.told = view.revision();
        let services = view
            .services()
            .filter(|(name, _)| self.wants(name))
            .map(|(name, endpoints)| (name.to_owned(), endpoints.values().cloned().collect()))
            .collect();
        News::Snapshot {
            revision: self.told,
            services,
        }
    }

    fn wanted<'a>(&'a self, changes: &'a Changes) -> impl Iterator<Item = &'a Update> {
        changes.updates.iter().filter(|update| self.wants(update.service()))
    }

    fn wants(&self, service: &str) -> bool {
        self.listener.wants(service)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.published.audience.leave(&self.listener);
    }
}

impl News {
    /// Whether there may be endpoints in use that are not to be used any more. One whose lease has ended waits for nobody.
    fn takes_away(&self) -> bool {
        match self {
            Self::Snapshot { .. } => true,
            Self::Changes { updates, .. } => updates
                .iter()
                .any(|update| matches!(update, Update::Remove { expired: false, .. })),
        }
    }
}
