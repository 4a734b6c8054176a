//! The `mesh-runtime` program: what it is told, and which part does it.

mod authority;
mod backup;
mod entry;
mod operate;
mod output;
mod policy;
mod run;
mod serve;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use identity::{ServiceName, TrustDomain};
use tracing_subscriber::EnvFilter;

use crate::authority::{MAX_TOKEN_TTL, Selector};
use crate::config::{StoreChoice, parse_duration};
use crate::run::{TIED, become_command};

/// The control plane of a mesh, and the wrapper that brings any program into it
#[derive(Parser)]
#[command(name = "mesh-runtime", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Example:
  mesh-runtime serve &
  mesh-runtime run --service rates --port 9101 -- python3 -m http.server 9101
  mesh-runtime endpoints";

#[derive(Subcommand)]
enum Command {
    Serve(ServeArguments),
    Run(run::Arguments),
    /// Make join tokens
    #[command(subcommand, after_help = "Example:\n  mesh-runtime token create accounts --ttl 5m")]
    Token(TokenCommand),
    /// Say which processes of the control plane's machine may be which service, without a token
    #[command(
        subcommand,
        after_help = "A process joins at the control plane's socket (MESH_SOCKET), and is what the kernel says it is.

Example:
  mesh-runtime entry create accounts --selector unix:uid:1000 --selector unix:path:/usr/bin/accounts
  MESH_SOCKET=/run/heddle/mesh.sock accounts"
    )]
    Entry(EntryCommand),
    /// Show who signs identities, and put a new root in its place while everything runs
    #[command(
        subcommand,
        after_help = "Example:\n  mesh-runtime authority rotate\n  mesh-runtime authority status"
    )]
    Authority(AuthorityCommand),
    /// List the services and how many endpoints each has
    #[command(after_help = "Example:\n  mesh-runtime services --json")]
    Services(ListArguments),
    /// List the registered endpoints
    #[command(after_help = "Example:\n  mesh-runtime endpoints accounts")]
    Endpoints {
        /// Only those of this service
        service: Option<ServiceName>,
        #[command(flatten)]
        list: ListArguments,
    },
    /// List the issued identities that are valid
    #[command(after_help = "Example:\n  mesh-runtime identities --control 127.0.0.1:7700")]
    Identities(ListArguments),
    /// Copy everything that a running control plane holds into a file, its keys included
    #[command(
        after_help = "The file is for its owner alone, and as secret as the authority's keys: whoever has it can be anybody in the mesh.

Example:
  mesh-runtime backup mesh.backup"
    )]
    Backup {
        /// Where to; - is stdout
        file: PathBuf,
        #[command(flatten)]
        control: ControlArguments,
    },
    /// Put a backup into a data directory that holds nothing yet
    #[command(
        after_help = "Members find back by themselves, with the identities that they have. What changed since the backup is lost, and join
tokens of before are not good any more.

