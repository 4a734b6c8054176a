//! `CONNECT`: tunnels to services, and to what outside the mesh is on the list.
//!
//! A service that speaks a protocol of its own gets the bytes of the tunnel. In a tunnel to a service that speaks HTTP the same HTTP
//! is served as on the proxy's own port, since many clients (of gRPC and of WebSockets, for two) ask a proxy for nothing but tunnels.
//! What goes wrong before the tunnel stands is answered in words.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::uri::Authority;
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use identity::ServiceName;
use mesh_client::tls::Protocol;
use routing::Reason;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::target::{Scope, Target, destination};
use super::{Place, Ways};
use crate::run::answer::{Refused, refused_by_mesh};
use crate::run::splice::splice;

/// How long a host outside the mesh may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Where TLS is spoken by convention.
const HTTPS: u16 = 443;

impl Ways {
    /// Opens a tunnel; the answer is that it stands. What it carries is carried by a task of its own.
    pub(super) async fn tunnel(self: Arc<Self>, mut request: Request<Incoming>, place: Place) -> Result<(), Refused> {
        let authority = request.uri().authority().cloned();
        let (authority, port) = authority
            .and_then(|authority| Some((authority.clone(), authority.port_u16()?)))
            .ok_or((Reason::MalformedRequest, "CONNECT names HOST:PORT".to_owned()))?;
        let coming = hyper::upgrade::on(&mut request);
        match destination(&authority, port, &self.outside)? {
            Target::Service(service) => self.into_mesh(service, port, coming, place).await,
            Target::Outside => {
                let outside = connect(&authority, port).await?;
                carry(coming, outside, self.idle, place);
                Ok(())
            }
        }
    }

    async fn into_mesh(
        self: Arc<Self>,
        service: ServiceName,
        port: u16,
        coming: OnUpgrade,
        place: Place,
    ) -> Result<(), Refused> {
        match self.declared(&service).await {
            None => Err((Reason::NoEndpoint, format!("{service}: no endpoint is known"))),
            Some(Protocol::Tcp) => {
                let stream = self
                    .mesh
                    .connect(service.as_str())
                    .await
                    .map_err(|error| refused_by_mesh(&error))?;
                carry(coming, stream, self.idle, place);
                Ok(())
            }
            Some(Protocol::Http2) if port == HTTPS => {
                let why = format!("the mesh encrypts by itself: ask for http://{service}.mesh/, and not for https");
                Err((Reason::UpgradeUnsupported, why))
            }
            Some(Protocol::Http2) => {
                tokio::spawn(async move {
                    match coming.await {
                        Ok(stream) => self.http(TokioIo::new(stream), Scope::Service(service), place).await,
                        Err(error) => tracing::debug!(%error, "a tunnel was not used"),
                    }
                });
                Ok(())
            }
        }
    }
}

fn carry<S>(coming: OnUpgrade, there: S, idle: Duration, place: Place)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        let spliced = match coming.await {
            Ok(here) => splice(TokioIo::<Upgraded>::new(here), there, idle).await,
            Err(error) => Err(io::Error::other(error)),
        };
        if let Err(error) = spliced {
            tracing::debug!(%error, "a tunnel broke");
        }
        drop(place);
    });
}

async fn connect(authority: &Authority, port: u16) -> Result<TcpStream, Refused> {
    let host = authority.host();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match timeout(CONNECT, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => {
            // A failure here costs latency, not correctness.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(error)) => Err((Reason::ConnectFailed, format!("{authority}: {error}"))),
        Err(_) => Err((
            Reason::UpstreamTimeout,
            format!("{authority}: no connection within {CONNECT:?}"),
        )),
    }
}
