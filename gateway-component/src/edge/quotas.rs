//! The quotas of rate limits at the edge: as this instance knows them, or, with the feature `redis`, in a store that all instances share.

use gateway::Gateway;
use routing::policy::{Limiter, Take, Taken};

use crate::clock;

/// How many keys an instance keeps in use at once: 192 KiB, since all instances of a host share its memory.
const KEYS: usize = 8 * 1024;

/// An instance's quotas.
pub(super) struct Quotas {
    /// A host runs several instances and retires them, so that a client may get as many quotas as there are instances that answer it:
    /// best effort, which a host that keeps the quotas itself, or a store, turns into exact.
    limiter: Limiter,
    #[cfg(feature = "redis")]
    store: Option<store::Store>,
}

impl Quotas {
    /// Those of this gateway.
    #[cfg(feature = "redis")]
    #[allow(
        clippy::unnecessary_wraps,
        reason = "without the feature `redis` there are no shared quotas"
    )]
    pub(super) fn of(gateway: &Gateway) -> Result<Self, String> {
        Ok(Self {
            limiter: Limiter::new(KEYS, clock::random()),
            store: gateway.settings().quotas.clone().map(store::Store::new),
        })
    }

    /// Those of this gateway.
    #[cfg(not(feature = "redis"))]
    pub(super) fn of(gateway: &Gateway) -> Result<Self, String> {
        if gateway.settings().quotas.is_some() {
            return Err(
                "error: [gateway] quotas: this component was built without shared quotas\n  hint: deploy the one of `cargo xtask component --redis`, or leave `quotas` out"
                    .to_owned(),
            );
        }
        Ok(Self {
            limiter: Limiter::new(KEYS, clock::random()),
        })
    }

    /// Takes one request from each quota, or from none where one refuses.
    pub(super) async fn take(&self, takes: &[Take]) -> Vec<Option<Taken>> {
        let now = clock::moment();
        let half = self.limiter.take_here(takes, now);
        let elsewhere = half.elsewhere();
        let said = if elsewhere.is_empty() {
            None
        } else {
            self.ask(&elsewhere).await
        };
        half.settle(&self.limiter, said, now)
    }

    #[cfg(feature = "redis")]
    async fn ask(&self, takes: &[Take]) -> Option<Vec<Taken>> {
        self.store.as_ref()?.take(takes).await
    }

    #[cfg(not(feature = "redis"))]
    #[allow(
        clippy::unused_async,
        reason = "with the feature `redis` the store is asked, and that takes time"
    )]
    async fn ask(&self, _takes: &[Take]) -> Option<Vec<Taken>> {
        None
    }
}

#[cfg(feature = "redis")]
mod store {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;
    use std::time::Duration;

    use gateway::QuotaStore;
    use routing::Moment;
    use routing::policy::redis::{SCRIPT, arguments, key, read};
    use routing::policy::{Take, Taken};
    use spin_sdk::redis::{Connection, RedisParameter, RedisResult};

    use crate::clock;
    use crate::edge::before;

    /// How long a store that did not answer is not asked: its requests do not wait for it one after the other.
    const REST: Duration = Duration::from_secs(1);

    pub(super) struct Store {
        settings: QuotaStore,
        connection: RefCell<Option<Rc<Connection>>>,
        rests_until: Cell<Moment>,
    }

    impl Store {
        pub(super) fn new(settings: QuotaStore) -> Self {
            Self {
                settings,
                connection: RefCell::default(),
                rests_until: Cell::default(),
            }
        }

        /// Takes from these quotas; none where the store does not say in time.
        pub(super) async fn take(&self, takes: &[Take]) -> Option<Vec<Taken>> {
            let now = clock::moment();
            if now < self.rests_until.get() {
                return None;
            }
            let asked = before(now + self.settings.timeout, self.ask(takes)).await;
            let said = asked.unwrap_or_else(|| Err("it did not answer in time".to_owned()));
            let wrong = match said {
                Ok(taken) => return Some(taken),
                Err(wrong) => wrong,
            };
            eprintln!("gateway: the store of the quotas: {wrong}");
            self.connection.replace(None);
            self.rests_until.set(clock::moment() + REST);
            None
        }

        async fn ask(&self, takes: &[Take]) -> Result<Vec<Taken>, String> {
            let told = |error: spin_sdk::redis::Error| format!("{error}; does the application's manifest allow this host?");
            let known = self.connection.borrow().clone();
            let connection = match known {
                Some(connection) => connection,
                None => {
                    let made = Connection::open(self.settings.redis.reveal()).await.map_err(told)?;
                    Rc::clone(self.connection.borrow_mut().insert(Rc::new(made)))
                }
            };
            let text = |text: String| RedisParameter::Binary(text.into_bytes());
            let mut question = vec![text(SCRIPT.to_owned()), text(takes.len().to_string())];
            question.extend(takes.iter().map(|take| text(key(take.key))));
            let rates = takes.iter().flat_map(|take| arguments(*take));
            question.extend(rates.map(|number| text(number.to_string())));
            let said = connection.execute("EVAL", question).await.map_err(told)?;
            let number = |said: &RedisResult| match said {
                RedisResult::Int64(number) => Some(*number),
                _ => None,
            };
            let numbers: Option<Vec<i64>> = said.iter().map(number).collect();
            let taken = numbers.and_then(|numbers| read(&numbers));
            taken.ok_or_else(|| "it answered something else than was asked".to_owned())
        }
    }
}