Example:
  mesh-runtime restore mesh.backup --data-dir /var/lib/heddle/mesh"
    )]
    Restore {
        /// The backup; - is stdin
        file: PathBuf,
        /// Where the store is to be [default: ${XDG_DATA_HOME:-~/.local/share}/heddle/mesh]
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Put a document in force: who may talk to whom
    #[command(
        after_help = "What does not compile changes nothing. Members hear of it at once.\n\nExample:\n  mesh-runtime apply mesh.toml"
    )]
    Apply {
        /// The document, in TOML
        file: PathBuf,
        /// Only find its mistakes
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        control: ControlArguments,
    },
    /// Show what is in force, and ask it questions
    #[command(
        subcommand,
        after_help = "Example:\n  mesh-runtime policy check statements accounts GET /accounts/42"
    )]
    Policy(PolicyCommand),
    /// Becomes the command that follows, tied to the life of the wrapper that starts it.
    #[command(hide = true, name = TIED)]
    Tied {
        parent: u32,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

/// Serve the control plane: registry, certificate authority and admin endpoint
#[derive(Args)]
#[command(after_help = "Example:\n  mesh-runtime serve --trust-domain bank.example --data-dir /var/lib/heddle/mesh")]
struct ServeArguments {
    /// Settings in TOML (listen, admin, data_dir, socket, trust_domain, store, svid_ttl, lease_ttl, lease_grace, drain); flags win
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where members reach it; port 0 takes a free one [default: 127.0.0.1:7700]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where /live, /ready, /metrics and /config are; port 0 takes a free one [default: 127.0.0.1:7701]
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Where the store is [default: ${XDG_DATA_HOME:-~/.local/share}/heddle/mesh]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The socket at which processes of this machine join by who they are [default: mesh.sock in the data directory]
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
    /// Whose identities are issued; fixed for a data directory [default: mesh.local]
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<TrustDomain>,
    /// What keeps the state: embedded (a file in the data directory), or etcd://HOST:PORT[,…] [default: embedded]
    #[arg(long, value_name = "STORE")]
    store: Option<StoreChoice>,
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Make a token that lets one member join as a service, once
    #[command(after_help = "Example:\n  MESH_TOKEN=$(mesh-runtime token create accounts) accounts-server")]
    Create {
        /// The service that the member will be
        service: ServiceName,
        /// How long the token is good for, up to 24h
        #[arg(long, value_parser = token_ttl, default_value = "10m", value_name = "DURATION")]
        ttl: Duration,
        #[command(flatten)]
        control: ControlArguments,
    },
}

#[derive(Subcommand)]
enum EntryCommand {
    /// Let processes be a service
    #[command(after_help = "Selectors, all of which have to match:
  unix:uid:1000                  the user
  unix:gid:1000                  the group
  unix:path:/usr/bin/accounts    the program's file
  unix:sha256:HEX                what is in it

Example:
  mesh-runtime entry create accounts --selector unix:uid:1000 --selector unix:path:/usr/bin/accounts")]
    Create {
        /// The service that they may be
        service: ServiceName,
        /// What the kernel has to say about them; several have to match together
        #[arg(long = "selector", value_name = "SELECTOR", required = true)]
        selectors: Vec<Selector>,
        #[command(flatten)]
        control: ControlArguments,
    },
    /// List what lets members in: entries, and the tokens of members that live
    #[command(after_help = "Example:\n  mesh-runtime entry list --json")]
    List(ListArguments),
    /// Take an entry (or a member's token) away, and the identities of those that it let in with it
    #[command(
        after_help = "Their connections are closed within seconds, everywhere.\n\nExample:\n  mesh-runtime entry remove 8f1c2a90d3b4e5f6"
    )]
    Remove {
        /// Its id, as `entry list` shows it
        id: String,
        #[command(flatten)]
        control: ControlArguments,
    },
}

#[derive(Subcommand)]
enum AuthorityCommand {
    /// Show the roots, and who needs them
    #[command(after_help = "Example:\n  mesh-runtime authority status --json")]
    Status(ListArguments),
    /// Put a new root in place
    #[command(
        after_help = "The new root signs at once, and members renew. The one before is believed until nobody needs it any more, and
retires by itself; `status` shows whom it waits for. Nothing is restarted, and no request is lost.

Example:
  mesh-runtime authority rotate"
    )]
    Rotate {
        /// Only make a new intermediate under the same root
        #[arg(long)]
        intermediate: bool,
        #[command(flatten)]
        list: ListArguments,
    },
    /// Stop to believe the root before; refused while a living identity needs it
    #[command(after_help = "Example:\n  mesh-runtime authority retire")]
    Retire(ListArguments),
}

