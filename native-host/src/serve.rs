//! Starting a gateway and stopping it: bind first, then run.

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use mesh_client::Mesh;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::admin::Admin;
use crate::clock::{Clock, Random};
use crate::core::{Core, Current};
use crate::drain;
use crate::engine::handler::Handler;
use crate::engine::wasm::Fresh;
use crate::engine::{Native, Prepared, Source, Wasm};
use crate::keys::KeyStore;
use crate::limit::Quotas;
use crate::listener::{self, tls};
use crate::memory;
use crate::metrics::Metrics;
use crate::options::{EngineKind, Options};
use crate::reload::{Files, Next, Reloader};
use crate::snapshot::{Snapshot, Snapshots};
use crate::upstream::{Shared, Upstreams, join};
use crate::worker::Worker;

/// A gateway that serves. Dropping it begins the drain without waiting for its end.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    admin: SocketAddr,
    tls: bool,
    drain: drain::Trigger,
    over: Option<oneshot::Sender<()>>,
    workers: Vec<JoinHandle<usize>>,
    /// The admin and the mesh live here, away from the cores that serve.
    background: Option<Runtime>,
    reloading: Option<Reloading>,
    /// Holds the membership in the mesh, which ends after the last request.
    mesh: Option<Mesh>,
}

/// What looks at the config again, until nobody can ask it to.
#[derive(Debug)]
struct Reloading {
    ask: tokio::sync::mpsc::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// Where its admin listens.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Looks at the config again, as it does by itself where its files change. What comes of it is on the admin's `/ready`.
    pub fn reload(&self) {
        if let Some(reloading) = &self.reloading {
            // Where it is full somebody has just asked the same.
            let _asked = reloading.ask.try_send(());
        }
    }

    /// Stops: not ready, no new work, finish what is in flight. Blocks until that is done or the drain's deadline has passed, and
    /// gives the number of connections that had to be cut off.
    pub fn shutdown(mut self) -> usize {
        self.drain.begin();
        let cut_off = self.workers.drain(..).map(|worker| worker.join().unwrap_or_default()).sum();
        drop(self.mesh.take());
        drop(self.over.take());
        if let Some(background) = self.background.take() {
            if let Some(Reloading { ask, task }) = self.reloading.take() {
                drop(ask);
                // An error is its panic, which was told.
                let _ended = background.block_on(task);
            }
            background.shutdown_timeout(Duration::from_secs(1));
        }
        cut_off
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.drain.begin();
        if let Some(background) = self.background.take() {
            background.shutdown_background();
        }
    }
}

/// Compiles the config, prepares the engine, binds, and serves until told to stop. Blocks while it prepares, so it is not for
/// the inside of an async task.
///
/// # Errors
///
/// Where the config is invalid (the error's text is what `check` prints), the component cannot be run, the mesh cannot be
/// joined, or an address cannot be listened on.
pub fn serve(options: Options) -> anyhow::Result<Running> {
    let background = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("background")
        .enable_all()
        .build()
        .context("cannot start the background runtime")?;
    let mut files = {
        let _within = background.enter();
        Files::of(options.config.clone())
    };
    let snapshot = Arc::new(files.load()?);
    if let Some(warnings) = snapshot.warnings() {
        tracing::warn!("{warnings}");
    }
    let tls = snapshot
        .certificates()
        .map(|certificates| Arc::new(ArcSwap::new(Arc::clone(certificates.config()))));
    let workers = options.worker_count();
    let settings = snapshot.gateway().settings();
    let listeners = listener::bind(options.listen.unwrap_or(settings.listen), workers)?;
    let admin_listener = listener::bind(options.admin.unwrap_or(settings.admin), 1)?.remove(0);
    let address = listeners[0].local_addr()?;
    let admin = admin_listener.local_addr()?;

    let clock = Clock::start();
    let metrics = Arc::new(Metrics::new(workers));
    let mesh = match &settings.mesh {
        Some(mesh) => Some(background.block_on(join(mesh, &settings.name))?),
        None => None,
    };
    let quotas = Quotas::start(snapshot.gateway(), background.handle().clone(), Arc::clone(&metrics.quotas));
    let source = Source::open(&options)?;
    let keys = match source.fetches_keys() {
        true => KeyStore::none(),
        false => KeyStore::start(snapshot.gateway(), background.handle().clone(), clock),
    };
    let shared = Arc::new(Shared::new(snapshot.gateway(), mesh.clone(), keys, quotas, clock));
    let (trigger, watch) = drain::channel();
    let (over, ended) = oneshot::channel::<()>();
    let starter = Starter {
        options: &options,
        snapshot: &snapshot,
        tls: tls.as_ref(),
        metrics: &metrics,
        shared: &shared,
        clock,
        drain: &watch,
    };
    let Started { threads, cores } = starter.start(listeners, &source.prepare(snapshot.setup())?)?;
    memory::give_back();

    let snapshots = Arc::new(Snapshots::new(Arc::clone(&snapshot)));
    let has_tls = tls.is_some();
    let reloader = Reloader::new(files, Arc::clone(&snapshots), source, shared, tls, cores);
    let (ask, asked) = tokio::sync::mpsc::channel(1);
    let reloading = Reloading {
        ask,
        task: background.spawn(reloader.run(asked)),
    };
    let pages = Admin {
        snapshots,
        metrics,
        drain: watch,
    };
    let limits = options.limits.clone();
    background.spawn(async move {
        let over = async {
            // An error is the sender gone, which is the same news.
            let _gone = ended.await;
        };
        if let Err(error) = pages.serve(admin_listener, limits, over).await {
            tracing::error!(%error, "the admin does not serve");
        }
    });
    Ok(Running {
        address,
        admin,
        tls: has_tls,
        drain: trigger,
        over: Some(over),
        workers: threads,
        background: Some(background),
        reloading: Some(reloading),
        mesh,
    })
}

