//! Calls from the program into the mesh: a plain HTTP/1.1 forward proxy on loopback that carries `*.mesh` and nothing else.
//!
//! Whoever on this machine reaches the port speaks as the service, as the program does. A request is told apart by its
//! target alone (`GET http://statements.mesh/x`), or by `Host` where the target is a path, so that both `http_proxy` and
//! `MESH_EGRESS` work with any client.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, Uri, Version};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_client::Client;
use mesh_client::client::ResponseBody;
use mesh_client::server::problem;
use routing::Reason;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

use super::answer::reason_of;
use super::fields::strip_hop_by_hop;

/// The end of the host names that are carried.
const MESH: &str = ".mesh";
const CONNECTIONS: usize = 4096;
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// The egress, bound.
pub(super) struct Egress {
    listener: TcpListener,
    address: SocketAddr,
}

type Body = Either<ResponseBody, Full<Bytes>>;

impl Egress {
    pub(super) async fn bind() -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves for as long as it runs.
    pub(super) async fn serve(self, client: Client) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let slot = Arc::clone(&slots)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let client = client.clone();
                    tokio::spawn(async move {
                        connection(stream, client).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the egress could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, client: Client) {
    // A failure here costs latency, not correctness.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| carry(request, client.clone()));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the egress broke");
    }
}

async fn carry(request: Request<Incoming>, client: Client) -> Result<Response<Body>, Infallible> {
    let request = match rewrite(request) {
        Ok(request) => request,
        Err((reason, detail)) => return Ok(refusal(reason, detail)),
    };
    Ok(match client.oneshot(request).await {
        Ok(mut response) => {
            strip_hop_by_hop(response.headers_mut());
            *response.version_mut() = Version::HTTP_11;
            response.map(Either::Left)
        }
        Err(error) => problem(reason_of(error.failure()), &error.to_string()).map(Either::Right),
    })
}

/// The connection is closed with it: the rest of a request that is not carried is not worth reading.
fn refusal(reason: Reason, detail: &str) -> Response<Body> {
    let mut response = problem(reason, detail).map(Either::Right);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The same request as the mesh client takes it, or why it is not carried.
fn rewrite<B>(mut request: Request<B>) -> Result<Request<B>, (Reason, &'static str)> {
    if request.method() == Method::CONNECT {
        let detail = "the egress carries plain http:// to services of the mesh, and encrypts it there; it opens no tunnels";
        return Err((Reason::UpgradeUnsupported, detail));
    }
    if request.uri().scheme().is_some_and(|scheme| *scheme != Scheme::HTTP) {
        return Err((
            Reason::Forbidden,
            "the egress carries http:// URLs; the mesh encrypts them by itself",
        ));
    }
    let authority = target(&request).ok_or((Reason::MalformedRequest, "there is neither an absolute URL nor a Host"))?;
    let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
    if !host.ends_with(MESH) || host.len() == MESH.len() {
        return Err((
            Reason::Forbidden,
            "the egress carries only hosts of the mesh, such as http://accounts.mesh/",
        ));
    }
    if authority.port_u16().is_some_and(|port| port != 80) {
        return Err((
            Reason::Forbidden,
            "a service of the mesh is named without a port, as in http://accounts.mesh/",
        ));
    }
    let path = request
        .uri()
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(host)
        .path_and_query(path)
        .build()
        .map_err(|_| (Reason::MalformedRequest, "the URL is malformed"))?;
    strip_hop_by_hop(request.headers_mut());
    // The URL has the authority (RFC 9112 §3.2.2: it wins over Host).
    request.headers_mut().remove(HOST);
    Ok(request)
}

fn target<B>(request: &Request<B>) -> Option<Authority> {
    if let Some(authority) = request.uri().authority() {
        return Some(authority.clone());
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(method: &str, uri: &str, host: Option<&str>) -> Result<String, Reason> {
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        let request = rewrite(request.body(()).unwrap()).map_err(|(reason, _)| reason)?;
        assert!(!request.headers().contains_key(HOST));
        Ok(request.uri().to_string())
    }

    #[test]
    fn both_forms_of_a_target_are_carried() {
        for (uri, host) in [
            ("http://statements.mesh/x?y=1", None),
            ("http://statements.mesh/x?y=1", Some("elsewhere.example")),
            ("http://STATEMENTS.mesh.:80/x?y=1", None),
            ("/x?y=1", Some("statements.mesh")),
            ("/x?y=1", Some("statements.mesh:80")),
        ] {
            assert_eq!(
                rewritten("GET", uri, host).as_deref(),
                Ok("http://statements.mesh/x?y=1"),
                "{uri} {host:?}"
            );
        }
        assert_eq!(
            rewritten("GET", "http://statements.mesh", None).as_deref(),
            Ok("http://statements.mesh/")
        );
    }

    #[test]
    fn nothing_but_the_mesh_is_carried() {
        for (uri, host) in [
            ("http://example.com/", None),
            ("http://example.com/", Some("statements.mesh")),
            ("http://statements.mesh.example.com/", None),
            ("http://.mesh/", None),
            ("http://statementsmesh/", None),
            ("http://127.0.0.1:9901/", None),
            ("https://statements.mesh/", None),
            ("http://statements.mesh:22/", None),
            ("/", Some("127.0.0.1:40000")),
        ] {
            assert_eq!(rewritten("GET", uri, host), Err(Reason::Forbidden), "{uri} {host:?}");
        }
    }

    #[test]
    fn tunnels_are_refused_with_words() {
        assert_eq!(
            rewritten("CONNECT", "statements.mesh:443", None),
            Err(Reason::UpgradeUnsupported)
        );
    }

    #[test]
    fn a_request_without_a_target_is_malformed() {
        assert_eq!(rewritten("GET", "/", None), Err(Reason::MalformedRequest));
        assert_eq!(rewritten("GET", "/", Some("a b")), Err(Reason::MalformedRequest));
        let twice = Request::builder()
            .uri("/")
            .header(HOST, "a.mesh")
            .header(HOST, "b.mesh")
            .body(())
            .unwrap();
        assert_eq!(rewrite(twice).unwrap_err().0, Reason::MalformedRequest, "which one is meant?");
    }
}
