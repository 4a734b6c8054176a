//! A component that is served through its own `wasi:http/handler`: by the edge engine, and where it has no policy export.
//!
//! The component does everything itself, so the config's routes and upstreams are its own business, if it reads them; listeners,
//! limits, admin and drain apply. Instances are reused, and its outgoing requests go over this core's kept connections instead of a new one each.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway::exchange::Entropy;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use routing::Scheme;
use wasmtime::component::{Component, GuestTaskId, Linker, ResourceTable};
use wasmtime::{Store, StoreContextMut, StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::handler::{
    ExpirationError, HandlerState, Instance, ProxyHandler, ProxyPre, ShouldAccept, TrapOrPanicError, WorkerExpiration,
    WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

use super::wasm::{Machine, variables};
use super::{Decider, Fault};
use crate::access_log::Record;
use crate::clock::Random;
use crate::drain;
use crate::inbound::Inbound;
use crate::listener::Front;
use crate::metrics::{self, Guests};
use crate::options::GuestLimits;
use crate::refusal::Refusal;
use crate::reload::Next;
use crate::reply::Reply;
use crate::upstream::pool::{self, Address, Pool};

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
    pub(crate) fn new(template: Arc<Template>, metrics: Arc<metrics::Core>, guests: Arc<Guests>, drain: drain::Watch) -> Self {
        Self {
            proxy: RefCell::new(instances(template, drain.clone())),
            drain,
            room: tokio::sync::Semaphore::new(CONCURRENT),
            metrics,
            guests,
            random: RefCell::new(Random::seeded()),
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
        let request = incoming(inbound).ok_or_else(|| Refusal::malformed("the request's target is malformed"))?;
        self.ask(request).await.map(Reply::Component)
    }
}

/// The request as `wasi:http` has it: with scheme and authority in its URI, and no field about this connection.
fn incoming(inbound: &Inbound) -> Option<Request<WasiBody>> {
    let head = &inbound.head;
    let body = inbound
        .body
        .reader(None)
        .map_err(|error| Error::InternalError(Some(error.to_string())))
        .boxed_unsync();
    let mut request = Request::new(body);
    *request.method_mut() = Method::from_bytes(head.method().as_bytes()).ok()?;
    let uri = Uri::builder()
        .scheme(match inbound.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        })
        .authority(head.authority())
        .path_and_query(head.target())
        .build();
    // A client without a host (HTTP/1.0) asks for a path alone.
    *request.uri_mut() = uri.or_else(|_| head.target().parse()).ok()?;
    *request.headers_mut() = head.to_map();
    gateway::strip_hop_by_hop(request.headers_mut());
    // All that a guest can know of a body before it reads it is its length, and these methods usually have one (RFC 9110 §8.6).
    if !inbound.body.expected() && matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH) {
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
    }
    // Where Spin says who the client is; a client that says so itself is not believed.
    if let Ok(address) = HeaderValue::try_from(inbound.client.to_string()) {
        request.headers_mut().insert("spin-client-addr", address);
    }
    Some(request)
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

thread_local! {
    /// This core's kept connections, by authority. What wasmtime is handed must be `Send`, so the pool cannot be passed in;
    /// its futures are polled on this core alone all the same.
    static KEPT: RefCell<HashMap<String, Rc<Pool<SendRequest<WasiBody>>>>> = RefCell::default();
}

/// Sends a component's requests over kept connections.
struct Outbound;

type Outcome = Result<(), Error>;

impl WasiHttpHooks for Outbound {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        processed: Box<dyn Future<Output = Outcome> + Send>,
    ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, Box<dyn Future<Output = Outcome> + Send>), Error>> + Send> {
        if request.uri().scheme() == Some(&http::uri::Scheme::HTTPS) {
            // TLS to strangers is the stock handler's: kept connections are for the services next door.
            return Box::new(async move {
                let (response, io) = wasmtime_wasi_http::default_send_request(request, options).await?;
                Ok((
                    response.map(http_body_util::BodyExt::boxed_unsync),
                    Box::new(io) as Box<dyn Future<Output = Outcome> + Send>,
                ))
            });
        }
        drop(processed);
        Box::new(async move {
            let response = send(request, options.unwrap_or_default()).await?;
            Ok((
                response,
                Box::new(std::future::ready(Ok(()))) as Box<dyn Future<Output = Outcome> + Send>,
            ))
        })
    }
}