#[derive(Subcommand)]
enum PolicyCommand {
    /// Print the document that is in force
    #[command(after_help = "Example:\n  mesh-runtime policy show")]
    Show(ListArguments),
    /// Tell the verdict on a request, and the rule that gives it
    #[command(
        after_help = "Exit codes: 0 it would be served, 1 it would be refused (or nobody could be asked).

Example:
  mesh-runtime policy check statements accounts GET /accounts/42
  mesh-runtime policy check ingress accounts POST /transfers --claim tier=gold --scope transfers:write"
    )]
    Check {
        /// Who asks: a service, or a SPIFFE ID
        from: String,
        /// The service that is asked
        to: ServiceName,
        /// The method; CONNECT for a program that speaks no HTTP
        method: String,
        /// The path
        #[arg(default_value = "/")]
        path: String,
        /// The port that the service is served on
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// A claim of the end user on whose behalf it is asked; the value is JSON, or text
        #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = policy::claim)]
        claims: Vec<policy::Claim>,
        /// A scope of that end user
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        #[command(flatten)]
        list: ListArguments,
    },
}

fn token_ttl(text: &str) -> Result<Duration, String> {
    let ttl = parse_duration(text)?;
    let possible = Duration::from_secs(1)..=MAX_TOKEN_TTL;
    if possible.contains(&ttl) {
        Ok(ttl)
    } else {
        Err("a token is good for 1s to 24h".to_owned())
    }
}

#[derive(Args)]
struct ListArguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    control: ControlArguments,
}

#[derive(Args)]
struct ControlArguments {
    /// The control plane
    #[arg(long, env = "MESH_CONTROL", value_name = "ADDR", default_value = mesh_api::DEFAULT_CONTROL)]
    control: String,
}

/// Runs the program with the arguments of this process. Errors go to stderr.
///
/// Exit codes: 0 it did what it was asked, 1 it failed, 2 it was asked wrongly; `run` ends with the status of its command.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Command::Tied { parent, command } = arguments.command {
        return become_command(parent, &command);
    }
    log_to_stderr();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::anyhow!("cannot start threads: {error}")),
    };
    // Everything that starts a command runs here, on the main thread, which lives as long as the process: see `run`.
    let result = runtime.block_on(dispatch(arguments.command));
    runtime.shutdown_timeout(Duration::from_millis(100));
    result.unwrap_or_else(|error| failed(&error))
}

async fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(arguments) => return serve::serve(arguments).await,
        Command::Run(arguments) => return crate::run::run(arguments.into()).await,
        Command::Token(TokenCommand::Create { service, ttl, control }) => {
            operate::create_token(&control.control, &service, ttl).await?;
        }
        Command::Entry(EntryCommand::Create {
            service,
            selectors,
            control,
        }) => entry::create(&control.control, &service, &selectors).await?,
        Command::Entry(EntryCommand::List(list)) => entry::list(&list.control.control, list.json).await?,
        Command::Entry(EntryCommand::Remove { id, control }) => entry::remove(&control.control, id).await?,
        Command::Authority(command) => {
            let (list, asked) = match command {
                AuthorityCommand::Status(list) => (list, authority::Asked::Status),
                AuthorityCommand::Rotate { intermediate, list } => (list, authority::Asked::Rotate { intermediate }),
                AuthorityCommand::Retire(list) => (list, authority::Asked::Retire),
            };
            authority::ask(&list.control.control, asked, list.json).await?;
        }
        Command::Services(list) => operate::services(&list.control.control, list.json).await?,
        Command::Endpoints { service, list } => {
            operate::endpoints(&list.control.control, service.as_ref(), list.json).await?;
        }
        Command::Backup { file, control } => backup::backup(&control.control, &file).await?,
        Command::Restore { file, data_dir } => backup::restore(&file, data_dir).await?,
        Command::Apply { file, dry_run, control } => return policy::apply(&control.control, &file, dry_run).await,
        Command::Policy(PolicyCommand::Show(list)) => return policy::show(&list.control.control, list.json).await,
        Command::Policy(PolicyCommand::Check {
            from,
            to,
            method,
            path,
            port,
            claims,
            scopes,
            list,
        }) => {
            let question = policy::Question {
                from,
                to,
                method,
                path,
                port,
                claims: policy::claims(claims, &scopes),
            };
            return policy::check(&list.control.control, question, list.json).await;
        }
        Command::Identities(list) => operate::identities(&list.control.control, list.json).await?,
        Command::Tied { .. } => unreachable!("handled before there are threads"),
    }
    Ok(ExitCode::SUCCESS)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}
