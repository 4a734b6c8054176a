//! Calls from the mesh to the program: mutual TLS and HTTP/2 end here, the program sees plain HTTP/1.1 on loopback.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, Uri, Version};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use mesh_client::server::problem;
use routing::Reason;

use super::fields::{join_cookies, strip_hop_by_hop};

/// How long a connection to the program is kept without a request: programs often give up theirs after 5 s or more.
const IDLE: Duration = Duration::from_secs(4);
const CONNECT: Duration = Duration::from_secs(5);
const IDLE_CONNECTIONS: usize = 64;

/// The body of an answer: the program's, or one made here.
pub(super) type Body = Either<Incoming, Full<Bytes>>;

/// Forwards to the program at a port of 127.0.0.1, over kept connections.
#[derive(Clone)]
pub(super) struct Inbound {
    client: Client<HttpConnector, Incoming>,
    program: Authority,
}

impl Inbound {
    pub(super) fn new(port: u16) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string();
        Self {
            client,
            program: address.parse().expect("an address with a port is an authority"),
        }
    }

    /// One request. `x-forwarded-client-cert` has been set from the peer that the handshake proved, and not by the peer.
    pub(super) async fn forward(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        if request.method() == Method::CONNECT {
            return Ok(own(Reason::UpgradeUnsupported, "tunnels into a program are not carried"));
        }
        let request = match self.rewrite(request) {
            Ok(request) => request,
            Err(why) => return Ok(own(Reason::MalformedRequest, &why)),
        };
        Ok(match self.client.request(request).await {
            Ok(mut response) => {
                strip_hop_by_hop(response.headers_mut());
                response.map(Either::Left)
            }
            Err(error) if error.is_connect() => own(
                Reason::ConnectFailed,
                &format!("the program does not accept connections on {}", self.program),
            ),
            Err(error) => {
                tracing::debug!(%error, "the program broke off");
                own(Reason::UpstreamReset, "the program broke the connection before it answered")
            }
        })
    }

    fn rewrite(&self, mut request: Request<Incoming>) -> Result<Request<Incoming>, String> {
        let uri = request.uri();
        let host = uri
            .authority()
            .and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        let path = uri
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/"));
        let uri = Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(self.program.clone())
            .path_and_query(path)
            .build();
        *request.uri_mut() = uri.map_err(|error| error.to_string())?;
        *request.version_mut() = Version::HTTP_11;
        let fields = request.headers_mut();
        strip_hop_by_hop(fields);
        join_cookies(fields);
        // The program is told the name that it was called by.
        if let Some(host) = host {
            fields.insert(HOST, host);
        }
        Ok(request)
    }
}

fn own(reason: Reason, detail: &str) -> Response<Body> {
    problem(reason, detail).map(Either::Right)
}
