//! Calls from the mesh to the program. Mutual TLS ends here; the program sees what it speaks, on loopback: HTTP/1.1 or HTTP/2 without
//! TLS, or the bytes of a protocol of its own.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{io, mem};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, SEC_WEBSOCKET_ACCEPT, TRANSFER_ENCODING};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Request, Response, Uri, Version};
use http_body_util::{Either, Empty, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_client::opaque::{Arrival, Refusal};
use routing::Reason;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::Service;

use super::answer::{Caller, Refused};
use super::fields::{join_cookies, strip_hop_by_hop};
use super::splice::{splice, splice_program};
use super::websocket::{self, Opening};

/// How long a connection to the program is kept without a request: programs often give up theirs after 5 s or more.
const IDLE: Duration = Duration::from_secs(4);
const CONNECT: Duration = Duration::from_secs(5);
const IDLE_CONNECTIONS: usize = 64;

/// The body of an answer: the program's, or one made here.
pub(super) type Body = Either<Incoming, Full<Bytes>>;

/// Forwards requests to the program at a port of 127.0.0.1, over kept connections.
#[derive(Clone)]
pub(super) struct Http {
    client: Client<Program, Either<Incoming, Empty<Bytes>>>,
    program: Program,
    version: Version,
    idle: Duration,
}

impl Http {
    /// For a program that speaks `version`, HTTP/1.1 or HTTP/2. A WebSocket on which nothing moves ends after `idle`.
    pub(super) fn new(port: u16, version: Version, idle: Duration) -> Self {
        let program = Program(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http2_only(version == Version::HTTP_2)
            .build(program);
        Self {
            client,
            program,
            version,
            idle,
        }
    }

    /// One request. `x-forwarded-client-cert` has been set from the peer that the handshake proved, and not by the peer.
    pub(super) async fn forward(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let caller = Caller::of(request.headers());
        let forwarded = match Opening::of(&request) {
            Some(_) => self.open(request).await,
            None => self.carry(request).await,
        };
        Ok(forwarded.unwrap_or_else(|refused| caller.answer(&refused).map(Either::Right)))
    }

    async fn carry(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Refused> {
        if request.method() == Method::CONNECT {
            return Err((
                Reason::UpgradeUnsupported,
                "no tunnel leads into a program that speaks HTTP".to_owned(),
            ));
        }
        self.rewrite(&mut request)?;
        let mut response = self
            .client
            .request(request.map(Either::Left))
            .await
            .map_err(|error| self.refused(&error))?;
        strip_hop_by_hop(response.headers_mut());
        Ok(response.map(Either::Left))
    }

    /// A WebSocket. It is carried by a task of its own, as a stream of the connection that it came on, so that the drain waits for it.
    async fn open(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Refused> {
        let ours = hyper::upgrade::on(&mut request);
        self.rewrite(&mut request)?;
        let expected = (self.version == Version::HTTP_11).then(|| websocket::to_http1(&mut request, rand::random()));
        let request = request.map(|_| Either::Right(Empty::new()));
        let mut response = self.client.request(request).await.map_err(|error| self.refused(&error))?;
        let opened = match &expected {
            Some(expected) => websocket::is_opened(&response, expected),
            None => response.status().is_success(),
        };
        if !opened {
            // An answer that tells of success where nothing was opened would be taken for an open WebSocket.
            if response.status().is_success() || response.status().is_informational() {
                let why = "the program answered, and opened no WebSocket";
                return Err((Reason::UpstreamProtocol, why.to_owned()));
            }
            strip_hop_by_hop(response.headers_mut());
            return Ok(response.map(Either::Left));
        }
        let theirs = hyper::upgrade::on(&mut response);
        let idle = self.idle;
        tokio::spawn(async move {
            let spliced = match tokio::try_join!(ours, theirs) {
                Ok((ours, theirs)) => splice(TokioIo::new(ours), TokioIo::new(theirs), idle).await,
                Err(error) => Err(io::Error::other(error)),
            };
            if let Err(error) = spliced {
                tracing::debug!(%error, "a WebSocket broke");
            }
        });
        let mut fields = mem::take(response.headers_mut());
        strip_hop_by_hop(&mut fields);
        fields.remove(SEC_WEBSOCKET_ACCEPT);
        without_body(&mut fields);
        Ok(Opening::Http2.opened(fields, Either::Right(Full::default())))
    }

    fn refused(&self, error: &legacy::Error) -> Refused {
        if error.is_connect() {
            let why = format!("the program does not accept connections on {}", self.program.0);
            return (Reason::ConnectFailed, why);
        }
        tracing::debug!(%error, "the program broke off");
        let why = "the program broke the connection before it answered";
        (Reason::UpstreamReset, why.to_owned())
    }

    /// What the program gets. It is told the name that it was called by.
    fn rewrite(&self, request: &mut Request<Incoming>) -> Result<(), Refused> {
        let malformed = |error: http::Error| (Reason::MalformedRequest, error.to_string());
        let uri = request.uri();
        let path = uri.path_and_query().cloned();
        let uri = Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(
                uri.authority()
                    .map_or_else(|| self.program.0.to_string(), ToString::to_string),
            )
            .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
            .build();
        *request.uri_mut() = uri.map_err(malformed)?;
        *request.version_mut() = self.version;
        let fields = request.headers_mut();
        strip_hop_by_hop(fields);
        join_cookies(fields);
        // Where the authority is told otherwise, that wins (RFC 9113 §8.3.1).
        fields.remove(HOST);
        Ok(())
    }
}

fn without_body(fields: &mut HeaderMap) {
    for field in [CONTENT_LENGTH, TRANSFER_ENCODING] {
        fields.remove(field);
    }
}

/// Connects to the program, whatever a request's URL says.
#[derive(Debug, Clone, Copy)]
struct Program(SocketAddr);

impl Service<Uri> for Program {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let address = self.0;
        Box::pin(async move { Ok(TokioIo::new(connect(address).await?)) })
    }
}

/// Forwards opaque connections, each to one of its own.
pub(super) async fn forward_opaque(arrival: Arrival, port: u16, idle: Duration) {
    let program = match connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
        Ok(program) => program,
        Err(error) => {
            tracing::warn!(%error, port, "the program does not accept connections");
            return arrival.refuse(Refusal::Unavailable).await;
        }
    };
    let peer = arrival.peer().id().clone();
    let carried = match arrival.accept().await {
        Ok(stream) => splice_program(program, stream, idle).await,
        Err(error) => Err(error),
    };
    if let Err(error) = carried {
        tracing::debug!(%peer, %error, "a connection broke");
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = timeout(CONNECT, TcpStream::connect(address)).await??;
    // A failure here costs latency, not correctness.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}
