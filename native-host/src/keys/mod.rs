//! The keys that issuers publish: fetched once for all cores and both engines, and kept. When that is due is the `gateway` crate's to
//! say; this sends the requests.

mod client;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway::Gateway;
use gateway::exchange::{Fetch, Keys};
use gateway::keys::{Found, Plan, Published, Schedule, Search, version};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::clock::Clock;
pub(crate) use client::Client;

/// How often it is asked in the background whether something is due: so much longer than configured a set may be used.
const TICK: Duration = Duration::from_secs(1);

/// The sets of one gateway.
#[derive(Debug)]
pub(crate) struct KeyStore {
    sets: Vec<Arc<Set>>,
    /// None where somebody else fetches.
    fetching: Option<Fetching>,
}

/// What fetching takes: a place to run away from the cores that serve.
#[derive(Debug, Clone)]
struct Fetching {
    background: Handle,
    client: Arc<Client>,
    clock: Clock,
}

/// One set.
#[derive(Debug)]
struct Set {
    published: Published,
    state: Mutex<State>,
    /// Counts the fetches that are over.
    ended: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// What was fetched last, with its version.
    held: Option<(u64, Bytes)>,
    schedule: Schedule,
}

impl KeyStore {
    /// An empty one, which begins to fetch at once: no request need be the first to wait, and no start waits for an issuer.
    pub(crate) fn start(gateway: &Gateway, background: Handle, clock: Clock) -> Arc<Self> {
        let fetching = Fetching {
            background,
            client: Arc::default(),
            clock,
        };
        let none = Self {
            sets: Vec::new(),
            fetching: Some(fetching),
        };
        none.succeed(gateway)
    }

    /// One that stays empty, for a component that fetches what it needs.
    pub(crate) fn none() -> Arc<Self> {
        Arc::new(Self {
            sets: Vec::new(),
            fetching: None,
        })
    }

    /// The store of the next gateway. Sets that are published in the same place, under the same rules, come along.
    pub(crate) fn succeed(&self, gateway: &Gateway) -> Arc<Self> {
        let set = |published: &Published| {
            let before = self.sets.iter().find(|before| before.published == *published);
            before.cloned().or_else(|| Some(self.fetching.as_ref()?.begin(published)))
        };
        Arc::new(Self {
            sets: gateway.key_sets().iter().filter_map(set).collect(),
            fetching: self.fetching.clone(),
        })
    }

    /// What there is, after fetching it where that is due.
    pub(crate) async fn keys(&self, fetch: &Fetch) -> Keys {
        let (Some(set), Some(fetching)) = (self.set(fetch), &self.fetching) else {
            return Keys::Unavailable;
        };
        let mut ended = set.ended.subscribe();
        match set.plan(fetch.anew, fetching) {
            Plan::Use | Plan::UseAndFetch => {}
            Plan::Fetch | Plan::Await => {
                let deadline = fetching.clock.instant(fetch.deadline);
                // Whatever comes of it, what is held is what there is.
                let _ended = tokio::time::timeout_at(deadline.into(), ended.changed()).await;
            }
        }
        set.told(fetch)
    }

    /// What there is without fetching anything.
    pub(crate) fn held(&self, fetch: &Fetch) -> Keys {
        self.set(fetch).map_or(Keys::Unavailable, |set| set.told(fetch))
    }

    fn set(&self, fetch: &Fetch) -> Option<&Arc<Set>> {
        self.sets.get(usize::try_from(fetch.set.0).ok()?)
    }
}

impl Fetching {
    /// An empty set that is kept filled from here on.
    fn begin(&self, published: &Published) -> Arc<Set> {
        let set = Arc::new(Set {
            published: published.clone(),
            state: Mutex::default(),
            ended: watch::Sender::new(0),
        });
        self.background.spawn(renewing(Arc::downgrade(&set), self.clone()));
        set
    }
}

impl Set {
    /// Asks what is to be done, and begins to fetch where that is it.
    fn plan(self: &Arc<Self>, anew: bool, fetching: &Fetching) -> Plan {
        let plan = self
            .state()
            .schedule
            .on_need(&self.published, anew, fetching.clock.now().moment);
        if matches!(plan, Plan::Fetch | Plan::UseAndFetch) {
            fetching.background.spawn(Arc::clone(self).fetch(fetching.clone()));
        }
        plan
    }

    async fn fetch(self: Arc<Self>, fetching: Fetching) {
        let found = search(&fetching.client, &self.published).await;
        {
            let mut state = self.state();
            state.schedule.on_fetched(found.is_ok(), fetching.clock.now().moment);
            match found {
                Ok(set) => {
                    tracing::debug!(auth = %self.published.auth, "the issuer's keys were fetched");
                    state.held = Some((version(&set), set));
                }
                Err(error) => {
                    let kept = state.held.is_some();
                    tracing::warn!(auth = %self.published.auth, from = %self.published.location, error = format!("{error:#}"), kept, "the issuer's keys cannot be fetched");
                }
            }
        }
        self.ended.send_modify(|fetches| *fetches += 1);
    }

    fn told(&self, fetch: &Fetch) -> Keys {
        match &self.state().held {
            Some((version, _)) if fetch.known == Some(*version) => Keys::Unchanged,
            Some((_, set)) => Keys::Set(set.clone()),
            None => Keys::Unavailable,
        }
    }

    /// Nothing that is done under this lock can fail half-way.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a set as new as its config wants it, whether or not anybody asks for it.
async fn renewing(set: Weak<Set>, fetching: Fetching) {
    loop {
        {
            let Some(set) = set.upgrade() else { return };
            set.plan(false, &fetching);
        }
        tokio::time::sleep(TICK).await;
    }
}

/// Fetches a set from where it is published.
///
/// # Errors
///
/// Where nothing came, not in time, or nothing that is a set with a key that can be used.
pub(crate) async fn search(client: &Client, published: &Published) -> anyhow::Result<Bytes> {
    let deadline = Instant::now() + published.timeout;
    let (mut search, mut url) = Search::begin(published);
    loop {
        let answered = tokio::time::timeout_at(deadline.into(), client.get(&url)).await;
        let (status, body) = answered.map_err(|_| anyhow::anyhow!("{url} did not answer in time"))??;
        match search.on_answer(status, &body) {
            Found::Get(next) => url = next,
            Found::Set => return Ok(body),
            Found::Nothing(why) => anyhow::bail!("{url}: {why}"),
        }
    }
}
