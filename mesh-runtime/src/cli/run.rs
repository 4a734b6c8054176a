//! `mesh-runtime run`, as it is written.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use identity::ServiceName;

use super::ControlArguments;
use crate::config::parse_duration;
use crate::run::{Allowed, Mapping, Protocol, Settings};

/// Start a program as a service of the mesh
#[derive(Args)]
#[command(after_help = "The program gets PORT, MESH_EGRESS and http_proxy in its environment, so that
http://statements.mesh/ works from any HTTP client, and MESH_UPSTREAM_NAME for each
--upstream. Its callers are named in x-forwarded-client-cert. On SIGTERM the mesh is
left and what is in flight finishes before the program gets the signal. When the
program ends, its status is the status of this command.

Example:
  mesh-runtime run --service rates --port 9101 -- python3 rates.py
  mesh-runtime run --service db --port 5432 --protocol tcp -- postgres -D /var/lib/db
  mesh-runtime run --service report --upstream db=5432 -- ./nightly-report")]
pub(super) struct Arguments {
    /// The service that the program is
    #[arg(long, value_name = "NAME")]
    service: ServiceName,
    /// The port on 127.0.0.1 where the program listens; without one it serves nothing, as a job does
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// What the program speaks there, without TLS
    #[arg(long, value_enum, default_value_t = Protocol::Http1, requires = "port")]
    protocol: Protocol,
    /// Open a port on loopback that leads to a service, whatever that speaks: db=5432, or db=127.0.0.1:5432
    #[arg(long = "upstream", value_name = "SERVICE=[IP:]PORT")]
    upstreams: Vec<Mapping>,
    /// Let the program reach a host outside the mesh through http_proxy: api.example.com:443, *.example.com, or * for any
    #[arg(long, value_name = "HOST[:PORT]")]
    allow_egress: Vec<Allowed>,
    /// Connections at one time: of TCP from the mesh, and from the program into it
    #[arg(long, value_name = "N", default_value = "4096", value_parser = at_least_one)]
    max_connections: usize,
    /// How long a TCP connection, a tunnel or a WebSocket may be idle
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    idle_timeout: Duration,
    /// How long what is in flight may take to finish when the program is to stop
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    drain: Duration,
    /// How long the program may take to stop after that, before it is killed
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    grace: Duration,
    #[command(flatten)]
    control: ControlArguments,
    /// The join token; without one, the operator's credential of this machine is used where it is readable
    #[arg(long, env = "MESH_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl From<Arguments> for Settings {
    fn from(arguments: Arguments) -> Self {
        Self {
            service: arguments.service,
            port: arguments.port,
            protocol: arguments.protocol,
            upstreams: arguments.upstreams,
            allow_egress: arguments.allow_egress,
            connections: arguments.max_connections,
            idle: arguments.idle_timeout,
            drain: arguments.drain,
            grace: arguments.grace,
            control: arguments.control.control,
            token: arguments.token,
            command: arguments.command,
        }
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("write a number from 1 on".to_owned()),
    }
}
