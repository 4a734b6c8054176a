//! The handle of a member: join, call, serve, leave.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::{fmt, io};

use http::Response;
use identity::{ServiceName, ServiceNameError, SpiffeId};
use mesh_api::v1;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::client::{self, Client, ClientOptions, ResponseBody, Services};
use crate::config::Config;
use crate::control::{self, Control};
use crate::discovery::{Directory, Snapshot};
use crate::drain;
use crate::health::{Checks, Inquire, Inside, Opaque};
use crate::join::{self, JoinError};
use crate::metrics::Metrics;
use crate::opaque::{self, Arrival, Dialers};
use crate::outside::Dns;
use crate::policy::{Follower, Known};
use crate::register::Registration;
use crate::server::{Guard, HttpService, Limits, Server};
use crate::source::{self, Source};
use crate::tls::{Credentials, Protocol, Rotation, ServerTls};
use crate::upkeep::Upkeep;

/// A member of a mesh. Clones are the same member; when the last one is dropped, it leaves.
#[derive(Clone)]
pub struct Mesh {
    member: Arc<Member>,
    default: Client,
}

struct Member {
    config: Config,
    source: Arc<dyn Source>,
    control: Arc<Control>,
    credentials: Credentials,
    rotation: Arc<Rotation>,
    directory: Arc<Directory>,
    dialers: Dialers,
    services: Arc<Services>,
    policies: Known,
    metrics: Arc<Metrics>,
    /// Dropped with the last handle, which every task of the member sees.
    leave: drain::Signal,
    /// One change of name at a time.
    naming: tokio::sync::Mutex<()>,
}

impl Mesh {
    /// Joins the mesh: makes a key, gets an SVID for it, and keeps it fresh from here on.
    ///
    /// Tries for [`Config::join_timeout`] while the control plane cannot be reached. The tasks of the member run on the tokio
    /// runtime that this is called on.
    ///
    /// # Errors
    /// [`JoinError`].
    pub async fn join(config: Config) -> Result<Self, JoinError> {
        let source: Arc<dyn Source> = source::of(&config)?.into();
        let (svid, bundle) = join::join(&config, &*source, config.service.as_ref(), None).await?;
        tracing::info!(id = %svid.id(), not_after = svid.not_after(), "joined the mesh");
        let (rotation, credentials) = Credentials::new(svid, bundle);
        let rotation = Arc::new(rotation);
        let control = Arc::new(Control::new(config.control.clone(), credentials.clone()));
        let (leave, mut left) = drain::channel();
        let policies = Follower::start(Arc::clone(&control), leave.watch());
        let metrics = Arc::new(Metrics::new());
        let directory = Directory::new(
            Arc::clone(&control),
            policies.clone(),
            Dns::new(&config.dns),
            Arc::clone(&metrics),
            config.state_dir.clone(),
            leave.watch(),
        );
        let upkeep = Upkeep {
            config: config.clone(),
            source: Arc::clone(&source),
            control: Arc::clone(&control),
            rotation: Arc::clone(&rotation),
        };
        tokio::spawn(async move {
            tokio::select! {
                () = left.started() => {}
                () = upkeep.run() => {}
            }
        });
        let services = Services::new(
            Arc::clone(&directory),
            policies.clone(),
            credentials.clone(),
            config.zone.clone(),
        );
        let default = Client::new(Arc::clone(&services), ClientOptions::default());
        let dialers = Dialers::new(Arc::clone(&services));
        let naming = tokio::sync::Mutex::default();
        let member = Arc::new(Member {
            config,
            source,
            control,
            credentials,
            rotation,
            directory,
            dialers,
            services,
            policies,
            metrics,
            leave,
            naming,
        });
        Ok(Self { member, default })
    }

    /// Who this member is.
    #[must_use]
    pub fn id(&self) -> SpiffeId {
        self.member.credentials.held().svid.id().clone()
    }

