//! A component that is served through its own `wasi:http/handler`: by the edge engine, and where it has no policy export.
//!
//! The component does everything itself, so the config's routes and upstreams are its own business, if it reads them; listeners,
//! limits, admin and drain apply. Instances are reused, and its outgoing requests go over this core's kept connections instead of a
//! new one each.

mod outbound;

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use gateway::exchange::{BodyRead, Entropy};
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::BodyExt as _;
use routing::{Fields, Scheme};
use wasmtime::component::{Component, GuestTaskId, Linker, ResourceTable};
use wasmtime::{Store, StoreContextMut, StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::handler::{
    ExpirationError, HandlerState, Instance, ProxyHandler, ProxyPre, ShouldAccept, TrapOrPanicError, WorkerExpiration,
    WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use self::outbound::Outbound;
use super::wasm::{Machine, variables};
use super::{Decider, Fault};
use crate::access_log::Record;
use crate::clock::Random;
use crate::drain;
use crate::inbound::Inbound;
use crate::listener::Front;
use crate::metrics::{self, Guests};
use crate::options::{GuestLimits, Limits};
use crate::refusal::Refusal;
use crate::reload::Next;
use crate::reply::Reply;

/// Requests that one instance answers before it is retired, and at once: what Spin does, so that a component behaves here as it
/// will there.
const REQUESTS: usize = 128;
const AT_ONCE: usize = 16;

/// How long an instance without a request is kept.
const IDLE: Duration = Duration::from_secs(10);

/// How long a request may take until its answer's head.
const ANSWER: Duration = Duration::from_secs(60);

/// Requests in the component at once, per core: its handler has no back-pressure of its own.
const CONCURRENT: usize = 1024;

/// Answers requests with a component.
pub(crate) struct Handler {
    /// Replaced with the config: a component that reads it does so once an instance.
    proxy: RefCell<Rc<ProxyHandler<Guest>>>,
    room: tokio::sync::Semaphore,
    /// Whether the component is the gateway, which sends requests on.
    is_edge: bool,
    body_timeout: Duration,
    metrics: Arc<metrics::Core>,
    guests: Arc<Guests>,
    random: RefCell<Random>,
    drain: drain::Watch,
}

/// A component that is ready to be instantiated.
pub(crate) struct Template {
    service: ServicePre<Host>,
    limits: GuestLimits,
    /// The config's folder and its file in it.
    config: (PathBuf, String),
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Template {
    /// Links a component that exports `wasi:http/handler@0.3`.
    ///
    /// # Errors
    ///
    /// Where it imports what this host has not.
    pub(crate) fn new(
        machine: &Machine,
        component: &Component,
        limits: GuestLimits,
        variables: Vec<(String, String)>,
        config: &Path,
    ) -> anyhow::Result<Self> {
        let mut linker: Linker<Host> = Linker::new(machine.engine());
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
        variables::add_to_linker(&mut linker, variables)?;
        let service = ServicePre::new(linker.instantiate_pre(component)?)?;
        let folder = config
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let file = config.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self {
            service,
            limits,
            config: (folder.to_owned(), file),
        })
    }
}

impl Template {
    /// The config is where a component that reads its own expects it: in a folder that it can read and not change, and named by
    /// `HEDDLE_CONFIG`.
    fn wasi(&self) -> wasmtime::Result<WasiCtx> {
        let (folder, file) = &self.config;
        let mut wasi = WasiCtxBuilder::new();
        wasi.inherit_stdout()
            .inherit_stderr()
            .env("HEDDLE_CONFIG", format!("/{file}"));
        wasi.preopened_dir(folder, "/", FsPerms::ReadOnly)?;
        Ok(wasi.build())
    }
}

impl Handler {
    pub(crate) fn new(
        template: Arc<Template>,
        is_edge: bool,
        limits: &Limits,
        metrics: Arc<metrics::Core>,
        guests: Arc<Guests>,
        drain: drain::Watch,
    ) -> Self {
        Self {
            is_edge,
            body_timeout: limits.body_timeout,
            proxy: RefCell::new(instances(template, drain.clone())),
            drain,
            room: tokio::sync::Semaphore::new(CONCURRENT),
            metrics,
            guests,
            random: RefCell::new(Random::seeded()),
        }
    }

    /// Refuses a body that the gateway in the component could not know of: all that it is told of one is its length, and it takes these
    /// methods for ones without a body (RFC 9110 §9.3). One that turns out to be empty is none.
    async fn foresee(&self, inbound: &Inbound) -> Result<(), Refusal> {
        let head: &dyn Fields = &inbound.head;
        let is_read = matches!(inbound.head.method(), "GET" | "HEAD");
        if !self.is_edge || !is_read || !inbound.body.expected() || head.first("content-length").is_some() {
            return Ok(());
        }
        match inbound.body.read(0, self.body_timeout).await {
            BodyRead::Whole(_) => Ok(()),
            _ => Err(Refusal::malformed(
                "at the edge, the body of a GET or HEAD needs a content-length",
            )),
        }
    }

    async fn ask(&self, request: Request<WasiBody>) -> Result<Response<WasiBody>, Refusal> {
        let Ok(_room) = self.room.acquire().await else {
            return Err(Refusal::undecided());
        };
        let proxy = Rc::clone(&self.proxy.borrow());
        proxy.handle((), request).await.map_err(|error| {
            tracing::error!(error = format!("{error:#}"), "the component gave no answer");
            if error.is::<TrapOrPanicError>() {
                self.guests.replaced(Fault::Trapped);
            } else if error.is::<ExpirationError>() {
                self.guests.replaced(Fault::Overtime);
            }
            Refusal::undecided()
        })
    }
}

fn instances(template: Arc<Template>, drain: drain::Watch) -> Rc<ProxyHandler<Guest>> {
    Rc::new(ProxyHandler::new(Guest { template, drain }))
}

impl Front for Handler {
    fn adopt(&self, next: Next) {
        if let Decider::Handler(template) = next.decider {
            self.proxy.replace(instances(template, self.drain.clone()));
        }
        drop(next.live);
    }

    fn metrics(&self) -> Arc<metrics::Core> {
        Arc::clone(&self.metrics)
    }

    fn entropy(&self) -> Entropy {
        self.random.borrow_mut().entropy()
    }

    async fn answer(&self, inbound: &Inbound, _record: &mut Record) -> Result<Reply, Refusal> {
        self.foresee(inbound).await?;
        let request = incoming(inbound).map_err(Refusal::malformed)?;
        self.ask(request).await.map(|response| Reply::Component(Box::new(response)))
    }
}

/// The request as `wasi:http` has it: with scheme and authority in its URI, and no field about this connection.
fn incoming(inbound: &Inbound) -> Result<Request<WasiBody>, &'static str> {
    let head = &inbound.head;
    let body = inbound
        .body
        .reader(None)
        .map_err(|error| Error::InternalError(Some(error.to_string())))
        .boxed_unsync();
    let mut request = Request::new(body);
    *request.method_mut() = Method::from_bytes(head.method().as_bytes()).map_err(|_| "the request's method is malformed")?;
    let uri = Uri::builder()
        .scheme(match inbound.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        })
        .authority(head.authority())
        .path_and_query(head.target())
        .build();
    // A client without a host (HTTP/1.0) asks for a path alone.
    *request.uri_mut() = uri
        .or_else(|_| head.target().parse())
        .map_err(|_| "the request's target is malformed")?;
    *request.headers_mut() = head.to_map();
    gateway::strip_hop_by_hop(request.headers_mut());
    // All that a guest can know of a body before it reads it is its length.
    if !inbound.body.expected() && !matches!(*request.method(), Method::GET | Method::HEAD) {
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
    }
    // Where Spin says who the client is; a client that says so itself is not believed.
    if let Ok(address) = HeaderValue::try_from(inbound.client.to_string()) {
        request.headers_mut().insert("spin-client-addr", address);
    }
    Ok(request)
}