async fn send(request: Request<WasiBody>, options: RequestOptions) -> Result<Response<WasiBody>, Error> {
    let (mut head, body) = request.into_parts();
    let authority = head.uri.authority().ok_or(Error::HttpRequestUriInvalid)?.clone();
    let key = authority.as_str().to_owned();
    head.uri = head
        .uri
        .path_and_query()
        .map_or_else(|| Uri::from_static("/"), |target| Uri::from(target.clone()));
    head.version = http::Version::HTTP_11;
    let mut connection = checkout(&key, &authority, options.connect_timeout).await?;
    let (body, sent) = Upload::new(body);
    let answer = connection.send_request(Request::from_parts(head, body.boxed_unsync()));
    let response = match options.first_byte_timeout {
        Some(limit) => tokio::time::timeout(limit, answer)
            .await
            .map_err(|_| Error::ConnectionReadTimeout)??,
        None => answer.await?,
    };
    let (mut head, body) = response.into_parts();
    // A guest never sees `Connection`, and so cannot know what else it names.
    gateway::strip_hop_by_hop(&mut head.headers);
    let mut kept = Kept {
        body,
        sent,
        back: Some((key, connection)),
    };
    kept.give_back();
    Ok(Response::from_parts(head, kept.boxed_unsync()))
}

async fn checkout(
    key: &str,
    authority: &http::uri::Authority,
    limit: Option<Duration>,
) -> Result<SendRequest<WasiBody>, Error> {
    loop {
        let kept = KEPT.with_borrow(|kept| kept.get(key).and_then(|pool| pool.take(Instant::now())));
        match kept {
            Some(mut connection) => {
                if connection.ready().await.is_ok() {
                    return Ok(connection);
                }
            }
            None => break,
        }
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let address = Address {
        host,
        port: authority.port_u16().unwrap_or(80),
    };
    let connect = pool::dial_hyper(&address, ());
    match limit {
        Some(limit) => tokio::time::timeout(limit, connect)
            .await
            .map_err(|_| Error::ConnectionTimeout)?,
        None => connect.await,
    }
    .map_err(Error::Connect)
}

/// A request's body that says when it was sent to its end.
struct Upload {
    body: WasiBody,
    sent: Arc<AtomicBool>,
}

impl Upload {
    fn new(body: WasiBody) -> (Self, Arc<AtomicBool>) {
        let sent = Arc::new(AtomicBool::new(body.is_end_stream()));
        let upload = Self {
            body,
            sent: Arc::clone(&sent),
        };
        (upload, sent)
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
        this.sent.store(frame.is_none() || this.body.is_end_stream(), Relaxed);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// An answer whose connection is kept once it was read to its end, and the request was sent to its own.
struct Kept {
    body: Incoming,
    sent: Arc<AtomicBool>,
    back: Option<(String, SendRequest<WasiBody>)>,
}

impl Kept {
    fn give_back(&mut self) {
        if self.body.is_end_stream()
            && let Some((key, connection)) = self.back.take()
            && self.sent.load(Relaxed)
        {
            KEPT.with_borrow_mut(|kept| Rc::clone(kept.entry(key).or_default()).put(connection, Instant::now()));
        }
    }
}

impl http_body::Body for Kept {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
        this.give_back();
        Poll::Ready(frame.map(|frame| frame.map_err(Error::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body_util::{Empty, Full};

    use super::*;

    #[tokio::test]
    async fn a_request_is_sent_once_its_body_was_taken_to_its_end() {
        let body = Full::new(Bytes::from_static(b"all")).map_err(|never| match never {});
        let (mut upload, sent) = Upload::new(body.boxed_unsync());
        assert!(!sent.load(Relaxed));
        let frame = poll_fn(|cx| Pin::new(&mut upload).poll_frame(cx)).await;
        assert!(frame.is_some_and(|frame| frame.is_ok()) && sent.load(Relaxed));
        let (_, sent) = Upload::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
        assert!(sent.load(Relaxed));
    }
}