    /// The member's credentials, for TLS of one's own.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        self.member.credentials.clone()
    }

    /// A client with connections of its own.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client_with(ClientOptions::default())
    }

    /// A client with connections and settings of its own.
    #[must_use]
    pub fn client_with(&self, options: ClientOptions) -> Client {
        Client::new(Arc::clone(&self.member.services), options)
    }

    /// Gets `url`, as in `http://accounts.mesh/accounts/42`, over the connections that all such calls share.
    ///
    /// # Errors
    /// [`client::Error`].
    pub async fn get(&self, url: &str) -> Result<Response<ResponseBody>, client::Error> {
        self.default.get(url).await
    }

    /// Opens a connection to a service that speaks a protocol of its own, as in `mesh.connect("database")`.
    ///
    /// # Errors
    /// [`client::Error`]; nothing was sent then.
    pub async fn connect(&self, service: &str) -> Result<opaque::Stream, client::Error> {
        let name = ServiceName::new(service).map_err(|error| client::Error::because(client::Failure::Url, service, error))?;
        self.member.dialers.connect(&name).await
    }

    /// The endpoints of a service as they are known from here on. The service is watched for as long as the receiver lives.
    #[must_use]
    pub fn endpoints(&self, service: &ServiceName) -> watch::Receiver<Arc<Snapshot>> {
        self.member.directory.subscribe(service)
    }

    /// What this member has counted, as OpenMetrics text.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.member.metrics.text()
    }

    /// Serves `service` as `name` until the process is told to stop (SIGTERM, Ctrl-C) or the mesh is left, and returns after the
    /// drain: deregistered, no new connections, what was in flight finished or given up at the deadline.
    ///
    /// Any tower service will do, an axum `Router` for one. Each request has the [`PeerIdentity`](crate::tls::PeerIdentity) of its
    /// peer among its extensions.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn serve(&self, name: &str, service: impl HttpService) -> Result<(), ServeError> {
        self.bind(name).await?.serve(service, asked_to_stop()).await
    }

    /// Binds the listener of service `name`, without serving or registering it yet.
    ///
    /// # Errors
    /// [`ServeError`] where the address is taken or this member is another service.
    pub async fn bind(&self, name: &str) -> Result<Listening, ServeError> {
        let name = ServiceName::new(name)?;
        self.be(&name).await?;
        let member = Arc::clone(&self.member);
        let listen = member.config.listen;
        let tls = ServerTls::of_member(member.credentials.clone());
        let bound = Server::bind(listen, tls)
            .await
            .and_then(|server| Ok((server.local_addr()?, server)));
        let (address, server) = bound.map_err(|source| ServeError::Bind { listen, source })?;
        let limits = Limits {
            drain: member.config.drain,
            ..Limits::default()
        };
        Ok(Listening {
            member,
            name,
            address,
            port: address.port(),
            server: server.limits(limits),
        })
    }

    /// Leaves the mesh: what is served is drained, and nothing is kept up to date any more. Dropping the last handle does the same.
    pub fn leave(&self) {
        self.member.leave.start();
    }

    /// Takes the name that it is to serve as. By a join token there is only the token's; other credentials give
    /// whatever they are good for.
    async fn be(&self, name: &ServiceName) -> Result<(), ServeError> {
        let member = &self.member;
        let _naming = member.naming.lock().await;
        let id = self.id();
        if id.service().as_ref() == Some(name) {
            return Ok(());
        }
        if member.config.service.is_some() || !member.source.is_lasting() {
            return Err(ServeError::OtherService { id, name: name.clone() });
        }
        let known = member.credentials.held().bundle.clone();
        let (svid, bundle) = join::join(&member.config, &*member.source, Some(name), Some(&known)).await?;
        tracing::info!(id = %svid.id(), "took the name that it serves as");
        member.rotation.replace_both(svid, bundle);
        Ok(())
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// A bound listener of a member.
pub struct Listening {
    member: Arc<Member>,
    name: ServiceName,
    address: SocketAddr,
    port: u16,
    server: Server,
}

impl Listening {
    /// The bound address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves with other limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.server = self.server.limits(limits);
        self
    }

    /// Serves as if at this port, where the policy of the mesh names ports: that of a program in front of which this stands.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Registers the endpoint and serves until `until` is ready or the mesh is left; returns after the drain.
    ///
    /// Nobody is let in before the policy of the mesh is known.
    ///
    /// The order of the drain: deregister, so that peers hear of it; serve on until they have ([`Limits::settle`]); stop accepting and
    /// send GOAWAY; finish what is in flight. What is left at the deadline, counted from the beginning of the drain, is cut off.
    ///
    /// # Errors
    /// [`ServeError::Refused`] where the control plane will not have the endpoint. One that cannot be reached is waited for while
    /// serving.
    pub async fn serve(self, service: impl HttpService, until: impl Future<Output = ()>) -> Result<(), ServeError> {
        let id = self.member.credentials.held().svid.id().clone();
        let asked = Inside::new(self.name.clone(), id, self.program(), service.clone());
        self.while_registered(Protocol::Http2, asked, until, |server, stopping| {
            server.serve(service, stopping)
        })
        .await
    }

    /// The same for a service that speaks a protocol of its own: each connection that the policy admits is given to `service`, which
    /// [accepts](Arrival::accept) or [refuses](Arrival::refuse) it. Who may connect is asked by identity and port.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub async fn serve_opaque<H, F>(self, service: H, until: impl Future<Output = ()>) -> Result<(), ServeError>
    where
        H: Fn(Arrival) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let asked = Opaque { program: self.program() };
        self.while_registered(Protocol::Tcp, asked, until, |server, stopping| {
            server.serve_opaque(service, stopping)
        })
        .await
    }

    async fn while_registered<F: Future<Output = ()>>(
        self,
        protocol: Protocol,
        asked: impl Inquire,
        until: impl Future<Output = ()>,
        serve: impl FnOnce(Server, drain::Watch) -> F,
    ) -> Result<(), ServeError> {
        let mut left = self.member.leave.watch();
        let mut until = pin!(until);
        let guard = tokio::select! {
            guard = self.guard() => guard,
            () = until.as_mut() => return Ok(()),
            () = left.started() => return Ok(()),
        };
        let known = self.member.policies.clone();
        let checks = Checks {
            service: self.name.clone(),
            asked,
            own: self.member.config.health.clone(),
            policies: known.clone(),
        };
        let (health, told) = watch::channel(checks.first());
        let registration = Registration {
            control: Arc::clone(&self.member.control),
            endpoint: self.endpoint(protocol),
            health: told,
        };
        let (deadline, settle) = (self.server.drain(), self.server.settle());
        let (stop, stopping) = drain::channel();
        let mut serving = pin!(serve(self.server.guarded(guard.clone()), stopping));
        tracing::info!(service = %self.name, address = %self.address, "serving");
        let ended = tokio::select! {
            () = serving.as_mut() => Ok(()),
            refused = registration.keep() => Err(ServeError::Refused(control::describe(&refused))),
            () = until => Ok(()),
            () = left.started() => Ok(()),
            never = guard.follow(known.clone()) => match never {},
            never = checks.run(&health) => match never {},
        };
        tracing::info!(service = %self.name, "draining");
        let deadline = Instant::now() + deadline;
        if ended.is_ok() {
            tokio::select! {
                () = serving.as_mut() => {}
                _ = timeout_at(deadline, registration.end(settle)) => {}
                never = guard.follow(known.clone()) => match never {},
            }
        }
        stop.start();
        tokio::select! {
            () = serving => tracing::info!(service = %self.name, "drained"),
            () = sleep_until(deadline) => {
                tracing::warn!(service = %self.name, "the drain deadline has passed; what is left is cut off");
            }
            never = guard.follow(known) => match never {},
        }
        ended
    }

    /// What judges requests, once the policy is known.
    async fn guard(&self) -> Guard {
        let mut known = self.member.policies.clone();
        if known.borrow().is_none() {
            tracing::debug!(service = %self.name, "waiting for the policy of the mesh");
        }
        loop {
            if let Some(policies) = known.borrow_and_update().as_deref() {
                return Guard::new(self.name.clone(), self.port, policies, Arc::clone(&self.member.metrics));
            }
            // Where nothing follows any more, the mesh has been left, which whoever waits here sees as well.
            if known.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Where the program is in front of which this stands: another port than the bound one is one of this machine.
    fn program(&self) -> Option<SocketAddr> {
        (self.port != self.address.port()).then(|| SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)))
    }

    fn endpoint(&self, protocol: Protocol) -> v1::Endpoint {
        let config = &self.member.config;
        v1::Endpoint {
            // Unique without asking anybody.
            id: format!("{}-{:016x}", self.name, rand::random::<u64>()),
            service: self.name.to_string(),
            address: config
                .advertise
                .clone()
                .unwrap_or_else(|| reachable(self.address, self.member.control.addresses())),
            protocol: protocol.name().to_owned(),
            version: config.version.clone(),
            zone: config.zone.clone(),
            weight: config.weight.get().into(),
            health: v1::Health::Unknown.into(),
        }
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening")
            .field("service", &self.name)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// The address to tell peers: what is bound, or, where that is every address of the machine, the one from which the control plane
/// is reached. Connecting a UDP socket sends nothing; it only asks for the route.
fn reachable(bound: SocketAddr, control: &[String]) -> String {
    let routed = || {
        let any = SocketAddr::new(bound.ip(), 0);
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(control.first()?.as_str()).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip: &IpAddr| !ip.is_unspecified())
    };
    let ip = if bound.ip().is_unspecified() {
        routed().unwrap_or_else(|| bound.ip())
    } else {
        bound.ip()
    };
    SocketAddr::new(ip, bound.port()).to_string()
}