/// What starting the workers takes.
struct Starter<'a> {
    options: &'a Options,
    snapshot: &'a Snapshot,
    tls: Option<&'a tls::Current>,
    metrics: &'a Arc<Metrics>,
    shared: &'a Arc<Shared>,
    clock: Clock,
    drain: &'a drain::Watch,
}

/// The threads that serve, and the ways to tell them of another config.
struct Started {
    threads: Vec<JoinHandle<usize>>,
    cores: Vec<UnboundedSender<Next>>,
}

impl Starter<'_> {
    /// Starts a thread for each listener.
    fn start(&self, listeners: Vec<TcpListener>, prepared: &Prepared) -> anyhow::Result<Started> {
        let (ready, states) = mpsc::channel();
        let count = listeners.len();
        let mut threads = Vec::with_capacity(count);
        let mut cores = Vec::with_capacity(count);
        for (index, listener) in listeners.into_iter().enumerate() {
            let (core, changes) = unbounded_channel();
            cores.push(core);
            threads.push(self.spawn(index, (listener, changes), count, prepared.clone(), ready.clone())?);
        }
        drop(ready);
        for state in states.iter().take(count) {
            state?;
        }
        Ok(Started { threads, cores })
    }

    fn spawn(
        &self,
        index: usize,
        (listener, changes): (TcpListener, UnboundedReceiver<Next>),
        count: usize,
        prepared: Prepared,
        ready: mpsc::Sender<anyhow::Result<()>>,
    ) -> anyhow::Result<JoinHandle<usize>> {
        let mut limits = self.options.limits.clone();
        limits.head_bytes = limits.head_bytes.min(self.snapshot.gateway().settings().max_header);
        limits.connections = limits.connections.div_ceil(count);
        limits.handshakes = limits.handshakes.div_ceil(count);
        let metrics = self.metrics.core(index);
        let http1 = self.options.http1;
        let is_edge = self.options.engine == EngineKind::Edge;
        let guests = Arc::clone(&self.metrics.guests);
        let (gateway, shared, clock) = (Arc::clone(self.snapshot.gateway()), Arc::clone(self.shared), self.clock);
        let worker = Worker {
            listener,
            changes,
            limits: limits.clone(),
            http1: self.options.http1,
            tls: self.tls.cloned(),
            drain: self.drain.clone(),
            deadline: self.options.drain.unwrap_or(self.snapshot.gateway().settings().drain),
            metrics: Arc::clone(&metrics),
        };
        let ready = move |state| {
            // Nobody listens any more where another core failed before.
            let _given_up = ready.send(state);
        };
        let random = || Rc::new(RefCell::new(Random::seeded()));
        std::thread::Builder::new()
            .name(format!("core-{index}"))
            .spawn(move || match prepared {
                Prepared::Native => {
                    let front = || {
                        let random = random();
                        let upstreams = Upstreams::new(&shared, http1, Arc::clone(&metrics), clock, Rc::clone(&random));
                        let core = Core::new(Native::new(gateway), upstreams, &shared, metrics, limits, clock, random);
                        Ok(Rc::new(Current::new(core)))
                    };
                    worker.run(front, ready)
                }
                Prepared::Policy(blueprint) => {
                    let front = || {
                        let random = random();
                        let upstreams = Upstreams::new(&shared, http1, Arc::clone(&metrics), clock, Rc::clone(&random));
                        let engine = Wasm::new(Fresh::new(blueprint)?, gateway, guests, Arc::clone(shared.keys()));
                        Ok(Rc::new(Current::new(Core::new(
                            engine, upstreams, &shared, metrics, limits, clock, random,
                        ))))
                    };
                    worker.run(front, ready)
                }
                Prepared::Handler(template) => {
                    let drain = worker.drain.clone();
                    worker.run(
                        || Ok(Rc::new(Handler::new(template, is_edge, &limits, metrics, guests, drain))),
                        ready,
                    )
                }
            })
            .context("cannot start a thread")
    }
}
