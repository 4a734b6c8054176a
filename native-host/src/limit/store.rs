//! The quotas that several gateways share, in a server that speaks the protocol of Redis. One connection for all cores, over which
//! their questions go as they come; it is made, and made anew, away from the requests: as long as there is none nobody waits for one,
//! and a server that has once been too slow is asked again when it has answered the next connection in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use gateway::QuotaStore;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, ServerErrorKind};
use routing::policy::redis::{SCRIPT, arguments, key, read};
use routing::policy::{Take, Taken};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::metrics::Page;

/// How long connecting may take: nobody waits for it.
const CONNECT: Duration = Duration::from_secs(2);

/// How long after a connection could not be made the next one is tried.
const AGAIN: Duration = Duration::from_millis(250);

/// How often stores were asked.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    answered: AtomicU64,
    unanswered: AtomicU64,
}

/// One store.
#[derive(Debug)]
pub(super) struct Store {
    settings: QuotaStore,
    connection: Arc<ArcSwapOption<Connection>>,
    /// Told when the connection there was is given up. Dropping it ends whoever makes connections.
    given_up: mpsc::Sender<()>,
    asked: Arc<Asked>,
}

#[derive(Debug)]
struct Connection {
    server: MultiplexedConnection,
    /// The script's name on this server.
    script: String,
    /// Whether it was told that the server refuses what it is asked.
    complained: AtomicBool,
}

/// Why a store did not say.
#[derive(Debug, thiserror::Error)]
enum Silence {
    #[error("it did not answer in time")]
    Late,
    #[error("{0}")]
    Failed(#[from] RedisError),
    #[error("it answered something else than was asked")]
    Nonsense,
}

impl Store {
    pub(super) fn open(settings: QuotaStore, background: &Handle, asked: Arc<Asked>) -> Arc<Self> {
        let connection = Arc::new(ArcSwapOption::empty());
        let (given_up, told) = mpsc::channel(1);
        background.spawn(keep(settings.clone(), Arc::clone(&connection), told));
        Arc::new(Self {
            settings,
            connection,
            given_up,
            asked,
        })
    }

    /// Whether it is the one of these settings.
    pub(super) fn is_of(&self, settings: &QuotaStore) -> bool {
        self.settings == *settings
    }

    /// Takes from these quotas; none where the store does not say in time.
    pub(super) async fn take(&self, takes: &[Take]) -> Option<Vec<Taken>> {
        let said = self.ask(takes).await;
        let count = if said.is_some() {
            &self.asked.answered
        } else {
            &self.asked.unanswered
        };
        count.fetch_add(1, Relaxed);
        said
    }

    async fn ask(&self, takes: &[Take]) -> Option<Vec<Taken>> {
        let connection = self.connection.load_full()?;
        let asked = timeout(self.settings.timeout, connection.ask(takes)).await;
        match asked.unwrap_or(Err(Silence::Late)) {
            Ok(said) => Some(said),
            // It is there, and will refuse the next question just so: a replica, a user without the right, a full memory.
            Err(Silence::Failed(error)) if matches!(error.kind(), ErrorKind::Server(_)) => {
                if !connection.complained.swap(true, Relaxed) {
                    tracing::warn!(%error, "the store of the quotas refuses what it is asked");
                }
                None
            }
            Err(silence) => {
                self.give_up(&connection, &silence);
                None
            }
        }
    }

    /// Gives up the connection, where nobody else has done so.
    fn give_up(&self, connection: &Arc<Connection>, silence: &Silence) {
        let before = self.connection.compare_and_swap(connection, None);
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, connection)) {
            tracing::warn!(%silence, when_down = %self.settings.when_down, "the store of the quotas does not answer");
            // There is room: each connection is given up once.
            let _told = self.given_up.try_send(());
        }
    }
}

impl Connection {
    async fn make(client: &Client, patience: Duration) -> Result<Self, Silence> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(None);
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let mut server = timeout(CONNECT, connecting).await.map_err(|_| Silence::Late)??;
        let mut load = redis::cmd("SCRIPT");
        load.arg("LOAD").arg(SCRIPT);
        let loading = load.query_async(&mut server);
        let script = timeout(patience, loading).await.map_err(|_| Silence::Late)??;
        Ok(Self {
            server,
            script,
            complained: AtomicBool::new(false),
        })
    }

    async fn ask(&self, takes: &[Take]) -> Result<Vec<Taken>, Silence> {
        let mut server = self.server.clone();
        let said: Result<Vec<i64>, _> = question("EVALSHA", &self.script, takes).query_async(&mut server).await;
        let said = match said {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                question("EVAL", SCRIPT, takes).query_async(&mut server).await
            }
            said => said,
        };
        let taken = read(&said?).filter(|taken| taken.len() == takes.len());
        taken.ok_or(Silence::Nonsense)
    }
}

fn question(command: &str, script: &str, takes: &[Take]) -> Cmd {
    let mut question = redis::cmd(command);
    question.arg(script).arg(takes.len());
    for take in takes {
        question.arg(key(take.key));
    }
    for take in takes {
        question.arg(&arguments(*take));
    }
    question
}

/// Sees to it that there is a connection, until nobody wants one.
async fn keep(settings: QuotaStore, connection: Arc<ArcSwapOption<Connection>>, mut given_up: mpsc::Receiver<()>) {
    // The client takes the process's provider of TLS, and there are two to choose from in this program. An error is that there is one.
    let _there_is_one = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = match Client::open(settings.redis.reveal()) {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "the store of the quotas cannot be asked");
            return;
        }
    };
    let mut is_missed = false;
    loop {
        match Connection::make(&client, settings.timeout).await {
            Ok(made) => {
                tracing::info!("the store of the quotas answers");
                is_missed = false;
                connection.store(Some(Arc::new(made)));
                if given_up.recv().await.is_none() {
                    return;
                }
            }
            Err(silence) => {
                if !is_missed {
                    tracing::warn!(%silence, when_down = %settings.when_down, "the store of the quotas cannot be reached");
                }
                is_missed = true;
                tokio::select! {
                    () = tokio::time::sleep(AGAIN) => {}
                    None = given_up.recv() => return,
                }
            }
        }
    }
}

impl Asked {
    /// Adds what there is to measure.
    pub(crate) fn render(&self, page: &mut Page) {
        let name = "heddle_quota_store_requests_total";
        page.family(
            name,
            "counter",
            "Requests whose quotas were asked for in the store that gateways share.",
        );
        page.value(name, "result=\"answered\"", self.answered.load(Relaxed));
        page.value(name, "result=\"unanswered\"", self.unanswered.load(Relaxed));
    }
}
