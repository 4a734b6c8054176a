//! `mesh-runtime run`: any program as a service of the mesh.
//!
//! Everything that the program may need is there before it starts: the wrapper joins, binds what peers will reach it by, and opens its ways
//! into the mesh. Then it starts the program, waits until that accepts connections, and only then says that it serves. Calls from the mesh
//! come in over mutual TLS ([`inbound`]), calls into it go out through loopback ([`egress`]). It ends in the other order: it says that it
//! does not serve any more, gives watchers time to hear it, finishes what is in flight, passes the signal on to the program, and leaves
//! when the program has, with its status. The way out stays open until then. A program that serves nothing (a job) has no port, and all
//! that is about one falls away. What becomes of the program when the wrapper dies is told in [`command`].

mod answer;
mod command;
mod egress;
mod fields;
mod inbound;
mod protocol;
mod signals;
mod splice;
mod websocket;

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::Context as _;
use http::Version;
use identity::ServiceName;
use mesh_client::server::Limits;
use mesh_client::{Config, Listening, Mesh, ServeError};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

pub(crate) use command::{TIED, become_command};
pub(crate) use egress::{Allowed, Mapping};
pub(crate) use protocol::Protocol;

use command::{Surroundings, Wrapped, code_of};
use egress::{Egress, Permits};
use signals::{Asked, Relayed, Stop};

/// How long a program may take until it accepts connections.
const READY: Duration = Duration::from_secs(60);
/// How often it is tried.
const TRY: Duration = Duration::from_millis(50);

/// What `mesh-runtime run` is told.
pub(crate) struct Settings {
    pub(crate) service: ServiceName,
    /// Where the program listens; a job does not.
    pub(crate) port: Option<u16>,
    pub(crate) protocol: Protocol,
    pub(crate) upstreams: Vec<Mapping>,
    pub(crate) allow_egress: Vec<Allowed>,
    /// Connections at one time: opaque ones from the mesh, and those of the program into it.
    pub(crate) connections: usize,
    /// How long an opaque connection, a tunnel or a WebSocket may be idle.
    pub(crate) idle: Duration,
    /// How long what is in flight may take to finish.
    pub(crate) drain: Duration,
    /// How long the program may take to stop.
    pub(crate) grace: Duration,
    pub(crate) control: String,
    pub(crate) token: Option<String>,
    pub(crate) command: Vec<OsString>,
}

/// Runs the program to its end; its status is the answer. Must be called on the main thread ([`Wrapped::start`]).
pub(crate) async fn run(mut settings: Settings) -> anyhow::Result<ExitCode> {
    let mut stop = Stop::listen()?;
    let relayed = Relayed::listen()?;
    if let Some(port) = settings.port {
        check_port(port).await?;
    }
    let mesh = tokio::select! {
        joined = Mesh::join(member_config(&settings)?) => joined?,
        asked = stop.asked() => anyhow::bail!("{} before the mesh was joined", asked.name),
    };
    let served = match settings.port {
        Some(port) => Some(Served {
            port,
            listening: mesh.bind(settings.service.as_str()).await?.port(port),
        }),
        None => None,
    };
    let egress = Egress::bind(std::mem::take(&mut settings.upstreams)).await?;
    let surroundings = surroundings(&egress, settings.port);
    egress.serve(
        mesh,
        Permits {
            outside: std::mem::take(&mut settings.allow_egress),
            connections: settings.connections,
            idle: settings.idle,
        },
    );
    let mut command = Wrapped::start(&settings.command, &surroundings)?;
    let _relay = command.id().map(|id| relayed.to(id));
    let status = match served {
        Some(served) => served.run(&settings, &mut command, &mut stop).await?,
        None => tokio::select! {
            ended = command.ended() => ended?,
            asked = stop.asked() => {
                tracing::info!("{}: stopping the command", asked.name);
                command.stop(asked, &mut stop, settings.grace).await?
            }
        },
    };
    Ok(code_of(status))
}

