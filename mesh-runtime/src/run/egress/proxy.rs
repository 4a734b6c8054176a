//! HTTP from the program: HTTP/1.1, or HTTP/2 by prior knowledge (its preface is no request of HTTP/1.1, RFC 9113 §3.4).
//!
//! Where each request goes is told in [`target`](super::target).

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, Response, Version};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use mesh_client::client::{self, ResponseBody};
use mesh_client::server::X_FORWARDED_CLIENT_CERT;
use routing::Reason;
use tokio::io::{AsyncRead, AsyncWrite};

use super::target::{Scope, Target, aim};
use super::{HEADER_TIMEOUT, Place, Ways};
use crate::run::answer::{Caller, Refused, refused_by_mesh};
use crate::run::fields::strip_hop_by_hop;
use crate::run::splice::splice;
use crate::run::websocket::{self, Opening};

/// How long a host outside the mesh may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Requests at one time on one connection of HTTP/2.
const STREAMS: u32 = 1024;

type Body = Either<Either<ResponseBody, Incoming>, Full<Bytes>>;

pub(super) type OutsideClient = Client<HttpConnector, Incoming>;

pub(super) fn outside_client() -> OutsideClient {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .build(connector)
}

impl Ways {
    /// Serves HTTP on a connection, to its end.
    pub(super) fn http<S>(self: Arc<Self>, stream: S, scope: Scope, place: Place) -> Pin<Box<dyn Future<Output = ()> + Send>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(move |request| {
            let (ways, scope, place) = (Arc::clone(&self), scope.clone(), Arc::clone(&place));
            async move { Ok::<_, Infallible>(ways.answer(request, scope, place).await) }
        });
        Box::pin(async move {
            let mut server = auto::Builder::new(TokioExecutor::new());
            server
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .http2()
                .timer(TokioTimer::new())
                .enable_connect_protocol()
                .max_concurrent_streams(STREAMS)
                .keep_alive_interval(HEADER_TIMEOUT);
            let served = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            if let Err(error) = served {
                tracing::debug!(%error, "a connection to the egress broke");
            }
        })
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>, scope: Scope, place: Place) -> Response<Body> {
        let caller = Caller::of(request.headers());
        let opening = Opening::of(&request);
        let is_tunnel = request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_none();
        let answered = match (opening, scope) {
            (Some(Ok(opening)), scope) => self.websocket(request, &scope, opening, place).await,
            (Some(Err(why)), _) => Err((Reason::MalformedRequest, why.to_owned())),
            (None, Scope::Anywhere) if is_tunnel => self.tunnel(request, place).await.map(|()| {
                let none = Full::default();
                Response::new(Either::Right(none))
            }),
            (None, scope) => self.carry(request, &scope).await,
        };
        let mut response = answered.unwrap_or_else(|refused| {
            let mut response = caller.answer(&refused).map(Either::Right);
            // The rest of a request that is not carried is not worth reading.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            response
        });
        *response.version_mut() = Version::HTTP_11;
        response
    }

    async fn carry(&self, mut request: Request<Incoming>, scope: &Scope) -> Result<Response<Body>, Refused> {
        if request.method() == Method::CONNECT {
            let why = "no tunnels are opened here, and WebSockets are the only other protocol";
            return Err((Reason::UpgradeUnsupported, why.to_owned()));
        }
        let mut response = match aim(&mut request, scope, &self.outside)? {
            Target::Service(_) => {
                let response = self.client.request(request).await;
                response.map_err(|error| refused_by_mesh(&error))?.map(Either::Left)
            }
            Target::Outside => {
                request.headers_mut().remove(X_FORWARDED_CLIENT_CERT);
                *request.version_mut() = Version::HTTP_11;
                let response = self.outside_client.request(request).await.map_err(|error| {
                    let reason = if error.is_connect() {
                        Reason::ConnectFailed
                    } else {
                        Reason::UpstreamReset
                    };
                    (reason, error.to_string())
                })?;
                response.map(Either::Right)
            }
        };
        strip_hop_by_hop(response.headers_mut());
        Ok(response.map(Either::Left))
    }

    /// A WebSocket, which is carried by a task of its own once it is open.
    async fn websocket(
        &self,
        mut request: Request<Incoming>,
        scope: &Scope,
        opening: Opening,
        place: Place,
    ) -> Result<Response<Body>, Refused> {
        let ours = hyper::upgrade::on(&mut request);
        if aim(&mut request, scope, &self.outside)? == Target::Outside {
            let why = "WebSockets to hosts outside the mesh are carried in tunnels (CONNECT)";
            return Err((Reason::UpgradeUnsupported, why.to_owned()));
        }
        websocket::to_http2(&mut request);
        let request = request.map(|_| client::Body::empty());
        let mut response = self.client.request(request).await.map_err(|error| refused_by_mesh(&error))?;
        strip_hop_by_hop(response.headers_mut());
        if !response.status().is_success() {
            return Ok(response.map(|body| Either::Left(Either::Left(body))));
        }
        let theirs = hyper::upgrade::on(&mut response);
        let (parts, under_way) = response.into_parts();
        let idle = self.idle;
        tokio::spawn(async move {
            let spliced = match tokio::try_join!(ours, theirs) {
                Ok((ours, theirs)) => splice(TokioIo::new(ours), TokioIo::new(theirs), idle).await,
                Err(error) => Err(io::Error::other(error)),
            };
            // Until here the balancer counts it as under way, and the egress as a connection.
            drop((under_way, place));
            if let Err(error) = spliced {
                tracing::debug!(%error, "a WebSocket broke");
            }
        });
        let mut fields = parts.headers;
        fields.remove(CONTENT_LENGTH);
        Ok(opening.opened(fields, Either::Right(Full::default())))
    }
}