/// Ready when the process is told to stop.
async fn asked_to_stop() {
    #[cfg(unix)]
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(error) => {
                tracing::warn!(%error, "SIGTERM cannot be heard");
                std::future::pending::<()>().await;
            }
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    let interrupted = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::warn!(%error, "Ctrl-C cannot be heard");
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = terminated => {}
        () = interrupted => {}
    }
}

/// Why a service is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The name is none.
    #[error("the service cannot be served: {0}")]
    Name(#[from] ServiceNameError),
    /// This member is another service.
    #[error("this member is {id} and cannot serve as {name}; make a token for it: mesh-runtime token create {name}")]
    OtherService {
        /// Who it is.
        id: SpiffeId,
        /// As what it was to serve.
        name: ServiceName,
    },
    /// The identity of that name was not given.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The address cannot be bound.
    #[error("cannot listen on {listen}: {source}; set MESH_LISTEN to another address, port 0 takes a free one")]
    Bind {
        /// Where.
        listen: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The control plane will not have the endpoint.
    #[error("the control plane refuses the endpoint: {0}")]
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_address_is_told_as_it_is() {
        assert_eq!(reachable("127.0.0.1:9000".parse().unwrap(), &[]), "127.0.0.1:9000");
    }

    #[test]
    fn every_address_is_told_as_the_one_that_reaches_the_control_plane() {
        let told = reachable("0.0.0.0:9000".parse().unwrap(), &["127.0.0.1:7700".to_owned()]);
        assert_eq!(told, "127.0.0.1:9000");
    }
}
