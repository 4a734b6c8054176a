//! `mesh-runtime run`: any program as a service of the mesh.
//!
//! The wrapper joins, starts the program, waits until it accepts connections, and only then says that it serves. Calls from
//! the mesh come in over mutual TLS ([`inbound`]), calls into it go out through a proxy on loopback ([`egress`]). It ends
//! in the other order: it says that it does not serve any more, finishes what is in flight, stops the program, and leaves
//! the egress open until the program is gone. What becomes of the program when the wrapper dies is told in [`command`].

mod answer;
mod command;
mod egress;
mod fields;
mod inbound;

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::Context as _;
use identity::ServiceName;
use mesh_client::{Config, Mesh};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

pub(crate) use command::{TIED, become_command};

use crate::cli::Stop;
use command::{Wrapped, code_of};
use egress::Egress;
use inbound::Inbound;

/// How long a program may take until it accepts connections.
const READY: Duration = Duration::from_secs(60);
/// How often it is tried.
const TRY: Duration = Duration::from_millis(50);
/// How long a program may take to stop.
const GRACE: Duration = Duration::from_secs(10);

/// What `mesh-runtime run` is told.
pub(crate) struct Settings {
    pub(crate) service: ServiceName,
    pub(crate) port: u16,
    pub(crate) control: String,
    pub(crate) token: Option<String>,
    pub(crate) command: Vec<OsString>,
}

/// Runs the program to its end; its status is the answer. Must be called on the main thread ([`Wrapped::start`]).
pub(crate) async fn run(settings: Settings) -> anyhow::Result<ExitCode> {
    let mut stop = Stop::listen()?;
    check_port(settings.port).await?;
    let config = member_config(&settings)?;
    let mesh = tokio::select! {
        joined = Mesh::join(config) => joined?,
        name = stop.asked() => anyhow::bail!("{name} before the mesh was joined"),
    };
    let egress = Egress::bind().await.context("cannot open the egress on 127.0.0.1")?;
    let address = egress.address();
    tracing::info!("egress listening on {address}");
    let mut command = Wrapped::start(&settings.command, settings.port, address)?;
    // It ends with the runtime, which is after the command.
    tokio::spawn(egress.serve(mesh.client()));
    tokio::select! {
        ready = accepts(settings.port) => ready?,
        ended = command.ended() => return ended_early(ended?, settings.port),
        name = stop.asked() => {
            tracing::info!("{name}: stopping the command");
            return Ok(code_of(command.stop(GRACE).await?));
        }
    }
    serve(&mesh, &settings, &mut command, &mut stop).await
}

/// Serves for as long as the program runs and nobody asks to stop.
async fn serve(mesh: &Mesh, settings: &Settings, command: &mut Wrapped, stop: &mut Stop) -> anyhow::Result<ExitCode> {
    let listening = mesh.bind(settings.service.as_str()).await?.port(settings.port);
    tracing::info!("{} listening on {}", settings.service, listening.address());
    let inbound = Inbound::new(settings.port);
    let drain = CancellationToken::new();
    let service = tower::service_fn(move |request| inbound.clone().forward(request));
    let mut serving = pin!(listening.serve(service, drain.clone().cancelled_owned()));
    tokio::select! {
        served = serving.as_mut() => {
            let status = command.stop(GRACE).await?;
            served.context("the service cannot be served")?;
            Ok(code_of(status))
        }
        ended = command.ended() => {
            let status = ended?;
            tracing::info!("the command ended: {status}");
            drain.cancel();
            serving.await?;
            Ok(code_of(status))
        }
        name = stop.asked() => {
            tracing::info!("{name}: draining");
            drain.cancel();
            tokio::select! {
                served = serving => served?,
                name = stop.asked() => tracing::warn!("{name} again: stopping the command at once"),
            }
            Ok(code_of(command.stop(GRACE).await?))
        }
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
    Ok(Config::from_variables(&variable)?)
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

fn ended_early(status: ExitStatus, port: u16) -> anyhow::Result<ExitCode> {
    tracing::error!("the command ended before it accepted connections on port {port}: {status}");
    Ok(code_of(status))
}