/// Makes instances of the component.
struct Guest {
    template: Arc<Template>,
    drain: drain::Watch,
}

impl HandlerState for Guest {
    type StoreData = Host;
    type WorkerExpiration = Expiration;
    type WorkerState = Reuse;

    async fn instantiate(&self) -> wasmtime::Result<Instance<Host, Expiration, Reuse>> {
        let host = Host {
            table: ResourceTable::new(),
            wasi: self.template.wasi()?,
            http: WasiHttpCtx::new(),
            hooks: Outbound,
            limits: StoreLimitsBuilder::new().memory_size(self.template.limits.memory).build(),
        };
        let mut store = Store::new(self.template.service.engine(), host);
        store.limiter(|host| &mut host.limits);
        // A guest that computes for long yields at each tick, so that the core's other work goes on; one that spins is ended
        // by its expiration.
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let proxy = ProxyPre::P3(self.template.service.clone())
            .instantiate_async(&mut store)
            .await?;
        Ok(Instance {
            store,
            proxy,
            view: Host::http,
            expiration: Expiration::default(),
            state: Reuse {
                drain: self.drain.clone(),
            },
        })
    }
}

/// How often an instance is used.
struct Reuse {
    drain: drain::Watch,
}

impl WorkerState for Reuse {
    type StoreData = Host;
    type RequestData = ();

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        match () {
            () if total >= REQUESTS => ShouldAccept::Never,
            () if concurrent >= AT_ONCE => ShouldAccept::No,
            () => ShouldAccept::Yes,
        }
    }

    fn on_request_start(
        &self,
        _store: StoreContextMut<'_, Host>,
        (): (),
        _task: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        Box::pin(tokio::time::sleep(ANSWER))
    }

    fn drop(&self, _store: Store<Host>, result: wasmtime::Result<()>) {
        let Err(error) = result else { return };
        let error = format!("{error:#}");
        if self.drain.begun() {
            // Those that wait for requests end with the host, and are none the worse for it.
            tracing::debug!(error, "an instance of the component ended with the host");
        } else {
            tracing::error!(error, "an instance of the component ended early");
        }
    }
}

/// When an instance ends that has nothing to do, or whose requests all took too long.
#[derive(Default)]
struct Expiration {
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl WorkerExpiration for Expiration {
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>, status: WorkerStatus, start: Instant) -> Poll<()> {
        let limit = match status {
            WorkerStatus::Idle => IDLE,
            WorkerStatus::Requests | WorkerStatus::PostReturn => ANSWER,
        };
        let until = tokio::time::Instant::from_std(start + limit);
        let timer = self
            .get_mut()
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx)
    }
}

/// What belongs to one instance on the host's side.
struct Host {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Outbound,
    limits: StoreLimits,
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.hooks,
        }
    }
}
