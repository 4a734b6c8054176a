//! The connections to one endpoint outside the mesh, which speaks HTTP/1.1 or HTTP/2, with or without TLS.
//!
//! What the mesh tells its members (how long a caller waits, on whose behalf, who called whom) is nobody's business there, and left out.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::HOST;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use routing::policy::{Breaker, Connected as Counted, Refused};
use tokio::time::timeout;

use super::body::Body;
use super::error::{Broken, Failure};
use super::load::{Entered, Load};
use super::send::{Lost, fit_for_http2, spare};
use super::service_of;
use crate::BoxError;
use crate::caller::X_HEDDLE_CALLER;
use crate::deadline::TIMEOUT_MS;
use crate::outside::{Io, Outward, Speech, Way};
use crate::server::X_FORWARDED_CLIENT_CERT;
use crate::tls::TlsError;

/// Connections that are kept for the next request while none is under way.
const IDLE: usize = 32;
/// How long.
const IDLE_FOR: Duration = Duration::from_secs(60);

/// The connections to one endpoint.
pub(super) struct OutsidePool {
    client: Client<Connector, Body>,
    speech: Speech,
    scheme: Scheme,
    /// What it is told as the host; none where it is no host.
    authority: Option<Authority>,
}

impl OutsidePool {
    pub(super) fn new(address: &str, outward: &Outward, breaker: Arc<Breaker>, connect_timeout: Duration) -> Self {
        let reach = Reach {
            address: address.to_owned(),
            way: Arc::clone(&outward.way),
            breaker,
            connect_timeout,
            open: Load::default(),
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(IDLE)
            .timer(TokioTimer::new())
            .http2_only(outward.way.speech == Speech::Http2)
            .http2_initial_stream_window_size(crate::STREAM_WINDOW)
            .http2_initial_connection_window_size(crate::CONNECTION_WINDOW)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .http2_keep_alive_timeout(Duration::from_secs(5))
            .build(Connector(Arc::new(reach)));
        Self {
            client,
            speech: outward.way.speech,
            scheme: if outward.way.tls.is_some() {
                Scheme::HTTPS
            } else {
                Scheme::HTTP
            },
            authority: outward.authority.parse().ok(),
        }
    }

    /// Sends a request over one of them.
    pub(super) async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>, Box<Lost>> {
        if request.method() == Method::CONNECT {
            let why = "neither tunnels nor WebSockets are carried to a service outside the mesh that is called by requests";
            return Err(Lost::unsent(Broken::before(Failure::Mismatch, why), request));
        }
        // The client takes the request and gives none back, but one whose body is whole can be sent to another endpoint.
        let kept = spare(&request);
        if self.aim(&mut request).is_none() {
            let why = "it has no name that could be told";
            return Err(Lost::unsent(Broken::before(Failure::Url, why), request));
        }
        *request.version_mut() = Version::HTTP_11;
        keep_to_ourselves(request.headers_mut());
        match self.client.request(request).await {
            Ok(mut response) => {
                fit_for_http2(response.headers_mut());
                Ok(response)
            }
            Err(error) => Err(lost(error, kept)),
        }
    }

    /// Asks for the host that a route wrote into the request, or else for its own.
    fn aim(&self, request: &mut Request<Body>) -> Option<()> {
        let asked = request.uri();
        let path = asked.path_and_query().cloned();
        let rewritten = asked.authority().filter(|_| service_of(asked).is_none()).cloned();
        let mut authority = self.authority.clone()?;
        match (rewritten, self.speech) {
            (Some(host), Speech::Http2) => authority = host,
            // Connections are kept by what the URL says, and one is as good for every host.
            (Some(host), _) => drop(request.headers_mut().insert(HOST, host.as_str().parse().ok()?)),
            (None, _) => {}
        }
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(authority)
            .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        *request.uri_mut() = uri.build().ok()?;
        Some(())
    }
}

fn keep_to_ourselves(headers: &mut HeaderMap) {
    for name in [X_HEDDLE_CALLER, TIMEOUT_MS, X_FORWARDED_CLIENT_CERT] {
        headers.remove(name);
    }
}

fn lost(error: legacy::Error, kept: Option<Request<Body>>) -> Box<Lost> {
    let is_connect = error.is_connect();
    let broken = if find::<Refused>(&error).is_some() {
        Broken::before(Failure::Full, error)
    } else if is_connect {
        let refused = find::<TlsError>(&error).is_some_and(TlsError::is_identity);
        let failure = if refused { Failure::Identity } else { Failure::Connect };
        Broken::before(failure, error)
    } else {
        Broken::outside(error)
    };
    Box::new(Lost {
        unsent: kept.filter(|_| is_connect),
        // A breaker says nothing of the endpoint, and what breaks one connection of HTTP/1 broke one request.
        is_gone: is_connect && broken.failure != Failure::Full,
        broken,
    })
}

/// The first cause of this kind.
pub(super) fn find<'e, E: StdError + 'static>(error: &'e (dyn StdError + 'static)) -> Option<&'e E> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        next = cause.source();
    }
    None
}

/// Opens connections to the one endpoint, whatever it is asked for.
#[derive(Clone)]
struct Connector(Arc<Reach>);

struct Reach {
    address: String,
    way: Arc<Way>,
    breaker: Arc<Breaker>,
    connect_timeout: Duration,
    /// Connections to the endpoint.
    open: Load,
}

impl Reach {
    async fn connect(&self) -> Result<Carrier, BoxError> {
        let _pending = self.breaker.wait()?;
        // An endpoint without a connection would get no requests, however many there are to others.
        let counted = match self.open.now() {
            0 => self.breaker.connect_anyway(),
            _ => self.breaker.connect()?,
        };
        let open = self.open.enter();
        let limit = self.connect_timeout;
        let connecting = timeout(limit, self.way.connect(&self.address));
        let io = connecting.await.unwrap_or(Err(TlsError::Timeout(limit)))?;
        Ok(Carrier {
            io: TokioIo::new(io),
            _counted: counted,
            _open: open,
        })
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Carrier;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Carrier, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let reach = Arc::clone(&self.0);
        Box::pin(async move { reach.connect().await })
    }
}

/// A connection, counted for as long as it is there.
struct Carrier {
    io: TokioIo<Io>,
    /// Among those to the service.
    _counted: Counted,
    /// Among those to the endpoint.
    _open: Entered,
}

impl Connection for Carrier {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Carrier {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Carrier {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
