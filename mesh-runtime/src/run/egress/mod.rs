//! Calls from the program: a forward proxy on loopback for HTTP and for tunnels ([`proxy`], [`tunnel`]), and ports on loopback that lead
//! to one service each ([`mapping`]). What is not a service of the mesh is reached only where it is on a list ([`outside`]).
//!
//! Whoever on this machine reaches one of the ports speaks as the service, as the program does. What a service speaks is what its
//! endpoints declare; the first bytes of a connection are never looked at to find out.

mod mapping;
mod outside;
mod proxy;
mod target;
mod tunnel;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use identity::ServiceName;
use mesh_client::discovery::Source;
use mesh_client::tls::Protocol;
use mesh_client::{Client, Mesh};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

pub(crate) use mapping::Mapping;
pub(crate) use outside::Allowed;

use super::splice::splice_program;
use target::Scope;

/// How long an end of the connection that has to say something first may take to say it.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a service of which nothing is known yet is waited for.
const DISCOVERY: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(100);

/// The egress, bound.
pub(super) struct Egress {
    proxy: TcpListener,
    address: SocketAddr,
    mapped: Vec<(Mapping, TcpListener)>,
}

/// What every connection of the egress needs.
struct Ways {
    mesh: Mesh,
    client: Client,
    outside: Vec<Allowed>,
    outside_client: proxy::OutsideClient,
    idle: Duration,
    places: Arc<Semaphore>,
}

/// A connection's place among those that there may be, held by whatever goes on in it.
type Place = Arc<OwnedSemaphorePermit>;

/// What the egress may do.
pub(super) struct Permits {
    /// What outside the mesh may be reached.
    pub(super) outside: Vec<Allowed>,
    /// Connections at one time; further ones wait in the kernel.
    pub(super) connections: usize,
    /// How long a tunnel may be idle.
    pub(super) idle: Duration,
}

impl Egress {
    pub(super) async fn bind(mappings: Vec<Mapping>) -> anyhow::Result<Self> {
        let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let proxy = proxy.context("cannot open the egress on 127.0.0.1")?;
        let address = proxy.local_addr().context("cannot open the egress on 127.0.0.1")?;
        let mut mapped = Vec::with_capacity(mappings.len());
        for mut mapping in mappings {
            let place = || format!("cannot map {} for --upstream {}", mapping.address, mapping.service);
            let listener = TcpListener::bind(mapping.address).await.with_context(place)?;
            mapping.address = listener.local_addr().with_context(place)?;
            mapped.push((mapping, listener));
        }
        Ok(Self { proxy, address, mapped })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The mapped ports as they are bound.
    pub(super) fn mapped(&self) -> impl Iterator<Item = &Mapping> {
        self.mapped.iter().map(|(mapping, _)| mapping)
    }

    /// Begins to serve, for as long as the runtime lives: the program has its way out to the end.
    pub(super) fn serve(self, mesh: Mesh, permits: Permits) {
        let ways = Arc::new(Ways {
            client: mesh.client(),
            mesh,
            outside: permits.outside,
            outside_client: proxy::outside_client(),
            idle: permits.idle,
            places: Arc::new(Semaphore::new(permits.connections.min(Semaphore::MAX_PERMITS))),
        });
        tokio::spawn(Arc::clone(&ways).accept(self.proxy, Ways::proxy));
        for (Mapping { service, .. }, listener) in self.mapped {
            let lead = move |ways: Arc<Ways>, stream, place| ways.lead(service.clone(), stream, place);
            tokio::spawn(Arc::clone(&ways).accept(listener, lead));
        }
    }
}

impl Ways {
    /// Gives each connection to `serve`, for as long as it is polled.
    async fn accept<F>(self: Arc<Self>, listener: TcpListener, serve: impl Fn(Arc<Self>, TcpStream, Place) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // A failure here costs latency, not correctness.
                    let _ = stream.set_nodelay(true);
                    // Waited for with one connection in hand, so that no listener keeps a place for nobody.
                    let place = Arc::clone(&self.places)
                        .acquire_owned()
                        .await
                        .expect("the semaphore is never closed");
                    tokio::spawn(serve(Arc::clone(&self), stream, Arc::new(place)));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the egress could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// A connection to the proxy.
    async fn proxy(self: Arc<Self>, stream: TcpStream, place: Place) {
        self.http_in_time(stream, Scope::Anywhere, place).await;
    }

    /// Serves HTTP where something is said at all: who says nothing keeps no place.
    async fn http_in_time(self: Arc<Self>, stream: TcpStream, scope: Scope, place: Place) {
        if timeout(HEADER_TIMEOUT, stream.readable()).await.is_ok() {
            self.http(stream, scope, place).await;
        }
    }

    /// A connection to a mapped port.
    async fn lead(self: Arc<Self>, service: ServiceName, stream: TcpStream, place: Place) {
        match self.declared(&service).await {
            Some(Protocol::Tcp) => {
                let spliced = match self.mesh.connect(service.as_str()).await {
                    Ok(mesh) => splice_program(stream, mesh, self.idle).await,
                    Err(error) => {
                        tracing::warn!(%service, %error, "a connection to a mapped port leads nowhere");
                        return reset(&stream);
                    }
                };
                if let Err(error) = spliced {
                    tracing::debug!(%service, %error, "a connection broke");
                }
            }
            Some(Protocol::Http2) => self.http_in_time(stream, Scope::Service(service), place).await,
            None => {
                tracing::warn!(%service, "a connection to a mapped port leads nowhere: no endpoint is known");
                reset(&stream);
            }
        }
    }

    /// What the endpoints of a service declare; nothing where there are none. One that is becoming opaque is opaque.
    async fn declared(&self, service: &ServiceName) -> Option<Protocol> {
        let mut endpoints = self.mesh.endpoints(service);
        let known = endpoints.wait_for(|snapshot| snapshot.source != Source::Unknown);
        let snapshot = timeout(DISCOVERY, known).await.ok()?.ok()?;
        let mut declared = snapshot.endpoints.iter().map(|endpoint| endpoint.protocol());
        let first = declared.next()?;
        Some(declared.find(|protocol| *protocol == Protocol::Tcp).unwrap_or(first))
    }
}

/// Breaks a connection off when it is dropped, so that nobody takes its end for an answer.
fn reset(stream: &TcpStream) {
    // A failure leaves the usual end.
    let _ = stream.set_zero_linger();
}