/// What the command is told, and who starts it reads along.
fn surroundings(egress: &Egress, port: Option<u16>) -> Surroundings {
    let address = egress.address();
    tracing::info!("egress listening on {address}");
    let mut variables: Vec<_> = port.map(|port| ("PORT".to_owned(), port.to_string())).into_iter().collect();
    for mapping in egress.mapped() {
        tracing::info!("upstream {} listening on {}", mapping.service, mapping.address);
        variables.push((mapping.variable(), mapping.address.to_string()));
    }
    Surroundings {
        egress: address,
        variables,
    }
}

/// A program that serves.
struct Served {
    port: u16,
    listening: Listening,
}

impl Served {
    /// Waits until the program accepts connections and serves for as long as it runs and nobody asks to stop; the program's status.
    async fn run(self, settings: &Settings, command: &mut Wrapped, stop: &mut Stop) -> anyhow::Result<ExitStatus> {
        tokio::select! {
            ready = accepts(self.port) => ready?,
            ended = command.ended() => {
                let status = ended?;
                tracing::error!("the command ended before it accepted connections on port {}: {status}", self.port);
                return Ok(status);
            }
            asked = stop.asked() => {
                tracing::info!("{}: stopping the command", asked.name);
                return Ok(command.stop(asked, stop, settings.grace).await?);
            }
        }
        tracing::info!("{} listening on {}", settings.service, self.listening.address());
        let drain = CancellationToken::new();
        let mut serving = pin!(self.serve(settings, drain.clone()));
        tokio::select! {
            served = serving.as_mut() => {
                // Nobody asked for that: the endpoint was refused, say.
                command.stop(Asked::END, stop, settings.grace).await?;
                served.context("the service cannot be served")?;
                anyhow::bail!("the mesh was left")
            }
            ended = command.ended() => {
                let status = ended?;
                tracing::info!("the command ended: {status}");
                drain.cancel();
                serving.await?;
                Ok(status)
            }
            asked = stop.asked() => {
                tracing::info!("{}: draining", asked.name);
                drain.cancel();
                let asked = tokio::select! {
                    served = serving => {
                        served?;
                        asked
                    }
                    again = stop.asked() => {
                        tracing::warn!("{} again: stopping the command at once", again.name);
                        again
                    }
                };
                Ok(command.stop(asked, stop, settings.grace).await?)
            }
        }
    }

    /// Serves by what the program was declared to speak.
    async fn serve(self, settings: &Settings, drain: CancellationToken) -> Result<(), ServeError> {
        let (port, idle) = (self.port, settings.idle);
        let version = match settings.protocol {
            Protocol::Http1 => Version::HTTP_11,
            Protocol::Http2 | Protocol::Grpc => Version::HTTP_2,
            Protocol::Tcp => {
                let mut limits = Limits::default();
                (limits.connections, limits.drain) = (settings.connections, settings.drain);
                let forward = move |arrival| inbound::forward_opaque(arrival, port, idle);
                return self
                    .listening
                    .limits(limits)
                    .serve_opaque(forward, drain.cancelled_owned())
                    .await;
            }
        };
        let http = inbound::Http::new(port, version, idle);
        let forward = tower::service_fn(move |request| http.clone().forward(request));
        self.listening.serve(forward, drain.cancelled_owned()).await
    }
}

/// What the flags say, over what the environment says.
fn member_config(settings: &Settings) -> anyhow::Result<Config> {
    let variable = |name: &str| match name {
        "MESH_CONTROL" => Some(settings.control.clone()),
        "MESH_TOKEN" => settings.token.clone(),
        "MESH_SERVICE" => Some(settings.service.to_string()),
        name => std::env::var(name).ok(),
    };
    Ok(Config::from_variables(&variable)?.drain(settings.drain))
}

/// A program that has the port already is not the one to be started: it would be served in its name.
async fn check_port(port: u16) -> anyhow::Result<()> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            anyhow::bail!("port {port} on 127.0.0.1 is in use by another program; stop it, or choose another with --port")
        }
        // Whatever else is wrong with it, the command will find out and say.
        _ => Ok(()),
    }
}

/// Waits until the program accepts connections.
async fn accepts(port: u16) -> anyhow::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let tried = tokio::time::timeout(READY, async {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(TRY).await;
        }
    });
    tried.await.map_err(|_| {
        anyhow::anyhow!(
            "the command did not accept connections on {address} within {READY:?}; it should listen on the port in PORT \
             ({port}), on 127.0.0.1 or on every address"
        )
    })
}
