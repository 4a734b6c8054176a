//! Asking a service within its own process: over HTTP/2 in memory, so that it sees a request like any other, but for the peer.

use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use http::uri::{PathAndQuery, Uri};
use http::{HeaderValue, Request, header};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use identity::{ServiceName, SpiffeId};
use mesh_api::health::HealthCheckRequest;
use mesh_api::health::health_check_response::ServingStatus;
use mesh_api::health::health_client::HealthClient;
use tokio::net::TcpStream;
use tower::ServiceExt as _;

use super::Probe;
use crate::BoxError;
use crate::server::{HttpService, introduce};

/// What is in memory between the two ends.
const BUFFER: usize = 64 * 1024;
const USER_AGENT: HeaderValue = HeaderValue::from_static("heddle-health");

/// Whom a check can ask.
pub(crate) trait Inquire: Send + Sync {
    /// Asks once.
    fn ask(&self, probe: &Probe) -> impl Future<Output = Result<(), Failed>> + Send;
}

/// A service of HTTP.
pub(crate) struct Inside<S> {
    name: ServiceName,
    id: SpiffeId,
    program: Option<SocketAddr>,
    /// Services need not be shared between threads, and members are.
    service: Mutex<S>,
}

/// A service of a protocol of its own.
pub(crate) struct Opaque {
    /// Where the program accepts connections that is served from here; a service of this process needs none.
    pub(crate) program: Option<SocketAddr>,
}

impl Inquire for Opaque {
    async fn ask(&self, probe: &Probe) -> Result<(), Failed> {
        match probe {
            Probe::Tcp => connect(self.program).await,
            _ => Err(Failed("it speaks a protocol of its own, which is checked by tcp".to_owned())),
        }
    }
}

/// Why a check failed, for the log.
#[derive(Debug)]
pub(crate) struct Failed(pub(super) String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<S: HttpService> Inquire for Inside<S> {
    async fn ask(&self, probe: &Probe) -> Result<(), Failed> {
        match probe {
            Probe::Tcp => connect(self.program).await,
            Probe::Http(path) => self.converse(|sender| self.get(sender, path.clone())).await,
            Probe::Grpc(service) => self.converse(|sender| self.check(sender, service)).await,
        }
    }
}

async fn connect(program: Option<SocketAddr>) -> Result<(), Failed> {
    let Some(address) = program else { return Ok(()) };
    let connected = TcpStream::connect(address).await;
    connected.map(drop).map_err(|error| Failed(format!("{address}: {error}")))
}

impl<S: HttpService> Inside<S> {
    /// `program` is where the program accepts connections that is served from here; a service of this process needs none.
    pub(crate) fn new(name: ServiceName, id: SpiffeId, program: Option<SocketAddr>, service: S) -> Self {
        let service = Mutex::new(service);
        Self {
            name,
            id,
            program,
            service,
        }
    }

    async fn get(&self, mut sender: SendRequest<tonic::body::Body>, path: PathAndQuery) -> Result<(), Failed> {
        let request = Request::get(self.uri(path)).header(header::USER_AGENT, USER_AGENT);
        let request = request.body(tonic::body::Body::empty()).map_err(failed)?;
        let status = sender.send_request(request).await.map_err(failed)?.status();
        if status.is_success() || status.is_redirection() {
            return Ok(());
        }
        Err(Failed(format!("it answers {status}")))
    }

    async fn check(&self, sender: SendRequest<tonic::body::Body>, service: &str) -> Result<(), Failed> {
        let call = tower::service_fn(move |request| {
            let mut sender = sender.clone();
            async move { sender.send_request(request).await }
        });
        let mut client = HealthClient::with_origin(call, self.uri(PathAndQuery::from_static("/")));
        let service = service.to_owned();
        let answer = client.check(HealthCheckRequest { service }).await.map_err(failed)?;
        match answer.into_inner().status() {
            ServingStatus::Serving => Ok(()),
            status => Err(Failed(format!("it answers {}", status.as_str_name()))),
        }
    }

    /// Lets `talk` be over a connection to the service.
    async fn converse<T>(&self, talk: impl FnOnce(SendRequest<tonic::body::Body>) -> T) -> Result<(), Failed>
    where
        T: Future<Output = Result<(), Failed>>,
    {
        let (near, far) = tokio::io::duplex(BUFFER);
        let service = self.service.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let id = self.id.clone();
        let service = hyper::service::service_fn(move |request| service.clone().oneshot(introduce(request, None, &id, None)));
        let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(far), service);
        let talking = async {
            let client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
            let (sender, connection) = client.handshake(TokioIo::new(near)).await.map_err(failed)?;
            let mut talk = pin!(talk(sender));
            tokio::select! {
                answer = talk.as_mut() => answer,
                ended = connection => Err(ended.map_or_else(failed, |()| Failed("it closed the connection".to_owned()))),
            }
        };
        tokio::select! {
            answer = talking => answer,
            ended = serving => Err(ended.map_or_else(failed, |()| Failed("it closed the connection".to_owned()))),
        }
    }

    fn uri(&self, path: PathAndQuery) -> Uri {
        let uri = Uri::builder().scheme("http").authority(format!("{}.mesh", self.name));
        uri.path_and_query(path).build().expect("a service's name is a host's")
    }
}

fn failed(error: impl Into<BoxError>) -> Failed {
    let error = error.into();
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    Failed(text)
}
