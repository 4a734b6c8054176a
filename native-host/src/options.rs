//! What the host was asked to be.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How to run a gateway; [`Options::new`] has the defaults.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// The gateway's config file.
    pub config: PathBuf,
    /// Who decides.
    pub engine: EngineKind,
    /// The component; where none is named, it is looked for beside the executable and in the workspace's target folder.
    pub component: Option<PathBuf>,
    /// Where to listen, instead of the config's `listen`.
    pub listen: Option<SocketAddr>,
    /// Where the admin listens, instead of the config's `admin`.
    pub admin: Option<SocketAddr>,
    /// Threads that serve requests; one per core where none is named.
    pub workers: Option<usize>,
    /// Whose codec speaks HTTP/1, to clients and to upstreams.
    pub http1: Http1,
    /// What a client may demand of a connection.
    pub limits: Limits,
    /// What a guest may demand.
    pub guest: GuestLimits,
    /// How long what is in flight may take to finish once the host stops, instead of the config's `drain`.
    pub drain: Option<Duration>,
}

impl Options {
    /// Serves `config` with the engine, everything else as the config or the defaults say.
    #[must_use]
    pub fn new(config: impl Into<PathBuf>, engine: EngineKind) -> Self {
        Self {
            config: config.into(),
            engine,
            component: None,
            listen: None,
            admin: None,
            workers: None,
            http1: Http1::Own,
            limits: Limits::default(),
            guest: GuestLimits::default(),
            drain: None,
        }
    }

    /// How many threads serve requests.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        self.workers
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
            .max(1)
    }
}

/// Who decides what happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum EngineKind {
    /// The component, in its sandbox: the very file that is deployed to the edge.
    Wasm,
    /// The same component serving whole requests through its `wasi:http/handler`, as it does at the edge: to see here what happens there.
    Edge,
    /// The gateway linked into this program: the fastest.
    Native,
}

/// Whose codec speaks HTTP/1. HTTP/2 is hyper's either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Http1 {
    /// This workspace's: the fastest, and strict.
    Own,
    /// hyper's: for comparison, and should the other be at fault.
    Hyper,
}

/// What a client may demand of a connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// The longest header section with its request line, in bytes; more is `431`. The config's `max_header` may lower it.
    pub head_bytes: usize,
    /// The longest path and query, in bytes; more is `414`. The config's `max_uri` may lower it.
    pub target_bytes: usize,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// The most TLS handshakes at once, over all cores; more wait to be accepted.
    pub handshakes: usize,
    /// How long a head may take from its first byte to its last, and a connection to its first byte.
    pub head_timeout: Duration,
    /// How long a body that a policy wants to read may take.
    pub body_timeout: Duration,
    /// How long a kept connection may have nothing to do.
    pub idle_timeout: Duration,
    /// How long a client may take none of the bytes of its answer.
    pub write_timeout: Duration,
    /// The most connections at once, over all cores; more wait to be accepted.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // As much as a config may ask for.
            head_bytes: 1024 * 1024,
            // As much as a config may ask for.
            target_bytes: 64 * 1024,
            handshake_timeout: Duration::from_secs(10),
            // Some 20 KiB each; a core finishes some thousand a second.
            handshakes: 4096,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(60),
            // 6.7 KiB each while idle, of 8,000 that had asked over plain HTTP/1.1.
            connections: 20_000,
        }
    }
}

/// What a guest may demand.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GuestLimits {
    /// How long one decision may take before the guest is stopped. A decision takes microseconds, and the schema of a body
    /// of 1 MiB some tens of milliseconds; while it runs its core does nothing else, so the limit is also how long a guest
    /// that spins can delay its core's other requests.
    pub decision: Duration,
    /// How long compiling the config inside a guest may take.
    pub configure: Duration,
    /// The most linear memory of one instance, in bytes.
    pub memory: usize,
}

impl Default for GuestLimits {
    fn default() -> Self {
        Self {
            decision: Duration::from_millis(200),
            configure: Duration::from_secs(10),
            memory: 128 * 1024 * 1024,
        }
    }
}
